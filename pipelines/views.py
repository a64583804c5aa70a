"""How an image is looked at: a plane as it is, a volume as three planes through one place.

Symbols: ``*S`` axes of the stored image, ``rows, cols`` of what is drawn.

A volume is turned to stand as clinicians look at it and its voxels get their true proportions. Four
quarters: axial above, coronal below it, sagittal beside that, so that the patient's left and right
stand above each other and the heights side by side; the fourth stays empty. Letters say the sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medproto.explain import CellMap
from medproto.records import ImageReference, PixelBox, Placement
from medproto.transforms import axes_toward, upright

from .raster import cut, picture_uri

__all__ = ["PlaneView", "View", "VolumeView", "picture_of", "view_of"]

Floats = NDArray[np.floating[Any]]

CODE = "PLS"
"""Axes of a turned volume: toward the back, toward the patient's left, toward the head."""

PLANES = ((0, 1), (2, 1), (2, 0))
"""Axial, coronal and sagittal: which turned axis runs down and which across."""

LETTERS = (("A", "R"), ("H", "R"), ("H", "A"))
"""What lies at the upper and at the left side of each."""

GAP = 0.02
LETTER = 0.05
"""Shares of the whole's longer side."""


class View(Protocol):
    """What pages need to draw an image, whatever its axes."""

    @property
    def enlarged(self) -> float:
        """How much larger a picture should be than that of a plane."""

    def image(self, pixels: Floats) -> Floats:
        """Return ``[rows, cols]`` of the stored image ``[*S]``."""

    def heat(self, cells: CellMap) -> Floats:
        """Return ``[rows, cols]`` of a map of cells."""

    def boxes(self, box: PixelBox) -> list[PixelBox]:
        """Return where a box of stored pixels shows; nowhere if it is off the planes."""

    def patch(self, pixels: Floats, box: PixelBox) -> Floats:
        """Return ``[rows, cols]`` of the part of the stored image inside a box."""


@dataclass(frozen=True, slots=True)
class PlaneView:
    """An image of rows and columns, as it is stored."""

    enlarged: float = 1.0

    def image(self, pixels: Floats) -> Floats:
        """Return it as it is."""
        return pixels

    def heat(self, cells: CellMap) -> Floats:
        """Return the map on the stored pixels."""
        return cells.drawn()

    def boxes(self, box: PixelBox) -> list[PixelBox]:
        """Return the box."""
        return [box]

    def patch(self, pixels: Floats, box: PixelBox) -> Floats:
        """Return the pixels inside the box."""
        return cut(pixels, box)


def view_of(reference: ImageReference, position: Sequence[float] | None = None) -> View:
    """Return the view of an image; of a volume the planes through a place.

    Args:
        position: in stored pixels, as the centre of a box; ``None`` is the middle. Of no effect for
            a plane.

    Raises:
        ValueError: if a volume does not say how it lies in the patient.
    """
    if len(reference.shape) == 2:
        return PlaneView()
    if reference.affine is None:
        raise ValueError("a volume must have an affine, to be turned as people look at it.")
    axes, reverse = axes_toward(reference.affine, CODE)
    middle = [side / 2 for side in reference.shape]
    return VolumeView(
        Placement.identity(reference.shape).turned(axes, reverse),
        tuple((reference.spacing_mm or (1.0,) * 3)[axis] for axis in axes),
        tuple(middle if position is None else position),
    )


def picture_of(
    view: View,
    pixels: Floats,
    *,
    cells: CellMap | None = None,
    boxes: Sequence[tuple[PixelBox, str]] = (),
    side: int,
) -> str:
    """Return a small picture of a stored image ``[*S]`` as a data URI.

    Args:
        cells: drawn over it.
        boxes: in stored pixels, with their colors.
        side: longer side of the picture in pixels, for a plane.
    """
    drawn = [(part, color) for box, color in boxes for part in view.boxes(box)]
    heat = None if cells is None else view.heat(cells)
    return picture_uri(view.image(pixels), heat=heat, boxes=drawn, side=round(side * view.enlarged))


