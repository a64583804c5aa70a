"""The cohort table: one row an image, with label or findings, group, split and mask.

Every cell is text, an empty one means "not known"; only ``fold`` and ``row`` are whole numbers. So
a table built in memory, saved and read again is the same table and has the same digest.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medproto.data.findings import BAD_CELL, bad_cells, read_targets
from medproto.data.images import read_image
from medproto.errors import CohortError, ImageReadError

__all__ = ["Cohort", "read_table", "relative_path"]

_PATHS = ("image", "mask")
_WHOLE_NUMBERS = ("fold", "row")
_NO_FINDINGS = ("image", "mask", "box", "split", "fold", "row")


@dataclass(frozen=True, eq=False)
class Cohort:
    """A table of images and the folder that its relative paths start from.

    Args:
        table: needs the columns ``image`` and ``label``, or ``image`` and ``label_columns``;
            ``mask``, ``box``, ``split`` (``train``, ``val`` or ``test``), ``fold`` (whole number
            from 0), ``patient_id`` and others may follow, unknown ones are kept. It is copied, and
            its index becomes ``0..n-1``.
        root: folder of the relative paths in ``image`` and ``mask``.
        group_column: column of patients or groups that no split may divide; ``None`` takes
            ``patient_id`` if there is one.
        label_columns: columns of findings that may occur together: 1 present, 0 absent, -1 or
            empty uncertain. With them the column ``label`` has no part.

    Raises:
        CohortError: if the table is empty, a column is missing or there twice, or ``fold`` or
            ``row`` hold something other than whole numbers.
    """

    table: pd.DataFrame
    root: Path
    group_column: str | None = None
    label_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_columns", tuple(self.label_columns))
        _check_columns([str(name) for name in self.table.columns], self.label_columns)
        if not len(self.table):
            raise CohortError("a cohort must have at least one row, got a table with none.")
        columns = {str(name): _column(str(name), self.table[name]) for name in self.table.columns}
        if self.group_column is None and "patient_id" in columns:
            object.__setattr__(self, "group_column", "patient_id")
        if self.group_column is not None and self.group_column not in columns:
            raise CohortError(
                f"the grouping column {self.group_column!r} must be in the table, whose columns "
                f"are {list(columns)}."
            )
        object.__setattr__(self, "table", pd.DataFrame(columns))
        object.__setattr__(self, "root", Path(self.root))

    @classmethod
    def read(
        cls, path: Path, *, group: str | None = None, label_columns: Sequence[str] = ()
    ) -> Cohort:
        """Read a table from CSV (UTF-8, commas) or Parquet.

        Args:
            group: name of the grouping column; ``None`` takes ``patient_id`` if there is one.
            label_columns: names of the columns of findings, if there is no single label.

        Raises:
            CohortError: if the file cannot be read or is no cohort table.
        """
        path = Path(path)
        return cls(read_table(path), path.parent, group, tuple(label_columns))

    def save(self, path: Path) -> None:
        """Write CSV, or Parquet for the suffix ``.parquet``; relative paths follow the new place.

        The file appears whole or not at all.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = self.table.copy()
        for name in _PATHS:
            if name in table:
                table[name] = [relative_path(self.root, v, path.parent) for v in table[name]]
        partial = path.with_name(f".{path.name}.partial")
        if path.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            partial.write_text(_to_csv(table), encoding="utf-8", newline="")
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
        return f"sha256:{hashlib.sha256(_to_csv(self.table).encode()).hexdigest()}"

    @property
    def content_digest(self) -> str:
        """As :attr:`digest`, without the columns of paths: the same wherever the images lie."""
        table = self.table.drop(columns=list(_PATHS), errors="ignore")
        return f"sha256:{hashlib.sha256(_to_csv(table).encode()).hexdigest()}"

    def select(self, classes: Iterable[str]) -> Cohort:
        """Return the rows with one of these labels; column ``row`` keeps their first row number.

        Of a cohort with ``label_columns`` all rows stay, and ``classes`` are its findings now.

        Raises:
            CohortError: if a class has no row, or is none of the findings.
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
            return Cohort(table, self.root, self.group_column, tuple(wanted))
        return Cohort(table[table["label"].isin(wanted)], self.root, self.group_column)

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

    def image_path(self, row: int) -> Path:
        """Return the path of the image of a zero-based row."""
        return self.root / str(self.table["image"].iloc[row])

    def mask_path(self, row: int) -> Path | None:
        """Return the path of the mask of a zero-based row, ``None`` if it has none."""
        value = str(self.table["mask"].iloc[row]) if "mask" in self.table else ""
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
        known = str(self.table["pixel_digest"].iloc[row]) if "pixel_digest" in self.table else ""
        if known:
            return known
        try:
            return read_image(self.image_path(row)).reference.pixel_digest
        except ImageReadError as cause:
            raise CohortError(
                f"row {row}: {cause} Run `medproto cohort check` to see every bad row."
            ) from None


def read_table(path: Path) -> pd.DataFrame:
    """Read CSV or Parquet as a table of text.

    Raises:
        CohortError: if the file is missing, not UTF-8, not rectangular, has no header, no rows or
            a column twice.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError):
        raise CohortError("the table does not exist or cannot be opened.") from None
    if content[:4] == b"PAR1":
        return _read_parquet(content)
    if b"\0" in content:
        raise CohortError("a table must be UTF-8 text, got NUL bytes; save it as CSV in UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise CohortError(
            f"a table must be UTF-8 text, got byte {content[cause.start]:#04x} at position "
            f"{cause.start}; save it as CSV in UTF-8."
        ) from None
    return _parse_csv(text)


