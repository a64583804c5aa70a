"""MedMNIST: small images of twelve 2-D tasks, with a ready-made split.

Not yet run on every one of the real files. Layout, as published: ``pneumoniamnist.npz``, or
``pneumoniamnist_64.npz`` of another size.

References:
    [1] Yang et al., "MedMNIST v2", Scientific Data 10 (2023) 41. https://medmnist.com
"""

from __future__ import annotations

import re
from pathlib import Path

from medproto.data.builders import BuiltCohort
from medproto.data.npz_builder import from_npz
from medproto.data.recipes.layout import UNTRIED
from medproto.errors import CohortError

__all__ = ["CLASSES", "medmnist"]

_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver",
    "lung-left", "lung-right", "pancreas", "spleen",
)  # fmt: skip
CLASSES = {
    "breastmnist": ("malignant", "normal or benign"),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pneumoniamnist": ("normal", "pneumonia"),
}
"""Names of the labels 0, 1, … of the radiology tasks, and of OCT."""

_UNREAD = {
    "chestmnist": "its images have several findings each; take the recipe chestxray14 instead",
}


def medmnist(source: Path, *, out_dir: Path) -> BuiltCohort:
    """Build a cohort from a MedMNIST file, or a folder with one; see `from_npz`.

    Args:
        source: the file ``.npz``, or a folder that holds a single one.
        out_dir: folder of the images that are written, and root of the cohort.

    Raises:
        CohortError: if there is no such file, or more, or it is of a task that cannot be read.
    """
    source = Path(source)
    if source.is_dir():
        files = sorted(path for path in source.glob("*.npz") if path.is_file())
        if len(files) != 1:
            raise CohortError(
                f"the folder must hold one .npz file, got {len(files)}; name the file itself."
            )
        source = files[0]
    match = re.fullmatch(r"([a-z]+mnist(?:3d)?)(?:_\d+)?", source.stem)
    task = match[1] if match else ""
    if task in _UNREAD or task.endswith("3d"):
        reason = _UNREAD.get(task, "volumes in an .npz file are not read")
        raise CohortError(f"{task} makes no cohort: {reason}.")
    cohort, notes = from_npz(source, out_dir, classes=CLASSES.get(task))
    more = [UNTRIED] if task != "pneumoniamnist" else []
    if task not in CLASSES:
        more.append("the task of this file has no names of classes here: labels are its numbers.")
    return BuiltCohort(cohort, (*more, *notes))
