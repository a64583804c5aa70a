"""Metrics: arrays in, numbers with intervals out. No network, no torch.

``METRICS`` lists every metric for tables: each has ``name``, ``direction`` and ``applies_to``.
"""

from medproto.metrics.aggregation import Aggregate, aggregate
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
from medproto.metrics.calibration import (
    TEMPERATURE_BOUNDS,
    Temperature,
    apply_temperature,
    fit_temperature,
    probabilities,
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
from medproto.metrics.conformal import (
    ConformalSets,
    abstention_rate,
    conformal_quantile,
    set_coverage,
)
from medproto.metrics.folds import mean_over_folds
from medproto.metrics.localization import (
    box_area_share,
    chance_by_area,
    constant_location,
    energy_inside,
    image_center,
    pointing_game,
)
from medproto.metrics.multilabel import (
    multilabel_auroc,
    multilabel_average_precision,
    multilabel_calibration_error,
    summarize_multilabel,
)
from medproto.metrics.ordinal import (
    grade_accuracy,
    grade_error,
    ordinal_auroc,
    predicted_grade,
    quadratic_weighted_kappa,
    summarize_ordinal,
)
from medproto.metrics.out_of_distribution import OutOfDistribution
from medproto.metrics.prototypes import PrototypeQuality, prototype_quality
from medproto.metrics.summary import (
    summarize_classification,
    summarize_localization,
    summarize_subgroups,
)

__all__ = [
    "Aggregate",
    "CaseMetric",
    "ConformalSets",
    "Direction",
    "METRICS",
    "Metric",
    "MetricResult",
    "OutOfDistribution",
    "PrototypeQuality",
    "TEMPERATURE_BOUNDS",
    "Temperature",
    "abstention_rate",
    "aggregate",
    "apply_temperature",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap",
    "box_area_share",
    "case_metric",
    "chance_by_area",
    "conformal_quantile",
    "confusion",
    "constant_location",
    "energy_inside",
    "expected_calibration_error",
    "fit_temperature",
    "grade_accuracy",
    "grade_error",
    "image_center",
    "mean_over_folds",
    "metric",
    "multilabel_auroc",
    "multilabel_average_precision",
    "multilabel_calibration_error",
    "operating_point",
    "ordinal_auroc",
    "paired_difference",
    "pointing_game",
    "predicted_grade",
    "probabilities",
    "prototype_quality",
    "quadratic_weighted_kappa",
    "sensitivity",
    "set_coverage",
    "specificity",
    "summarize_classification",
    "summarize_localization",
    "summarize_multilabel",
    "summarize_ordinal",
    "summarize_subgroups",
]

METRICS: tuple[Metric | CaseMetric, ...] = (
    auroc,
    average_precision,
    balanced_accuracy,
    expected_calibration_error,
    sensitivity,
    specificity,
    multilabel_auroc,
    multilabel_average_precision,
    multilabel_calibration_error,
    ordinal_auroc,
    quadratic_weighted_kappa,
    grade_accuracy,
    grade_error,
    set_coverage,
    abstention_rate,
    pointing_game,
    energy_inside,
    box_area_share,
    chance_by_area,
)
