"""Fill and write the page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.networks.model_file import write_atomically
from medproto.records import PixelBox

from .localization import LocatedCase
from .pages import ComparisonCase, ComparisonPage, ComparisonRow, comparison_page
from .report import now
from .runs import RunFolder

__all__ = ["write_comparison"]

TITLES = {"prototype": "Prototype", "gradcam": "Grad-CAM"}


def write_comparison(
    run: RunFolder,
    result: dict[str, Any],
    pictures: Sequence[tuple[int, NDArray[np.float32], LocatedCase]],
    methods: Sequence[str],
    path: Path,
) -> None:
    """Write the page; ``pictures`` are cohort row, pixels ``[rows, cols]`` and located case."""
    cases = []
    for row, pixels, case in pictures:
        maps = {"prototype": case.heat, "gradcam": case.cam}
        cases.append(
            ComparisonCase(
                title=f"Row {row} of the cohort",
                image=pixels,
                maps={TITLES[name]: maps[name] for name in methods},
                boxes={TITLES["prototype"]: case.box} if "prototype" in methods else {},
                mask_box=_extent(case.mask),
                note="prediction right" if case.correct else "prediction wrong",
            )
        )
    agreement = result["agreement"]
    page = ComparisonPage(
        title="Prototypes beside Grad-CAM",
        rows=[ComparisonRow(**row) for row in result["rows"]],
        cases=cases,
        n=result["n"],
        split=result["split"],
        agreement=None if agreement is None else agreement["median"],
        facts={"Model": result["model_digest"], "Cohort": run.card.cohort_digest},
        synthetic=run.card.synthetic,
        created=now(),
    )
    write_atomically(path, comparison_page(page).encode())


def _extent(mask: NDArray[np.bool_]) -> PixelBox:
    where = np.nonzero(mask)
    start = tuple(int(axis.min()) for axis in where)
    return PixelBox(start, tuple(int(axis.max()) + 1 for axis in where))