def relative_path(root: Path, value: str, target: Path) -> str:
    """Return the path ``value`` (relative to ``root``) as seen from the folder ``target``.

    Absolute and empty values stay as they are.
    """
    if not value or Path(value).is_absolute():
        return value
    here, there = Path(root).resolve(), Path(target).resolve()
    if here == there:
        return value
    return Path(os.path.relpath(here / value, there)).as_posix()


def _read_parquet(content: bytes) -> pd.DataFrame:
    try:
        table = pd.read_parquet(io.BytesIO(content))
    except Exception:  # whatever pyarrow makes of damaged bytes
        raise CohortError("the Parquet table is damaged and cannot be read.") from None
    names = [str(name) for name in table.columns]
    _check_twice(names)
    return pd.DataFrame({name: _texts(table.iloc[:, k]) for k, name in enumerate(names)})


def _parse_csv(text: str) -> pd.DataFrame:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as cause:
        raise CohortError(f"the table is no valid CSV: {cause}.") from None
    if len(lines) < 2:
        raise CohortError("a table must have a header and at least one row.")
    header, *rows = lines
    header = [name.strip() for name in header]
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise CohortError("the columns of a table must be separated by commas.")
    _check_twice(header)
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise CohortError(
                f"row {number} must have {len(header)} values like the header, got {len(row)}."
            )
    columns = zip(*rows, strict=True)
    return pd.DataFrame({name: _texts(cells) for name, cells in zip(header, columns, strict=True)})


def _to_csv(table: pd.DataFrame) -> str:
    return str(table.to_csv(index=False, lineterminator="\n"))


def _check_twice(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CohortError(f"a column must occur once, got {twice} more often.")


def _check_columns(names: Sequence[str], findings: Sequence[str]) -> None:
    _check_twice(names)
    if findings:
        _check_findings(names, findings)
        return
    missing = [name for name in ("image", "label") if name not in names]
    if missing:
        raise CohortError(
            f"a cohort table must have the columns 'image' and 'label'; {missing} missing in "
            f"{list(names)}. If it has a 0/1 column for each finding, name these instead: "
            "--label-columns a,b, or data.label_columns of a training."
        )


def _check_findings(names: Sequence[str], findings: Sequence[str]) -> None:
    missing = [name for name in ("image", *findings) if name not in names]
    if missing:
        raise CohortError(
            f"a cohort table must have the column 'image' and each of the label columns "
            f"{list(findings)}; {missing} missing in {list(names)}."
        )
    wrong = [name for name in findings if name in _NO_FINDINGS or findings.count(name) > 1]
    if wrong:
        raise CohortError(
            f"label columns must be findings, each named once, got {sorted(set(wrong))}; "
            f"{list(_NO_FINDINGS)} have another meaning."
        )


def _column(name: str, values: Iterable[Any]) -> list[Any]:
    """Return a column as text without surrounding spaces, or as whole numbers if it must be."""
    texts = _texts(values)
    if name not in _WHOLE_NUMBERS:
        return texts
    try:
        return [_whole(text) for text in texts]
    except (ValueError, OverflowError):
        raise CohortError(f"column {name!r} must hold whole numbers from 0 in every row.") from None


def _texts(values: Iterable[Any]) -> list[str]:
    # One kind of line end: Python's csv writer leaves a lone carriage return unquoted.
    texts = ["" if _missing(value) else str(value).strip() for value in values]
    return [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def _whole(text: str) -> int:
    number = float(text)
    if number != int(number) or not 0 <= number < 2**53:
        raise ValueError(text)
    return int(number)
