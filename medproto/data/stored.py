"""What every reader shares: limits, refusals, silence, the digest of the stored pixels, luma.

Symbols: ``rows``, ``columns`` of a radiograph; *stored* pixels are those of the file, before any
lookup table.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medproto.errors import ImageReadError

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_VOXELS",
    "MIN_SIDE",
    "check_bytes",
    "check_size",
    "check_voxels",
    "luma",
    "pixel_digest",
    "quietly",
    "refusing",
]

MIN_SIDE = 8
"""Smallest side of an image, pixels: below it no network has a single cell."""

MAX_PIXELS = 2**26
"""Largest number of pixels of one image: 8192 x 8192, above any radiograph."""

MAX_VOXELS = 2**28
"""Largest number of voxels of one volume: 512 x 512 x 1024."""

MAX_BYTES = 2**32
"""Largest file that is opened: 4 GiB, above any series in one file."""

_DECODERS = ("pydicom", "openjpeg", "jpeg_ls", "PIL")
_LOCK = threading.RLock()


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the decoders' warnings and log lines, which may quote a file's header.

    One thread at a time: Python keeps the warning filters for the whole process, and two threads
    that put them back in turn would leave them changed.
    """
    loggers = [logging.getLogger(name) for name in _DECODERS]
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = [(logger.propagate, list(logger.handlers)) for logger in loggers]
        try:
            for logger in loggers:
                logger.propagate, logger.handlers = False, [logging.NullHandler()]
            yield
        finally:
            for logger, (propagate, handlers) in zip(loggers, before, strict=True):
                logger.propagate, logger.handlers = propagate, handlers


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one clear line.

    The decoders are many, third-party and fed with untrusted bytes, so any exception is possible;
    its text may quote the header and is therefore left out, as is the chain to it.

    Raises:
        ImageReadError: in place of every other exception.
    """
    try:
        yield
    except ImageReadError:
        raise
    except Exception as cause:
        kind = type(cause).__name__
        raise ImageReadError(
            f"{what} cannot be read ({kind}): the file is damaged, truncated or of an "
            "unsupported kind."
        ) from None


def check_bytes(path: Path) -> None:
    """Refuse a file of more than `MAX_BYTES`, before it is read.

    Raises:
        ImageReadError: if it is larger.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ImageReadError(f"a file may have at most {MAX_BYTES} bytes, got {size}.")


def check_size(rows: int, columns: int, *, least: int = MIN_SIDE) -> None:
    """Refuse sides below ``least`` and more than `MAX_PIXELS` pixels, before anything is decoded.

    Raises:
        ImageReadError: if the size is outside the limits.
    """
    if rows < least or columns < least:
        raise ImageReadError(
            f"an image must have at least {least} x {least} pixels, got {rows} x {columns}."
        )
    if rows * columns > MAX_PIXELS:
        raise ImageReadError(
            f"an image may have at most {MAX_PIXELS} pixels, its header says {rows} x {columns}."
        )


def check_voxels(shape: Sequence[int]) -> None:
    """Refuse a volume with a side below 1 or more than `MAX_VOXELS`, before it is decoded.

    Raises:
        ImageReadError: if the shape is outside the limits.
    """
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise ImageReadError(
            f"a volume must have 1 to {MAX_VOXELS} voxels, its header says "
            f"{' x '.join(map(str, shape))}."
        )


def pixel_digest(stored: NDArray[np.generic]) -> str:
    """Return ``sha256:<hex>`` over shape, dtype and values of stored pixels.

    The byte order of the file does not matter: the same pixels in another transfer syntax have the
    same digest.
    """
    little = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{stored.dtype.name} {list(stored.shape)}\n".encode())
    digest.update(little.tobytes())
    return f"sha256:{digest.hexdigest()}"


def luma(colors: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the ITU-R BT.601 luma ``[rows, columns]`` of ``[rows, columns, 3]`` RGB values."""
    red, green, blue = (colors[..., k].astype(np.float64) for k in range(3))
    # As a difference from green, so that an image of equal channels keeps its values exactly.
    return green + 0.299 * (red - green) + 0.114 * (blue - green)
