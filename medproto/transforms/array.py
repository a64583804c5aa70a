"""Deterministic preprocessing: a file to a tensor, a tensor to the network's size.

Symbols: ``C`` channels, ``*S`` spatial axes in array order, ``(rows, columns)`` or
``(rows, columns, slices)``. Positions are continuous and start at the outer corner of the first
pixel, see :mod:`medproto.records`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor
from torch.nn.functional import interpolate

from medproto.data import ImageSource, LoadedImage, read_image
from medproto.data.gray import read_policy
from medproto.errors import ImageReadError
from medproto.records import ImageReference, Placement

__all__ = ["MODES", "FitImage", "LoadRadiograph", "step_affine"]

MODES = ("letterbox", "stretch", "spacing")

MOST = 2**28
"""Pixels of a resampled image, the limit of `medproto.data.stored` for a volume."""


class LoadRadiograph(Transform):
    """Read an image file into a MetaTensor ``[C, *S]`` of float32 in [0, 1].

    Unlike MONAI's reader it keeps the file's row and column order, applies the VOI policy and
    inverts MONOCHROME1 once. ``meta["reference"]`` is an `ImageReference`; nothing else of the
    header, and not the path, goes into ``meta``. The affine of a volume is MONAI's, to the right,
    the front and the head, where the file has one. There is one channel, or one for each of
    `medproto.data.ImageChannels`.

    Args:
        voi: gray policy, see `medproto.data.read_image`.
        read: what reads a file; `medproto.data.readers` has one that survives any file.

    Raises:
        ValueError: if ``voi`` is unknown.
    """

    def __init__(self, voi: str = "voi", *, read: Callable[..., LoadedImage] = read_image) -> None:
        read_policy(voi)
        self.voi = voi
        self.read = read

    def __call__(self, source: ImageSource) -> MetaTensor:
        """Read one file, or one frame.

        Raises:
            ImageReadError: if it cannot be read.
        """
        image = self.read(source, voi=self.voi)
        pixels = torch.tensor(image.channels)
        affine = _world_affine(image.reference) if pixels.ndim == 4 else None
        return MetaTensor(pixels, affine=affine, meta={"reference": image.reference})


class FitImage(Transform):
    """Bring an image ``[C, *S]`` to ``[C, *spatial_size]`` and record where it came to lie.

    Linear interpolation with antialiasing: a shrunk image is averaged, not sampled. The scale of
    ``meta["placement"]`` is that of the whole-numbered size the image really got on each axis, so
    positions map to stored pixels exactly, through what earlier transforms did to the image, too.

    Args:
        spatial_size: two or three sides, each at least 1.
        mode: ``"letterbox"`` keeps the aspect ratio, in millimetres where the file has a spacing,
            and pads with 0 on both sides; ``"stretch"`` fills the size; ``"spacing"`` resamples to
            ``spacing_mm`` and takes the middle: what is larger is cut off, what is smaller padded.
        spacing_mm: distance of the result's pixels along all axes, for ``"spacing"`` alone.

    Raises:
        ValueError: if an argument is outside the range given above.

    Example:
        >>> fitted = FitImage((64, 64))(torch.rand(1, 100, 50))
        >>> fitted.shape, fitted.meta["placement"].offset
        (torch.Size([1, 64, 64]), (0.0, 16.0))
    """

    def __init__(
        self,
        spatial_size: Sequence[int],
        mode: str = "letterbox",
        *,
        spacing_mm: float | None = None,
    ) -> None:
        self.spatial_size = tuple(int(side) for side in spatial_size)
        if len(self.spatial_size) not in (2, 3) or min(self.spatial_size) < 1:
            raise ValueError(
                f"spatial_size must be 2 or 3 sides of at least 1, got {list(self.spatial_size)}."
            )
        if mode not in MODES:
            raise ValueError(f"mode must be one of {list(MODES)}, got {mode!r}.")
        fits = spacing_mm is None if mode != "spacing" else 0 < (spacing_mm or 0) < math.inf
        if not fits:
            raise ValueError(
                f"spacing_mm must be above 0 with mode 'spacing', and left out with others, got "
                f"{spacing_mm} with {mode!r}."
            )
        self.mode = mode
        self.spacing_mm = spacing_mm

    def __call__(self, image: Tensor) -> MetaTensor:
        """Fit one image, float or integer; the result is float32 and a new tensor.

        Raises:
            ImageReadError: if the number of axes is not that of ``spatial_size`` and one for
                channels, as of a volume for a network of planes; it is a ``ValueError``, too. With
                ``"spacing"`` also if the file has no spacing.
        """
        if image.ndim != len(self.spatial_size) + 1:
            raise ImageReadError(
                f"image must have shape [C, *S] with {len(self.spatial_size)} spatial axes, "
                f"got {list(image.shape)}."
            )
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        shape = tuple(plain.shape[1:])
        before = _meta(image).get("placement") or Placement.identity(shape)
        placement = self.placement(shape, _spacing(_meta(image).get("reference"), before))
        inner = [round(n * s) for n, s in zip(shape, placement.scale, strict=True)]
        canvas = plain.new_zeros((plain.shape[0], *self.spatial_size), dtype=torch.float32)
        onto, part = _windows(placement.offset, inner, self.spatial_size)
        canvas[(slice(None), *onto)] = _resize(plain.float(), inner)[(slice(None), *part)]
        meta = {key: value for key, value in _meta(image).items() if key != "affine"}
        affine = step_affine(placement)
        if isinstance(image, MetaTensor) and image.affine.shape == affine.shape:
            affine = image.affine.to(affine) @ affine
        whole = before.scaled(placement.scale, placement.offset, self.spatial_size)
        return MetaTensor(canvas, affine=affine, meta={**meta, "placement": whole})

    def placement(
        self, stored_shape: Sequence[int], spacing: Sequence[float] | None = None
    ) -> Placement:
        """Return where an image of this shape comes to lie, without touching pixels.

        Args:
            spacing: of its pixels along each axis, in any unit; ``None`` for square ones. In
                millimetres for the mode ``"spacing"``, which needs it.

        Raises:
            ImageReadError: if it is not there and needed.
        """
        stored = tuple(int(side) for side in stored_shape)
        size = self.spatial_size
        inner = list(size)
        if self.mode == "letterbox":
            unit = max(spacing) if spacing else 1.0
            lengths = [n * s / unit for n, s in zip(stored, spacing or [1.0] * len(stored))]
            factor = min(t / s for t, s in zip(size, lengths, strict=True))
            inner = [min(max(round(s * factor), 1), t) for t, s in zip(size, lengths, strict=True)]
        elif self.spacing_mm is not None:
            if spacing is None:
                raise ImageReadError(
                    f"an image resampled to {self.spacing_mm:g} mm must say how far its pixels lie "
                    "apart, and its file does not; take the mode letterbox."
                )
            pairs = zip(stored, spacing, strict=True)
            inner = [max(round(n * s / self.spacing_mm), 1) for n, s in pairs]
            if math.prod(inner) > MOST:
                raise ImageReadError(
                    f"an image of {stored} pixels has {inner} at {self.spacing_mm:g} mm, more than "
                    f"{MOST}; take a larger spacing."
                )
        return Placement(
            stored_shape=stored,
            network_shape=size,
            scale=tuple(n / s for n, s in zip(inner, stored, strict=True)),
            offset=tuple(float((t - n) // 2) for t, n in zip(size, inner, strict=True)),
        )


def _windows(
    offset: Sequence[float], inner: Sequence[int], size: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the image goes, and the part of it that does, along each axis."""
    onto, part = [], []
    for start, length, side in zip(map(int, offset), inner, size, strict=True):
        first, last = max(start, 0), min(start + length, side)
        onto.append(slice(first, last))
        part.append(slice(first - start, last - start))
    return tuple(onto), tuple(part)


