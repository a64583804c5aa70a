"""Explanations: the evidence of a prediction, its place in the image, and a second opinion."""

from .attribution import attribute_place
from .boxes import peak_boxes
from .effective_center import Shifts, measure_shifts
from .evidence import (
    COMPLETENESS_TOLERANCE,
    explain,
    explain_batch,
    heat_maps,
    network_box,
    source_box,
)
from .faithfulness import box_faithfulness
from .geometry import CellMap, cells_to_network, cells_to_stored
from .grad_cam import GradCam
from .prototype_boxes import prototype_boxes, prototype_grid

__all__ = [
    "COMPLETENESS_TOLERANCE",
    "CellMap",
    "GradCam",
    "Shifts",
    "attribute_place",
    "box_faithfulness",
    "cells_to_network",
    "cells_to_stored",
    "explain",
    "explain_batch",
    "heat_maps",
    "measure_shifts",
    "network_box",
    "peak_boxes",
    "prototype_boxes",
    "prototype_grid",
    "source_box",
]
