"""What the synthetic patients show, and what their table of labels says about it.

Of several findings and of grades the patients are dealt in a random order, so that neither the
number of a patient, which is in names and identifiers, nor its place in the table tells what it
shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import numpy as np

from .phantom_findings import EFFUSION_HEIGHT, FINDINGS

__all__ = [
    "GRADES",
    "NO_FINDING",
    "UNCERTAIN_SHARE",
    "Shown",
    "Task",
    "blur_labels",
    "check_classes",
    "deal",
    "label_cells",
]

Task = Literal["multiclass", "multilabel", "ordinal"]
Shown = str | tuple[str, ...]
"""A class, a grade, or the findings that are there."""

GRADES = ("grade 0", *(f"grade {grade}" for grade in EFFUSION_HEIGHT))
"""No effusion, then a small, a middle and a large one."""

NO_FINDING = "no_finding"
UNCERTAIN_SHARE = 0.1
"""Share of the images, rounded, on which the table is uncertain about a finding; chance
chooses them anew for each finding."""

_DEFAULTS: dict[str, tuple[str, ...]] = {
    "multiclass": ("normal", "nodule"),
    "multilabel": ("nodule", "effusion"),
    "ordinal": GRADES,
}


def check_classes(task: str, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes, the findings or the grades of a task.

    Raises:
        ValueError: if there is no such task, or it has other classes.
    """
    if task not in _DEFAULTS:
        raise ValueError(f"task must be one of {', '.join(_DEFAULTS)}, got {task!r}.")
    if classes is None:
        return _DEFAULTS[task]
    known = {"multiclass": ("normal", *FINDINGS), "multilabel": FINDINGS, "ordinal": GRADES}[task]
    unknown = [name for name in classes if name not in known]
    if unknown or len(set(classes)) < 2 or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be two or more of {', '.join(known)}, got {list(classes)}.")
    return tuple(classes)


def deal(task: str, classes: Sequence[str], patients: int, *, seed: int) -> list[Shown]:
    """Return what each patient shows: each class, or each set of findings, equally often.

    Raises:
        ValueError: if there are not two patients for each.
    """
    kinds: list[Shown] = list(classes)
    if task == "multilabel":
        choices = product((False, True), repeat=len(classes))
        kinds = [tuple(n for n, there in zip(classes, c, strict=True) if there) for c in choices]
    if patients < 2 * len(kinds):
        kind = "set of findings" if task == "multilabel" else "class"
        raise ValueError(
            f"patients must be at least two a {kind}, {2 * len(kinds)} in all, got {patients}."
        )
    in_turn = [kinds[patient % len(kinds)] for patient in range(patients)]
    if task == "multiclass":
        return in_turn
    order = np.random.default_rng(np.random.SeedSequence([seed, 6])).permutation(patients)
    return [in_turn[k] for k in order]


def label_cells(shown: Shown, classes: Sequence[str]) -> dict[str, Any]:
    """Return the columns of the table that say what an image shows, all of them certain."""
    if isinstance(shown, str):
        return {"label": shown}
    return {**{name: int(name in shown) for name in classes}, NO_FINDING: int(not shown)}


def blur_labels(rows: list[dict[str, Any]], findings: Sequence[str], *, seed: int) -> None:
    """Make a share of the cells of ``rows`` uncertain (-1).

    ``no_finding`` follows from the others as they then are: 0 with a finding that is certain, 1
    without any, -1 in doubt. So it tells nothing that an uncertain cell keeps back.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))
    for name in findings:
        count = round(UNCERTAIN_SHARE * len(rows))
        for row in rng.choice(len(rows), count, replace=False):
            rows[row][name] = -1
    for cells in rows:
        values = [cells[name] for name in findings]
        cells[NO_FINDING] = 0 if 1 in values else -1 if -1 in values else 1
