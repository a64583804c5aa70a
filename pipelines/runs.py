"""The run folder: what a training leaves, and how to read it back.

config.yaml  cohort.csv  history.csv  metrics.json  scores.npz  report.html  twin.safetensors
doubt.json  prototypes.parquet  prototypes/p000.png  prototypes/p000_source.png
model.safetensors  model.json (last: a folder without it is no finished run)  checkpoints/

``checkpoints/lock`` is empty; a training holds it, see :mod:`.folder_lock`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from medproto.data import Cohort
from medproto.errors import CohortError, ModelFileError
from medproto.networks import ModelCard, ProtoPNet, load_model
from medproto.networks.model_file import write_atomically
from medproto.records import PixelBox, PrototypeSource

from .config import ConfigError, RunConfig, load_config, saved_digest
from .doubt import Doubt, read_doubt

__all__ = [
    "RunFolder",
    "file_digest",
    "read_json",
    "sources_from_table",
    "sources_to_table",
    "write_json",
]


def file_digest(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class RunFolder:
    """A finished run, read lazily.

    Args:
        path: the folder.
    """

    path: Path

    @cached_property
    def _model(self) -> tuple[ProtoPNet, ModelCard]:
        return load_model(self.path)

    @property
    def network(self) -> ProtoPNet:
        """The network, projected, in ``eval`` mode.

        Raises:
            ModelFileError: if the run is unfinished or its files were altered.
        """
        return self._model[0]

    @property
    def card(self) -> ModelCard:
        """What ``model.json`` says; same errors as :attr:`network`."""
        return self._model[1]

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration.

        Raises:
            ModelFileError: if the file is missing, damaged or not the model card's.
        """
        expected = self.card.config_digest
        try:
            found = saved_digest(self.path / "config.yaml")
            config = load_config(self.path / "config.yaml")
        except ConfigError as error:
            raise _unreadable("config.yaml") from error
        if found != expected:
            raise _altered("config.yaml")
        return config

    @cached_property
    def cohort(self) -> Cohort:
        """The snapshot of the cohort, with the columns ``row``, ``pixel_digest`` and ``group``.

        Raises:
            ModelFileError: if the run is unfinished (a folder that is no run has no cohort either),
                or the file is missing, damaged or not the model card's, its paths aside.
        """
        expected = self.card.cohort_digest
        data = self.config.data
        try:
            cohort = Cohort.read(
                self.path / "cohort.csv",
                group="group",
                label_columns=data.label_columns or (),
                channels=data.channels,
            )
        except CohortError as error:
            raise _unreadable("cohort.csv") from error
        if cohort.content_digest != expected:
            raise _altered("cohort.csv")
        return cohort

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch.

        Raises:
            ModelFileError: if the file is missing or damaged.
        """
        try:
            return pd.read_csv(self.path / "history.csv")
        except (OSError, ValueError) as error:
            raise _unreadable("history.csv") from error

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` says.

        Raises:
            ModelFileError: if the file is missing or damaged.
        """
        return read_json(self.path / "metrics.json")

    @cached_property
    def doubt(self) -> Doubt | None:
        """Calibration, prediction sets and the flag for unusual images, if the run has them.

        Raises:
            ModelFileError: if the file is missing, damaged or not the model card's.
        """
        expected = self.card.doubt_digest
        if not expected:
            return None
        path = self.path / "doubt.json"
        if not path.is_file() or file_digest(path) != expected:
            raise ModelFileError(
                "doubt.json must have the digest that stands in model.json; it is missing or was "
                "altered after training. Restore it from a copy."
            )
        return read_doubt(path)

    @cached_property
    def sources(self) -> tuple[PrototypeSource, ...]:
        """Where the prototypes came from, in order.

        Raises:
            ModelFileError: if the table is missing or not the one that the model card names.
        """
        expected = self.card.prototypes_digest
        path = self.path / "prototypes.parquet"
        if not path.is_file() or file_digest(path) != expected:
            raise ModelFileError(
                "prototypes.parquet must have the digest that stands in model.json; it is missing "
                "or was altered after training. Restore it from a copy."
            )
        return sources_from_table(pd.read_parquet(path))


def _altered(name: str) -> ModelFileError:
    return ModelFileError(
        f"{name} must have the digest that stands in model.json; it was altered after training. "
        "Restore it from a copy."
    )


def _unreadable(name: str) -> ModelFileError:
    return ModelFileError(
        f"the run folder must hold {name}, which is missing or damaged. Restore it from a copy."
    )


def sources_to_table(sources: Sequence[PrototypeSource]) -> pd.DataFrame:
    """Return one row a prototype; cell and box as lists."""
    return pd.DataFrame(
        {
            "prototype": [s.prototype for s in sources],
            "class_index": [s.class_index for s in sources],
            "class_name": [s.class_name for s in sources],
            "row": [s.row for s in sources],
            "group": [s.group for s in sources],
            "pixel_digest": [s.pixel_digest for s in sources],
            "cell": [list(s.cell) for s in sources],
            "box": [s.box.to_list() for s in sources],
            "distance": [s.distance for s in sources],
            "similarity": [s.similarity for s in sources],
            "floor": [s.floor for s in sources],
        }
    )


def sources_from_table(table: pd.DataFrame) -> tuple[PrototypeSource, ...]:
    """Read what :func:`sources_to_table` made.

    Raises:
        ModelFileError: if a name is not printable text: people will read it on a terminal.
    """
    if not all(str(text).isprintable() for text in (*table["class_name"], *table["group"])):
        raise ModelFileError("prototypes.parquet must name classes and groups in printable text.")
    return tuple(
        PrototypeSource(
            prototype=int(row["prototype"]),
            class_index=int(row["class_index"]),
            class_name=str(row["class_name"]),
            row=int(row["row"]),
            group=str(row["group"]),
            pixel_digest=str(row["pixel_digest"]),
            cell=tuple(int(v) for v in row["cell"]),
            box=PixelBox.from_list([int(v) for v in row["box"]]),
            distance=float(row["distance"]),
            similarity=float(row["similarity"]),
            floor=None if pd.isna(row.get("floor")) else float(row["floor"]),
        )
        for row in table.to_dict("records")
    )


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ModelFileError: if the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path.name) from error


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically; NaN is an error, since JSON has none."""
    text = json.dumps(values, indent=2, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
