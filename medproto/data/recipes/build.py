"""The recipes by the names that people type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from medproto.data.builders import BuiltCohort
from medproto.data.recipes.brats import SEQUENCES, brats
from medproto.data.recipes.cbis_ddsm import cbis_ddsm
from medproto.data.recipes.chestxray14 import chestxray14
from medproto.data.recipes.medmnist import medmnist
from medproto.data.recipes.rsna_pneumonia import rsna_pneumonia

__all__ = ["RECIPES", "build_recipe"]

RECIPES: Mapping[str, str] = {
    "brats": "BraTS 2021: brain tumors, four MR sequences and outlines a subject",
    "cbis-ddsm": "CBIS-DDSM: mammograms with masses and calcifications, and outlines",
    "chestxray14": "NIH ChestX-ray14: 14 findings on chest radiographs, some boxes",
    "medmnist": "MedMNIST: small images of one task, .npz",
    "rsna-pneumonia": "RSNA Pneumonia Detection Challenge: lung opacities with boxes",
}
"""Names of the recipes, and what each reads."""

_PLAIN: Mapping[str, Callable[[Path], BuiltCohort]] = {
    "cbis-ddsm": cbis_ddsm,
    "chestxray14": chestxray14,
    "rsna-pneumonia": rsna_pneumonia,
}


def build_recipe(
    name: str,
    source: Path,
    *,
    images_to: Path,
    labels: Path | None = None,
    sequence: str | None = None,
) -> BuiltCohort:
    """Build the cohort of a public data set.

    Args:
        name: one of `RECIPES`.
        source: the folder of the data set (of ``medmnist`` also its file).
        images_to: folder for images that a recipe writes; only ``medmnist`` does.
        labels: table of labels, of ``brats`` alone.
        sequence: image of a subject, of ``brats`` alone; ``None`` takes its default.

    Raises:
        CohortError: if the folder does not have the layout.
        ValueError: if there is no such recipe, or an option is not for it.
    """
    if name not in RECIPES:
        raise ValueError(f"the recipe must be one of {list(RECIPES)}, got {name!r}.")
    if name != "brats" and not (labels is None and sequence is None):
        raise ValueError(f"labels and sequence are for the recipe brats, got them for {name}.")
    if sequence is not None and sequence not in SEQUENCES:
        raise ValueError(f"sequence must be one of {list(SEQUENCES)}, got {sequence!r}.")
    if name == "medmnist":
        return medmnist(source, out_dir=images_to)
    if name == "brats":
        build = partial(brats, labels=labels)
        return build(source) if sequence is None else build(source, sequence=sequence)
    return _PLAIN[name](source)
