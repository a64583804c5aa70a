"""DICOM frames: decoded, on a gray scale where larger is brighter, with spacing and place.

Steps, in the order of DICOM PS3.4 N.2: decode, modality LUT, VOI policy, and the inversion of
MONOCHROME1, exactly once. pydicom's own ``apply_presentation_lut`` leaves MONOCHROME1 as it is when
the file has no Presentation LUT module, and MONAI's reader neither inverts nor windows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from medproto.data.decoding import decode
from medproto.data.frames import chosen_frame, frame_count, frame_dataset
from medproto.data.gray import GrayPolicy, Voi, apply_modality, apply_voi
from medproto.data.padding import padding_mask
from medproto.data.patient_space import read_plane
from medproto.data.spacing import read_spacing
from medproto.data.stored import (
    MIN_SIDE,
    check_bytes,
    check_size,
    luma,
    pixel_digest,
    quietly,
    refusing,
)
from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = [
    "bits_of",
    "code_string",
    "decode_frame",
    "gray_values",
    "is_synthetic",
    "open_dicom",
    "read_dicom",
    "read_dicom_stored",
]

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")


def read_dicom(
    path: Path, *, policy: GrayPolicy, frame: int | None = None
) -> tuple[NDArray[np.float64], ImageReference]:
    """Return gray values ``[rows, columns]`` in [0, 1] and what is known of the image.

    Color images become gray by their luma; the policy does not concern them. Padding is black.
    Overlays and burned-in text are left as they are.

    Args:
        policy: see `medproto.data.gray`.
        frame: zero-based; ``None`` for a file of a single frame.

    Raises:
        ImageReadError: if the file is no DICOM image that can be decoded, or has no such frame.
    """
    with quietly(), refusing("the DICOM image"):
        dataset = open_dicom(path)
        index = chosen_frame(frame_count(dataset), frame)
        stored, photometric = decode_frame(dataset, path, index, least=MIN_SIDE)
        flat = frame_dataset(dataset, index)
        gray, padded = gray_values(stored, flat, photometric, policy)
        inverted = photometric == "MONOCHROME1"
        spacing = read_spacing(flat)
        plane = read_plane(flat)
        in_patient = plane is not None and spacing.kind == "PixelSpacing"
        reference = ImageReference(
            pixel_digest=pixel_digest(stored),
            shape=(stored.shape[0], stored.shape[1]),
            modality=code_string(dataset, "Modality") or "OT",
            bits_stored=bits_of(stored, dataset),
            spacing_mm=spacing.mm,
            spacing_kind=spacing.kind,
            inverted=inverted,
            voi=gray.kind,
            window=gray.window,
            synthetic=is_synthetic(dataset),
            presentation_intent=code_string(dataset, "PresentationIntentType"),
            padded=padded,
            frame=frame,
            affine=plane.affine(spacing.mm) if in_patient and plane and spacing.mm else None,
        )
    return gray.pixels, reference


def read_dicom_stored(path: Path, *, frame: int | None = None) -> NDArray[Any]:
    """Return the stored pixels ``[rows, columns]``, or ``[rows, columns, 3]``, of a DICOM file.

    Raises:
        ImageReadError: as `read_dicom`.
    """
    with quietly(), refusing("the DICOM image"):
        dataset = open_dicom(path)
        index = chosen_frame(frame_count(dataset), frame)
        return decode_frame(dataset, path, index, least=1)[0]


def gray_values(
    stored: NDArray[Any], flat: Dataset, photometric: str, policy: GrayPolicy
) -> tuple[Voi, int]:
    """Return the gray values of a decoded frame, larger is brighter, and its pixels of padding.

    Args:
        flat: the elements that hold for the frame, see `frame_dataset`.
    """
    if photometric not in _GRAY:
        pixels = np.clip(luma(_colors(stored, flat, photometric)), 0, 1)
        return Voi(pixels, "full-range", None), 0
    if not np.isfinite(stored).all():
        raise ImageReadError("pixels must be finite, got NaN or infinity.")
    padding = padding_mask(stored, flat)
    gray = apply_voi(apply_modality(stored, flat), flat, policy, padding=padding)
    pixels = 1 - gray.pixels if photometric == "MONOCHROME1" else gray.pixels
    if padding is None:
        return gray._replace(pixels=pixels), 0
    return gray._replace(pixels=np.where(padding, 0.0, pixels)), int(padding.sum())


def bits_of(stored: NDArray[Any], dataset: Dataset) -> int:
    """Return the significant bits of a stored pixel."""
    return 8 * stored.itemsize if stored.dtype.kind == "f" else int(dataset.BitsStored)


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


def open_dicom(path: Path) -> Dataset:
    """Read the elements of a DICOM file that holds pixels.

    Raises:
        ImageReadError: if it is larger than `MAX_BYTES`, or holds no pixels.
    """
    check_bytes(path)
    # Not `force`: a file without the DICOM prefix is refused, not guessed at.
    dataset = pydicom.dcmread(path)
    missing = [name for name in ("Rows", "Columns") if dataset.get(name) is None]
    if missing or not any(keyword in dataset for keyword in _PIXELS):
        raise ImageReadError("the DICOM file must hold pixels; it has none, or is truncated.")
    return dataset


def decode_frame(
    dataset: Dataset, path: Path, frame: int, *, least: int
) -> tuple[NDArray[Any], str]:
    """Return the stored pixels of a zero-based frame and their photometric interpretation.

    Raises:
        ImageReadError: if the header describes no image of a sensible size, before anything is
            decoded, or the pixels are not those that it describes.
    """
    shape = [int(dataset.Rows), int(dataset.Columns)]
    check_size(*shape, least=least)
    if "PixelData" in dataset:
        bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
        if not 1 <= bits <= allocated <= 32:
            raise ImageReadError(
                f"BitsStored must lie in 1..BitsAllocated, at most 32, got {bits} of {allocated}."
            )
    stored, photometric = decode(dataset, path, frame)
    if list(stored.shape[:2]) != shape:
        raise ImageReadError(
            f"pixels must have the header's shape {shape}, got {list(stored.shape)}."
        )
    return stored, photometric


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
