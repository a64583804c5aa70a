"""From feature cells to network pixels to stored pixels.

Symbols: ``*G`` spatial axes of the feature cells, ``*S`` of the network's input, ``n`` their
number. Positions are continuous, measured from the outer corner of the first pixel.

A map of cells is drawn on the cells' *true* centres (:class:`medproto.records.CellGrid`): padding
may shift them by half a stride against a naive stretch of the map over the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..records import CellGrid, Placement

__all__ = ["cells_to_network", "cells_to_stored", "peak_box"]

Array = NDArray[np.float32]


def cells_to_network(values: Array, grid: CellGrid, network_shape: Sequence[int]) -> Array:
    """Interpolate a map of cells ``[*G]`` linearly to network pixels ``[*S]``.

    Outside the outermost centres the border value is continued.

    Raises:
        ValueError: if ``values`` does not have the grid's shape.
    """
    positions = [np.arange(size) + 0.5 for size in network_shape]
    return _interpolate(values, grid, positions)


def cells_to_stored(values: Array, grid: CellGrid, placement: Placement) -> Array:
    """Interpolate a map of cells ``[*G]`` linearly to the stored pixels of the image."""
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
    """Linear interpolation is separable: one small matrix per axis."""
    if tuple(values.shape) != grid.shape:
        raise ValueError(f"values must have shape {list(grid.shape)}, got {list(values.shape)}.")
    out = np.asarray(values, dtype=np.float64)
    for axis, position in enumerate(positions):
        cells = (position - grid.first_center[axis]) / grid.stride[axis]
        matrix = _hat_functions(cells, grid.shape[axis])  # [pixels, cells]
        out = np.moveaxis(np.tensordot(matrix, out, axes=(1, axis)), 0, axis)
    return out.astype(np.float32)


def _hat_functions(cells: NDArray[np.floating[Any]], count: int) -> NDArray[np.float64]:
    inside = np.clip(cells, 0, count - 1)
    low = np.minimum(inside.astype(int), max(count - 2, 0))
    weight = inside - low
    matrix = np.zeros((len(cells), count))
    rows = np.arange(len(cells))
    matrix[rows, low] = 1 - weight
    matrix[rows, np.minimum(low + 1, count - 1)] += weight
    return matrix


def peak_box(
    heat: Array, peak: Sequence[float], *, percentile: float = 95.0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
    level = min(float(np.percentile(heat, percentile)), float(heat[index]))
    parts, _ = ndimage.label(heat >= level)
    hot = np.nonzero(parts == parts[index])
    start = tuple(float(axis.min()) for axis in hot)
    stop = tuple(float(axis.max() + 1) for axis in hot)
    return start, stop
