"""Gray images, boxes and heat maps as PNG: the small pictures of pages and dashboard.

Images are ``[rows, cols]`` in [0, 1], larger is brighter. A heat map may have any range: it is
scaled to its own smallest and largest value, so its colors compare places within one map, never
two maps. Boxes are in pixels of the image they are drawn on.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.records import PixelBox

__all__ = [
    "AGAINST",
    "FOR",
    "NEUTRAL",
    "box_color",
    "array_to_png",
    "color_map",
    "cut",
    "data_uri",
    "overlay",
    "picture_uri",
    "read_gray",
    "unit_range",
]

FOR = "#4cc3ff"
"""Color of a box whose prototype speaks for the class, on a dark image."""

AGAINST = "#ffb000"
"""Color of a box whose prototype speaks against the class; the sign beside it says the same."""

NEUTRAL = "#c3ccd6"
"""Color of a box whose prototype adds nothing."""

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]


def box_color(points: float) -> str:
    """Return the color of the box of a contribution."""
    return NEUTRAL if points == 0 else FOR if points > 0 else AGAINST


def array_to_png(array: Floats | Bytes) -> bytes:
    """Return the PNG of ``[rows, cols]`` or ``[rows, cols, 3]``: uint8, or floats in [0, 1].

    Raises:
        ValueError: if the shape is another.
    """
    from PIL import Image

    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(
            f"array must have shape [rows, cols] or [rows, cols, 3], got {list(array.shape)}."
        )
    stream = io.BytesIO()
    Image.fromarray(_to_bytes(array)).save(stream, format="PNG")
    return stream.getvalue()


def data_uri(png: bytes) -> str:
    """Return ``data:image/png;base64,...``, which needs no file and no request."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def picture_uri(
    image: Floats,
    *,
    heat: Floats | None = None,
    boxes: Sequence[tuple[PixelBox, str]] = (),
    side: int = 320,
) -> str:
    """Return a small picture of an image as a data URI.

    Args:
        heat: ``[rows, cols]`` blended over the image; ``None`` for the image alone.
        boxes: with their colors (``#rrggbb``), drawn after scaling so that lines stay thin.
        side: longer side of the picture in pixels.
    """
    base = _to_bytes(image if heat is None else overlay(image, heat))
    scaled, scale = _resize(base, side)
    rgb = np.repeat(scaled[..., None], 3, axis=2) if scaled.ndim == 2 else scaled.copy()
    for box, color in boxes:
        _draw(rgb, [v * s for v, s in zip(box.to_list(), scale * 2)], color)
    return data_uri(array_to_png(rgb))


def overlay(image: Floats, heat: Floats, *, opacity: float = 0.6) -> NDArray[np.float64]:
    """Blend a heat map over an image: ``[rows, cols, 3]``; weak places leave the image as it is.

    Raises:
        ValueError: if the shapes differ.
    """
    if image.shape != heat.shape:
        raise ValueError(
            f"heat must have the image's shape {list(image.shape)}, got {list(heat.shape)}."
        )
    strength = unit_range(heat)[..., None]
    gray = np.clip(np.asarray(image, dtype=np.float64), 0, 1)[..., None]
    alpha = opacity * strength
    blended: NDArray[np.float64] = (1 - alpha) * gray + alpha * color_map(strength[..., 0])
    return blended


def unit_range(values: Floats) -> NDArray[np.float64]:
    """Scale to [0, 1]; a constant array becomes zeros, since it marks no place."""
    exact: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    low, high = float(exact.min()), float(exact.max())
    return (exact - low) / ((high - low) or 1.0)


def color_map(values: Floats) -> NDArray[np.float64]:
    """Map [0, 1] to the colors of *inferno*, which keep their order in print and for all eyes."""
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](values))[..., :3]


def cut(image: Floats, box: PixelBox) -> Floats:
    """Return the part of an image inside a box."""
    return image[tuple(slice(a, b) for a, b in zip(box.start, box.stop))]


def read_gray(path: Path) -> NDArray[np.float32]:
    """Read an 8-bit PNG back as ``[rows, cols]`` in [0, 1].

    Raises:
        OSError: if the file is missing or no picture.
    """
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)


def _to_bytes(array: Floats | Bytes) -> Bytes:
    if array.dtype == np.uint8:
        return np.asarray(array, dtype=np.uint8)
    return np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _resize(array: Bytes, side: int) -> tuple[Bytes, list[float]]:
    from PIL import Image

    rows, cols = array.shape[:2]
    factor = side / max(rows, cols)
    target = (max(1, round(rows * factor)), max(1, round(cols * factor)))
    method = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    picture = Image.fromarray(array).resize(target[::-1], method)
    return np.asarray(picture), [target[0] / rows, target[1] / cols]


def _draw(rgb: Bytes, corners: Sequence[float], color: str) -> None:
    """Draw a line two pixels wide with a dark rim, which shows on white bone and black air."""
    rows, cols = rgb.shape[:2]
    row0, col0 = (max(0, round(v)) for v in corners[:2])
    row1, col1 = min(rows, round(corners[2])), min(cols, round(corners[3]))
    value = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
    for width, ink in ((3, (0, 0, 0)), (2, value)):
        inner = (slice(row0 + width, row1 - width), slice(col0 + width, col1 - width))
        frame = np.zeros((rows, cols), dtype=bool)
        frame[row0:row1, col0:col1] = True
        frame[inner] = False
        rgb[frame] = ink
