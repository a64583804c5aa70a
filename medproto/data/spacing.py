"""Distance of the pixels of a DICOM image, and the attribute that says it.

What a distance means depends on where it is from: at the detector a radiograph shows a part of the
patient enlarged, so millimetres there are not millimetres in the patient.

References:
    [1] DICOM PS3.3, 10.7.1.3 (Pixel Spacing Calibration), C.8.7.9 (Detector), C.8.5.5 (US Region
        Calibration).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pydicom.dataset import Dataset

from medproto.data.gray import number

__all__ = ["Spacing", "distances", "read_spacing"]

_PLANE = 1  # RegionSpatialFormat: a 2-D picture, not a spectrum or a curve
_CENTIMETRES = 3  # PhysicalUnitsXDirection and PhysicalUnitsYDirection


class Spacing(NamedTuple):
    """``(row, column)`` mm between pixel centres, and their kind as in `ImageReference`."""

    mm: tuple[float, float] | None
    kind: str


def read_spacing(dataset: Dataset) -> Spacing:
    """Return the spacing of one frame, see [1].

    ``PixelSpacing`` equal to ``ImagerPixelSpacing`` and without ``PixelSpacingCalibrationType``
    is a distance at the detector. That one is divided by the estimated magnification where the file
    has it. Zeros and values that no image has are as good as none.
    """
    pixel = distances(dataset, "PixelSpacing")
    imager = distances(dataset, "ImagerPixelSpacing")
    calibrated = bool(dataset.get("PixelSpacingCalibrationType"))
    if pixel is not None and (pixel != imager or calibrated):
        return Spacing(pixel, "PixelSpacing")
    if imager is not None:
        factor = number(dataset, "EstimatedRadiographicMagnificationFactor")
        if factor is None or not 1 <= factor <= 10:
            return Spacing(imager, "ImagerPixelSpacing")
        kind = "EstimatedRadiographicMagnificationFactor"
        return Spacing((imager[0] / factor, imager[1] / factor), kind)
    nominal = distances(dataset, "NominalScannedPixelSpacing")
    if nominal is not None:
        return Spacing(nominal, "NominalScannedPixelSpacing")
    regions = _ultrasound(dataset)
    return Spacing(regions, "none" if regions is None else "SequenceOfUltrasoundRegions")


def distances(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    """Return the two distances of an attribute in millimetres, ``None`` if they are not plausible.

    A micrometre to five centimetres: outside it a value is no distance of pixels.
    """
    try:
        row, column = (float(v) for v in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return (row, column) if _plausible(row, column) else None


def _plausible(row: float, column: float) -> bool:
    return all(math.isfinite(v) and 1e-3 <= v <= 50 for v in (row, column))


def _ultrasound(dataset: Dataset) -> tuple[float, float] | None:
    """Return the spacing that all calibrated pictures in an ultrasound image share.

    An image with several pictures of different scale has none that is true everywhere.
    """
    found = set()
    for region in dataset.get("SequenceOfUltrasoundRegions") or ():
        units = [number(region, f"PhysicalUnits{axis}Direction") for axis in "XY"]
        if number(region, "RegionSpatialFormat") != _PLANE or units != [_CENTIMETRES] * 2:
            continue
        column, row = (abs(number(region, f"PhysicalDelta{axis}") or 0) * 10 for axis in "XY")
        found.add((round(row, 9), round(column, 9)))
    spacing = found.pop() if len(found) == 1 else (0.0, 0.0)
    return spacing if _plausible(*spacing) else None
