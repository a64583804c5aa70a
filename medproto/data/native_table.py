"""Read tables as data sets publish them: some columns matter, the rest may be untidy.

Published headers hold commas of their own (``Bbox [x,y,w,h]`` is four columns), empty names and
names that recur; cells hold line breaks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medproto.data.table import texts_of
from medproto.errors import CohortError

__all__ = ["read_lines", "read_native"]


def read_native(path: Path, needed: Sequence[str], *, delimiter: str = ",") -> pd.DataFrame:
    """Read the columns of a table that have a name of their own, every cell as text.

    Args:
        needed: columns that must be there, once each; they come first.
        delimiter: of the cells, a comma or a tab.

    Raises:
        CohortError: if the file is missing, not UTF-8, has no rows, a quotation mark is not closed
            where its cell ends, a needed column is missing or there twice, or a row is shorter than
            the named columns or longer than the header.
    """
    lines = _cells(path, delimiter)
    if len(lines) < 2:
        raise CohortError(f"{path.name} must have a header and at least one row.")
    header = [name.strip() for name in lines[0]]
    wrong = [name for name in needed if header.count(name) != 1]
    if wrong:
        raise CohortError(
            f"{path.name} must have each of the columns {list(needed)} once, got {header}; "
            f"{wrong} are not there once."
        )
    named = max(k for k, name in enumerate(header) if name) + 1
    for number, row in enumerate(lines[1:]):
        if len(row) < named or any(row[len(header) :]):
            raise CohortError(
                f"row {number} of {path.name} must have {named} to {len(header)} values, got "
                f"{len(row)}."
            )
    own = [name for name in header if name and header.count(name) == 1]
    names = [*needed, *(name for name in own if name not in needed)]
    at = {name: header.index(name) for name in names}
    return pd.DataFrame({name: texts_of(row[at[name]] for row in lines[1:]) for name in names})


def _cells(path: Path, delimiter: str) -> list[list[str]]:
    """Return the rows with a cell that is not empty; a quotation mark swallows none of them."""
    reader = csv.reader(_text(path), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    begun = 1
    try:
        for row in reader:
            # A cell may hold a line break, and may hold a delimiter. One that holds both is the end
            # of a row and the start of the next: another row's data would stand in it.
            if any(delimiter in cell and ("\n" in cell or "\r" in cell) for cell in row):
                raise csv.Error("a cell goes over several rows")
            if any(row):
                rows.append(row)
            begun = reader.line_num + 1
    except csv.Error as cause:
        raise CohortError(
            f"line {begun} of {path.name}, counted from 1, cannot be divided into cells ({cause}): "
            'a quotation mark " must stand before and behind a cell, or twice inside it. Mend it '
            "there, or download the file again."
        ) from None
    return rows


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without surrounding spaces.

    Raises:
        CohortError: if the file is missing or not UTF-8.
    """
    return [line.strip() for line in _text(path) if line.strip()]


def _text(path: Path) -> io.StringIO:
    try:
        return io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
    except OSError:
        raise CohortError(
            f"{path.name} must be in the folder and readable, and is not; download it from where "
            "the images are from."
        ) from None
    except UnicodeDecodeError:
        raise CohortError(f"{path.name} must be UTF-8 text, and is not.") from None
