"""Explanations: the evidence of a prediction, its place in the image, and a second opinion."""

from .attribution import attribute_place
from .boxes import peak_boxes
from .effective_center import measure_center_shift
from .evidence import (
    COMPLETENESS_TOLERANCE,
    explain,
    explain_batch,
    heat_maps,
    network_box,
    source_box,
)
from .faithfulness import box_faithfulness
from .geometry import cells_to_network, cells_to_stored
from .grad_cam import GradCam

__all__ = [
    "COMPLETENESS_TOLERANCE",
    "GradCam",
    "attribute_place",
    "box_faithfulness",
    "cells_to_network",
    "cells_to_stored",
    "explain",
    "explain_batch",
    "heat_maps",
    "measure_center_shift",
    "network_box",
    "peak_boxes",
    "source_box",
]
