"""Tables as files: CSV and Parquet in, CSV text out; every cell is text.

A cell that is missing is an empty one.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medproto.errors import CohortError

__all__ = ["check_twice", "read_table", "relative_path", "texts_of", "to_csv"]


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
    check_twice(names)
    return pd.DataFrame({name: texts_of(table.iloc[:, k]) for k, name in enumerate(names)})


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
    check_twice(header)
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise CohortError(
                f"row {number} must have {len(header)} values like the header, got {len(row)}."
            )
    columns = zip(*rows, strict=True)
    return pd.DataFrame(
        {name: texts_of(cells) for name, cells in zip(header, columns, strict=True)}
    )


def to_csv(table: pd.DataFrame) -> str:
    """Return the table as CSV with plain line ends, the same on every system."""
    return str(table.to_csv(index=False, lineterminator="\n"))


def check_twice(names: Sequence[str]) -> None:
    """Raise CohortError if a column name occurs more than once."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CohortError(f"a column must occur once, got {twice} more often.")


def texts_of(values: Iterable[Any]) -> list[str]:
    """Return cells as text without surrounding spaces; a missing one is empty."""
    # One kind of line end: Python's csv writer leaves a lone carriage return unquoted.
    texts = ["" if _missing(value) else str(value).strip() for value in values]
    return [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value
