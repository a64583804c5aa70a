"""Fill and write the page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.data import LoadedImage
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
    pictures: Sequence[tuple[int, LoadedImage, LocatedCase]],
    methods: Sequence[str],
    path: Path,
) -> None:
    """Write the page; ``pictures`` are cohort row, image and located case."""
    cases = []
    for row, image, case in pictures:
        maps = {"prototype": case.similarity, "gradcam": case.grad_cam}
        points = {"prototype": case.center, "gradcam": case.peak}
        cases.append(
            ComparisonCase(
                title=f"Row {row} of the cohort",
                reference=image.reference,
                image=image.channels[0],
                maps={TITLES[name]: cells for name in methods if (cells := maps[name])},
                points={TITLES[name]: points[name] for name in methods},
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
