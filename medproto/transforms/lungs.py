"""The lungs in a chest radiograph or CT, found by their darkness inside the body.

Symbols: ``C`` channels, ``*S`` spatial axes.

A crop to them leaves shoulders, arms, table and abdomen out. It is a rule of thumb with a way
out, and no segmentation: where what it finds cannot be lungs, the image stays whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medproto.transforms.body import CropBody, body_mask, opened, shrunk

__all__ = ["CropLungs", "lung_mask"]

SHARE = (0.05, 0.8)
"""Of the body, least and most that lungs may be."""

OTHER = 0.2
"""The smaller lung has at least this share of the larger, or is not one."""

ROUNDS = 50


def lung_mask(image: NDArray[np.floating]) -> NDArray[np.bool_] | None:
    """Return the one or two largest dark regions inside the body ``[*S]``, their holes filled.

    Dark is what lies below the mean of the means of dark and bright, found by repetition.

    Args:
        image: ``[*S]`` in [0, 1]; air is dark in it.

    Returns:
        ``None`` if no body is found, or its dark part is too small or too large to be lungs.
    """
    body = body_mask(image)
    if body is None:
        return None
    width = max(1, min(image.shape[:2]) // 50)
    inside = shrunk(body, width)
    if not inside.any():
        return None
    dark = opened(inside & (image < _level(image[inside])), width)
    regions, count = ndimage.label(dark)
    if not count:
        return None
    sizes = np.bincount(regions.ravel())[1:]
    first, *rest = (np.argsort(-sizes, kind="stable") + 1)[:2].tolist()
    lungs = regions == first
    if rest and sizes[rest[0] - 1] >= OTHER * sizes[first - 1]:
        lungs |= regions == rest[0]
    share = lungs.sum() / body.sum()
    return np.asarray(ndimage.binary_fill_holes(lungs)) if SHARE[0] <= share <= SHARE[1] else None


def _level(values: NDArray[np.floating]) -> float:
    """Gray value between the two groups of ``values``."""
    level = float(values.mean())
    for _ in range(ROUNDS):
        low, high = values[values <= level], values[values > level]
        if not len(low) or not len(high):
            break
        middle = (float(low.mean()) + float(high.mean())) / 2
        if abs(middle - level) < 1e-4:
            break
        level = middle
    return level


class CropLungs(CropBody):
    """Crop an image ``[C, *S]`` to the box of `lung_mask`; ``meta["placement"]`` leads back.

    Args:
        margin: kept around the box, in shares of its sides: a finding at the wall, or below the
            diaphragm's edge, is not dark itself.

    Raises:
        ValueError: if ``margin`` is outside [0, 1].
    """

    find = staticmethod(lung_mask)

    def __init__(self, margin: float = 0.08) -> None:
        super().__init__(margin)
