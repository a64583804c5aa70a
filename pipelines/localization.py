"""Where the evidence lies: boxes and maps of the largest contribution against the masks.

Symbols: ``N`` images with a mask, ``K`` classes. A localisation figure never stands alone: beside
it stand the best constant location (fitted on training masks), the centre and chance by area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medproto.data import read_mask
from medproto.explain import GradCam, cells_to_stored, network_box
from medproto.metrics import (
    bootstrap,
    box_area_share,
    chance_by_area,
    constant_location,
    energy_inside,
    image_center,
    pointing_game,
)
from medproto.networks import ProtoPNet
from medproto.records import HeadKind, PixelBox

from .datasets import ImageSet

__all__ = ["LocatedCase", "locate_evidence", "mask_list", "summarize_localization"]


@dataclass(frozen=True)
class LocatedCase:
    """The place of the main evidence in one image with a mask.

    Args:
        position: of the image in its set.
        correct: the predicted class is the true one; of findings, the located one is predicted.
        center: of the box of the largest positive contribution to the predicted class, the last
            threshold passed or the likeliest true finding; position in stored pixels.
        box: the box itself, stored pixels.
        peak: position of the largest value of Grad-CAM, stored pixels.
        heat: similarity map of that prototype, ``[rows, cols]``, scaled to [0, 1].
        cam: Grad-CAM of the same logit, ``[rows, cols]``.
        mask: ``[rows, cols]`` bool.
    """

    position: int
    correct: bool
    center: tuple[float, ...]
    box: PixelBox
    peak: tuple[float, ...]
    heat: NDArray[np.float32]
    cam: NDArray[np.float32]
    mask: NDArray[np.bool_]


def locate_evidence(
    network: ProtoPNet, images: ImageSet, *, grad_cam: bool = False
) -> list[LocatedCase]:
    """Locate the main evidence in every image of the set that has a mask with a finding."""
    cases = []
    weights = network.last_layer.weight.detach()
    for position, row in enumerate(images.rows):
        path = images.cohort.mask_path(row)
        mask = None if path is None else read_mask(path)
        if mask is None or not mask.any():
            continue
        with torch.no_grad():
            output = network.evidence(images.image(position)[None])
        k, correct = _judged(network.head, output.logits[0].numpy(), images.labels[position])
        top = int((weights[k] * output.scores[0]).argmax())
        cases.append(_locate(network, images, position, output, k, top, mask, correct, grad_cam))
    return cases


def _judged(head: HeadKind, logits: NDArray[np.float32], label: Any) -> tuple[int, bool]:
    """Return the logit whose evidence is located, and whether the image is predicted right.

    Of findings, the likeliest of those the image is known to show: they are what masks mark.
    """
    if head == "multilabel":
        shown = np.flatnonzero(label == 1)
        k = int(shown[logits[shown].argmax()]) if len(shown) else int(logits.argmax())
        return k, bool(len(shown) and logits[k] > 0)
    if head == "ordinal":
        grade = int((logits > 0).sum())
        return max(grade - 1, 0), grade == label
    predicted = int(logits.argmax())
    # Where the logit of absence is fixed at 0, the evidence is that for the other class.
    return (1 if head == "binary" else predicted), predicted == label


def _locate(
    network: ProtoPNet,
    images: ImageSet,
    position: int,
    output: Any,
    k: int,
    top: int,
    mask: NDArray[np.bool_],
    correct: bool,
    grad_cam: bool,
) -> LocatedCase:
    placement = images.placement(position)
    image = images.image(position)
    box = placement.box_to_stored(*network_box(network, output, top, image.shape[1:]))
    heat = cells_to_stored(output.similarities[0, top].cpu().numpy(), network.grid, placement)
    heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    cam = np.zeros_like(heat)
    if grad_cam:
        cells = GradCam(network).attribute(image, k)
        cam = cells_to_stored(cells, network.feature_grid, placement)
    return LocatedCase(
        position=position,
        correct=correct,
        center=box.center,
        box=box,
        peak=tuple(i + 0.5 for i in np.unravel_index(int(cam.argmax()), cam.shape)),
        heat=heat,
        cam=cam,
        mask=mask,
    )


def summarize_localization(
    cases: Sequence[LocatedCase], images: ImageSet, train: ImageSet, *, seed: int = 0
) -> dict[str, Any] | None:
    """Return the localisation figures with their controls; ``None`` without masks.

    ``positive_correct`` holds the same for correctly classified images alone.
    """
    train_masks = [mask for mask in mask_list(train) if mask.any()]
    if not cases or not train_masks:
        return None
    fitted = constant_location(train_masks)
    right = [case for case in cases if case.correct]
    out = _figures(cases, images, fitted, seed)
    out["positive_correct"] = _figures(right, images, fitted, seed) if right else None
    return out


def _figures(
    cases: Sequence[LocatedCase], images: ImageSet, fitted: tuple[float, ...], seed: int
) -> dict[str, Any]:
    masks = [case.mask for case in cases]
    measure = partial(bootstrap, groups=[images.groups[case.position] for case in cases], seed=seed)
    centers = [case.center for case in cases]
    heats = [case.heat for case in cases]
    hits = measure(pointing_game, centers, masks)
    constant = measure(pointing_game, [fitted] * len(cases), masks, relative=True)
    middle = [image_center(masks[0].ndim)] * len(cases)
    center = measure(pointing_game, middle, masks, relative=True)
    energy = measure(energy_inside, heats, masks)
    area = measure(chance_by_area, masks)
    shapes = [mask.shape for mask in masks]
    boxes = measure(box_area_share, [case.box for case in cases], shapes)
    shares = [case.box.size / float(np.prod(shape)) for case, shape in zip(cases, shapes)]
    return {
        "n": len(cases),
        "groups": hits.groups,
        "pointing_game": hits.to_dict(),
        "constant_location": {**constant.to_dict(), "position": list(fitted)},
        "image_center": center.to_dict(),
        "energy_inside": energy.to_dict(),
        "area": area.to_dict(),
        "box_area": {**boxes.to_dict(), "median": float(np.median(shares))},
    }


def mask_list(images: ImageSet) -> list[NDArray[np.bool_]]:
    """Read the masks of all images of a set that have one."""
    paths = [images.cohort.mask_path(row) for row in images.rows]
    return [read_mask(path) for path in paths if path is not None]
