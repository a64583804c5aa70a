"""PNG and JPEG: 8 or 16 bits, gray or color, by what the file holds and not by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medproto.data.gray import GrayPolicy, GrayValues, Voi, apply_range
from medproto.data.stored import MIN_SIDE, check_size, luma, pixel_digest, quietly, refusing
from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = ["read_plain", "read_plain_stored"]

_EIGHT_BITS = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")


def read_plain(
    path: Path, *, file_format: str, policy: GrayPolicy
) -> tuple[NDArray[np.float64], ImageReference]:
    """Return gray values ``[rows, columns]`` in [0, 1] and what is known of the image.

    8-bit values are divided by 255, 16-bit values by 65535, whatever the image holds, unless the
    policy is ``"percentile"``. Color becomes gray by its luma; transparency is left out. Plain
    files carry no spacing that can be trusted.

    Args:
        file_format: ``"PNG"`` or ``"JPEG"``.

    Raises:
        ImageReadError: if the file cannot be decoded or has another color model, or the policy is
            a window: the values have no unit.
    """
    if policy.window is not None:
        raise ImageReadError(
            f"a window is in modality units, and the values of a {file_format} image have none."
        )
    stored, bits = _decode(path, file_format, least=MIN_SIDE)
    full_scale = 65535.0 if stored.dtype == np.uint16 else 255.0
    values = luma(stored) if stored.ndim == 3 else stored.astype(np.float64)
    gray = Voi(values / full_scale, "full-range", None)
    if policy.kind == "percentile":
        gray = apply_range(GrayValues(values, 0.0, full_scale), policy)
    reference = ImageReference(
        pixel_digest=pixel_digest(stored),
        shape=(stored.shape[0], stored.shape[1]),
        modality=file_format,
        bits_stored=bits,
        voi=gray.kind,
        window=gray.window,
    )
    return gray.pixels, reference


def read_plain_stored(path: Path, *, file_format: str) -> NDArray[Any]:
    """Return the stored pixels ``[rows, columns]``, or ``[rows, columns, 3]`` for a color image.

    Raises:
        ImageReadError: as `read_plain`.
    """
    return _decode(path, file_format, least=1)[0]


def _decode(path: Path, file_format: str, *, least: int) -> tuple[NDArray[Any], int]:
    """Return stored pixels (``uint8`` or ``uint16``) and their significant bits."""
    with (
        quietly(),
        refusing(f"the {file_format} image"),
        Image.open(path, formats=[file_format]) as image,
    ):
        columns, rows = image.size
        check_size(rows, columns, least=least)
        mode = image.mode
        if mode in _SIXTEEN_BITS:
            return np.asarray(image).astype(np.uint16), 16
        if mode not in _EIGHT_BITS:
            raise ImageReadError(
                f"a {file_format} image must be gray or RGB, got the color model {mode!r}."
            )
        stored = np.asarray(image.convert(_EIGHT_BITS[mode]))
    return stored, 1 if mode == "1" else 8
