"""From feature cells to network pixels to stored pixels.

Symbols: ``*G`` spatial axes of the feature cells, ``*S`` of the network's input, ``n`` their
number. Positions are continuous, measured from the outer corner of the first pixel.

A map of cells is drawn on the cells' *true* centres (:class:`medproto.records.CellGrid`): padding
may shift them by half a stride against a naive stretch of the map over the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..records import CellGrid, Placement

__all__ = ["cells_to_network", "cells_to_stored", "peak_box"]

Array = NDArray[np.float32]

Box = tuple[tuple[float, ...], tuple[float, ...]]
"""``(start, stop)``, positions in network pixels per axis."""

SAMPLED = 4

NEIGHBORS = {n: ndimage.generate_binary_structure(n, 1) for n in (1, 2, 3)}
"""Pixels that touch by a side."""


def cells_to_network(values: Array, grid: CellGrid, network_shape: Sequence[int]) -> Array:
    """Interpolate maps of cells ``[..., *G]`` linearly to network pixels ``[..., *S]``.

    Outside the outermost centres the border value is continued.

    Raises:
        ValueError: if ``values`` does not have the grid's shape.
    """
    positions = [np.arange(size) + 0.5 for size in network_shape]
    return _interpolate(values, grid, positions)


def cells_to_stored(values: Array, grid: CellGrid, placement: Placement) -> Array:
    """Interpolate maps of cells ``[..., *G]`` linearly to the stored pixels of the image."""
    positions = [
        (np.arange(size) + 0.5) * scale + offset
        for size, scale, offset in zip(
            placement.stored_shape, placement.scale, placement.offset, strict=True
        )
    ]
    return _interpolate(values, grid, positions)


def _interpolate(
    values: Array, grid: CellGrid, positions: Sequence[NDArray[np.floating[Any]]]
) -> Array:
    """Linear interpolation, axis by axis: value of the lower cell + share x rise to the next.

    In this form equal cells give equal pixels to the last bit.
    """
    dims = len(grid.shape)
    if tuple(values.shape[-dims:]) != grid.shape:
        raise ValueError(f"values must have shape {list(grid.shape)}, got {list(values.shape)}.")
    out = np.asarray(values, dtype=np.float32)
    for axis, position in enumerate(positions):
        cells = (position - grid.first_center[axis]) / grid.stride[axis]
        moved = np.moveaxis(out, axis - dims, -1)
        rise = np.diff(moved, axis=-1, append=moved[..., -1:])  # 0 behind the last cell
        # One product of two matrices: numpy multiplies a stack of them several times slower.
        rows = np.concatenate([moved, rise], axis=-1).reshape(-1, 2 * grid.shape[axis])
        drawn = (rows @ _weights(cells, grid.shape[axis])).reshape(*moved.shape[:-1], -1)
        out = np.moveaxis(drawn, -1, axis - dims)
    return out


def _weights(cells: NDArray[np.floating[Any]], count: int) -> Array:
    """``[2 count, pixels]``: 1 for the cell below each pixel, then the share for its rise."""
    inside = np.clip(cells, 0, count - 1)
    low = inside.astype(int)
    pixels = np.arange(len(cells))
    weights = np.zeros((2 * count, len(cells)), dtype=np.float32)
    weights[low, pixels] = 1.0
    weights[count + low, pixels] = inside - low
    return weights


def peak_box(heat: Array, peak: Sequence[float], *, percentile: float = 95.0) -> Box:
    """Box round the part of a heat map that holds the peak.

    The published box spans *all* pixels above the percentile, so that two separate hot spots give
    one large box between them. Here only the connected part with the peak counts.

    Args:
        heat: ``[*S]`` in network pixels.
        peak: position of the largest cell, network pixels.
        percentile: of all pixels, above which a pixel is hot; the published code has 95.

    Returns:
        ``(start, stop)`` positions in network pixels, ``stop`` exclusive.
    """
    index = tuple(min(max(int(p), 0), n - 1) for p, n in zip(peak, heat.shape, strict=True))
    # The smallest value that is not below the percentile.
    rank = math.ceil(percentile * (heat.size - 1) / 100)
    level = min(_largest(heat, heat.size - rank), heat[index])
    return _part_round(heat >= level, index)


def _largest(heat: Array, count: int) -> np.float32:
    """Return the ``count``-th largest value, that is, the least of the ``count`` largest.

    Sought among the pixels above a guess alone, which is taken from one pixel of each ``SAMPLED``
    along an axis: the boxes are what evidence costs beside the forward pass.
    """
    sample = heat[(slice(None, None, SAMPLED),) * heat.ndim].ravel()
    low = max(int(sample.size * (1 - 2 * count / heat.size)), 0)
    high = heat[heat >= np.partition(sample, low)[low]]
    if len(high) < count:
        high = heat.ravel()
    place = len(high) - count
    return np.float32(np.partition(high, place)[place])


def _part_round(hot: NDArray[np.bool_], index: tuple[int, ...]) -> Box:
    """Box round the connected part of ``hot [*S]`` that holds ``index``.

    Looked for in a window, which doubles until the part does not touch its border: hot pixels are
    few, and as a rule close together.
    """
    reach = [size // 5 + 1 for size in hot.shape]
    while True:
        low = [max(i - r, 0) for i, r in zip(index, reach, strict=True)]
        high = [min(i + r + 1, n) for i, r, n in zip(index, reach, hot.shape, strict=True)]
        parts, _ = ndimage.label(hot[tuple(map(slice, low, high))], NEIGHBORS[hot.ndim])
        own = parts == parts[tuple(i - first for i, first in zip(index, low, strict=True))]
        spans = [_span(own, axis, first) for axis, first in enumerate(low)]
        if all(
            (start > first or first == 0) and (stop < last or last == n)
            for (start, stop), first, last, n in zip(spans, low, high, hot.shape, strict=True)
        ):
            return tuple(float(a) for a, _ in spans), tuple(float(b) for _, b in spans)
        reach = [2 * r for r in reach]


def _span(part: NDArray[np.bool_], axis: int, first: int) -> tuple[int, int]:
    """First index of a part along ``axis`` and the one behind its last; ``part`` begins there."""
    others = tuple(a for a in range(part.ndim) if a != axis)
    shown = np.flatnonzero(part.any(axis=others))
    return first + int(shown[0]), first + int(shown[-1]) + 1
