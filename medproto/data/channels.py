"""Several images of one subject as the channels of one, as the sequences of an MRI examination.

They must lie in one geometry: nothing is resampled here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = ["ImageChannels", "ImageFrame", "LoadedImage", "join_images", "join_references"]

PLACE_TOLERANCE_MM = 0.5
"""By how much voxels of two sequences may lie apart; rounding in headers is far below."""


@dataclass(frozen=True, slots=True)
class ImageFrame:
    """One zero-based frame of a file of several, or one volume of a NIfTI file of several."""

    path: Path
    frame: int


@dataclass(frozen=True, slots=True)
class ImageChannels:
    """Two or more images that are the channels of one; the first is the one that pages show."""

    sources: tuple[Path | ImageFrame, ...]


class LoadedImage(NamedTuple):
    """A decoded image.

    Args:
        pixels: ``[*S]`` in [0, 1], larger is brighter; ``(rows, columns)``, or three axes. Of
            `ImageChannels` ``[C, *S]``.
        reference: what is known of the file, without any identity.
    """

    pixels: NDArray[np.float32]
    reference: ImageReference

    @property
    def channels(self) -> NDArray[np.float32]:
        """``[C, *S]``, of a single image with one channel."""
        several = self.pixels.ndim > len(self.reference.shape)
        return self.pixels if several else self.pixels[None]


def join_images(images: Sequence[LoadedImage]) -> LoadedImage:
    """Return the images as channels of one.

    Raises:
        ImageReadError: as :func:`join_references`.
    """
    reference = join_references([image.reference for image in images])
    return LoadedImage(np.stack([image.pixels for image in images]), reference)


def join_references(references: Sequence[ImageReference]) -> ImageReference:
    """Return what is known of the first, with a digest over the digests of all, in their order.

    Raises:
        ImageReadError: if they differ in their size or their place in the patient.
    """
    first = references[0]
    for number, other in enumerate(references[1:], start=1):
        if other.shape != first.shape:
            raise ImageReadError(
                f"channels must have one size, {list(first.shape)} of the first, got "
                f"{list(other.shape)} of channel {number}; resample one to the other."
            )
        if (first.affine is None) != (other.affine is None):
            raise ImageReadError(
                "channels must all say how they lie in the patient, or none; the first and channel "
                f"{number} differ in that."
            )
        if _apart(first, other) > PLACE_TOLERANCE_MM:
            raise ImageReadError(
                f"channels must lie at one place in the patient, and channel {number} lies "
                f"{_apart(first, other):.1f} mm beside the first; register them."
            )
    joined = "\n".join(reference.pixel_digest for reference in references)
    digest = "sha256:" + hashlib.sha256(joined.encode()).hexdigest()
    synthetic = all(reference.synthetic for reference in references)
    return replace(first, pixel_digest=digest, synthetic=synthetic)


def _apart(first: ImageReference, other: ImageReference) -> float:
    """Largest distance of the same corner in both, mm; 0 where the files say no place."""
    if first.affine is None or other.affine is None:
        return 0.0
    grids = np.meshgrid(*[(0, side - 1) for side in first.shape], indexing="ij")
    corners = np.stack([*(grid.ravel() for grid in grids), np.ones(grids[0].size)])
    difference = (np.array(first.affine) - np.array(other.affine)) @ corners
    return float(np.linalg.norm(difference, axis=0).max())
