"""The part of an image that shows the patient: cropped to, or everything else made black.

Symbols: ``C`` channels, ``*S`` spatial axes.

Around the patient lie collimator edges, letters, rulers and the text of the scanner. They differ
between machines and wards, and a network that looks at them learns where an image was taken. The
part is found as the largest connected region that is not black, its holes filled: a breast, a body
in a scan, the sector of an ultrasound image, the field of a radiograph. Text that is written *into*
that region stays.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medproto.records import PixelBox, Placement
from medproto.transforms.array import step_affine

__all__ = ["BlackenOutside", "CropBody", "body_mask", "crop_to", "opened", "shrunk"]

BLACK = 0.05
"""Gray values up to this one count as black, of 1."""

LEAST = 0.05
"""Share of the image that the region must have; below it nothing is cropped or blackened."""


def body_mask(image: NDArray[np.floating]) -> NDArray[np.bool_] | None:
    """Return the largest region that is not black ``[*S]``; ``None`` if it is too small to be it.

    Thin bridges, such as a ruler that touches the region, are cut first: by an opening with a
    structure of a hundredth of the longest side.

    Args:
        image: ``[*S]`` in [0, 1].
    """
    bright = opened(image > BLACK, max(1, max(image.shape) // 100))
    regions, count = ndimage.label(bright)
    if not count:
        return None
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    if sizes.max() < LEAST * image.size:
        return None
    return np.asarray(ndimage.binary_fill_holes(regions == sizes.argmax()))


def opened(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Cut what is thinner than twice ``width`` pixels."""
    structure = _neighbors(mask.shape, width)
    return np.asarray(ndimage.binary_opening(mask, structure, iterations=width))


def shrunk(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Take a rim of ``width`` pixels away."""
    structure = _neighbors(mask.shape, width)
    return np.asarray(ndimage.binary_erosion(mask, structure, iterations=width))


def _neighbors(shape: tuple[int, ...], width: int) -> NDArray[np.bool_]:
    """Neighbours by a side along the axes that are long enough: a few slices are all rim."""
    thick = [side > 4 * width for side in shape]
    plain = ndimage.generate_binary_structure(sum(thick), 1)
    return np.asarray(plain.reshape([3 if long else 1 for long in thick]))


class CropBody(Transform):
    """Crop an image ``[C, *S]`` to the box of `body_mask`; ``meta["placement"]`` leads back.

    Args:
        margin: kept around the box, in shares of its sides.

    Raises:
        ValueError: if ``margin`` is outside [0, 1].
    """

    find = staticmethod(body_mask)

    def __init__(self, margin: float = 0.02) -> None:
        if not 0 <= margin <= 1:
            raise ValueError(f"margin must lie in [0, 1], got {margin}.")
        self.margin = margin

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Return the part; an image in which no such region is found comes back as it is."""
        return crop_to(image, self.window(image))

    def window(self, image: Tensor) -> PixelBox:
        """Return the part to keep, the whole image where no such region is found."""
        shape = tuple(image.shape[1:])
        pixels = image.as_tensor() if isinstance(image, MetaTensor) else image
        mask = self.find(pixels.amax(dim=0).numpy())
        if mask is None:
            return PixelBox((0,) * len(shape), shape)
        start, stop = [], []
        for axis, side in enumerate(shape):
            others = tuple(k for k in range(mask.ndim) if k != axis)
            inside = np.flatnonzero(mask.any(axis=others))
            first, last = int(inside[0]), int(inside[-1]) + 1
            extra = round(self.margin * (last - first))
            start.append(max(first - extra, 0))
            stop.append(min(last + extra, side))
        return PixelBox(tuple(start), tuple(stop))


def crop_to(image: MetaTensor, window: PixelBox) -> MetaTensor:
    """Return a part of an image ``[C, *S]``; ``meta["placement"]`` leads back to the whole.

    Args:
        window: in pixels of the image as it comes.
    """
    parts = (slice(a, b) for a, b in zip(window.start, window.stop, strict=True))
    part = image.as_tensor()[(slice(None), *parts)]
    shape = tuple(image.shape[1:])
    before = image.meta.get("placement") or Placement.identity(shape)
    ones, starts = [1.0] * len(shape), [-float(start) for start in window.start]
    step = Placement.identity(shape).scaled(ones, starts, part.shape[1:])
    meta = {key: value for key, value in image.meta.items() if key != "affine"}
    return MetaTensor(
        part.clone(),
        affine=image.affine.to(torch.float64) @ step_affine(step),
        meta={**meta, "placement": before.scaled(ones, starts, part.shape[1:])},
    )


class BlackenOutside(Transform):
    """Make everything outside `body_mask` black, letters and text among it."""

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Return a copy; an image in which no such region is found comes back as it is."""
        mask = body_mask(image.as_tensor().amax(dim=0).numpy())
        if mask is None:
            return image
        out: MetaTensor = image * torch.from_numpy(mask)
        return out
