"""Metrics: arrays in, numbers with intervals out. No network, no torch.

``METRICS`` lists every metric for tables: each has ``name``, ``direction`` and ``applies_to``.
"""

from medproto.metrics.base import (
    CaseMetric,
    Direction,
    Metric,
    MetricResult,
    bootstrap,
    case_metric,
    metric,
    paired_difference,
)
from medproto.metrics.classification import (
    auroc,
    average_precision,
    balanced_accuracy,
    confusion,
    expected_calibration_error,
    operating_point,
    sensitivity,
    specificity,
)
from medproto.metrics.localization import (
    box_area_share,
    chance_by_area,
    constant_location,
    energy_inside,
    image_center,
    pointing_game,
)
from medproto.metrics.prototypes import PrototypeQuality, prototype_quality
from medproto.metrics.summary import summarize_classification, summarize_localization

__all__ = [
    "CaseMetric",
    "Direction",
    "METRICS",
    "Metric",
    "MetricResult",
    "PrototypeQuality",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap",
    "box_area_share",
    "case_metric",
    "chance_by_area",
    "confusion",
    "constant_location",
    "energy_inside",
    "expected_calibration_error",
    "image_center",
    "metric",
    "operating_point",
    "paired_difference",
    "pointing_game",
    "prototype_quality",
    "sensitivity",
    "specificity",
    "summarize_classification",
    "summarize_localization",
]

METRICS: tuple[Metric | CaseMetric, ...] = (
    auroc,
    average_precision,
    balanced_accuracy,
    expected_calibration_error,
    sensitivity,
    specificity,
    pointing_game,
    energy_inside,
    box_area_share,
    chance_by_area,
)
