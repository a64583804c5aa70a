"""What people marked, read for the training: regions of findings, and verdicts on single patches.

Symbols: ``*S`` axes of the network's input, ``N`` training images.

Both are brought to the network's input by the placement of their image. Projection, validation and
prediction do not know them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medproto.data import Cohort, CohortReport, read_mask
from medproto.data.table import read_table
from medproto.errors import CohortError
from medproto.losses import ALL_CLASSES
from medproto.networks.heads import prototype_counts
from medproto.records import PixelBox

from .config import ConfigError, RunConfig
from .image_file import hold
from .placed_alike import PlacedAlike
from .runs import file_digest

__all__ = ["Annotations", "MarkedPatch", "read_annotations"]

logger = logging.getLogger("medproto.train")

COLUMNS = ("image", "box", "class", "verdict")
VERDICTS = ("forbid", "keep")


@dataclass(frozen=True, slots=True)
class MarkedPatch:
    """A verdict on one patch of a training image.

    Args:
        row: zero-based row of the cohort.
        start: first corner of the box, position in network pixels, per axis.
        stop: last corner.
        class_index: class whose prototypes are concerned, or ``ALL_CLASSES``.
        verdict: ``forbid`` or ``keep``.
    """

    row: int
    start: tuple[float, ...]
    stop: tuple[float, ...]
    class_index: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Annotations:
    """What the losses of a training need beside images and labels.

    Args:
        masks: ``[N, 1, *S]`` bool of the training images in the order of the table, all false where
            nothing is marked; ``None`` if no loss uses them.
        patches: with a coefficient above 0.
    """

    masks: Tensor | None = None
    patches: tuple[MarkedPatch, ...] = ()


def read_annotations(
    config: RunConfig, cohort: Cohort, report: CohortReport
) -> tuple[RunConfig, Annotations]:
    """Read what the coefficients of the configuration ask for.

    Args:
        config: resolved.
        cohort: with a column ``split``.
        report: of its check, without problems.

    Returns:
        The configuration with the digest of the table of patches, and the annotations.

    Raises:
        ConfigError: if a coefficient is above 0 and there is nothing it could act on, or the table
            of patches is not the one whose digest the configuration has.
        CohortError: if a row of the table of patches is unusable; row and reason are named.
    """
    alike = PlacedAlike(config.data, cohort, report.references)
    training = config.training
    wanted = training.fine_annotation or training.peak_in_masks or training.patches_in_masks
    masks = _read_masks(cohort, alike) if wanted else None
    data = config.data
    if data.patches is None:
        _check_coefficients(config, ())
        return config, Annotations(masks)
    path = Path(data.patches)
    patches = _read_patches(path, config, cohort, alike)
    _check_coefficients(config, patches)
    digest = file_digest(path)
    if data.patches_digest not in (None, digest):
        raise ConfigError(
            f"data.patches must have the digest {data.patches_digest} of data.patches_digest, got "
            f"{digest}. Take the same table, or leave data.patches_digest out."
        )
    data = data.model_copy(update={"patches_digest": digest})
    used = tuple(p for p in patches if getattr(config.training, p.verdict))
    return config.model_copy(update={"data": data}), Annotations(masks, used)


def _check_coefficients(config: RunConfig, patches: Sequence[MarkedPatch]) -> None:
    """Refuse a coefficient without patches and patches without a coefficient."""
    for verdict in VERDICTS:
        count = sum(patch.verdict == verdict for patch in patches)
        coefficient = getattr(config.training, verdict)
        if coefficient and not count:
            raise ConfigError(
                f"training.{verdict} above 0 needs a table with the verdict {verdict!r} in "
                f"data.patches, see docs/annotations.md; there is none. Name one, or set "
                f"training.{verdict}=0."
            )
        if count:
            logger.info("%d patch(es) to %s, coefficient %g.", count, verdict, coefficient)
    if config.data.patches is not None and not (config.training.forbid or config.training.keep):
        raise ConfigError(
            "data.patches acts through training.forbid and training.keep, and both are 0; set one "
            "of them above 0, or leave data.patches out."
        )


def _train_rows(cohort: Cohort) -> list[int]:
    return [row for row, split in enumerate(cohort.table["split"]) if split == "train"]


def _read_masks(cohort: Cohort, alike: PlacedAlike) -> Tensor:
    rows = _train_rows(cohort)
    nothing = torch.zeros(1, *alike.spatial_size, dtype=torch.bool)

    def fitted() -> Iterator[Tensor]:
        for row in rows:
            marked = _marked(cohort, row, alike.shape(row))
            yield nothing if marked is None else _fit_mask(alike, row, marked)

    masks = hold(fitted(), len(rows), nothing.shape, dtype=torch.bool)
    count = sum(bool(mask.any()) for mask in masks)
    if not count:
        raise ConfigError(
            "training.fine_annotation and peak_in_masks above 0 and training.patches_in_masks need "
            "training images with something in the column `mask` or `box`; none of the "
            f"{len(rows)} has a marked region. Add them, or leave these settings out."
        )
    logger.info("%d of %d training images have a marked region.", count, len(rows))
    return masks


def _marked(cohort: Cohort, row: int, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return the stored mask, else the pixels of the boxes; ``None`` with neither."""
    path = cohort.mask_path(row)
    if path is not None:
        return read_mask(path)
    text = str(cohort.table["box"].iloc[row]) if "box" in cohort.table else ""
    boxes = [_box(part) for part in text.split(";") if part.strip()]
    if not boxes:
        return None
    inside = np.zeros(shape, dtype=np.bool_)
    for box in boxes:
        inside[tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))] = True
    return inside


