"""Read an image, a volume or a mask: the file's first bytes decide how, not its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.data.channels import ImageChannels, ImageFrame, LoadedImage, join_images
from medproto.data.dicom import read_dicom, read_dicom_stored
from medproto.data.gray import read_policy
from medproto.data.nifti import read_nifti, read_nifti_stored
from medproto.data.plain import read_plain, read_plain_stored
from medproto.data.series import is_stack, read_series, read_series_stored
from medproto.data.signature import file_kind
from medproto.errors import ImageReadError

__all__ = ["ImageSource", "read_image", "read_mask"]


ImageSource = str | Path | ImageFrame | ImageChannels
"""A file or folder with a single image, a frame of one with several, or several as channels."""


def read_image(source: ImageSource, *, voi: str = "voi") -> LoadedImage:
    """Read a DICOM, PNG, JPEG or NIfTI file, or a folder with a DICOM series, as gray values.

    A folder, a NIfTI file, and a DICOM object of several frames that say where in the patient they
    lie, are volumes; the axes are those of the file, and of a series ``(rows, columns, slices)``.

    Args:
        source: an `ImageFrame` where a file has several that are no volume; `ImageChannels` of
            images that are read together.
        voi: ``"voi"`` takes the VOI LUT or window of a file, and the full range of DICOM images
            without one; ``"full-range"`` takes what ``BitsStored`` allows; ``"percentile"`` the
            values' own 0.5th to 99.5th percentile; ``"window:CENTER,WIDTH"`` that window, in
            modality units.

    Raises:
        ImageReadError: if the file is missing, of another kind, damaged, smaller than 8 x 8 or
            larger than the limits of `medproto.data.stored`, its values are not finite, or slices
            are no even, straight stack. The text names no path and nothing of the header's
            identity.
        ValueError: if ``voi`` is unknown.
    """
    policy = read_policy(voi)
    if isinstance(source, ImageChannels):
        return join_images([read_image(part, voi=voi) for part in source.sources])
    path, frame = _parts(source)
    pixels: NDArray[Any]
    if path.is_dir():
        _no_frame(frame)
        pixels, reference = read_series(path, policy=policy)
    elif (kind := file_kind(path)) == "DICOM":
        if frame is None and is_stack(path):
            pixels, reference = read_series(path, policy=policy)
        else:
            pixels, reference = read_dicom(path, policy=policy, frame=frame)
    elif kind == "NIfTI":
        pixels, reference = read_nifti(path, policy=policy, frame=frame)
    else:
        _no_frame(frame)
        pixels, reference = read_plain(path, file_format=_plain(kind), policy=policy)
    if not np.isfinite(pixels).all():
        raise ImageReadError("pixels must be finite, got NaN or infinity.")
    return LoadedImage(pixels.astype(np.float32, copy=False), reference)


def read_mask(source: str | Path | ImageFrame) -> NDArray[np.bool_]:
    """Read a mask ``[*S]``, stored as an image or a volume: every value but zero is inside.

    Raises:
        ImageReadError: as `read_image`, and for a JPEG, whose compression blurs the zeros.
    """
    path, frame = _parts(source)
    kind = "folder" if path.is_dir() else file_kind(path)
    if kind == "JPEG":
        raise ImageReadError("a mask must be stored without loss: PNG, DICOM or NIfTI, got JPEG.")
    if kind == "folder" or (kind == "DICOM" and frame is None and is_stack(path)):
        return np.asarray(read_series_stored(path) != 0)
    if kind == "NIfTI":
        return np.asarray(read_nifti_stored(path, frame=frame) != 0)
    if kind == "DICOM":
        stored = read_dicom_stored(path, frame=frame)
    else:
        stored = read_plain_stored(path, file_format=_plain(kind))
    inside: NDArray[np.bool_] = stored != 0
    return np.asarray(inside.any(axis=2)) if inside.ndim == 3 else inside


def _parts(source: str | Path | ImageFrame) -> tuple[Path, int | None]:
    if isinstance(source, ImageFrame):
        return Path(source.path), source.frame
    return Path(source), None


def _no_frame(frame: int | None) -> None:
    if frame is not None:
        raise ImageReadError(f"a file of a single image has no frames to choose from, got {frame}.")


def _plain(kind: str | None) -> str:
    """Refuse unknown content."""
    if kind is None:
        raise ImageReadError(
            "the content must be DICOM (with prefix), PNG, JPEG or NIfTI, and is not."
        )
    return kind
