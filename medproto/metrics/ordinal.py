"""Metrics for grades in order.

Symbols: ``N`` cases, ``C`` grades. ``probabilities`` is ``[N, C]``, rows summing to 1; ``labels``
is ``[N]``, whole numbers ``0..C-1``.

The predicted grade is the median of the distribution: the number of thresholds that the case
passes with more than an even chance [1]. It has the smallest expected error in grades; the most
probable grade, the mode, may be another.

References:
    [1] Cao, Mirjalili, Raschka, "Rank consistent ordinal regression for neural networks", Pattern
        Recognition Letters 140, 2020. https://arxiv.org/abs/1901.07884
    [2] Cohen, "Weighted kappa", Psychological Bulletin 70, 1968.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.metrics.base import Metric, bootstrap, metric
from medproto.metrics.classification import auroc, confusion, expected_calibration_error

__all__ = [
    "grade_accuracy",
    "grade_error",
    "ordinal_auroc",
    "predicted_grade",
    "quadratic_weighted_kappa",
    "summarize_ordinal",
]

_ROUNDING = 1e-6  # of a float32 softmax

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def predicted_grade(probabilities: ArrayLike) -> Integers:
    """Return the median grade ``[N]`` of each row; the lower of two at exactly even chances.

    Raises:
        ValueError: if the shape is not ``[N, C >= 2]`` or a row does not sum to 1.
    """
    return np.asarray((_exceeding(probabilities) > 0.5).sum(axis=1), dtype=np.int64)


@metric(direction="higher is better", applies_to="probabilities of grades; two grades occur")
def quadratic_weighted_kappa(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Agreement of predicted and true grade beyond chance [2], -1 to 1; 0 is chance.

    A disagreement by ``d`` grades costs ``d ** 2``. ``None`` where all cases have and get one and
    the same grade.

    Raises:
        ValueError: as :func:`predicted_grade`, or if a label is out of range.
    """
    predicted, targets, _ = _checked(probabilities, labels)
    if not len(targets):
        return None
    # Expected over all pairs of a prediction and a label, as if they had nothing to do with
    # each other: E(p - t)^2 = var p + var t + (mean p - mean t)^2.
    chance = predicted.var() + targets.var() + (predicted.mean() - targets.mean()) ** 2
    return float(1 - np.mean((predicted - targets) ** 2) / chance) if chance > 0 else None


@metric(direction="lower is better", applies_to="probabilities of grades; at least one case")
def grade_error(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean absolute error of the predicted grade, in grades, 0 to ``C - 1``.

    Raises:
        ValueError: as :func:`quadratic_weighted_kappa`.
    """
    predicted, targets, _ = _checked(probabilities, labels)
    return float(np.mean(np.abs(predicted - targets))) if len(targets) else None


@metric(direction="higher is better", applies_to="probabilities of grades; at least one case")
def grade_accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Share of the cases whose predicted grade is the true one, 0 to 1.

    Raises:
        ValueError: as :func:`quadratic_weighted_kappa`.
    """
    predicted, targets, _ = _checked(probabilities, labels)
    return float(np.mean(predicted == targets)) if len(targets) else None


@metric(direction="higher is better", applies_to="probabilities of grades; two grades occur")
def ordinal_auroc(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean over the thresholds ``k`` of the AUROC of "the grade exceeds ``k``", 0 to 1.

    A threshold with cases on one side only, for lack of a grade, is left out.

    Raises:
        ValueError: as :func:`quadratic_weighted_kappa`.
    """
    _, targets, exceeding = _checked(probabilities, labels)
    figures = [
        auroc(exceeding[:, k], (targets > k).astype(np.int64)) for k in range(exceeding.shape[1])
    ]
    defined = [figure for figure in figures if figure is not None]
    return float(np.mean(defined)) if defined else None


def summarize_ordinal(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[object] | NDArray[Any],
    grades: Sequence[str],
    *,
    seed: int = 0,
    rounds: int = 1000,
) -> dict[str, Any]:
    """Agreement, error, discrimination and calibration of one classifier of grades.

    Args:
        probabilities: ``[N, C]``.
        labels: ``[N]``.
        groups: ``[N]`` patient or group of each case.
        grades: ``C`` names, lowest first.
        seed: of the bootstrap.
        rounds: of the bootstrap.

    Returns:
        ``n``, ``groups``, ``classes``, ``quadratic_weighted_kappa``, ``grade_error``,
        ``grade_accuracy``, ``auroc``, ``ece`` (each ``value``, ``low``, ``high``) and ``confusion``
        (of the predicted grade).

    Raises:
        ValueError: as :func:`quadratic_weighted_kappa`, or if the number of names differs.
    """
    predicted, targets, exceeding = _checked(probabilities, labels)
    if len(grades) != exceeding.shape[1] + 1:
        raise ValueError(f"grades must be {exceeding.shape[1] + 1} names, got {len(grades)}.")
    measures: dict[str, Metric] = {
        "quadratic_weighted_kappa": quadratic_weighted_kappa,
        "grade_error": grade_error,
        "grade_accuracy": grade_accuracy,
        "auroc": ordinal_auroc,
        "ece": expected_calibration_error,
    }
    figures = {
        name: bootstrap(
            measure, probabilities, targets, groups=groups, seed=seed, rounds=rounds
        ).to_dict()
        for name, measure in measures.items()
    }
    return {
        "n": len(targets),
        "groups": len(set(groups)),
        "classes": list(grades),
        **figures,
        "confusion": confusion(predicted, targets, classes=grades),
    }


def _exceeding(probabilities: ArrayLike) -> Floats:
    """Return P(grade > k) ``[N, C - 1]``."""
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.ndim != 2 or chances.shape[1] < 2:
        raise ValueError(
            f"probabilities must have shape [cases, grades >= 2], got {list(chances.shape)}."
        )
    if not (chances >= -_ROUNDING).all() or not np.allclose(chances.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError(
            "probabilities must be >= 0 and sum to 1 in each row. "
            "Pass `probabilities(logits, head='ordinal')`."
        )
    return np.asarray(np.cumsum(chances[:, ::-1], axis=1)[:, ::-1][:, 1:])


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Integers, Integers, Floats]:
    """Return predicted grades, labels, and P(grade > k)."""
    exceeding = _exceeding(probabilities)
    predicted = np.asarray((exceeding > 0.5).sum(axis=1), dtype=np.int64)
    targets = np.asarray(labels)
    count = exceeding.shape[1] + 1
    if targets.shape != (len(exceeding),):
        raise ValueError(f"labels must have shape [{len(exceeding)}], got {list(targets.shape)}.")
    if not np.isin(targets, np.arange(count)).all():
        raise ValueError(f"labels must be whole numbers in 0..{count - 1}, got another value.")
    return predicted, targets.astype(np.int64), exceeding