def _box(text: str) -> PixelBox:
    return PixelBox.from_list([int(value) for value in text.split(",")])


def _fit_mask(alike: PlacedAlike, row: int, marked: NDArray[np.bool_]) -> Tensor:
    """Return ``[1, *S]`` bool; the smallest region keeps at least one pixel.

    A pixel is inside if more than half of what the fullest one shows lies in it.
    """
    fitted = alike(row, torch.from_numpy(marked)[None]).as_tensor()
    return fitted > fitted.max() / 2


def _read_patches(
    path: Path, config: RunConfig, cohort: Cohort, alike: PlacedAlike
) -> list[MarkedPatch]:
    try:
        table = read_table(path)
    except CohortError as error:
        raise CohortError(f"the table of patches (data.patches) is unusable: {error}") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise CohortError(
            f"the table of patches must have the columns {', '.join(COLUMNS)}; {missing} missing."
        )
    rows = {cohort.image_path(row).resolve(): row for row in range(len(cohort))}
    classes = _classes(config)
    patches = []
    for number, (image, *cells) in enumerate(zip(*(table[c] for c in COLUMNS), strict=True)):
        try:
            row = rows.get((path.parent / image).resolve())
            patches.append(_patch(row, cells, cohort, classes, alike))
        except ValueError as error:
            raise CohortError(f"row {number} of the table of patches: {error}") from None
    return patches


def _patch(
    row: int | None,
    cells: Sequence[str],
    cohort: Cohort,
    classes: dict[str, int],
    alike: PlacedAlike,
) -> MarkedPatch:
    """Read one row: box, class and verdict of an image.

    Raises:
        ValueError: with the reason, if it is unusable.
    """
    text, name, verdict = cells
    if row is None:
        raise ValueError(
            "its image is none of the cohort's; paths start from the folder of the table."
        )
    split = cohort.table["split"].iloc[row]
    if split != "train":
        raise ValueError(f"its image must be one of the split train, got {split!r}.")
    if verdict not in VERDICTS:
        raise ValueError(f"verdict must be one of {list(VERDICTS)}, got {verdict!r}.")
    if name and name not in classes:
        raise ValueError(
            f"class must be one of {list(classes)}, the classes with prototypes, or empty for all, "
            f"got {name!r}."
        )
    try:
        box = _box(text)
    except ValueError:
        raise ValueError(f"box must be 'row0,col0,row1,col1', got {text!r}.") from None
    shape = alike.shape(row)
    if len(box.stop) != len(shape) or any(b > n for b, n in zip(box.stop, shape)):
        raise ValueError(f"box must lie in the image of {list(shape)} pixels, got {text!r}.")
    placement = alike.placement(row)
    ends = placement.to_network(box.start), placement.to_network(box.stop)
    corners = zip(*ends, alike.spatial_size, strict=True)
    if any(max(a, b) <= 0 or min(a, b) >= side for a, b, side in corners):
        raise ValueError(f"box must overlap what the network sees of the image, {text!r} does not.")
    return MarkedPatch(
        row=row,
        start=placement.to_network(box.start),
        stop=placement.to_network(box.stop),
        class_index=classes[name] if name else ALL_CLASSES,
        verdict=verdict,
    )


def _classes(config: RunConfig) -> dict[str, int]:
    """Return the index of each class that has prototypes."""
    names = config.data.classes or ()
    model = config.model
    try:
        counts = prototype_counts(model.head, model.prototypes_per_class, len(names))
    except ValueError as error:
        raise ConfigError(f"the settings of the model do not fit together: {error}") from None
    return {name: k for k, (name, count) in enumerate(zip(names, counts, strict=True)) if count}
