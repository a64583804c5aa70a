"""The box drawn for a similarity: the part of its map that holds the peak.

Symbols: ``M`` maps, ``n`` spatial axes, ``*G`` of the feature cells, ``*S`` of the network's input,
``*W`` of a window in it. Positions as in :mod:`.geometry`.

The published box spans *all* pixels above a percentile of the map, so that two separate hot spots
give one large box between them. Here only the connected part with the peak counts.

The boxes are what evidence costs beside the forward pass, so no map is drawn whole: the percentile
is that of a lattice of pixels, and the part is looked for in a window round the peak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..records import CellGrid
from .geometry import Array, interpolate, interpolate_windows

__all__ = ["Box", "lattice_step", "peak_boxes"]

Box = tuple[tuple[float, ...], tuple[float, ...]]
"""``(start, stop)``, positions in network pixels per axis, ``stop`` exclusive."""

LATTICE = 2000
"""Pixels that suffice for a percentile: 100 of them lie above the 95th."""

FIRST_WINDOW = 7
"""The first window reaches one part in so many of the image to each side: most boxes end in it."""

NEIGHBORS = {
    n: np.pad(ndimage.generate_binary_structure(n, 1)[None], [(1, 1), *[(0, 0)] * n])
    for n in (1, 2, 3)
}
"""Pixels that touch by a side, in the same map."""


def peak_boxes(
    values: Array,
    grid: CellGrid,
    network_shape: Sequence[int],
    cells: Sequence[Sequence[int]],
    *,
    percentile: float = 95.0,
) -> list[Box]:
    """Box of each map round one of its cells.

    A pixel of the drawn map (:func:`medproto.explain.cells_to_network`) is hot if it is not below
    the least lattice pixel at or above the percentile, or not below the pixel at the cell's centre
    where that is less. The box goes round the hot pixels that hang together with that one by their
    sides.

    Args:
        values: ``[M, *G]``.
        grid: where the cells lie.
        network_shape: ``*S``.
        cells: ``[M, n]``, zero-based; of each map as a rule its largest.
        percentile: of the pixels of a lattice, one in :func:`lattice_step` along each axis.

    Raises:
        ValueError: if ``values`` does not have the grid's shape.
    """
    size = np.asarray(network_shape)
    levels = _levels(values, grid, size, percentile)
    steps = np.reshape(cells, (-1, len(size))) * np.asarray(grid.stride)
    peaks = np.clip((np.asarray(grid.first_center) + steps).astype(int), 0, size - 1)
    boxes: dict[int, Box] = {}
    left, reach = np.arange(len(values)), size // FIRST_WINDOW + 1
    while len(left):
        found = _in_windows(values[left], grid, size, peaks[left], levels[left], reach)
        boxes |= {int(m): box for m, box in zip(left, found, strict=True) if box}
        left = np.array([m for m in left if m not in boxes], dtype=int)
        reach = 2 * reach
    return [boxes[m] for m in range(len(values))]


def lattice_step(network_shape: Sequence[int]) -> int:
    """Distance of the lattice's pixels along each axis: small images are looked at whole."""
    return max(int((math.prod(network_shape) / LATTICE) ** (1 / len(network_shape))), 1)


def _levels(
    values: Array, grid: CellGrid, size: NDArray[np.intp], percentile: float
) -> NDArray[np.float32]:
    """Return the smallest value of each map's lattice that is not below the percentile, ``[M]``."""
    step = lattice_step(size.tolist())
    lattice = interpolate(values, grid, [np.arange(step // 2, n, step) + 0.5 for n in size])
    lattice = lattice.reshape(len(values), math.prod(lattice.shape[1:]))
    rank = math.ceil(percentile * (lattice.shape[1] - 1) / 100)
    return np.asarray(np.partition(lattice, rank, axis=1)[:, rank])


def _in_windows(
    values: Array,
    grid: CellGrid,
    size: NDArray[np.intp],
    peaks: NDArray[np.intp],
    levels: NDArray[np.float32],
    reach: NDArray[np.intp],
) -> list[Box | None]:
    """Box of each map, none where the part leaves the window of ``reach`` pixels round its peak."""
    maps, dims = peaks.shape
    width = np.minimum(2 * reach + 1, size)
    first = np.clip(peaks - reach, 0, size - width)  # [maps, n]; a window stays in the image
    windows = [first[:, a, None] + np.arange(width[a]) + 0.5 for a in range(dims)]
    heat = interpolate_windows(values, grid, windows)  # [maps, *W]
    at_peak = (np.arange(maps), *(peaks - first).T)
    hot = heat >= np.minimum(levels, heat[at_peak]).reshape(-1, *[1] * dims)
    parts, _ = ndimage.label(hot, NEIGHBORS[dims])
    start, stop = _spans(parts == parts[at_peak].reshape(-1, *[1] * dims))
    ended = ((start > 0) | (first == 0)) & ((stop < width) | (first + width == size))
    starts, stops = (first + start).astype(float).tolist(), (first + stop).astype(float).tolist()
    whole = ended.all(axis=1).tolist()
    return [
        (tuple(a), tuple(b)) if all_in else None
        for a, b, all_in in zip(starts, stops, whole, strict=True)
    ]


def _spans(parts: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First pixel of each part ``[maps, *W]`` and the one behind its last, ``[maps, n]``."""
    axes = range(1, parts.ndim)
    used = [np.asarray(parts.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    start = [line.argmax(axis=1) for line in used]
    stop = [line.shape[1] - line[:, ::-1].argmax(axis=1) for line in used]
    return np.stack(start, axis=1), np.stack(stop, axis=1)
