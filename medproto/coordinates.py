"""Boxes of pixels, the place of an image in the network's input, and the grid of feature cells.

Symbols: ``*S`` spatial axes in array order, ``(rows, columns)`` for a radiograph and
``(rows, columns, slices)`` for a volume.

Coordinates: pixel *indices* are zero-based and name the pixel's centre; *positions* are continuous
and measured from the outer corner of the first pixel: pixel ``i`` covers ``[i, i + 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["CellGrid", "PixelBox", "Placement"]


@dataclass(frozen=True, slots=True)
class PixelBox:
    """Axis-aligned box of pixels: zero-based indices in array order, ``stop`` exclusive.

    Raises:
        ValueError: if the axes disagree, an index is negative or the box is empty.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop) or not self.start:
            raise ValueError(
                f"start and stop must have the same axes, got {self.start}, {self.stop}."
            )
        if any(a < 0 or b <= a for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box must satisfy 0 <= start < stop, got {self.start}, {self.stop}.")

    @classmethod
    def from_list(cls, values: Sequence[int]) -> PixelBox:
        """Read ``[row0, col0, row1, col1]``, or ``[*start, *stop]`` for any number of axes.

        Raises:
            ValueError: if the number of values is odd or the box is not valid.
        """
        half, odd = divmod(len(values), 2)
        if odd:
            raise ValueError(f"a box needs an even number of values, got {len(values)}.")
        return cls(tuple(int(v) for v in values[:half]), tuple(int(v) for v in values[half:]))

    def to_list(self) -> list[int]:
        """Return ``[*start, *stop]``, the inverse of :meth:`from_list`."""
        return [*self.start, *self.stop]

    @property
    def center(self) -> tuple[float, ...]:
        """Position of the middle, per axis, in pixels from the outer corner."""
        return tuple((a + b) / 2 for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of pixels inside."""
        return math.prod(b - a for a, b in zip(self.start, self.stop, strict=True))

    def to_mm(self, spacing_mm: Sequence[float]) -> tuple[float, ...]:
        """Return ``(*start, *stop)`` in millimetres from the outer corner of the first pixel.

        Args:
            spacing_mm: distance of neighbouring pixel centres along each axis, in array order.

        Raises:
            ValueError: if the number of axes differs.
        """
        if len(spacing_mm) != len(self.start):
            raise ValueError(
                f"spacing_mm must have {len(self.start)} values, got {list(spacing_mm)}."
            )
        ends = (*self.start, *self.stop)
        return tuple(value * step for value, step in zip(ends, (*spacing_mm, *spacing_mm)))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a stored image lies in the network's input.

    ``network[i] = stored[axes[i]] * scale[i] + offset[i]`` for each axis ``i`` of the input; all
    values are positions (see the module's head). A negative scale is an axis turned round.

    Args:
        stored_shape: of the image, in its own axes.
        network_shape: of the input.
        scale: network pixels a stored pixel, per axis of the input.
        offset: where the position 0 of the stored axis comes to lie, per axis of the input.
        axes: which stored axis each axis of the input runs along; ``None`` as they are stored.

    Raises:
        ValueError: if ``axes`` does not name each stored axis once, or a scale is 0.
    """

    stored_shape: tuple[int, ...]
    network_shape: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    axes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.stored_shape)
        if sorted(self.order) != list(range(count)) or not all(self.scale):
            raise ValueError(
                f"axes must name each of {count} stored axes once, and no scale may be 0; got "
                f"{self.axes} and {self.scale}."
            )

    @classmethod
    def identity(cls, shape: Sequence[int]) -> Placement:
        """Return the placement of an image that is the input as it is."""
        sides = tuple(int(side) for side in shape)
        return cls(sides, sides, (1.0,) * len(sides), (0.0,) * len(sides))

    @property
    def order(self) -> tuple[int, ...]:
        """Return the stored axis of each axis of the input."""
        return tuple(range(len(self.stored_shape))) if self.axes is None else self.axes

    def to_network(self, position: Sequence[float]) -> tuple[float, ...]:
        """Map a position in stored pixels to network pixels."""
        return tuple(
            position[axis] * s + o
            for axis, s, o in zip(self.order, self.scale, self.offset, strict=True)
        )

    def to_stored(self, position: Sequence[float]) -> tuple[float, ...]:
        """Map a position in network pixels to stored pixels; the inverse of `to_network`."""
        stored = [0.0] * len(self.stored_shape)
        for axis, p, s, o in zip(self.order, position, self.scale, self.offset, strict=True):
            stored[axis] = (p - o) / s
        return tuple(stored)

    def box_to_stored(self, start: Sequence[float], stop: Sequence[float]) -> PixelBox:
        """Smallest stored box that covers the network positions, clipped to the image.

        A box that lies wholly in the padding collapses onto the nearest border pixel.
        """
        ends = list(zip(self.to_stored(start), self.to_stored(stop), strict=True))
        low = [
            min(max(math.floor(min(pair) + 1e-6), 0), n - 1)
            for pair, n in zip(ends, self.stored_shape, strict=True)
        ]
        high = [
            min(max(math.ceil(max(pair) - 1e-6), a + 1), n)
            for pair, a, n in zip(ends, low, self.stored_shape, strict=True)
        ]
        return PixelBox(tuple(low), tuple(high))

    def scaled(
        self, scale: Sequence[float], offset: Sequence[float], shape: Sequence[int]
    ) -> Placement:
        """Return the placement after the input went to ``input * scale + offset``."""
        return replace(
            self,
            network_shape=tuple(int(side) for side in shape),
            scale=tuple(s * t for s, t in zip(self.scale, scale, strict=True)),
            offset=tuple(o * t + u for o, t, u in zip(self.offset, scale, offset, strict=True)),
        )

    def turned(self, axes: Sequence[int], reverse: Sequence[bool]) -> Placement:
        """Return the placement after axis ``i`` became the input's axis ``axes[i]``.

        Args:
            reverse: whether it runs the other way now, per new axis.
        """
        shape = [self.network_shape[axis] for axis in axes]
        moved = Placement(
            self.stored_shape,
            tuple(shape),
            tuple(self.scale[axis] for axis in axes),
            tuple(self.offset[axis] for axis in axes),
            tuple(self.order[axis] for axis in axes),
        )
        signs = [-1.0 if turned else 1.0 for turned in reverse]
        offsets = [float(side) if turned else 0.0 for side, turned in zip(shape, reverse)]
        return moved.scaled(signs, offsets, shape)


@dataclass(frozen=True, slots=True)
class CellGrid:
    """The true place of the feature cells in the network's input.

    Cell ``i`` of an axis is centred at position ``first_center + i * stride`` (network pixels).

    Args:
        shape: number of cells per axis.
        first_center: position of the centre of cell 0, per axis; not always half a stride.
        stride: distance of neighbouring cells, network pixels per axis.
        receptive_field: theoretical side of the field of one cell, network pixels per axis.
    """

    shape: tuple[int, ...]
    first_center: tuple[float, ...]
    stride: tuple[float, ...]
    receptive_field: tuple[float, ...]

    def center(self, cell: Sequence[int]) -> tuple[float, ...]:
        """Position of the centre of ``cell`` (zero-based index per axis)."""
        return tuple(
            f + i * s for i, f, s in zip(cell, self.first_center, self.stride, strict=True)
        )
