"""A volume from slices: the frames of one DICOM object, or the files of a series.

Symbols: ``*S`` is ``(rows, columns, slices)``; slices go along the cross product of a row's and a
column's direction, toward the head for axial slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medproto.data.dicom import bits_of, code_string, is_synthetic
from medproto.data.gray import (
    GrayPolicy,
    GrayValues,
    Voi,
    apply_modality,
    apply_voi,
    percentile_window,
)
from medproto.data.padding import padding_mask
from medproto.data.patient_space import read_plane
from medproto.data.spacing import distances
from medproto.data.stacking import stack_planes
from medproto.data.stored import check_voxels, pixel_digest
from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = ["Slice", "read_slices", "read_slices_stored"]


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice that is not decoded yet.

    Args:
        header: elements that hold for it, see `frame_dataset`.
        decode: returns stored pixels ``[rows, columns]`` and their photometric interpretation.
    """

    header: Dataset
    decode: Callable[[], tuple[NDArray[Any], str]]


def read_slices(
    slices: Sequence[Slice], policy: GrayPolicy
) -> tuple[NDArray[np.float32], ImageReference]:
    """Return gray values ``[rows, columns, slices]`` in [0, 1] and what is known of the volume.

    All slices have one gray range. Where it is the file's, it is that of the slice in the middle.

    Raises:
        ImageReadError: if the slices are no stack of gray images of one kind.
    """
    ordered, spacing, affine = _ordered(slices)
    stored, photometric = _decode(ordered)
    values, padding, ends = _modality(stored, ordered)
    inverted = photometric == "MONOCHROME1"
    middle = ordered[len(ordered) // 2].header
    pixels, gray = _to_gray(values, padding, ends, middle, policy)
    if inverted:
        np.subtract(1, pixels, out=pixels)
    pixels[padding] = 0
    reference = ImageReference(
        pixel_digest=pixel_digest(stored),
        shape=stored.shape,
        modality=code_string(middle, "Modality") or "OT",
        bits_stored=bits_of(stored, middle),
        spacing_mm=spacing,
        spacing_kind="affine",
        inverted=inverted,
        voi=gray.kind,
        window=gray.window,
        synthetic=all(is_synthetic(item.header) for item in slices),
        presentation_intent=code_string(middle, "PresentationIntentType"),
        padded=int(padding.sum()),
        affine=affine,
    )
    return pixels, reference


def read_slices_stored(slices: Sequence[Slice]) -> NDArray[Any]:
    """Return the stored pixels ``[rows, columns, slices]``.

    Raises:
        ImageReadError: as `read_slices`.
    """
    return _decode(_ordered(slices)[0])[0]


def _ordered(
    slices: Sequence[Slice],
) -> tuple[list[Slice], tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Return the slices in their order, the spacing along each axis and the affine."""
    headers = [item.header for item in slices]
    for what, values in (
        ("size", {(int(h.Rows), int(h.Columns)) for h in headers}),
        ("PixelSpacing", {distances(h, "PixelSpacing") for h in headers}),
        ("PhotometricInterpretation", {str(h.get("PhotometricInterpretation")) for h in headers}),
    ):
        if len(values) > 1:
            raise ImageReadError(f"the slices of a volume must have one {what}, got {len(values)}.")
    check_voxels((int(headers[0].Rows), int(headers[0].Columns), len(headers)))
    in_plane = distances(headers[0], "PixelSpacing")
    if in_plane is None:
        raise ImageReadError("the slices of a volume must have a PixelSpacing, and have none.")
    stack = stack_planes([read_plane(header) for header in headers], in_plane)
    return [slices[k] for k in stack.order], (*in_plane, stack.step_mm), stack.affine


def _decode(ordered: Sequence[Slice]) -> tuple[NDArray[Any], str]:
    stored: NDArray[Any] | None = None
    interpretation = ""
    for index, item in enumerate(ordered):
        pixels, interpretation = item.decode()
        if pixels.ndim != 2 or not interpretation.startswith("MONOCHROME"):
            raise ImageReadError("the slices of a volume must be gray, and have colors.")
        if stored is None:
            stored = np.empty((*pixels.shape, len(ordered)), pixels.dtype)
        if pixels.dtype != stored.dtype:
            raise ImageReadError("the slices of a volume must have pixels of one type.")
        if not np.isfinite(pixels).all():
            raise ImageReadError("pixels must be finite, got NaN or infinity.")
        stored[..., index] = pixels
    if stored is None:
        raise ImageReadError("a volume must have at least 2 slices, got 0.")
    return stored, interpretation


def _modality(
    stored: NDArray[Any], ordered: Sequence[Slice]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[float, float]]:
    """Return values in modality units, where they are padding, and the range they could have.

    Each slice has a rescale of its own: those of a PET series differ.
    """
    values = np.empty(stored.shape, np.float32)
    padding = np.zeros(stored.shape, np.bool_)
    low, high = np.inf, -np.inf
    for index, item in enumerate(ordered):
        mask = padding_mask(stored[..., index], item.header)
        if mask is not None:
            padding[..., index] = mask
        gray = apply_modality(stored[..., index], item.header)
        values[..., index] = gray.values
        low, high = min(low, gray.low), max(high, gray.high)
    return values, padding, (low, high)


def _to_gray(
    values: NDArray[np.float32],
    padding: NDArray[np.bool_],
    ends: tuple[float, float],
    header: Dataset,
    policy: GrayPolicy,
) -> tuple[NDArray[np.float32], Voi]:
    """Return the values in [0, 1] and how that was done, slice by slice to save memory."""
    kind = policy.kind
    if kind == "percentile":
        policy = GrayPolicy("window", percentile_window(values[~padding]))
    pixels = np.empty(values.shape, np.float32)
    gray = Voi(np.empty(0), kind, None)
    for index in range(values.shape[-1]):
        plane = GrayValues(values[..., index], *ends)
        gray = apply_voi(plane, header, policy, padding=None)
        pixels[..., index] = gray.pixels
    return pixels, gray._replace(kind=kind) if kind == "percentile" else gray
