"""Join a table of labels to the images that were found, and keep identities out of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medproto.data.ages import capped_age
from medproto.data.identities import columns_to_keep
from medproto.errors import CohortError

__all__ = ["LabelJoin", "join_labels"]


@dataclass(frozen=True)
class LabelJoin:
    """Columns of a table of labels, a row for each image.

    Args:
        columns: those that name no identity, ages above 89 as 90; cells of images without a label
            are empty.
        rows: images that have a label, in their order.
        matches: row of the table of labels of each image, ``None`` without one.
        key: column that joined them.
        notes: what did not fit, a sentence each.
    """

    columns: pd.DataFrame
    rows: list[int]
    matches: list[int | None]
    key: str
    notes: list[str]


def join_labels(
    keys: Mapping[str, Sequence[str | None]],
    labels: pd.DataFrame,
    findings: tuple[str, ...],
    *,
    known: Mapping[str, Sequence[str | None]] | None = None,
) -> LabelJoin:
    """Join by the first of ``keys`` that the table of labels has.

    Args:
        keys: names of columns, each with the value of every image; ``None`` matches nothing.
        findings: columns that the table must have in place of ``label``, or none.
        known: further identifiers of every image, that do not join. No column with a cell that
            names one of its own image's ``keys`` or ``known`` is taken over.

    Raises:
        CohortError: if a column is missing, no image matches, or a key has two labels.
    """
    key = _key(keys, labels, findings)
    rows = _rows_of_keys(labels, key, findings or ("label",))
    values = keys[key]
    matches = [None if value is None else rows.get(value) for value in values]
    if not any(match is not None for match in matches):
        hint = "Does it name the same images, before or after pseudonyms were given?"
        if key == "image":
            hint = "Its paths must be relative to the folder of images that is given."
        raise CohortError(
            f"the column {key!r} of the labels matches none of {len(values)} images. {hint}"
        )
    kept, about_columns = columns_to_keep(labels, matches, {**(known or {}), **keys}, findings)
    columns = pd.DataFrame(
        {name: ["" if match is None else labels[name][match] for match in matches] for name in kept}
    )
    for name in (name for name in kept if name.lower() == "age"):
        columns[name] = [capped_age(age) for age in columns[name]]
    # Findings may all be uncertain, so there an image is labeled by its row alone.
    labeled = [
        row
        for row, match in enumerate(matches)
        if match is not None and (findings or columns["label"][row])
    ]
    unlabeled, unused = len(values) - len(labeled), len(set(rows.values()) - set(matches))
    notes = [f"labels are joined by {key!r}."]
    if unlabeled:
        notes.append(f"{unlabeled} images have no label in the table and were left out.")
    if unused:
        notes.append(f"{unused} rows of the labels have no image.")
    return LabelJoin(columns, labeled, matches, key, notes + about_columns)


def _key(
    keys: Mapping[str, Sequence[str | None]], labels: pd.DataFrame, findings: tuple[str, ...]
) -> str:
    """Return the column to join by, after a check that the table has what is needed."""
    names = [name for name in keys if name in labels]
    missing = [name for name in findings or ("label",) if name not in labels]
    if names and not missing:
        return names[0]
    wanted = " and ".join(map(repr, findings or ("label",)))
    raise CohortError(
        f"the table of labels must have {wanted} and one of {list(keys)}, "
        f"got {list(labels.columns)}."
        + ("" if findings else " A 0/1 column for each finding is named by label_columns.")
    )


def _rows_of_keys(labels: pd.DataFrame, key: str, answers: Sequence[str]) -> dict[str, int]:
    """Return the first row of each key; the columns ``answers`` of its other rows must agree."""
    known = list(zip(*(labels[name] for name in answers), strict=True))
    rows: dict[str, int] = {}
    for number, value in enumerate(labels[key]):
        value = Path(value).as_posix() if key == "image" else str(value).strip()
        first = rows.setdefault(value, number)
        if known[first] != known[number]:
            raise CohortError(
                f"rows {first} and {number} of the labels (counted from 0, below the header) have "
                "one key, two labels; keep the one that is right."
            )
    return rows
