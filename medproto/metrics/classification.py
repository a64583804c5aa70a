"""Discrimination and calibration of a classifier.

Symbols: ``N`` cases, ``K`` classes. ``probabilities`` is ``[N, K]``, or ``[N]`` for the second of
two classes (class 1, the positive one). ``labels`` is ``[N]``, whole numbers ``0..K-1``. With more
than two classes a ranking metric is the mean over one-against-the-rest ("macro").

A metric that the labels do not define (an AUROC where a class is absent) is ``None``, not an error:
a small split or subgroup may well be like that.

References:
    [1] Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.
        https://arxiv.org/abs/1706.04599
    [2] Youden, "Index for rating diagnostic tests", Cancer 3, 1950.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.metrics.base import metric

__all__ = [
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "confusion",
    "expected_calibration_error",
    "operating_point",
    "sensitivity",
    "specificity",
]

_ROUNDING = 1e-6  # of a float32 softmax

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@metric(
    direction="higher is better",
    applies_to="scores of any scale for two classes, probabilities for more; every class occurs",
)
def auroc(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve, 0 to 1: how often a positive outranks a negative, ties half.

    Raises:
        ValueError: if the shapes disagree, a score is not finite or a label is out of range.
    """
    return _macro(_auroc, probabilities, labels)


@metric(
    direction="higher is better",
    applies_to="scores of any scale for two classes, probabilities for more; every class occurs",
)
def average_precision(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean precision over the recall steps, 0 to 1; chance is the share of positives.

    Equal scores enter together, and precision is not interpolated.

    Raises:
        ValueError: as :func:`auroc`.
    """
    return _macro(_average_precision, probabilities, labels)


@metric(direction="higher is better", applies_to="probabilities; every class occurs")
def balanced_accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean recall over the classes, 0 to 1, of the most probable class (the first of equals).

    Raises:
        ValueError: as :func:`auroc`.
    """
    chances, targets = _checked(probabilities, labels)
    counts = np.bincount(targets, minlength=chances.shape[1])
    if (counts == 0).any():
        return None
    right = targets[chances.argmax(axis=1) == targets]
    return float(np.mean(np.bincount(right, minlength=len(counts)) / counts))


@metric(direction="lower is better", applies_to="probabilities; at least one case")
def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15
) -> float | None:
    """Mean distance of confidence and accuracy, 0 to 1, over bins of the winning probability.

    Equal-width bins ``(low, high]`` over 0 to 1, weighted by their cases, see [1].

    Raises:
        ValueError: as :func:`auroc`, or if a probability lies outside 0 to 1.
    """
    chances, targets = _checked(probabilities, labels)
    if not targets.size:
        return None
    if chances.min() < -_ROUNDING or chances.max() > 1.0 + _ROUNDING:
        raise ValueError(
            "probabilities must lie in 0..1, "
            f"got {chances.min():.4g} to {chances.max():.4g}. Pass the softmax of logits."
        )
    confidence = chances.max(axis=1)
    right = chances.argmax(axis=1) == targets
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    surplus = np.bincount(index, weights=confidence - right, minlength=bins)
    return float(np.abs(surplus).sum() / len(targets))


@metric(direction="higher is better", applies_to="scores of two classes; a positive case occurs")
def sensitivity(scores: ArrayLike, labels: ArrayLike, *, threshold: float) -> float | None:
    """Share of the positive cases with ``score >= threshold``, 0 to 1.

    Raises:
        ValueError: as :func:`auroc`, or if there are more than two classes.
    """
    positive, targets = _binary(scores, labels)
    chosen = positive[targets == 1]
    return float(np.mean(chosen >= threshold)) if chosen.size else None


@metric(direction="higher is better", applies_to="scores of two classes; a negative case occurs")
def specificity(scores: ArrayLike, labels: ArrayLike, *, threshold: float) -> float | None:
    """Share of the negative cases with ``score < threshold``, 0 to 1.

    Raises:
        ValueError: as :func:`sensitivity`.
    """
    positive, targets = _binary(scores, labels)
    chosen = positive[targets == 0]
    return float(np.mean(chosen < threshold)) if chosen.size else None


