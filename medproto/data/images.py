"""Read an image or a mask: the file's first bytes decide how, not its name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medproto.data.dicom import read_dicom, read_dicom_stored
from medproto.data.gray import check_policy
from medproto.data.plain import read_plain, read_plain_stored
from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = ["LoadedImage", "file_kind", "read_image", "read_mask"]

_SIGNATURES = {
    "DICOM": (128, b"DICM"),
    "PNG": (0, b"\x89PNG\r\n\x1a\n"),
    "JPEG": (0, b"\xff\xd8\xff"),
}


class LoadedImage(NamedTuple):
    """A decoded image.

    Args:
        pixels: ``[rows, columns]`` in [0, 1], larger is brighter.
        reference: what is known of the file, without any identity.
    """

    pixels: NDArray[np.float32]
    reference: ImageReference


def read_image(path: Path, *, voi: str = "voi") -> LoadedImage:
    """Read one DICOM (single frame), PNG or JPEG image as gray values in [0, 1].

    Args:
        voi: ``"voi"`` takes the VOI LUT or window of a DICOM file, and the full range where it has
            none; ``"full-range"`` takes what ``BitsStored`` allows. Never the pixels' own extremes.

    Raises:
        ImageReadError: if the file is missing, of another kind, damaged, smaller than 8 x 8 or
            larger than 2**26 pixels, or its values are not finite. The text names no path and
            nothing of the header's identity.
        ValueError: if ``voi`` is unknown.
    """
    check_policy(voi)
    path = Path(path)
    kind = file_kind(path)
    if kind == "DICOM":
        pixels, reference = read_dicom(path, voi=voi)
    else:
        pixels, reference = read_plain(path, file_format=_plain(kind))
    if not np.isfinite(pixels).all():
        raise ImageReadError("pixels must be finite, got NaN or infinity.")
    return LoadedImage(pixels.astype(np.float32), reference)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a PNG or DICOM mask ``[rows, columns]``: every stored value but zero is inside.

    Raises:
        ImageReadError: as `read_image`, and for a JPEG, whose compression blurs the zeros.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "JPEG":
        raise ImageReadError("a mask must be stored without loss: PNG or DICOM, got JPEG.")
    if kind == "DICOM":
        stored = read_dicom_stored(path)
    else:
        stored = read_plain_stored(path, file_format=_plain(kind))
    inside: NDArray[np.bool_] = stored != 0
    return np.asarray(inside.any(axis=2)) if inside.ndim == 3 else inside


def file_kind(path: Path) -> str | None:
    """Return ``"DICOM"``, ``"PNG"`` or ``"JPEG"`` by the first bytes, ``None`` for anything else.

    Raises:
        ImageReadError: if there is no regular file that can be opened.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ImageReadError("the file does not exist, or is not a regular file.")
        with path.open("rb") as stream:
            head = stream.read(132)
    except (OSError, ValueError) as cause:
        if isinstance(cause, ImageReadError):
            raise
        raise ImageReadError("the file cannot be opened.") from None
    for kind, (offset, signature) in _SIGNATURES.items():
        if head[offset : offset + len(signature)] == signature:
            return kind
    return None


def _plain(kind: str | None) -> str:
    """Refuse unknown content."""
    if kind is None:
        raise ImageReadError("the content must be DICOM (with prefix), PNG or JPEG, and is not.")
    return kind
