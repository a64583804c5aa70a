"""Slices in their order in the patient, by their positions and never by file name or number.

A volume is a stack of parallel planes at even distances, one right above the other. What is not is
refused with its reason, since an array of it would show the patient bent, stretched or with a part
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medproto.data.patient_space import Plane
from medproto.errors import ImageReadError

__all__ = ["Stack", "stack_planes"]

_EVEN = 0.1  # of the distance
_ROUNDING_MM = 0.11  # positions are often rounded to a tenth of a millimetre
_TILT_DEGREES = 0.5
_PARALLEL = 1e-3  # largest difference of direction cosines


class Stack(NamedTuple):
    """The order of the slices and the way from each to the next.

    Args:
        order: positions in the given sequence, along ``right`` x ``down`` of the planes.
        step_mm: distance of neighbouring slices.
        affine: three rows of four numbers: from ``(row, column, slice)`` indices to mm.
    """

    order: tuple[int, ...]
    step_mm: float
    affine: tuple[tuple[float, ...], ...]


def stack_planes(planes: Sequence[Plane | None], spacing_mm: tuple[float, float]) -> Stack:
    """Order at least two planes into a stack.

    Args:
        planes: of the slices, in any order; ``None`` where a file does not say.
        spacing_mm: of the pixels in each, ``(row, column)``.

    Raises:
        ImageReadError: if a place is not known or taken twice, a slice is missing, the distances
            are uneven, the planes are not parallel, or the stack is tilted.
    """
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes):
        raise ImageReadError(
            f"every slice must say where it lies (ImagePositionPatient, ImageOrientationPatient): "
            f"{len(planes) - len(known)} of {len(planes)} do not."
        )
    if len(known) < 2:
        raise ImageReadError("a volume must have at least 2 slices, got 1.")
    first = known[0]
    directions = np.stack([np.concatenate([plane.right, plane.down]) for plane in known])
    if np.abs(directions - directions[0]).max() > _PARALLEL:
        raise ImageReadError(
            "the slices of a volume must be parallel, and are not: a localizer among them, or a "
            "radial or curved series."
        )
    origins = np.stack([plane.origin for plane in known])
    heights = origins @ first.normal
    order = np.argsort(heights, kind="stable")
    _check_gaps(np.diff(heights[order]))
    lowest, highest = origins[order[0]], origins[order[-1]]
    _check_tilt(highest - lowest, first)
    way = (highest - lowest) / (len(known) - 1)
    columns = [first.down * spacing_mm[0], first.right * spacing_mm[1], way, lowest]
    rows = np.stack(columns, axis=1)
    return Stack(
        tuple(int(k) for k in order),
        float(np.linalg.norm(way)),
        tuple(tuple(float(v) for v in row) for row in rows),
    )


def _check_gaps(gaps: np.ndarray) -> None:
    """Refuse distances of the slices that are none, too large or uneven.

    Args:
        gaps: between neighbours in their order, mm.
    """
    step = float(np.median(gaps))
    same = int((gaps < 1e-3).sum())
    if same:
        raise ImageReadError(
            f"every slice must have a place of its own, {same} of {len(gaps) + 1} lie where "
            "another does: copies, or several phases, echoes or times in one series; give each a "
            "folder."
        )
    if not 1e-3 <= step <= 100:
        raise ImageReadError(f"the distance of the slices must be plausible, got {step:g} mm.")
    worst = int(np.abs(gaps - step).argmax())
    if gaps[worst] > 1.5 * step:
        missing = round(gaps[worst] / step) - 1
        raise ImageReadError(
            f"no slice may be missing: between slices {worst} and {worst + 1} lie "
            f"{gaps[worst]:.4g} mm where the others are {step:.4g} mm apart, so {max(missing, 1)} "
            "are not there."
        )
    if abs(gaps[worst] - step) > max(_EVEN * step, _ROUNDING_MM):
        raise ImageReadError(
            f"the slices must lie at even distances: {step:.4g} mm, but {gaps[worst]:.4g} mm "
            f"between slices {worst} and {worst + 1}."
        )


def _check_tilt(way: np.ndarray, plane: Plane) -> None:
    """Refuse slices that are shifted sideways against each other, as with a tilted gantry."""
    along = float(way @ plane.normal)
    sideways = float(np.linalg.norm(way - along * plane.normal))
    degrees = float(np.degrees(np.arctan2(sideways, along)))
    if degrees > _TILT_DEGREES:
        raise ImageReadError(
            f"the slices must lie right above each other, and are tilted by {degrees:.1f} degrees "
            "(GantryDetectorTilt): resample them to a straight stack, and save that as NIfTI."
        )