def operating_point(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Threshold with the largest sensitivity + specificity - 1, Youden's J [2].

    Choose it on validation cases; chosen on the cases it is reported for, it flatters. It lies
    midway between two scores; of equally good ones the lowest is taken (more sensitivity).

    Args:
        scores: ``[N]``, or ``[N, 2]``; positive is ``score >= threshold``.
        labels: ``[N]``, 0 or 1.

    Returns:
        The threshold, ``None`` where a class is absent.

    Raises:
        ValueError: as :func:`sensitivity`.
    """
    positive, targets = _binary(scores, labels)
    positives = int(targets.sum())
    negatives = len(targets) - positives
    if not positives or not negatives:
        return None
    levels, index = np.unique(positive, return_inverse=True)  # rising
    hits = np.bincount(index, weights=targets, minlength=len(levels))
    cases = np.bincount(index, minlength=len(levels))
    true = positives - np.cumsum(hits) + hits  # at or above each level
    false = negatives - np.cumsum(cases - hits) + (cases - hits)
    # Whole numbers, so that equally good thresholds compare equal.
    best = int(np.argmax(true * negatives - false * positives))
    if best == 0:
        return float(levels[0])
    below, level = levels[best - 1], levels[best]
    middle = below + (level - below) / 2
    return float(middle if middle > below else level)


def confusion(predicted: ArrayLike, labels: ArrayLike, *, classes: Sequence[str]) -> dict[str, Any]:
    """Count the cases: ``{"labels": [...], "matrix": [[...]]}``, rows true, columns predicted.

    Args:
        predicted: ``[N]`` classes, zero-based.
        labels: ``[N]`` classes, zero-based.
        classes: ``[K]`` names.

    Raises:
        ValueError: if the shapes disagree or a class is out of range.
    """
    count = len(classes)
    rows, columns = _classes("labels", labels, count), _classes("predicted", predicted, count)
    if rows.shape != columns.shape:
        raise ValueError(
            f"predicted must have shape {list(rows.shape)}, got {list(columns.shape)}."
        )
    matrix = np.bincount(rows * count + columns, minlength=count * count).reshape(count, count)
    return {"labels": list(classes), "matrix": matrix.tolist()}


def _auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Mann-Whitney's U over the number of pairs, from ranks that ties share."""
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[index]  # 1-based, the mean rank among equals
    hits = int(positive.sum())
    wins = ranks[positive].sum() - hits * (hits + 1) / 2
    return float(wins / (hits * (len(scores) - hits)))


def _average_precision(scores: Floats, positive: NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # last of each tie
    true = np.cumsum(positive[order])[last]
    precision = true / (last + 1)
    recall = np.concatenate([[0.0], true / true[-1]])
    return float(np.sum(np.diff(recall) * precision))


def _macro(
    measure: Callable[[Floats, NDArray[np.bool_]], float],
    probabilities: ArrayLike,
    labels: ArrayLike,
) -> float | None:
    chances, targets = _checked(probabilities, labels)
    count = chances.shape[1]
    if (np.bincount(targets, minlength=count) == 0).any():
        return None
    if count == 2:
        return measure(chances[:, 1], targets == 1)
    return float(np.mean([measure(chances[:, k], targets == k) for k in range(count)]))


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    """Return ``[N, K]`` scores and ``[N]`` labels; a vector gets the column of its complement."""
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.ndim == 1:
        chances = np.column_stack([1.0 - chances, chances])
    if chances.ndim != 2 or chances.shape[1] < 2:
        raise ValueError(
            "probabilities must have shape [cases] or [cases, classes >= 2], "
            f"got {list(chances.shape)}."
        )
    if not np.isfinite(chances).all():
        raise ValueError("probabilities must be finite, got NaN or infinity.")
    targets = _classes("labels", labels, chances.shape[1])
    if targets.shape != chances.shape[:1]:
        raise ValueError(f"labels must have shape [{len(chances)}], got {list(targets.shape)}.")
    return chances, targets


def _binary(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    chances, targets = _checked(scores, labels)
    if chances.shape[1] != 2:
        raise ValueError(
            f"scores must be those of two classes, got {chances.shape[1]}. "
            "A threshold has no meaning for more."
        )
    return chances[:, 1], targets


def _classes(name: str, values: ArrayLike, count: int) -> Integers:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape [cases], got {list(array.shape)}.")
    if not array.size:
        return np.zeros(0, dtype=np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers, got {array.dtype}.")
    if array.min() < 0 or array.max() >= count:
        raise ValueError(f"{name} must lie in 0..{count - 1}, got {array.min()} to {array.max()}.")
    return array.astype(np.int64)
