"""Check the labels of a cohort: one a row, or columns of findings that may occur together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.data.cohort import Cohort
from medproto.data.findings import BAD_CELL, bad_cells, present_findings, read_targets
from medproto.data.problem import SPLITS, Problem

__all__ = [
    "contradiction",
    "count_labels",
    "find_empty_masks",
    "find_small_classes",
    "find_wrong_labels",
]

_LEAST = {"train": 2, "val": 1, "test": 1}


def find_wrong_labels(cohort: Cohort, classes: Sequence[str] | None) -> list[list[Problem]]:
    """Return what is wrong with the label or the findings of each row.

    Args:
        classes: the known labels; ``None`` takes any.
    """
    found: list[list[Problem]] = [[] for _ in range(len(cohort))]
    if cohort.label_columns:
        for row, name, text in bad_cells(cohort.table, cohort.label_columns):
            found[row].append(Problem(row, "label", BAD_CELL.format(name=name, text=text)))
        return found
    for row, label in enumerate(cohort.table["label"]):
        if not label:
            reason = "the label must be given, the cell is empty."
            found[row].append(Problem(row, "label", reason))
        elif classes is not None and label not in classes:
            reason = f"the label must be one of {sorted(classes)}, got {label!r}."
            found[row].append(Problem(row, "label", reason))
    return found


def find_empty_masks(cohort: Cohort, inside: Sequence[int | None]) -> Iterator[Problem]:
    """Find empty masks where masks of the same class, or of the same findings, are not empty.

    A filled mask of a row says that something is drawn of what the row shows. A row that shows at
    least the same must have something in its mask too; where nothing certain is shown, an empty
    mask is right.

    Args:
        inside: pixels inside the mask of each row, ``None`` without one.
    """
    shown = _shown(cohort)
    drawn = {names for names, pixels in zip(shown, inside, strict=True) if names and pixels}
    kind = "finding" if cohort.label_columns else "class"
    for row, (names, pixels) in enumerate(zip(shown, inside, strict=True)):
        same = min((other for other in drawn if other <= names), key=sorted, default=None)
        if pixels == 0 and same is not None:
            of = " and ".join(map(repr, sorted(same)))
            reason = (
                f"the mask is empty, although others of {kind} {of} are not; leave the cell "
                "empty if nothing was drawn."
            )
            yield Problem(row, "mask", reason)


def find_small_classes(cohort: Cohort, classes: Sequence[str] | None) -> Iterator[Problem]:
    """Find classes and findings that are too rare to learn or to measure, and near-equal names."""
    known = sorted(set(cohort.classes) | set(classes or ()))
    if len(cohort.classes) < 2 and not cohort.label_columns:
        yield Problem(None, "class", f"a cohort needs two classes, got {list(cohort.classes)}.")
    spelled: dict[str, str] = {}
    noun, nouns = ("finding", "findings") if cohort.label_columns else ("class", "classes")
    for name in known:
        other = spelled.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            reason = f"{nouns} {other!r} and {name!r} differ in case or spaces only."
            yield Problem(None, "class", reason)
        for rows, what in _kinds(cohort, name):
            yield from _check_kind(cohort, rows, f"{noun} {name!r}", what)


def _kinds(cohort: Cohort, name: str) -> list[tuple[NDArray[np.bool_], str]]:
    """Return the rows that must be many enough, with the word for such a case."""
    if not cohort.label_columns:
        return [(cohort.table["label"].to_numpy(dtype=object) == name, "")]
    values = read_targets(cohort.table, [name])[:, 0]
    # Both sides: without certain absent cases a finding cannot be told from anything.
    return [(values == 1, "present "), (values == 0, "absent ")]


def _check_kind(cohort: Cohort, rows: NDArray[np.bool_], name: str, what: str) -> Iterator[Problem]:
    """Find too few ``rows`` of one kind, in the whole table or in a part of it."""
    cases = int(rows.sum())
    if cases < 2:
        yield Problem(None, "class", f"{name} needs at least 2 {what}cases, got {cases}.")
        return
    table = cohort.table
    if "split" in table:
        counts = Counter(table["split"][rows].tolist())
        for split in SPLITS:
            least = _LEAST[split]
            if counts[split] < least:
                number = f"{least} {what}".strip()
                reason = f"{name} needs at least {number} in split {split!r}, got {counts[split]}."
                yield Problem(None, "class", reason)
    if "fold" in table:
        for fold in sorted(set(table["fold"]) - set(table["fold"][rows])):
            yield Problem(None, "class", f"{name} has no {what}case in fold {fold}.")


def contradiction(cohort: Cohort, rows: Sequence[int]) -> bool:
    """Whether these rows, which show the same pixels, cannot all be right.

    Two labels contradict each other; of findings only present and absent do, for uncertain agrees
    with both.
    """
    if len(rows) < 2:
        return False
    if not cohort.label_columns:
        return cohort.table["label"].iloc[list(rows)].nunique() > 1
    values = read_targets(cohort.table.iloc[list(rows)], cohort.label_columns)
    return bool(((values == 1).any(axis=0) & (values == 0).any(axis=0)).any())


def count_labels(cohort: Cohort) -> Mapping[str, Any]:
    """Return ``labels``, ``findings`` (only of ``label_columns``), and ``splits`` and ``folds``.

    A finding counts among ``labels`` where it is certainly present.
    """
    table = cohort.table
    counts: dict[str, Any] = {"labels": _cases(cohort, np.ones(len(table), dtype=bool))}
    if cohort.label_columns:
        values = read_targets(table, cohort.label_columns)
        counts["findings"] = {
            name: {
                "present": int((column == 1).sum()),
                "absent": int((column == 0).sum()),
                "uncertain": int(np.isnan(column).sum()),
            }
            for name, column in zip(cohort.label_columns, values.T, strict=True)
        }
    for column in ("split", "fold"):
        if column in table:
            counts[f"{column}s"] = {
                str(part): _cases(cohort, (table[column] == part).to_numpy())
                for part in sorted(set(table[column]))
            }
    return counts


def _cases(cohort: Cohort, rows: NDArray[np.bool_]) -> dict[str, int]:
    """Return the number of cases of each class or finding among ``rows``."""
    table = cohort.table[rows]
    if not cohort.label_columns:
        return dict(sorted(Counter(table["label"].tolist()).items()))
    present = (read_targets(table, cohort.label_columns) == 1).sum(axis=0)
    return dict(zip(cohort.label_columns, map(int, present), strict=True))


def _shown(cohort: Cohort) -> list[frozenset[str]]:
    """Return the class or the certain findings of each row."""
    if cohort.label_columns:
        targets = read_targets(cohort.table, cohort.label_columns)
        return present_findings(targets, cohort.label_columns)
    return [frozenset({label} - {""}) for label in cohort.table["label"]]
