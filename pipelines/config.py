"""Configuration of a training run: pydantic models, YAML files, ``a.b=c`` overrides, a digest.

The resolved configuration (defaults, file and overrides merged) is saved in the run folder and its
digest stands in the model card, so that every choice that made a model can be read back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medproto.errors import MedProtoError

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


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """What is read and how it reaches the network.

    Args:
        classes: names to use, in order; the first is the reference ("negative") class. ``None``
            takes all, sorted, names of absence (normal, negative, ...) first.
        image_size: side of the square network input in pixels; ``None`` takes 192, or the longest
            stored side where all training images are smaller.
        voi: gray range of DICOM files: ``voi`` (window or LUT of the file) or ``full-range``.
        mode: ``letterbox`` keeps the aspect ratio, ``stretch`` fills the square.
        augment: small random shifts, turns and changes of contrast in training.
    """

    classes: tuple[str, ...] | None = None
    image_size: int | None = Field(default=None, ge=16, le=2048)
    voi: Literal["voi", "full-range"] = "voi"
    mode: Literal["letterbox", "stretch"] = "letterbox"
    augment: bool = True


class ModelConfig(_Section):
    """Arguments of :class:`medproto.networks.ProtoPNet`.

    Args:
        stage: block stage of the backbone; ``None`` takes the deepest of 2 to 5 with at least 7
            cells along an axis.
        initialization: ``kmeans`` on the patches that speak most for a class, or ``uniform``.
    """

    stage: int | None = Field(default=None, ge=1, le=7)
    prototypes_per_class: int = Field(default=10, ge=1, le=1000)
    add_on: Literal["none", "regular"] = "none"
    prototype_channels: int = Field(default=128, ge=1)
    similarity: Literal["cosine", "log"] = "cosine"
    similarity_scale: float | None = Field(default=None, gt=0)
    top_k: int = Field(default=1, ge=1)
    pretrained: bool = True
    initialization: Literal["kmeans", "uniform"] = "kmeans"


class TrainingConfig(_Section):
    """Phases 1a to 1c; learning rates are of AdamW with a cosine decay over each segment.

    Args:
        features_epochs: of the backbone as a plain classifier, before there are prototypes.
        warm_epochs: of prototypes and add-on layers with the backbone frozen.
        joint_epochs: of everything but the last layer.
        cluster: coefficient of the cluster cost.
        separation: coefficient of the separation cost.
        class_weights: weight the cross-entropy by inverse class frequency.
        patience: stop a segment after so many epochs without a better validation score.
    """

    batch_size: int = Field(default=16, ge=2)
    features_epochs: int = Field(default=6, ge=0)
    warm_epochs: int = Field(default=1, ge=0)
    joint_epochs: int = Field(default=6, ge=1)
    learning_rate_backbone: float = Field(default=3e-4, gt=0, le=10)
    learning_rate_head: float = Field(default=3e-3, gt=0, le=10)
    learning_rate_joint: float = Field(default=1e-4, gt=0, le=10)
    weight_decay: float = Field(default=1e-3, ge=0)
    cluster: float = Field(default=0.2, ge=0)
    separation: float = Field(default=0.05, ge=0)
    class_weights: bool = True
    patience: int = Field(default=5, ge=1)


class LastLayerConfig(_Section):
    """Phase 3: coefficients of the convex problem, see :mod:`medproto.last_layer`."""

    l1: float = Field(default=1e-3, ge=0)
    ridge: float = Field(default=1e-3, gt=0)


class RunConfig(_Section):
    """The whole configuration of a run."""

    preset: Literal["clinical"] = "clinical"
    seed: int = Field(default=0, ge=0)
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    last_layer: LastLayerConfig = LastLayerConfig()

    def digest(self) -> str:
        """Return ``sha256:<hex>`` over the sorted JSON form."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """Return the YAML form that :func:`load_config` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Merge defaults, a YAML file and overrides of the form ``section.key=value``.

    Values of overrides are YAML: ``data.classes=[benign,malignant]``, ``data.image_size=224``.

    Raises:
        ConfigError: if the file cannot be read, or a key or value is not allowed.
    """
    values = _read_yaml(path) if path is not None else {}
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
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    text = f"{where}: {problem['msg']}, got {problem['input']!r}."
    if problem["type"] == "extra_forbidden":
        section: Any = RunConfig
        for part in problem["loc"][:-1]:
            section = section.model_fields[str(part)].annotation
        text = f"{where} is not a key. Known here: {', '.join(sorted(section.model_fields))}."
    return text
