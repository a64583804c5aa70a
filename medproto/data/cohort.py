"""The cohort table: one row an image, with label or findings, group, split and mask.

Every cell is text, an empty one means "not known"; only ``fold`` and ``row`` are whole numbers. So
a table built in memory, saved and read again is the same table and has the same digest.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medproto.data.channels import ImageChannels, ImageFrame
from medproto.data.cohort_columns import (
    SHOWN,
    check_channels,
    check_columns,
    check_shown,
    holds_paths,
    parse_column,
)
from medproto.data.findings import BAD_CELL, bad_cells, read_targets
from medproto.data.images import read_image
from medproto.data.table import read_table, relative_path, to_csv
from medproto.errors import CohortError, ImageReadError

__all__ = ["Cohort"]


@dataclass(frozen=True, eq=False)
class Cohort:
    """A table of images and the folder that its relative paths start from.

    Args:
        table: needs the columns ``image`` and ``label``, or ``image`` and ``label_columns``;
            ``mask``, ``box``, ``split`` (``train``, ``val`` or ``test``), ``fold`` (whole number
            from 0), ``frame`` (likewise, or empty: which one of a file of several is the image),
            ``patient_id`` and others may follow, unknown ones are kept; columns whose names begin
            with ``image_path_`` hold paths of further images of the row. It is copied, and its
            index becomes ``0..n-1``.
        root: folder of the relative paths in ``image``, ``mask`` and ``image_path_…``.
        group_column: column of patients or groups that no split may divide; ``None`` takes
            ``patient_id`` if there is one.
        label_columns: columns of findings that may occur together: 1 present, 0 absent, -1 or
            empty uncertain. With them the column ``label`` has no part.
        channels: columns ``image_path_…`` whose images are channels of each row's image, behind its
            own, as the sequences of an MRI examination are.

    Raises:
        CohortError: if the table is empty, a column is missing or there twice, ``fold``, ``row`` or
            ``frame`` hold something other than whole numbers, or a name that people will read has
            control characters: terminals obey these.
    """

    table: pd.DataFrame
    root: Path
    group_column: str | None = None
    label_columns: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_columns", tuple(self.label_columns))
        object.__setattr__(self, "channels", tuple(self.channels))
        check_columns([str(name) for name in self.table.columns], self.label_columns)
        check_channels([str(name) for name in self.table.columns], self.channels)
        if not len(self.table):
            raise CohortError("a cohort must have at least one row, got a table with none.")
        names = map(str, self.table.columns)
        columns = {name: parse_column(name, self.table[name]) for name in names}
        if self.group_column is None and "patient_id" in columns:
            object.__setattr__(self, "group_column", "patient_id")
        if self.group_column is not None and self.group_column not in columns:
            raise CohortError(
                f"the grouping column {self.group_column!r} must be in the table, whose columns "
                f"are {list(columns)}."
            )
        check_shown(columns, {*SHOWN, self.group_column})
        object.__setattr__(self, "table", pd.DataFrame(columns))
        object.__setattr__(self, "root", Path(self.root))

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        group: str | None = None,
        label_columns: Sequence[str] = (),
        channels: Sequence[str] = (),
        unlabeled: bool = False,
    ) -> Cohort:
        """Read a table from CSV (UTF-8, commas) or Parquet.

        Args:
            group: name of the grouping column; ``None`` takes ``patient_id`` if there is one.
            label_columns: names of the columns of findings, if there is no single label.
            channels: names of the columns of further channels.
            unlabeled: take a table without ``label``, or without ``label_columns``, as of new
                patients; these columns are empty then.

        Raises:
            CohortError: if the file cannot be read or is no cohort table.
        """
        path, findings = Path(path), tuple(label_columns)
        table = read_table(path)
        if unlabeled:
            missing = [name for name in findings or ("label",) if name not in table]
            table = table.assign(**dict.fromkeys(missing, ""))
        return cls(table, path.parent, group, findings, tuple(channels))

    def save(self, path: Path) -> None:
        """Write CSV, or Parquet for the suffix ``.parquet``; relative paths follow the new place.

        The file appears whole or not at all.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = self.table.copy()
        for name in filter(holds_paths, map(str, table.columns)):
            table[name] = [relative_path(self.root, v, path.parent) for v in table[name]]
        partial = path.with_name(f".{path.name}.partial")
        if path.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            partial.write_text(to_csv(table), encoding="utf-8", newline="")
        os.replace(partial, path)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels, sorted, or ``label_columns``; rows without a label do not count."""
        if self.label_columns:
            return self.label_columns
        return tuple(sorted(set(self.table["label"]) - {""}))

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` over the table as CSV text, columns and rows in their order."""
        return f"sha256:{hashlib.sha256(to_csv(self.table).encode()).hexdigest()}"

    @property
    def content_digest(self) -> str:
        """As :attr:`digest`, without the columns of paths: the same wherever the images lie."""
        table = self.table.drop(columns=list(filter(holds_paths, map(str, self.table.columns))))
        return f"sha256:{hashlib.sha256(to_csv(table).encode()).hexdigest()}"

    @property
    def check_command(self) -> str:
        """The command that names all problems of a table like this one."""
        # Without --group the check takes patient_id, as a cohort does.
        group = None if self.group_column == "patient_id" else self.group_column
        options = (
            ("group", group or ""),
            ("label-columns", ",".join(self.label_columns)),
            ("channels", ",".join(self.channels)),
        )
        named = [f" --{name} {shlex.quote(value)}" for name, value in options if value]
        return "medproto cohort check TABLE" + "".join(named)

    def select(self, classes: Iterable[str]) -> Cohort:
        """Return the rows with one of these labels; column ``row`` keeps their first row number.

        Of a cohort with ``label_columns`` all rows stay, and ``classes`` are its findings now.

        Raises:
            CohortError: if a class has no row, or is none of the findings, or a row no label.
        """
        wanted = list(classes)
        unknown = sorted(set(wanted) - set(self.classes))
        if unknown or not wanted:
            raise CohortError(
                f"classes must be some of {list(self.classes)}, got {unknown or wanted}."
            )
        table = self.table.copy()
        if "row" not in table:
            table["row"] = range(len(table))
        if self.label_columns:
            return replace(self, table=table, label_columns=tuple(wanted))
        self._check_labels()
        return replace(self, table=table[table["label"].isin(wanted)])

    def without(self, rows: Iterable[int]) -> Cohort:
        """Return the cohort without some zero-based rows; column ``row`` keeps their old numbers.

        Raises:
            CohortError: if nothing is left.
        """
        table = self.table.copy()
        if "row" not in table:
            table["row"] = range(len(table))
        return replace(self, table=table.drop(index=list(rows)))

    def _check_labels(self) -> None:
        """Refuse rows without a label: nobody said that they may be left out."""
        empty = self.table["row"] if "row" in self.table else pd.Series(range(len(self.table)))
        empty = empty[(self.table["label"] == "").to_numpy()]
        if len(empty):
            raise CohortError(
                f"every row must have a label, {len(empty)} of {len(self.table)} have none, the "
                f"first is row {empty.iloc[0]}. Fill the cells in, or take the rows out of the "
                "table."
            )

    def targets(self) -> NDArray[np.float64]:
        """Return ``[rows, label_columns]``: 1 present, 0 absent, NaN uncertain.

        Raises:
            CohortError: if the cohort has no ``label_columns``, or a cell is none of the values;
                the first such row is named.
        """
        if not self.label_columns:
            raise CohortError("targets are of findings; read the cohort with label_columns.")
        for row, name, text in bad_cells(self.table, self.label_columns):
            raise CohortError(f"row {row}: {BAD_CELL.format(name=name, text=text)}")
        return read_targets(self.table, self.label_columns)

    def cell(self, row: int, column: str) -> str:
        """Return a cell of a zero-based row as text, empty where there is no such column."""
        cells = self._cells.get(column)
        return "" if cells is None else str(cells[row])

    @cached_property
    def _cells(self) -> dict[str, list[Any]]:
        # Of a hundred thousand rows each is asked for several times, which pandas is slow at.
        return {str(name): self.table[name].tolist() for name in self.table.columns}

    def image_source(self, row: int) -> Path | ImageFrame | ImageChannels:
        """Return what `read_image` takes for a zero-based row: path, frame and channels if named.

        Raises:
            CohortError: if a channel is not named.
        """
        path = self.image_path(row)
        frame = self.cell(row, "frame")
        image = ImageFrame(path, int(frame)) if frame else path
        if not self.channels:
            return image
        cells = [self.cell(row, name) for name in self.channels]
        if not all(cells):
            missing = self.channels[cells.index("")]
            raise CohortError(f"row {row} must name an image in the column {missing!r}.")
        return ImageChannels((image, *(self.root / cell for cell in cells)))

    def image_path(self, row: int) -> Path:
        """Return the path of the image of a zero-based row."""
        return self.root / self.cell(row, "image")

    def mask_path(self, row: int) -> Path | None:
        """Return the path of the mask of a zero-based row, ``None`` if it has none."""
        value = self.cell(row, "mask")
        return self.root / value if value else None

    def groups(self) -> list[str]:
        """Return the patient or group of each row.

        Where the grouping column is absent or empty it is the digest of the stored pixels, so that
        identical images form a group.

        Raises:
            CohortError: if an image is needed for that and cannot be read.
        """
        return list(self._groups)

    @cached_property
    def _groups(self) -> tuple[str, ...]:
        names = self.table[self.group_column] if self.group_column else [""] * len(self)
        return tuple(name or self._pixel_digest(row) for row, name in enumerate(names))

    def _pixel_digest(self, row: int) -> str:
        known = self.cell(row, "pixel_digest")
        if known:
            return known
        try:
            return read_image(self.image_source(row)).reference.pixel_digest
        except ImageReadError as cause:
            raise CohortError(
                f"row {row}: {cause} See every bad row with `{self.check_command}`."
            ) from None
