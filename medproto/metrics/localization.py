"""Where the evidence lies, with the controls that any such figure needs.

Symbols: ``n`` images; a mask is a boolean array ``[*S]`` of one image, and the masks of several
images may differ in shape. Positions are continuous, per axis in array order, measured from the
outer corner of the first pixel: *stored* in pixels, pixel ``i`` covering ``[i, i + 1)``, or
*relative*, 0 to 1 of each axis.

A hit rate alone proves nothing where lesions are large or sit in the middle. Beside it belong the
best constant position (:func:`constant_location`, fitted on training masks), the image centre
(:func:`image_center`) and the share of the area (:func:`chance_by_area`, the hit rate of a random
point).

References:
    [1] Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018, section 4
        (pointing game). https://arxiv.org/abs/1608.00507
    [2] Wang et al., "Score-CAM", CVPR workshops 2020, section 4.3 (energy inside the mask).
        https://arxiv.org/abs/1910.01279
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.metrics.base import case_metric
from medproto.records import PixelBox

__all__ = [
    "box_area_share",
    "chance_by_area",
    "constant_location",
    "energy_inside",
    "image_center",
    "pointing_game",
]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@case_metric(
    direction="higher is better",
    applies_to="images with a non-empty mask; beside it the best constant position, the image "
    "centre and the area",
)
def pointing_game(centers: ArrayLike, masks: Sequence[Any], *, relative: bool = False) -> Floats:
    """Return ``[n]``: 1 where the position lies in the mask, else 0; see [1].

    Args:
        centers: ``[n, axes]`` positions in stored pixels, or one per axis for all images
            (``[axes]``). A position outside the image is a miss.
        masks: ``n`` boolean arrays, none of them empty.
        relative: the positions are relative, 0 to 1.

    Raises:
        ValueError: if the numbers differ, a position is not finite or a mask is empty.
    """
    points = np.asarray(centers, dtype=np.float64)
    if points.ndim == 1:
        points = np.broadcast_to(points, (len(masks), len(points)))
    if points.ndim != 2 or len(points) != len(masks):
        raise ValueError(
            f"centers must have shape [{len(masks)}, axes] or [axes], got {list(points.shape)}."
        )
    if not np.isfinite(points).all():
        raise ValueError("centers must be finite, got NaN or infinity.")
    hits = [_hit(point, _mask(m), relative) for point, m in zip(points, masks, strict=True)]
    return np.array(hits, dtype=np.float64)


@case_metric(
    direction="neither is better",
    applies_to="images with a non-empty mask; the hit rate of a random point, a control",
)
def chance_by_area(masks: Iterable[Any]) -> Floats:
    """Return ``[n]`` shares of the image that the mask covers, 0 to 1.

    Raises:
        ValueError: if a mask is empty.
    """
    return np.array([_mask(mask).mean() for mask in masks], dtype=np.float64)


@case_metric(
    direction="higher is better",
    applies_to="heat maps >= 0 on the grid of a non-empty mask; beside it the area",
)
def energy_inside(heats: Sequence[Any], masks: Sequence[Any]) -> Floats:
    """Return ``[n]`` shares of the heat that lie in the mask, 0 to 1; see [2].

    A heat map that is zero everywhere has nothing inside: 0.

    Args:
        heats: ``n`` arrays, finite and not negative, each with the shape of its mask.
        masks: ``n`` boolean arrays, none of them empty.

    Raises:
        ValueError: if numbers or shapes differ, a heat is negative or not finite, or a mask is
            empty.
    """
    if len(heats) != len(masks):
        raise ValueError(f"heats must be as many as masks, got {len(heats)} for {len(masks)}.")
    return np.array([_energy(heat, _mask(mask)) for heat, mask in zip(heats, masks)], dtype=float)


@case_metric(
    direction="lower is better",
    applies_to="boxes of evidence; a box that covers the image points at nothing",
)
def box_area_share(boxes: Sequence[PixelBox], shapes: Sequence[Sequence[int]]) -> Floats:
    """Return ``[n]`` shares of the image that the box covers, above 0 to 1.

    Args:
        boxes: ``n`` boxes in stored pixels.
        shapes: ``n`` stored shapes ``*S``.

    Raises:
        ValueError: if the numbers differ or a box reaches out of its image.
    """
    if len(boxes) != len(shapes):
        raise ValueError(f"boxes must be as many as shapes, got {len(boxes)} for {len(shapes)}.")
    for box, shape in zip(boxes, shapes):
        if len(box.stop) != len(shape) or any(b > n for b, n in zip(box.stop, shape)):
            raise ValueError(f"box must lie in the image {list(shape)}, got {box.to_list()}.")
    shares = [box.size / math.prod(shape) for box, shape in zip(boxes, shapes)]
    return np.array(shares, dtype=np.float64)


def constant_location(masks: Iterable[Any], *, points: int = 64) -> tuple[float, ...]:
    """Find the relative position that lies in the most masks: the best guess without an image.

    Fit it on training masks and play :func:`pointing_game` with it on the test masks. Searched
    over the centres of a grid of ``points`` cells an axis; of equally good ones that nearest to
    the middle of them all is taken, which holds best on new masks.

    Args:
        masks: boolean arrays, none of them empty; read once, one after the other.
        points: cells of the grid an axis, at least 1.

    Returns:
        Relative position, 0 to 1 per axis.

    Raises:
        ValueError: if there is no mask, one is empty, or their numbers of axes differ.
    """
    grid = (np.arange(points) + 0.5) / points
    votes: NDArray[np.int64] | None = None
    for mask in masks:
        region = _mask(mask)
        # The pixel under each grid point, exactly as the pointing game looks it up.
        sampled = region[np.ix_(*((grid * size).astype(np.int64) for size in region.shape))]
        if votes is None:
            votes = np.zeros(sampled.shape, dtype=np.int64)
        if votes.ndim != sampled.ndim:
            raise ValueError(f"masks must all have {votes.ndim} axes, got {sampled.ndim}.")
        votes += sampled
    if votes is None:
        raise ValueError("masks must hold at least one mask, got none.")
    best = np.argwhere(votes == votes.max())
    nearest = best[np.argmin(((best - best.mean(axis=0)) ** 2).sum(axis=1))]
    return tuple(float(grid[i]) for i in nearest)


def image_center(axes: int = 2) -> tuple[float, ...]:
    """Relative position of the middle of an image."""
    return (0.5,) * axes


def _mask(mask: Any) -> Mask:
    region = np.asarray(mask)
    if region.dtype != np.bool_:
        raise ValueError(f"a mask must be boolean, got {region.dtype}.")
    if not region.any():
        raise ValueError(
            f"a mask must mark at least one pixel, got none in shape {list(region.shape)}. "
            "Leave out images without a marked region."
        )
    return region


def _hit(point: Floats, region: Mask, relative: bool) -> bool:
    if len(point) != region.ndim:
        raise ValueError(f"a position must have {region.ndim} axes, got {len(point)}.")
    index = np.floor(point * region.shape if relative else point).astype(np.int64)
    inside = (index >= 0).all() and (index < region.shape).all()
    return bool(inside and region[tuple(index)])


def _energy(heat: Any, region: Mask) -> float:
    values = np.asarray(heat, dtype=np.float64)
    if values.shape != region.shape:
        raise ValueError(
            f"a heat map must have the shape of its mask {list(region.shape)}, "
            f"got {list(values.shape)}."
        )
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("a heat map must be finite and not negative; clip it at zero first.")
    total = values.sum()
    return float(values[region].sum() / total) if total > 0 else 0.0
