"""One thing that is wrong with a cohort."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SPLITS", "Problem"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that must be mended.

    Args:
        row: zero-based row of the table, ``None`` if it concerns the table as a whole.
        stage: ``"image"``, ``"label"``, ``"mask"``, ``"box"``, ``"split"``, ``"group"``,
            ``"duplicate"`` or ``"class"``.
        reason: one sentence, without path or identity.
    """

    row: int | None
    stage: str
    reason: str
