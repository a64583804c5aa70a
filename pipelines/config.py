"""Configuration of a training run: pydantic models, YAML files, ``a.b=c`` overrides, a digest.

The resolved configuration (defaults, file and overrides merged) is saved in the run folder and its
digest stands in the model card, so that every choice that made a model can be read back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medproto.errors import MedProtoError
from medproto.records import HeadKind

__all__ = [
    "ConfigError",
    "DataConfig",
    "LastLayerConfig",
    "ModelConfig",
    "RunConfig",
    "TrainingConfig",
    "load_config",
]


class ConfigError(MedProtoError, ValueError):
    """A configuration file or override is unusable."""


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "data": {"image_size": 224, "mode": "stretch", "repeats": 30},
        "model": {
            "add_on": "regular",
            "similarity": "log",
            "similarity_scale": 1.0,
            "initialization": "uniform",
        },
        "training": {
            "schedule": "repeated",
            "batch_size": 80,
            "features_epochs": 0,
            "warm_epochs": 5,
            "learning_rate_joint": 1e-4,
            "cluster": 0.8,
            "separation": 0.08,
            "class_weights": False,
        },
        "last_layer": {"l1": 1e-4},
    }
}
"""Where a preset differs from the defaults below, which are those of ``clinical``. Every value of
``paper`` and its origin: docs/paper-preset.md."""

Count = Annotated[int, Field(ge=1, le=1000)]
CountOrNone = Annotated[int, Field(ge=0, le=1000)]
Side = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """What is read and how it reaches the network.

    Args:
        classes: names to use, in order; the first is the reference ("negative") class. ``None``
            takes all, sorted, names of absence (normal, negative, ...) first. For the ordinal head
            all grades, the lowest first.
        label_columns: columns of 1, 0 and -1 or empty (uncertain), one a finding, instead of the
            column ``label``: an image may show several.
        image_size: side of the square network input in pixels; ``None`` takes 192, or the longest
            stored side where all training images are smaller.
        voi: gray range of DICOM files: ``voi`` (window or LUT of the file) or ``full-range``.
        mode: ``letterbox`` keeps the aspect ratio, ``stretch`` fills the square.
        augment: small random shifts, turns and changes of contrast in training.
        repeats: how often an epoch goes over the images, each time with another random change.
        patches: path of a table of forbidden and kept patches, see docs/annotations.md.
        patches_digest: ``sha256:<hex>`` of that file; filled in by the training.
    """

    classes: tuple[str, ...] | None = None
    label_columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    image_size: int | None = Field(default=None, ge=16, le=2048)
    voi: Literal["voi", "full-range"] = "voi"
    mode: Literal["letterbox", "stretch"] = "letterbox"
    augment: bool = True
    repeats: int = Field(default=1, ge=1, le=1000)
    patches: str | None = Field(default=None, min_length=1)
    patches_digest: str | None = None


class ModelConfig(_Section):
    """Arguments of :class:`medproto.networks.ProtoPNet`, and the start of the prototypes.

    Args:
        stage: block stage of the backbone; ``None`` leaves it to the data: for Lite0 the deepest of
            2 to 5 with at least 7 cells along an axis, for other backbones the last.
        weights: of the backbone: ``package`` (ImageNet, with a dependency; Lite0 only), the path of
            a file, or ``None`` for a random start.
        head: what the logits mean, see :mod:`medproto.networks.heads`; ``multilabel`` goes with
            ``data.label_columns``, and with nothing else.
        initialization: ``kmeans`` on the patches that speak most for a class, or ``uniform``.
    """

    backbone: str = Field(default="efficientnet_lite0", min_length=1)
    stage: int | None = Field(default=None, ge=1)
    weights: str | None = Field(default="package", min_length=1)
    head: HeadKind = "multiclass"
    prototypes_per_class: Count | tuple[CountOrNone, ...] = 10
    add_on: Literal["none", "regular", "bottleneck"] = "none"
    prototype_channels: int = Field(default=128, ge=1)
    prototype_size: Side | tuple[Side, ...] = 1
    similarity: Literal["cosine", "log", "linear", "focal"] = "cosine"
    similarity_scale: float | None = Field(default=None, gt=0)
    top_k: int = Field(default=1, ge=1)
    initialization: Literal["kmeans", "uniform"] = "kmeans"


class TrainingConfig(_Section):
    """Phases 1a to 1c of the ``single`` schedule, or the cycles of the ``repeated`` one.

    ``single``: features, warm, joint, one projection, the last layer solved; AdamW with a cosine
    decay over each segment, and each keeps its best epoch by validation. ``repeated``, as
    published: warm, then joint, projection and passes over the last layer again and again; Adam,
    its rates in steps. See :mod:`pipelines.schedule`.

    Args:
        steps_per_epoch: optimizer steps of an epoch; ``None`` takes what ``data.repeats`` passes
            over the images need.
        features_epochs: of the backbone as a plain classifier, before there are prototypes.
        warm_epochs: of prototypes and add-on layers with the backbone frozen.
        joint_epochs: of everything but the last layer; ``single`` only.
        epochs: warm and joint ones together, counted from 0; ``repeated`` only, as are the next.
        projection_start: first epoch that may be followed by a projection.
        projection_every: a projection follows the epochs that this divides.
        last_layer_passes: epochs of the last layer alone after each projection.
        learning_rate_backbone: while it learns as a plain classifier.
        learning_rate_head: of add-on layers, prototypes and the plain classifier's last layer.
        learning_rate_joint: of the backbone in the joint epochs.
        learning_rate_last_layer: in the passes of the last layer.
        weight_decay: of all but prototypes and last layer.
        cluster: coefficient of the cluster cost.
        separation: coefficient of the separation cost.
        orthogonality: coefficient of the likeness of prototypes within a class.
        fine_annotation: coefficient of the similarity outside the masks, in warm and joint epochs.
        forbid: coefficient of the similarity to forbidden patches, in joint epochs.
        keep: coefficient of the similarity to kept patches, in joint epochs.
        class_weights: weight the cross-entropy by inverse class frequency.
        precision: of the backbone in training by gradient; ``bfloat16`` is autocast. Prototypes,
            last layer and loss stay in float32, projection, validation and prediction as a whole.
        projection: patch a prototype takes: the ``nearest``, or the near one whose scores are most
            like its own, ``function-preserving``; ``single`` only, ``repeated`` takes the nearest.
        patience: stop a segment after so many epochs without a better validation score; ``single``
            only.
    """

    schedule: Literal["single", "repeated"] = "single"
    batch_size: int = Field(default=16, ge=2)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    features_epochs: int = Field(default=6, ge=0)
    warm_epochs: int = Field(default=1, ge=0)
    joint_epochs: int = Field(default=6, ge=1)
    epochs: int = Field(default=31, ge=1)
    projection_start: int = Field(default=10, ge=0)
    projection_every: int = Field(default=10, ge=1)
    last_layer_passes: int = Field(default=20, ge=0)
    learning_rate_backbone: float = Field(default=3e-4, gt=0, le=10)
    learning_rate_head: float = Field(default=3e-3, gt=0, le=10)
    learning_rate_joint: float = Field(default=3e-4, gt=0, le=10)
    learning_rate_last_layer: float = Field(default=1e-4, gt=0, le=10)
    weight_decay: float = Field(default=1e-3, ge=0)
    cluster: float = Field(default=0.2, ge=0)
    separation: float = Field(default=0.05, ge=0)
    orthogonality: float = Field(default=0.0, ge=0)
    fine_annotation: float = Field(default=0.0, ge=0)
    forbid: float = Field(default=0.0, ge=0)
    keep: float = Field(default=0.0, ge=0)
    class_weights: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    projection: Literal["nearest", "function-preserving"] = "function-preserving"
    patience: int = Field(default=5, ge=1)

    def projection_epochs(self) -> list[int]:
        """Return the epochs, counted from 0, that a projection follows in ``repeated``."""
        first, every = self.projection_start, self.projection_every
        return [epoch for epoch in range(first, self.epochs) if epoch % every == 0]


class LastLayerConfig(_Section):
    """Phase 3: coefficients of the convex problem, see :mod:`medproto.last_layer`.

    Args:
        l1: of weights to other classes than a prototype's own; in ``repeated`` too.
        ridge: of all weights; without effect in ``repeated``.
    """

    l1: float = Field(default=1e-3, ge=0)
    ridge: float = Field(default=0.1, gt=0)


class RunConfig(_Section):
    """The whole configuration of a run; the preset fills in what is not given."""

    preset: Literal["clinical", "paper"] = "clinical"
    seed: int = Field(default=0, ge=0)
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    last_layer: LastLayerConfig = LastLayerConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Lay the given values over the preset's, key by key."""
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        for section, defaults in PRESETS.get(str(values.get("preset")), {}).items():
            given = values.get(section, {})
            if isinstance(given, dict):
                filled[section] = {**defaults, **given}
        data, model = filled.get("data"), filled.get("model", {})
        findings = isinstance(data, dict) and data.get("label_columns")
        if findings and isinstance(model, dict) and "head" not in model:
            filled["model"] = {**model, "head": "multilabel"}
        return filled

    @model_validator(mode="after")
    def _fit_together(self) -> RunConfig:
        training, head = self.training, self.model.head
        _check_head(head, self.data)
        if training.schedule == "single":
            return self
        if head != "multiclass":
            raise ValueError(
                "model.head must be multiclass where training.schedule=repeated trains the last "
                f"layer by gradient, got {head}; take schedule=single."
            )
        projections = training.projection_epochs()
        if not projections or projections[0] < training.warm_epochs:
            raise ValueError(
                "training.epochs must reach a projection, and the first projection must come after "
                f"training.warm_epochs ({training.warm_epochs}); got epochs 0 to "
                f"{training.epochs - 1} and projections after {projections or 'none'}."
            )
        return self

    def digest(self) -> str:
        """Return ``sha256:<hex>`` over the sorted JSON form."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """Return the YAML form that :func:`load_config` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _check_head(head: HeadKind, data: DataConfig) -> None:
    if (head == "multilabel") != (data.label_columns is not None):
        raise ValueError(
            "model.head=multilabel and data.label_columns must be given together, got head "
            f"{head} and label_columns {list(data.label_columns or ()) or 'none'}."
        )
    if data.label_columns and data.classes not in (None, data.label_columns):
        raise ValueError(
            "data.classes must be left out with data.label_columns, which name the findings."
        )
    if len(set(data.classes or ())) < len(data.classes or ()):
        raise ValueError(f"data.classes must differ, got {list(data.classes or ())}.")
    if head == "ordinal" and len(data.classes or ()) < 3:
        raise ValueError(
            "model.head=ordinal needs data.classes, at least three grades, the lowest first, got "
            f"{list(data.classes or ()) or 'none'}; two grades are model.head=binary."
        )