def _resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize ``[C, *S]`` to ``[C, *size]`` linearly, antialiased, edges at the outer corners."""
    if image.shape[1:] == torch.Size(size):
        return image
    if len(size) == 2:
        return _resize_plane(image, size)
    # torch antialiases planes only; the interpolation is separable, so the first two axes go
    # first, with the slices as channels, and then the slices, with the columns kept.
    rows, columns, slices = size
    channels, _, _, depth = image.shape
    image = _resize_plane(image.movedim(3, 1).flatten(0, 1), (rows, columns))  # [C*s, rows, cols]
    image = image.unflatten(0, (channels, depth)).movedim(1, 3)  # [C, rows, columns, s]
    return _resize_plane(image.flatten(0, 1), (columns, slices)).unflatten(0, (channels, rows))


def _resize_plane(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize the last two axes of ``[N, a, b]``."""
    if size[1] == 1 and size[0] > 1:
        # torch 2.13 repeats the first row when the antialiased result has one column.
        return _resize_plane(image.transpose(1, 2), (1, size[0])).transpose(1, 2)
    return interpolate(
        image[None], size=tuple(size), mode="bilinear", antialias=True, align_corners=False
    )[0]


def _spacing(reference: object, before: Placement) -> list[float] | None:
    """Return the spacing along the axes of an image that was read, and changed since."""
    if not isinstance(reference, ImageReference) or reference.spacing_mm is None:
        return None
    pairs = zip(before.order, before.scale, strict=True)
    return [reference.spacing_mm[axis] / abs(scale) for axis, scale in pairs]


def _world_affine(reference: ImageReference) -> Tensor | None:
    if reference.affine is None:
        return None
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3] = torch.tensor(reference.affine, dtype=torch.float64)
    affine[:2] *= -1
    return affine


def _meta(image: Tensor) -> dict[str, Any]:
    return dict(image.meta) if isinstance(image, MetaTensor) else {}


def step_affine(placement: Placement) -> Tensor:
    """Return the 4 x 4 matrix from pixel indices behind a step to those before it."""
    affine = torch.eye(4, dtype=torch.float64)
    affine[: len(placement.order)] = 0
    for axis, (before, scale, offset) in enumerate(
        zip(placement.order, placement.scale, placement.offset, strict=True)
    ):
        # Index i is position i + 0.5, on both sides.
        affine[before, axis] = 1 / scale
        affine[before, 3] = (0.5 - offset) / scale - 0.5
    return affine