@dataclass(frozen=True, slots=True)
class VolumeView:
    """Three planes of a volume.

    Args:
        turned: from the stored voxels to those of the axes ``CODE``.
        spacing: of the turned axes, millimetres or any other unit.
        position: that the planes go through, in stored voxels.
        letters: say which side is which.
    """

    turned: Placement
    spacing: tuple[float, ...]
    position: tuple[float, ...]
    letters: bool = True
    enlarged: float = 1.6

    def image(self, pixels: Floats) -> Floats:
        """Return the three planes of ``pixels [*S]``."""
        volume = upright(pixels, self.turned)
        planes = []
        for down, across in PLANES:
            normal = 3 - down - across
            plane = np.take(volume, self._index(normal), axis=normal)  # axes left in their order
            plane = plane if down < across else plane.T
            rows, cols = (self._voxels(axis) for axis in (down, across))
            planes.append(plane[np.ix_(self._downward(rows, down), cols)])
        return self._together(planes, letters=self.letters)

    def heat(self, cells: CellMap) -> Floats:
        """Return the three planes of a map of cells."""
        planes = []
        for down, across in PLANES:
            normal = 3 - down - across
            lines = {axis: (self._voxels(axis) + 0.5) for axis in (down, across)}
            lines[down] = self._downward(lines[down], down)
            lines[normal] = np.array([self._index(normal) + 0.5])
            values = cells.at(self._stored(lines)).transpose(self.turned.order)
            plane = np.take(values, 0, axis=normal)
            planes.append(plane if down < across else plane.T)
        # What lies between the planes must not count when colors are scaled to the map's range.
        return self._together(planes, letters=False, between=min(float(p.min()) for p in planes))

    def boxes(self, box: PixelBox) -> list[PixelBox]:
        """Return the parts of the box on the planes that it meets, in pixels of what is drawn."""
        ends = [self.turned.to_network(corner) for corner in (box.start, box.stop)]
        low = [min(pair) for pair in zip(*ends, strict=True)]
        high = [max(pair) for pair in zip(*ends, strict=True)]
        found = []
        for (down, across), (top, left) in zip(PLANES, self._corners(), strict=True):
            normal = 3 - down - across
            if not low[normal] <= self._index(normal) < high[normal]:
                continue
            rows = [low[down], high[down]]
            if down == 2:
                rows = [self._side(2) - value for value in reversed(rows)]
            scaled = [self._scale(down) * value for value in rows]
            scaled += [self._scale(across) * value for value in (low[across], high[across])]
            first, last, begin, end = (round(value) for value in scaled)
            found.append(
                PixelBox(
                    (top + first, left + begin),
                    (top + max(last, first + 1), left + max(end, begin + 1)),
                )
            )
        return found

    def patch(self, pixels: Floats, box: PixelBox) -> Floats:
        """Return the three planes through the middle of a box, cut to it."""
        part = cut(pixels, box)
        turned = Placement.identity(part.shape).turned(
            self.turned.order, [scale < 0 for scale in self.turned.scale]
        )
        middle = tuple(side / 2 for side in part.shape)
        return VolumeView(turned, self.spacing, middle, letters=False).image(part)

    def _side(self, axis: int) -> int:
        return self.turned.network_shape[axis]

    def _scale(self, axis: int) -> float:
        """Drawn pixels a voxel: the finest axis has one."""
        return self.spacing[axis] / min(self.spacing)

    def _length(self, axis: int) -> int:
        return max(1, round(self._side(axis) * self._scale(axis)))

    def _index(self, axis: int) -> int:
        """Voxel of a turned axis that the planes go through."""
        place = self.turned.to_network(self.position)[axis]
        return min(max(int(place), 0), self._side(axis) - 1)

    def _voxels(self, axis: int) -> NDArray[np.intp]:
        """Voxel of each drawn pixel along a turned axis."""
        length = self._length(axis)
        return ((np.arange(length) + 0.5) * self._side(axis) / length).astype(np.intp)

    @staticmethod
    def _downward(values: NDArray[Any], axis: int) -> NDArray[Any]:
        """The head is above."""
        return values[::-1] if axis == 2 else values

    def _stored(self, lines: dict[int, NDArray[np.floating[Any]]]) -> list[NDArray[Any]]:
        """Positions along each stored axis of positions along the turned ones."""
        stored: list[NDArray[Any]] = [np.empty(0)] * 3
        for axis, (order, scale, offset) in enumerate(
            zip(self.turned.order, self.turned.scale, self.turned.offset, strict=True)
        ):
            stored[order] = (lines[axis] - offset) / scale
        return stored

    def _gap(self) -> int:
        depth, width, height = (self._length(axis) for axis in range(3))
        return max(2, round(GAP * max(depth + height, width + depth)))

    def _corners(self) -> list[tuple[int, int]]:
        """Upper left corner of each plane."""
        below, beside = self._length(0) + self._gap(), self._length(1) + self._gap()
        return [(0, 0), (below, 0), (below, beside)]

    def _together(self, planes: Sequence[Floats], *, letters: bool, between: float = 0.0) -> Floats:
        (_, _), (below, _), (_, beside) = self._corners()
        shape = below + planes[1].shape[0], beside + planes[2].shape[1]
        whole = np.full(shape, between, dtype=np.float32)
        for plane, (top, left) in zip(planes, self._corners(), strict=True):
            whole[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
        return self._lettered(whole, planes) if letters else whole

    def _lettered(self, whole: NDArray[np.float32], planes: Sequence[Floats]) -> Floats:
        height = max(8, round(LETTER * max(whole.shape)))
        font = ImageFont.load_default(size=height)
        ink = Image.new("L", whole.shape[::-1])
        draw = ImageDraw.Draw(ink)
        for plane, names, (top, left) in zip(planes, LETTERS, self._corners(), strict=True):
            rows, cols = plane.shape
            places = ((left + cols / 2, top), (left + height / 3, top + rows / 2 - height / 2))
            for name, place in zip(names, places, strict=True):
                draw.text(place, name, fill=255, font=font, anchor="ma")
        return np.maximum(whole, np.asarray(ink, dtype=np.float32) / 255)
