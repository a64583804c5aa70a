"""What the recipes share: files by name, ready-made test sets, boxes, pseudonyms.

Symbols: ``x`` to the right and ``y`` down from the upper left corner, ``w`` and ``h`` the sides, in
pixels; a box of a cohort is ``row0,col0,row1,col1``, end exclusive.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from medproto.data.walk import walk_folder
from medproto.errors import CohortError

__all__ = ["UNTRIED", "box_text", "count_notes", "files_by_name", "split_by_test_set"]

UNTRIED = (
    "this recipe follows the published description of the layout and has not yet been run on the "
    "real files: compare the counts with those that the authors of the data state."
)
"""First note of every recipe."""

_VAL = 8
"""One in so many patients outside the test set validates."""


def files_by_name(
    folder: Path, ending: str, *, parent: str | None = None
) -> tuple[dict[str, str], list[str]]:
    """Return the path, relative to ``folder``, of each file by its name, and notes.

    Args:
        ending: of the names, in small letters.
        parent: name of the folder that the files lie in; ``None`` for any.

    Raises:
        CohortError: if there is none, or two files have one name.
    """
    walk = walk_folder(folder)
    found: dict[str, str] = {}
    for path in walk.files:
        if not path.name.lower().endswith(ending) or parent not in (None, path.parent.name):
            continue
        if path.name in found:
            raise CohortError(
                "each image must be in the folder once, and two files have one name; keep one of "
                "the copies."
            )
        found[path.name] = path.relative_to(folder).as_posix()
    if not found:
        where = f" in folders named {parent!r}" if parent else ""
        raise CohortError(f"the folder must hold files *{ending}{where}, none was found.")
    return found, walk.notes


def split_by_test_set(
    patients: Sequence[str], test: Sequence[bool]
) -> tuple[list[str], list[int], list[str]]:
    """Return the split of each row, the rows that stay, and notes.

    The test set is as it is given. Of the other patients about one in eight, by the SHA-256 of
    their published number, validates. Rows of a patient who is also in the test set leave training.
    """
    tested = {patient for patient, flag in zip(patients, test, strict=True) if flag}
    splits = ["test" if flag else _part(patient) for patient, flag in zip(patients, test)]
    keep = [row for row, patient in enumerate(patients) if test[row] or patient not in tested]
    notes = [
        "the test set is the published one; of the other patients about one in eight, by a digest "
        "of their number, validates."
    ]
    if len(keep) < len(patients):
        notes.append(
            f"{len(patients) - len(keep)} images outside the test set are of patients in it and "
            "were left out."
        )
    return splits, keep, notes


def _part(patient: str) -> str:
    number = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16)
    return "val" if number % _VAL == 0 else "train"


def box_text(numbers: Iterable[str], *, side: int, where: str) -> str:
    """Return a box from ``x, y, w, h`` as text, outward to whole pixels, inside a square image.

    Args:
        side: of the image, pixels.
        where: the row and its table, for the error.

    Raises:
        CohortError: if these are not four finite numbers with positive sides in the image.

    Example:
        >>> box_text(["10.5", "20", "30", "40.25"], side=1024, where="row 0")
        '20,10,61,41'
    """
    try:
        x, y, width, height = (float(number) for number in numbers)
        row0, col0 = max(0, math.floor(y)), max(0, math.floor(x))
        row1, col1 = min(side, math.ceil(y + height)), min(side, math.ceil(x + width))
    except (ValueError, OverflowError):
        raise CohortError(
            f"{where} must have a box of four numbers x, y, width, height, and has not."
        ) from None
    if not (width > 0 and height > 0 and row0 < row1 and col0 < col1):
        raise CohortError(
            f"{where} must have a box with sides above 0 in the image of {side} x {side} pixels, "
            "and has not."
        )
    return f"{row0},{col0},{row1},{col1}"


def count_notes(counts: Counter[str]) -> list[str]:
    """Return a sentence for each reason, the number of its cases in front."""
    return [f"{count} {reason}" for reason, count in sorted(counts.items()) if count]
