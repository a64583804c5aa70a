"""Single-frame DICOM images: decoded, on a gray scale where larger is brighter, with spacing.

Steps, in the order of DICOM PS3.4 N.2: decode, modality LUT, VOI policy, and the inversion of
MONOCHROME1, exactly once. pydicom's own ``apply_presentation_lut`` leaves MONOCHROME1 as it is when
the file has no Presentation LUT module, and MONAI's reader neither inverts nor windows.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from medproto.data.decoding import decode
from medproto.data.gray import apply_modality, apply_voi
from medproto.data.stored import MIN_SIDE, check_size, luma, pixel_digest, quietly, refusing
from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = ["code_string", "is_synthetic", "read_dicom", "read_dicom_stored"]

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")


def read_dicom(path: Path, *, voi: str) -> tuple[NDArray[np.float64], ImageReference]:
    """Return gray values ``[rows, columns]`` in [0, 1] and what is known of the image.

    Color images become gray by their luma. Overlays and burned-in text are left as they are.

    Args:
        voi: ``"voi"`` (VOI LUT, else window, else the full range) or ``"full-range"`` (what
            ``BitsStored`` allows, after the modality LUT).

    Raises:
        ImageReadError: if the file is no DICOM image of a single frame that can be decoded.
    """
    with quietly(), refusing("the DICOM image"):
        dataset, stored, photometric = _decode(path, least=MIN_SIDE)
        bits = int(dataset.BitsStored) if stored.dtype.kind != "f" else 8 * stored.itemsize
        window, kind = None, "full-range"
        if photometric in _GRAY:
            if not np.isfinite(stored).all():
                raise ImageReadError("pixels must be finite, got NaN or infinity.")
            pixels, kind, window = apply_voi(apply_modality(stored, dataset), dataset, voi=voi)
        else:
            pixels = np.clip(luma(_colors(stored, dataset, photometric)), 0, 1)
        inverted = photometric == "MONOCHROME1"
        spacing, spacing_kind = _spacing(dataset)
        reference = ImageReference(
            pixel_digest=pixel_digest(stored),
            shape=(stored.shape[0], stored.shape[1]),
            modality=code_string(dataset, "Modality") or "OT",
            bits_stored=bits,
            spacing_mm=spacing,
            spacing_kind=spacing_kind,
            inverted=inverted,
            voi=kind,
            window=window,
            synthetic=is_synthetic(dataset),
        )
    return (1 - pixels if inverted else pixels), reference


def read_dicom_stored(path: Path) -> NDArray[Any]:
    """Return the stored pixels ``[rows, columns]``, or ``[rows, columns, 3]``, of a DICOM file.

    Raises:
        ImageReadError: as `read_dicom`.
    """
    with quietly(), refusing("the DICOM image"):
        return _decode(path, least=1)[1]


def code_string(dataset: Dataset, keyword: str) -> str:
    """Return a coded value such as ``CR``; empty if absent or no valid DICOM code string."""
    value = str(dataset.get(keyword) or "").strip()
    return value if _CODE_STRING.fullmatch(value) else ""


def is_synthetic(dataset: Dataset) -> bool:
    """Return whether ImageType (from value 3 on) or ImageComments say ``SYNTHETIC``."""
    image_type = dataset.get("ImageType") or []
    values = [image_type] if isinstance(image_type, str) else [str(v) for v in image_type]
    comments = str(dataset.get("ImageComments") or "").upper()
    return "SYNTHETIC" in [v.strip().upper() for v in values[2:]] or "SYNTHETIC" in comments


def _decode(path: Path, *, least: int) -> tuple[Dataset, NDArray[Any], str]:
    """Return the dataset, its stored pixels and the photometric interpretation of these."""
    # Not `force`: a file without the DICOM prefix is refused, not guessed at.
    dataset = pydicom.dcmread(path)
    _check_header(dataset, least=least)
    stored, photometric = decode(dataset, path)
    shape = [int(dataset.Rows), int(dataset.Columns)]
    if list(stored.shape[:2]) != shape:
        raise ImageReadError(
            f"pixels must have the header's shape {shape}, got {list(stored.shape)}."
        )
    return dataset, stored, photometric


def _check_header(dataset: Dataset, *, least: int) -> None:
    """Refuse what is not a single frame of a sensible size, before decoding it."""
    if not any(keyword in dataset for keyword in _PIXELS):
        raise ImageReadError("the DICOM file must hold pixels; it has none, or is truncated.")
    if "SharedFunctionalGroupsSequence" in dataset or "PerFrameFunctionalGroupsSequence" in dataset:
        raise ImageReadError("an enhanced multi-frame object: single-frame only for now.")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ImageReadError(
            f"an image must have one frame, got {frames}: single-frame only for now."
        )
    check_size(int(dataset.Rows), int(dataset.Columns), least=least)
    if "PixelData" in dataset:
        stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
        if not 1 <= stored <= allocated <= 32:
            raise ImageReadError(
                f"BitsStored must lie in 1..BitsAllocated, at most 32, got {stored} of {allocated}."
            )


def _colors(stored: NDArray[Any], dataset: Dataset, photometric: str) -> NDArray[np.float64]:
    """Return RGB values in [0, 1], ``[rows, columns, 3]``."""
    if photometric == "PALETTE COLOR":
        colors = apply_color_lut(stored, dataset)[..., :3]
        return colors.astype(np.float64) / np.iinfo(colors.dtype).max
    if photometric != "RGB" or stored.ndim != 3 or stored.shape[2] != 3:
        raise ImageReadError(
            "PhotometricInterpretation must be MONOCHROME1, MONOCHROME2, RGB, PALETTE COLOR or "
            "convertible to RGB."
        )
    return stored.astype(np.float64) / (2.0 ** int(dataset.BitsStored) - 1)


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Return ``(row, column)`` millimetres between pixel centres and the attribute they are from.

    ``PixelSpacing`` equal to ``ImagerPixelSpacing`` and without ``PixelSpacingCalibrationType``
    is a distance at the detector (DICOM PS3.3 10.7.1.3), and is named so.
    """
    pixel = _distances(dataset, "PixelSpacing")
    imager = _distances(dataset, "ImagerPixelSpacing")
    calibrated = bool(dataset.get("PixelSpacingCalibrationType"))
    if pixel is not None and (pixel != imager or calibrated):
        return pixel, "PixelSpacing"
    if imager is not None:
        return imager, "ImagerPixelSpacing"
    nominal = _distances(dataset, "NominalScannedPixelSpacing")
    return (nominal, "NominalScannedPixelSpacing") if nominal is not None else (None, "none")


def _distances(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    """Return two plausible distances in millimetres, else ``None``."""
    try:
        row, column = (float(v) for v in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    # A micrometre to five centimetres: outside it the value is no distance of radiograph pixels.
    valid = all(math.isfinite(v) and 1e-3 <= v <= 50 for v in (row, column))
    return (row, column) if valid else None
