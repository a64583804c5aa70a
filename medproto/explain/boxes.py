"""The box drawn for a similarity: the part of its map that holds the peak.

Symbols: ``M`` maps, ``n`` spatial axes, ``*G`` of the feature cells, ``*S`` of the network's input,
``*T`` of the tiles it is divided into. Positions as in :mod:`.geometry`.

The published box spans *all* pixels above a percentile of the map, so that two separate hot spots
give one large box between them. Here only the connected part with the peak counts.

The boxes are what evidence costs beside the forward pass. Between the centres of the cells the map
is linear and says nothing of single pixels, so it is drawn in tiles of a quarter of a cell, and a
box is made of whole tiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..records import CellGrid
from .geometry import Array, interpolate

__all__ = ["Box", "peak_boxes"]

Box = tuple[tuple[float, ...], tuple[float, ...]]
"""``(start, stop)``, positions in network pixels per axis, ``stop`` exclusive."""

TILES = 4
"""Tiles along the side of a cell, where it is so many pixels wide."""

PERCENTILES = {1: 95.0, 2: 95.0, 3: 98.9}
"""By axes. The published one is that of planes, where a square of so much has 0.22 of the image's
side. A cube of that side is 1.1 % of a volume; 5 % is more than half a lung."""

NEIGHBORS = {
    n: np.pad(ndimage.generate_binary_structure(n, 1)[None], [(1, 1), *[(0, 0)] * n])
    for n in (1, 2, 3)
}
"""Tiles that touch by a side, in the same map."""


def peak_boxes(
    values: Array,
    grid: CellGrid,
    network_shape: Sequence[int],
    cells: Sequence[Sequence[int]],
    *,
    percentile: float | None = None,
) -> list[Box]:
    """Box of each map round one of its cells.

    A tile is as many whole pixels wide as go into a quarter of a cell, at least one; the last along
    an axis may be cut off by the image. Its value is that of the drawn map
    (:func:`medproto.explain.cells_to_network`) in its middle. It is hot if that is not below the
    least value at or above the percentile of all tiles, or not below the tile of the cell's centre
    where that is less. The box goes round the hot tiles that hang together with that one by their
    sides.

    Args:
        values: ``[M, *G]``.
        grid: where the cells lie.
        network_shape: ``*S``.
        cells: ``[M, n]``, zero-based; of each map as a rule its largest.
        percentile: of the tiles' values; ``None`` takes that of :data:`PERCENTILES`.

    Raises:
        ValueError: if ``values`` does not have the grid's shape.
    """
    edges = [
        np.append(np.arange(0, size, max(int(stride / TILES), 1)), size)
        for size, stride in zip(network_shape, grid.stride, strict=True)
    ]
    heat = interpolate(values, grid, [(e[:-1] + e[1:]) / 2 for e in edges])  # [M, *T]
    flat = heat.reshape(len(heat), math.prod(heat.shape[1:]))
    if percentile is None:
        percentile = PERCENTILES[len(edges)]
    rank = math.ceil(percentile * (flat.shape[1] - 1) / 100)
    levels = np.partition(flat, rank, axis=1)[:, rank]
    at_peak = (np.arange(len(heat)), *_tiles_of(cells, grid, edges))
    hot = heat >= np.minimum(levels, heat[at_peak]).reshape(-1, *[1] * len(edges))
    parts, _ = ndimage.label(hot, NEIGHBORS[len(edges)])
    start, stop = _spans(parts == parts[at_peak].reshape(-1, *[1] * len(edges)), edges)
    return [(tuple(a), tuple(b)) for a, b in zip(start.tolist(), stop.tolist(), strict=True)]


def _tiles_of(
    cells: Sequence[Sequence[int]], grid: CellGrid, edges: Sequence[NDArray[np.intp]]
) -> list[NDArray[np.intp]]:
    """Tile along each axis, ``[M]``, that holds the centre of a cell or is nearest to it."""
    index = np.reshape(cells, (-1, len(edges))) * np.asarray(grid.stride)
    centers = (np.asarray(grid.first_center) + index).T
    return [
        np.clip(np.searchsorted(edge, center, side="right") - 1, 0, len(edge) - 2)
        for edge, center in zip(edges, centers, strict=True)
    ]


def _spans(
    parts: NDArray[np.bool_], edges: Sequence[NDArray[np.intp]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last edge of each part ``[M, *T]``, ``[M, n]``."""
    axes = range(1, parts.ndim)
    used = [np.asarray(parts.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    start = [edge[line.argmax(axis=1)] for edge, line in zip(edges, used, strict=True)]
    stop = [edge[-1 - line[:, ::-1].argmax(axis=1)] for edge, line in zip(edges, used, strict=True)]
    return np.stack(start, axis=1).astype(float), np.stack(stop, axis=1).astype(float)
