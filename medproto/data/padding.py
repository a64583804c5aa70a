"""Pixels that fill a rectangle up and show nothing: DICOM's pixel padding.

References:
    [1] DICOM PS3.3, C.7.5.1.1.2 (Pixel Padding Value and Pixel Padding Range Limit).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medproto.data.gray import number

__all__ = ["padding_mask"]


def padding_mask(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Return where stored gray pixels are padding, see [1]; ``None`` if nowhere.

    With a range limit all values from one to the other are padding, both included, whichever is
    larger.
    """
    prefix = {"f4": "Float", "f8": "DoubleFloat"}.get(stored.dtype.str[1:], "")
    value = number(dataset, f"{prefix}PixelPaddingValue")
    if value is None:
        return None
    limit = number(dataset, f"{prefix}PixelPaddingRangeLimit")
    ends = [_signed(end, stored) for end in (value, value if limit is None else limit)]
    mask: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return mask if mask.any() else None


def _signed(value: float, stored: NDArray[Any]) -> float:
    """Return a value that was written unsigned as the signed one that it stands for."""
    if stored.dtype.kind == "i" and value > np.iinfo(stored.dtype).max:
        return value - 2.0 ** (8 * stored.dtype.itemsize)
    return value
