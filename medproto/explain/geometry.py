"""From feature cells to network pixels to stored pixels.

Symbols: ``*G`` spatial axes of the feature cells, ``*S`` of the network's input, ``n`` their
number. Positions are continuous, measured from the outer corner of the first pixel.

A map of cells is drawn on the cells' *true* centres (:class:`medproto.records.CellGrid`): padding
may shift them by half a stride against a naive stretch of the map over the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import CellGrid, Placement

__all__ = ["CellMap", "cells_to_network", "cells_to_stored", "interpolate"]

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
    centers = [np.arange(side) + 0.5 for side in placement.stored_shape]
    return _at_stored(values, grid, placement, centers)


@dataclass(frozen=True, slots=True, eq=False)
class CellMap:
    """A map of cells that is drawn where and when it is looked at: of a volume it is large.

    Args:
        values: ``[*G]``.
        grid: where the cells lie.
        placement: of the stored image in the network's input.
    """

    values: Array
    grid: CellGrid
    placement: Placement

    def drawn(self) -> Array:
        """Return the map on all stored pixels, ``[*S]``."""
        return cells_to_stored(self.values, self.grid, self.placement)

    def at(self, positions: Sequence[NDArray[np.floating[Any]]]) -> Array:
        """Return the map at stored positions, given axis by axis: an array of as many sides."""
        return _at_stored(self.values, self.grid, self.placement, positions)


def _at_stored(
    values: Array,
    grid: CellGrid,
    placement: Placement,
    stored: Sequence[NDArray[np.floating[Any]]],
) -> Array:
    order = placement.order
    positions = [
        stored[axis] * scale + offset
        for axis, scale, offset in zip(order, placement.scale, placement.offset, strict=True)
    ]
    out = interpolate(values, grid, positions)
    if order == tuple(range(len(order))):
        return out
    first = out.ndim - len(order)
    return out.transpose(*range(first), *(first + order.index(k) for k in range(len(order))))


def interpolate(
    values: Array, grid: CellGrid, positions: Sequence[NDArray[np.floating[Any]]]
) -> Array:
    """Interpolate maps of cells ``[..., *G]`` linearly at the same positions, given axis by axis.

    Value of the lower cell + share x rise to the next: so equal cells give equal pixels to the last
    bit.

    Raises:
        ValueError: if ``values`` does not have the grid's shape.
    """
    dims = len(grid.shape)
    if tuple(values.shape[-dims:]) != grid.shape:
        raise ValueError(f"values must have shape {list(grid.shape)}, got {list(values.shape)}.")
    out = np.asarray(values, dtype=np.float32)
    for axis, position in enumerate(positions, start=-dims):
        last = grid.shape[axis] - 1
        cells = np.clip((position - grid.first_center[axis]) / grid.stride[axis], 0, last)
        low = cells.astype(int)
        below = out.take(low, axis=axis)
        rise = out.take(np.minimum(low + 1, last), axis=axis) - below
        share = (cells - low).astype(np.float32).reshape(-1, *[1] * (-axis - 1))
        out = below + share * rise
    return out
