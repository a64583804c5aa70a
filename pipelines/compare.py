"""Compare explanation methods on the images with a mask, beside the controls that embarrass them.

``prototype`` is the similarity map of the largest positive contribution to the predicted class, to
the last threshold passed between grades, or to the likeliest finding that the image is known to
show; ``gradcam`` is Grad-CAM of the same logit at the same layer, drawn on the same cell grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from medproto.data import read_image
from medproto.errors import CohortError
from medproto.metrics import (
    bootstrap,
    chance_by_area,
    constant_location,
    energy_inside,
    image_center,
    pointing_game,
)

from .datasets import ImageSet
from .evaluate import load_split
from .localization import Each, LocatedCase, fitted_location, locate_evidence
from .runs import RunFolder, write_json

__all__ = ["METHODS", "compare_run"]

METHODS = {
    "prototype": "prototype (largest positive contribution)",
    "gradcam": "Grad-CAM (captum, ReLU on, same logit)",
}
SHOWN = 6


def compare_run(
    run: RunFolder, *, split: str, methods: Sequence[str], out: Path, seed: int = 0
) -> dict[str, Any]:
    """Write ``comparison.html`` and ``comparison.json`` and return the table.

    Raises:
        ValueError: if a method is not known.
        CohortError: if no image of the split has a mask to judge against.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise CohortError(f"methods must be of {', '.join(METHODS)}, got {', '.join(unknown)!r}.")
    rows = {
        name: run.cohort.table.index[run.cohort.table["split"] == name].tolist()
        for name in ("train", split)
    }
    images = load_split(run, run.cohort, rows[split])
    cases = locate_evidence(run.network, images, grad_cam=True)
    if not cases:
        raise CohortError(
            f"a comparison is judged against masks; the split {split!r} has no image with one. "
            "Name them in the column `mask` of the cohort table."
        )
    train = load_split(run, run.cohort, rows["train"])
    table = [_method(name, cases, images, seed) for name in methods]
    table += _controls(cases, images, train, seed)
    result = {
        "split": split,
        "n": len(cases),
        "rows": table,
        "agreement": _agreement(cases) if len(methods) > 1 else None,
        "model_digest": run.card.model_digest,
        "recorded": False,
    }
    out.mkdir(parents=True, exist_ok=True)
    _write_page(run, result, cases, images, methods, out)
    write_json(out / "comparison.json", result)
    return result


def _method(name: str, cases: Sequence[LocatedCase], images: ImageSet, seed: int) -> dict[str, Any]:
    measure = partial(bootstrap, groups=[images.groups[case.position] for case in cases], seed=seed)
    heats = Each(cases, "heat" if name == "prototype" else "cam")
    points = list(Each(cases, "center" if name == "prototype" else "peak"))
    masks = Each(cases, "mask")
    return {
        "name": METHODS[name],
        "note": "centre of the box" if name == "prototype" else "peak of the map",
        "control": False,
        "pointing": measure(pointing_game, points, masks).to_dict(),
        "energy": measure(energy_inside, heats, masks).to_dict(),
    }


def _controls(
    cases: Sequence[LocatedCase], images: ImageSet, train: ImageSet, seed: int
) -> list[dict[str, Any]]:
    measure = partial(bootstrap, groups=[images.groups[case.position] for case in cases], seed=seed)
    masks = Each(cases, "mask")
    standing = Each(cases, "upright")
    fitted = fitted_location(train) or constant_location(standing)
    places = {"best constant location": fitted, "image centre": image_center(len(fitted))}
    out: list[dict[str, Any]] = []
    for name, place in places.items():
        hits = measure(pointing_game, [place] * len(masks), standing, relative=True)
        at = ", ".join(f"{v:.2f}" for v in place)
        note = f"control, at ({at}) of the height and width"
        if name == "best constant location":
            note += ", fitted on training masks"
        out.append(
            {
                "name": name,
                "note": note,
                "control": True,
                "pointing": hits.to_dict(),
                "energy": None,
            }
        )
    chance = measure(chance_by_area, masks).to_dict()
    out.append(
        {
            "name": "chance",
            "note": "control, share of the image that the finding covers",
            "control": True,
            "pointing": chance,
            "energy": chance,
        }
    )
    return out


def _agreement(cases: Sequence[LocatedCase]) -> dict[str, Any]:
    """Rank correlation of the two maps, on every eighth pixel; agreement is not correctness."""
    values = [_rank_correlation(case.heat, case.cam) for case in cases]
    known = [value for value in values if value is not None]
    return {
        "name": "Spearman correlation of the maps",
        "median": float(np.median(known)) if known else None,
        "n": len(known),
    }


def _rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    step = (slice(None, None, 8),) * a.ndim
    x, y = a[step].ravel(), b[step].ravel()
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)


def _write_page(
    run: RunFolder,
    result: dict[str, Any],
    cases: Sequence[LocatedCase],
    images: ImageSet,
    methods: Sequence[str],
    out: Path,
) -> None:
    from .comparison_report import write_comparison

    pictures = []
    for case in cases[:: max(1, len(cases) // SHOWN)][:SHOWN]:
        row = images.rows[case.position]
        pictures.append((row, read_image(images.cohort.image_source(row), voi=images.voi), case))
    write_comparison(run, result, pictures, methods, out / "comparison.html")