def load_config(
    path: Path | None = None, overrides: Sequence[str] = (), *, preset: str | None = None
) -> RunConfig:
    """Merge a preset, a YAML file and overrides of the form ``section.key=value``.

    Values of overrides are YAML: ``data.classes=[benign,malignant]``, ``data.image_size=224``.

    Args:
        preset: ``clinical`` or ``paper``, before that of the file; an override wins over both.

    Raises:
        ConfigError: if the file cannot be read, or a key or value is not allowed.
    """
    values = _read_yaml(path) if path is not None else {}
    if preset is not None:
        values["preset"] = preset
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"an override must read section.key=value, got {override!r}.")
        try:
            _assign(values, key.split("."), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of {key} is not valid YAML: {text!r}.") from error
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_problem(error)) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"the configuration file cannot be read: {reason}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError("the configuration file must hold sections with keys, such as `data:`.")
    return values


def _assign(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(keys)} names a key inside a value, not inside a section.")
        values = inner
    values[keys[-1]] = value


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()
    problem = problems[0]
    if not problem["loc"]:
        return str(problem["ctx"]["error"])
    key = problem["loc"][:2]  # what lies deeper are the alternatives of one value
    where = ".".join(str(part) for part in key)
    if problem["type"] == "extra_forbidden":
        section: Any = RunConfig
        for part in problem["loc"][:-1]:
            section = section.model_fields[str(part)].annotation
        return f"{where} is not a key. Known here: {', '.join(sorted(section.model_fields))}."
    texts = dict.fromkeys(p["msg"] for p in problems if p["loc"][:2] == key)
    return f"{where}: {', or '.join(texts)}, got {problem['input']!r}."
