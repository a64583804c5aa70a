"""Where the evidence lies: boxes and maps of the largest contribution against the masks.

Symbols: ``N`` images with a mask, ``K`` classes. A localisation figure never stands alone: beside
it stand the best constant location (fitted on training masks), the centre and chance by area.

Maps are kept as cells and masks as bits, and both are unfolded for one image at a time: at the size
of the stored images they would take gigabytes for a large cohort.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from medproto.data import read_mask
from medproto.errors import CohortError, ImageReadError
from medproto.explain import CellMap, GradCam, network_box, prototype_grid
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
from medproto.transforms import upright

from .datasets import ImageSet

__all__ = [
    "Each",
    "LocatedCase",
    "fitted_location",
    "locate_evidence",
    "summarize_localization",
]


@dataclass(frozen=True)
class LocatedCase:
    """The place of the main evidence in one image with a mask.

    Args:
        position: of the image in its set.
        correct: the predicted class is the true one; of findings, the located one is predicted.
        center: of the box of the largest positive contribution to the predicted class, the last
            threshold passed or the likeliest true finding; position in stored pixels.
        box: the box itself, stored pixels.
        similarity: of that prototype.
        grad_cam: of the same logit; ``None`` if it was not asked for.
        packed_mask: of the stored image, by :func:`numpy.packbits`.
    """

    position: int
    correct: bool
    center: tuple[float, ...]
    box: PixelBox
    similarity: CellMap
    grad_cam: CellMap | None
    packed_mask: NDArray[np.uint8]

    @property
    def heat(self) -> NDArray[np.float32]:
        """Similarity map of the prototype, ``[*S]``, scaled to [0, 1]."""
        heat = self.similarity.drawn()
        return (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)

    @property
    def cam(self) -> NDArray[np.float32]:
        """Grad-CAM, ``[*S]``; zeros if it was not asked for."""
        if self.grad_cam is None:
            return np.zeros(self.similarity.placement.stored_shape, dtype=np.float32)
        return self.grad_cam.drawn()

    @property
    def peak(self) -> tuple[float, ...]:
        """Position of the largest value of Grad-CAM, stored pixels."""
        cam = self.cam
        return tuple(float(i) + 0.5 for i in np.unravel_index(int(cam.argmax()), cam.shape))

    @property
    def mask(self) -> NDArray[np.bool_]:
        """What is marked, ``[*S]``."""
        shape = self.similarity.placement.stored_shape
        bits = np.unpackbits(self.packed_mask, count=int(np.prod(shape)))
        return bits.astype(np.bool_).reshape(shape)

    @property
    def upright(self) -> NDArray[np.bool_]:
        """The mask in the axes of the network's input, see `upright`."""
        return upright(self.mask, self.similarity.placement)


class Each(Sequence[Any]):
    """A property of each case, computed when it is asked for.

    Args:
        cases: in order.
        name: of the property.
    """

    def __init__(self, cases: Sequence[LocatedCase], name: str) -> None:
        self._cases = cases
        self._name = name

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> Each: ...

    def __getitem__(self, index: int | slice) -> Any:
        """Return the property of one case, or of some of them."""
        if isinstance(index, slice):
            return Each(self._cases[index], self._name)
        return getattr(self._cases[index], self._name)


def locate_evidence(
    network: ProtoPNet, images: ImageSet, *, grad_cam: bool = False
) -> list[LocatedCase]:
    """Locate the main evidence in every image of the set that has a mask with a finding."""
    cases = []
    weights = network.last_layer.weight.detach()
    for position, mask in _masks(images):
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
    return LocatedCase(
        position=position,
        correct=correct,
        center=box.center,
        box=box,
        similarity=CellMap(
            output.similarities[0, top].cpu().numpy(), prototype_grid(network, top), placement
        ),
        grad_cam=CellMap(GradCam(network).attribute(image, k), network.feature_grid, placement)
        if grad_cam
        else None,
        packed_mask=np.packbits(mask),
    )


def summarize_localization(
    cases: Sequence[LocatedCase], images: ImageSet, train: ImageSet, *, seed: int = 0
) -> dict[str, Any] | None:
    """Return the localisation figures with their controls; ``None`` without masks.

    ``positive_correct`` holds the same for correctly classified images alone.
    """
    fitted = fitted_location(train) if cases else None
    if fitted is None:
        return None
    right = [case for case in cases if case.correct]
    out = _figures(cases, images, fitted, seed)
    out["positive_correct"] = _figures(right, images, fitted, seed) if right else None
    return out


def _figures(
    cases: Sequence[LocatedCase], images: ImageSet, fitted: tuple[float, ...], seed: int
) -> dict[str, Any]:
    masks = Each(cases, "mask")
    measure = partial(bootstrap, groups=[images.groups[case.position] for case in cases], seed=seed)
    centers = [case.center for case in cases]
    hits = measure(pointing_game, centers, masks)
    standing = Each(cases, "upright")
    constant = measure(pointing_game, [fitted] * len(cases), standing, relative=True)
    middle = [image_center(len(cases[0].center))] * len(cases)
    center = measure(pointing_game, middle, standing, relative=True)
    energy = measure(energy_inside, Each(cases, "heat"), masks)
    area = measure(chance_by_area, masks)
    shapes = [case.similarity.placement.stored_shape for case in cases]
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


def fitted_location(images: ImageSet) -> tuple[float, ...] | None:
    """Return the best constant location of a set's masks; ``None`` if nothing is marked.

    Shares of the axes of the network's input, see `upright`.
    """
    masks = (upright(mask, images.placement(position)) for position, mask in _masks(images))
    first = next(masks, None)
    return None if first is None else constant_location(chain([first], masks))


def _masks(images: ImageSet) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Read the masks of a set that mark something, one after the other, with their positions.

    Raises:
        CohortError: if one cannot be read or has not its image's shape; the row is named.
    """
    table = images.cohort.table
    for position, row in enumerate(images.rows):
        path = images.cohort.mask_path(row)
        if path is None:
            continue
        number = int(table["row"].iloc[row]) if "row" in table else row
        try:
            mask = read_mask(path)
        except ImageReadError as error:
            raise CohortError(f"row {number}: the mask is unusable: {error}") from error
        shape = images.placement(position).stored_shape
        if mask.shape != shape:
            raise CohortError(
                f"row {number}: the mask must have the image's shape {list(shape)}, got "
                f"{list(mask.shape)}."
            )
        if mask.any():
            yield position, mask
