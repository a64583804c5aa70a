"""Where a DICOM frame lies in the patient: position, orientation, and the affine of its indices.

Millimetres along DICOM's patient axes: to the left, to the back, to the head.

References:
    [1] DICOM PS3.3, C.7.6.2.1.1 (Image Position and Image Orientation).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

__all__ = ["Plane", "read_plane"]

Vector = NDArray[np.float64]


class Plane(NamedTuple):
    """Place of a frame.

    Args:
        origin: ``[3]`` centre of the first pixel, mm.
        down: ``[3]`` unit vector of increasing row indices.
        right: ``[3]`` unit vector of increasing column indices.
    """

    origin: Vector
    down: Vector
    right: Vector

    @property
    def normal(self) -> Vector:
        """Unit vector across the plane, ``right`` x ``down``: toward the head of an axial slice."""
        return np.cross(self.right, self.down)

    def affine(self, spacing_mm: tuple[float, float]) -> tuple[tuple[float, ...], ...]:
        """Return three rows of three numbers: from ``(row, column)`` indices to mm, see [1]."""
        columns = [self.down * spacing_mm[0], self.right * spacing_mm[1], self.origin]
        return tuple(tuple(float(v) for v in row) for row in np.stack(columns, axis=1))


def read_plane(dataset: Dataset) -> Plane | None:
    """Return the place of a plain image, or of a frame laid flat; ``None`` if it is not given.

    Directions that are not of unit length and at right angles (to 1 %) give none.
    """
    origin = _numbers(dataset.get("ImagePositionPatient"), 3)
    cosines = _numbers(dataset.get("ImageOrientationPatient"), 6)
    if origin is None or cosines is None:
        return None
    right, down = cosines[:3], cosines[3:]
    products = np.array([right @ right, down @ down, right @ down])
    if np.abs(products - [1, 1, 0]).max() > 0.01:
        return None
    right = right / np.linalg.norm(right)
    down = down - (down @ right) * right
    return Plane(origin, down / np.linalg.norm(down), right)


def _numbers(value: Any, count: int) -> Vector | None:
    try:
        numbers = np.array([float(v) for v in value or ()])
    except (TypeError, ValueError):
        return None
    # Ten metres: beyond it a position is no place in a patient.
    valid = numbers.shape == (count,) and bool((np.abs(numbers) < 1e4).all())
    return numbers if valid else None
