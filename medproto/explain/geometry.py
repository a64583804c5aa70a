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

from ..records import CellGrid, Placement

__all__ = ["cells_to_network", "cells_to_stored", "interpolate", "interpolate_windows"]

Array = NDArray[np.float32]


def cells_to_network(values: Array, grid: CellGrid, network_shape: Sequence[int]) -> Array:
    """Interpolate maps of cells ``[..., *G]`` linearly to network pixels ``[..., *S]``.

    Outside the outermost centres the border value is continued.

    Raises:
        ValueError: if ``values`` does not have the grid's shape.
    """
    positions = [np.arange(size) + 0.5 for size in network_shape]
    return interpolate(values, grid, positions)


def cells_to_stored(values: Array, grid: CellGrid, placement: Placement) -> Array:
    """Interpolate maps of cells ``[..., *G]`` linearly to the stored pixels of the image."""
    positions = [
        (np.arange(size) + 0.5) * scale + offset
        for size, scale, offset in zip(
            placement.stored_shape, placement.scale, placement.offset, strict=True
        )
    ]
    return interpolate(values, grid, positions)


def interpolate(
    values: Array, grid: CellGrid, positions: Sequence[NDArray[np.floating[Any]]]
) -> Array:
    """Interpolate maps of cells ``[..., *G]`` linearly at the same positions, given axis by axis.

    Value of the lower cell + share x rise to the next: so equal cells give equal pixels to the last
    bit.

    Raises:
        ValueError: if ``values`` does not have the grid's shape.
    """
    return interpolate_windows(values[None], grid, [position[None] for position in positions])[0]


def interpolate_windows(
    values: Array, grid: CellGrid, positions: Sequence[NDArray[np.floating[Any]]]
) -> Array:
    """Interpolate as :func:`interpolate`, at positions of their own for each entry.

    Args:
        values: ``[M, ..., *G]``.
        grid: where the cells lie.
        positions: of each axis ``[M, pixels]``.

    Returns:
        ``[M, ..., *W]``, as many pixels along each axis as positions were given.

    Raises:
        ValueError: if ``values`` does not have the grid's shape.
    """
    dims = len(grid.shape)
    if tuple(values.shape[-dims:]) != grid.shape:
        came = list(values.shape[1:])
        raise ValueError(f"values must have shape {list(grid.shape)}, got {came}.")
    out = np.asarray(values, dtype=np.float32)
    for axis, position in enumerate(positions):
        cells = (position - grid.first_center[axis]) / grid.stride[axis]
        moved = np.moveaxis(out, axis - dims, -1)
        rise = np.zeros_like(moved)  # 0 behind the last cell
        np.subtract(moved[..., 1:], moved[..., :-1], out=rise[..., :-1])
        # One product for each entry: numpy multiplies a longer stack several times slower.
        rows = np.concatenate([moved, rise], axis=-1)
        rows = rows.reshape(len(rows), math.prod(rows.shape[1:-1]), rows.shape[-1])
        drawn = rows @ _weights(cells, grid.shape[axis])
        out = np.moveaxis(drawn.reshape(*moved.shape[:-1], cells.shape[1]), -1, axis - dims)
    return out


def _weights(cells: NDArray[np.floating[Any]], count: int) -> Array:
    """``[M, 2 count, pixels]``: 1 for the cell below each pixel, then the share for its rise."""
    inside = np.clip(cells, 0, count - 1)
    low = inside.astype(int)
    entry, pixel = np.arange(len(cells))[:, None], np.arange(cells.shape[1])
    weights = np.zeros((len(cells), 2 * count, cells.shape[1]), dtype=np.float32)
    weights[entry, low, pixel] = 1.0
    weights[entry, count + low, pixel] = inside - low
    return weights
