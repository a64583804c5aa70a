"""Columns of a cohort table: which there must be, what they hold, and which hold paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medproto.data.table import check_twice, texts_of
from medproto.errors import CohortError

__all__ = [
    "MORE_PATHS",
    "SHOWN",
    "check_channels",
    "check_columns",
    "check_shown",
    "holds_paths",
    "parse_column",
]

_PATHS = ("image", "mask")
MORE_PATHS = "image_path_"
_WHOLE_NUMBERS = ("fold", "row")
_OPTIONAL_NUMBERS = ("frame",)
SHOWN = (*_PATHS, "label", "box", "split")
_NO_FINDINGS = ("image", "mask", "box", "split", "fold", "row")


def holds_paths(name: str) -> bool:
    """Return whether a column of this name holds paths, relative to the table's folder."""
    return name in _PATHS or name.startswith(MORE_PATHS)


def check_columns(names: Sequence[str], findings: Sequence[str]) -> None:
    """Refuse a table without the columns that it must have, or with one there twice.

    Raises:
        CohortError: with what is missing.
    """
    check_twice(names)
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


def check_channels(names: Sequence[str], channels: Sequence[str]) -> None:
    """Refuse channels that are no columns of paths.

    Raises:
        CohortError: with the columns that there are.
    """
    unknown = [name for name in channels if name not in names]
    if unknown or not all(name.startswith(MORE_PATHS) for name in channels):
        found = [name for name in names if name.startswith(MORE_PATHS)]
        raise CohortError(
            f"channels must be columns {MORE_PATHS}... of the table ({', '.join(found) or 'none'}"
            f"), got {', '.join(channels)}."
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


def check_shown(columns: Mapping[str, Sequence[Any]], shown: set[str | None]) -> None:
    """Check the names of all columns, and the cells of those that are ever printed.

    Raises:
        CohortError: if one has a line break or a control character: terminals obey these.
    """
    wrong = [name for name in columns if not name.isprintable()]
    if wrong:
        raise CohortError(f"column names must be printable text in one line, got {wrong[0]!r}.")
    for name in [name for name in columns if name in shown]:
        for row, text in enumerate(columns[name]):
            if not str(text).isprintable():
                raise CohortError(
                    f"row {row}: column {name!r} must hold printable text in one line; it has a "
                    "line break or a control character."
                )


def parse_column(name: str, values: Iterable[Any]) -> list[Any]:
    """Return a column as text without surrounding spaces, or as whole numbers if it must be.

    Raises:
        CohortError: if it must be and is not.
    """
    texts = texts_of(values)
    if name in _OPTIONAL_NUMBERS:
        return [_optional(name, row, text) for row, text in enumerate(texts)]
    if name not in _WHOLE_NUMBERS:
        return texts
    try:
        return [_whole(text) for text in texts]
    except (ValueError, OverflowError):
        raise CohortError(f"column {name!r} must hold whole numbers from 0 in every row.") from None


def _optional(name: str, row: int, text: str) -> str:
    try:
        return text and str(_whole(text))
    except (ValueError, OverflowError):
        raise CohortError(
            f"row {row}: column {name!r} must hold a whole number from 0, or nothing, got {text!r}."
        ) from None


def _whole(text: str) -> int:
    number = float(text)
    if number != int(number) or not 0 <= number < 2**53:
        raise ValueError(text)
    return int(number)
