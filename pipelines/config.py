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
from pydantic import Field, ValidationError, model_validator

from medproto.errors import MedProtoError
from medproto.records import HeadKind

from .config_sections import DataConfig, LastLayerConfig, ModelConfig, Section, TrainingConfig

__all__ = ["ConfigError", "RunConfig", "load_config", "saved_digest"]


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
            "margin": 0,
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
        "last_layer": {"l1": 1e-4, "floor": None},
    }
}
"""Where a preset differs from the defaults, which are those of ``clinical``. Every value of
``paper`` and its origin: docs/paper-preset.md."""


class RunConfig(Section):
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
        if isinstance(model, dict) and ":" in str(model.get("backbone")) and "weights" not in model:
            filled["model"] = model = {**model, "weights": None}  # it brings its own
        findings = isinstance(data, dict) and data.get("label_columns")
        if findings and isinstance(model, dict) and "head" not in model:
            filled["model"] = {**model, "head": "multilabel"}
        return filled

    @model_validator(mode="after")
    def _fit_together(self) -> RunConfig:
        training, head = self.training, self.model.head
        _check_head(head, self.data)
        _check_spacing(self.data)
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
        return _digest(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """Return the YAML form that :func:`load_config` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def saved_digest(path: Path) -> str:
    """Return the digest of a saved configuration as it stands in the file.

    A version that has gained a key since fills it in when it reads the file; what was saved does
    not change by that.

    Raises:
        ConfigError: if the file cannot be read.
    """
    return _digest(_read_yaml(path))


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _check_spacing(data: DataConfig) -> None:
    if (data.mode == "spacing") != (data.spacing_mm is not None):
        raise ValueError(
            "data.mode=spacing and data.spacing_mm must be given together, got mode "
            f"{data.mode} and spacing_mm {data.spacing_mm}."
        )


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
    if problem["type"] == "tuple_type" and len(problem["loc"]) == 2:
        return f"{where} must be a list, such as {where}=[a,b], got {problem['input']!r}."
    texts = dict.fromkeys(p["msg"] for p in problems if p["loc"][:2] == key)
    return f"{where}: {', or '.join(texts)}, got {problem['input']!r}."
