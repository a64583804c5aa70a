"""From stored DICOM pixels to gray values in [0, 1]: modality LUT, then the VOI policy.

The range of the gray values is not guessed from the pixels, unless the policy ``percentile`` asks
for that: it comes from the file's window or table, else it is the whole range that ``BitsStored``
allows. Inversion is not done here.

References:
    [1] DICOM PS3.3, C.11.1 (Modality LUT) and C.11.2 (VOI LUT).
        https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medproto.errors import ImageReadError

__all__ = [
    "POLICIES",
    "GrayPolicy",
    "GrayValues",
    "Voi",
    "apply_modality",
    "apply_range",
    "apply_voi",
    "number",
    "percentile_window",
    "read_policy",
]

POLICIES = ("voi", "full-range", "percentile", "window:CENTER,WIDTH")
PERCENTILES = (0.5, 99.5)
_Values = NDArray[Any]


class GrayPolicy(NamedTuple):
    """How the gray range is chosen: ``kind`` and, if that is ``"window"``, center and width."""

    kind: str
    window: tuple[float, float] | None = None


class GrayValues(NamedTuple):
    """Values in modality units and the range they could take, whatever the image holds."""

    values: _Values
    low: float
    high: float


class Voi(NamedTuple):
    """Gray values in [0, 1]; ``kind`` and ``window`` as in `ImageReference`."""

    pixels: NDArray[np.float64]
    kind: str
    window: tuple[float, float] | None


def read_policy(voi: str) -> GrayPolicy:
    """Read a VOI policy, one of `POLICIES`.

    Raises:
        ValueError: if it is none of them, or a width is not positive.

    Example:
        >>> read_policy("window:40,400")
        GrayPolicy(kind='window', window=(40.0, 400.0))
    """
    if voi in POLICIES[:3]:
        return GrayPolicy(voi)
    kind, _, numbers = voi.partition(":")
    try:
        center, width = (float(value) for value in numbers.split(","))
    except ValueError:
        center, width = math.nan, math.nan
    if kind != "window" or not math.isfinite(center) or not 0 < width < math.inf:
        raise ValueError(
            f"voi must be one of {list(POLICIES)}, the width above 0, got {voi!r}. "
            "For example window:40,400."
        )
    return GrayPolicy("window", (center, width))


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return the first value of an element; ``None`` if it is absent or no finite number."""
    try:
        value = dataset.get(keyword)
        several = isinstance(value, Sequence) and not isinstance(value, str)
        result = float(value[0] if several else value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def apply_modality(stored: _Values, dataset: Dataset) -> GrayValues:
    """Apply the modality LUT or rescale of a dataset to stored pixels, see [1] C.11.1.

    Raises:
        ImageReadError: if the rescale is no invertible map, or the table is unusable.
    """
    low, high = _stored_range(stored, dataset)
    if dataset.get("ModalityLUTSequence"):
        values, bits = _lookup(stored, low, dataset.ModalityLUTSequence[0], dataset)
        return GrayValues(values, 0.0, float(2**bits - 1))
    if dataset.get("RescaleSlope") is None and dataset.get("RescaleIntercept") is None:
        return GrayValues(stored, low, high)
    # One without the other is not allowed by [1]; the missing one then changes nothing.
    slope = number(dataset, "RescaleSlope") if "RescaleSlope" in dataset else 1.0
    intercept = number(dataset, "RescaleIntercept") if "RescaleIntercept" in dataset else 0.0
    if not slope or intercept is None:
        raise ImageReadError("RescaleSlope and RescaleIntercept must be finite, the slope not 0.")
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return GrayValues(stored.astype(np.float64) * slope + intercept, *ends)


def apply_voi(
    gray: GrayValues, dataset: Dataset, policy: GrayPolicy, *, padding: NDArray[np.bool_] | None
) -> Voi:
    """Map modality values to [0, 1] by a policy.

    With ``"voi"`` the first VOI LUT of the file counts, else its first window; without a usable
    one the range of the modality values. The other policies are those of `apply_range`.

    Args:
        padding: pixels that are no part of the image, of the values' shape.

    Raises:
        ImageReadError: if nothing gives a range (float pixels without a window) or the table is
            unusable.
    """
    if policy.kind == "voi":
        if dataset.get("VOILUTSequence"):
            item = dataset.VOILUTSequence[0]
            values, bits = _lookup(gray.values, gray.low, item, dataset)
            return Voi(np.clip(values / (2.0**bits - 1), 0, 1), "lut", None)
        window = _window(dataset)
        if window is not None:
            pixels = _apply_window(gray.values.astype(np.float64), window, _function(dataset))
            return Voi(pixels, "window", window)
    return apply_range(gray, policy, padding=padding)


def apply_range(
    gray: GrayValues, policy: GrayPolicy, *, padding: NDArray[np.bool_] | None = None
) -> Voi:
    """Map values to [0, 1] linearly, by a policy that needs nothing but the values.

    An explicit window goes from ``center - width / 2`` to ``center + width / 2`` (DICOM's
    LINEAR_EXACT), in modality units, Hounsfield units of a CT. ``"percentile"`` goes from the 0.5th
    to the 99.5th percentile of the values that are no padding. Everything else takes the range that
    the values could have.

    Raises:
        ImageReadError: if the range is asked for and not known, as of float pixels.
    """
    if policy.window is not None:
        pixels = _apply_window(gray.values.astype(np.float64), policy.window, "LINEAR_EXACT")
        return Voi(pixels, "explicit-window", policy.window)
    if policy.kind == "percentile":
        window = percentile_window(gray.values if padding is None else gray.values[~padding])
        pixels = _apply_window(gray.values.astype(np.float64), window, "LINEAR_EXACT")
        return Voi(pixels, "percentile", window)
    if not math.isfinite(gray.low):
        raise ImageReadError(
            "float pixels need a window: without one their range is not known. Name one "
            "(window:CENTER,WIDTH), or take the policy percentile."
        )
    pixels = (gray.values.astype(np.float64) - gray.low) / (gray.high - gray.low)
    return Voi(np.clip(pixels, 0, 1), "full-range", None)


def percentile_window(values: _Values) -> tuple[float, float]:
    """Return center and width of the window from the 0.5th to the 99.5th percentile.

    Where these are one value, the window is so narrow above it that the image is black.
    """
    low, high = np.percentile(values, PERCENTILES) if values.size else (0.0, 0.0)
    width = float(high - low) or 1.0
    return float(low) + width / 2, width


def _stored_range(stored: _Values, dataset: Dataset) -> tuple[float, float]:
    """Return the smallest and largest stored value that ``BitsStored`` allows."""
    if stored.dtype.kind == "f":
        return -math.inf, math.inf
    bits = int(dataset.BitsStored)
    if stored.dtype.kind == "i":
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1


def _function(dataset: Dataset) -> str:
    return str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Return the first window, or ``None`` if there is none that [1] allows."""
    center, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    function = _function(dataset)
    if center is None or width is None or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    smallest = 1.0 if function == "LINEAR" else 1e-9
    return (center, width) if width >= smallest else None


def _apply_window(
    values: NDArray[np.float64], window: tuple[float, float], function: str
) -> NDArray[np.float64]:
    """Equations of [1] C.11.2.1.2 and C.11.2.1.3, with the output range [0, 1]."""
    center, width = window
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:  # LINEAR of width 1 is a threshold
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _lookup(values: _Values, low: float, item: Dataset, dataset: Dataset) -> tuple[_Values, int]:
    """Return ``values`` looked up in the table of a LUT item, and the bits of its entries.

    pydicom's own `apply_voi` indexes 8-bit tables with 8-bit numbers, which wrap around for tables
    of more than 256 entries; hence the lookup here.
    """
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16
    if first >= 2**15 and low < 0:  # a signed first value, written as an unsigned one
        first -= 2**16
    table = _table(item, entries, dataset)
    if not 8 <= bits <= 16 or not len(table):
        raise ImageReadError(f"a lookup table must have 8 to 16 bits, got {bits}.")
    if not np.isfinite(values).all():
        raise ImageReadError("pixels must be finite, got NaN or infinity.")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[index], bits


def _table(item: Dataset, entries: int, dataset: Dataset) -> _Values:
    """Return at most ``entries`` values of ``LUTData``, whichever way the file packs them."""
    data = item.LUTData
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64))[:entries]
    if len(data) < 2 * entries:  # 8-bit entries, two to a word
        return np.frombuffer(data, np.uint8)[:entries].astype(np.int64)
    order = "<" if dataset.original_encoding[1] is not False else ">"
    return np.frombuffer(data[: 2 * entries], f"{order}u2").astype(np.int64)
