"""What a file is, by its first bytes and not by its name."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from medproto.errors import ImageReadError

__all__ = ["NIFTI_HEAD", "file_kind"]

NIFTI_HEAD = 540
"""Bytes of the longer of the two NIfTI headers."""

_SIGNATURES = {
    "DICOM": (128, b"DICM"),
    "PNG": (0, b"\x89PNG\r\n\x1a\n"),
    "JPEG": (0, b"\xff\xd8\xff"),
    "NIfTI": (344, b"n+1\0"),
    "NIfTI-2": (4, b"n+2\0"),
}


def file_kind(path: Path) -> str | None:
    """Return ``"DICOM"``, ``"PNG"``, ``"JPEG"``, ``"NIfTI"`` or ``None`` for anything else.

    NIfTI may be compressed with gzip.

    Raises:
        ImageReadError: if there is no regular file that can be opened.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ImageReadError("the file does not exist, or is not a regular file.")
        with path.open("rb") as stream:
            head = stream.read(NIFTI_HEAD)
        if head[:2] == b"\x1f\x8b":
            kind = _kind(_unpacked_head(path))
            return kind if kind == "NIfTI" else None
    except (OSError, ValueError) as cause:
        if isinstance(cause, ImageReadError):
            raise
        raise ImageReadError("the file cannot be opened.") from None
    return _kind(head)


def _kind(head: bytes) -> str | None:
    for kind, (offset, signature) in _SIGNATURES.items():
        if head[offset : offset + len(signature)] == signature:
            return kind.removesuffix("-2")
    return None


def _unpacked_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as stream:
            return stream.read(NIFTI_HEAD)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return b""
