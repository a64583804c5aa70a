"""Reading and checking the arguments of a last-layer problem.

Symbols: ``N`` images, ``P`` prototypes, ``K`` classes or findings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "check_penalties",
    "class_indices",
    "class_labels",
    "finding_labels",
    "known_classes",
    "positive_weights",
    "score_matrix",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def score_matrix(values: ArrayLike) -> Floats:
    """Read ``[N, P]`` finite scores as float64.

    Raises:
        ValueError: for any other shape, or if a score is not finite.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"scores must have shape [images, prototypes], got {list(matrix.shape)}.")
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).sum())
        raise ValueError(f"scores must be finite, got {bad} values that are NaN or infinite.")
    return matrix


def class_indices(name: str, values: ArrayLike, count: int, num_classes: int) -> Integers:
    """Read ``[count]`` whole numbers in ``0..num_classes - 1``.

    Raises:
        ValueError: that names the argument ``name``, for any other shape, kind or range.
    """
    array = np.asarray(values)
    if array.shape != (count,):
        raise ValueError(f"{name} must have shape [{count}], got {list(array.shape)}.")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers, got {array.dtype}.")
    if array.min() < 0 or array.max() >= num_classes:
        raise ValueError(
            f"{name} must lie in 0..{num_classes - 1}, got {array.min()} to {array.max()}."
        )
    return array.astype(np.int64)


def class_labels(values: ArrayLike, count: int, num_classes: int) -> Integers:
    """Read ``[count]`` classes of the images; each class occurs.

    Raises:
        ValueError: if there are fewer than two classes, a class has no image, or a label is not
            as :func:`class_indices` wants it.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}.")
    labels = class_indices("labels", values, count, num_classes)
    missing = sorted(set(range(num_classes)) - set(labels.tolist()))
    if missing:
        raise ValueError(
            f"labels must contain each of the {num_classes} classes, got none of {missing}. "
            "Train on the classes that have images only."
        )
    return labels


def finding_labels(values: ArrayLike, count: int, num_findings: int | None = None) -> Floats:
    """Read ``[count, K]`` labels: 1 shown, 0 not shown, NaN unknown.

    Args:
        num_findings: ``K``; ``None`` takes what comes.

    Raises:
        ValueError: for any other shape or value.
    """
    labels = np.asarray(values, dtype=np.float64)
    columns = labels.shape[-1] if num_findings is None and labels.ndim == 2 else num_findings
    if labels.shape != (count, columns):
        raise ValueError(
            f"labels of findings must have shape [{count}, {columns}], got {list(labels.shape)}."
        )
    strange = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
    if strange.any():
        raise ValueError(
            f"labels of findings must be 0, 1 or NaN (unknown), got {labels[strange][0]:g}."
        )
    return labels


def known_classes(labels: ArrayLike, count: int) -> Floats:
    """Read what each image is known to show, ``[count, K]``: 1 shown, 0 not shown, NaN unknown.

    Args:
        labels: ``[count]`` classes or grades, zero-based, or the findings as they are.

    Raises:
        ValueError: as of :func:`class_indices` and :func:`finding_labels`.
    """
    targets = np.asarray(labels)
    if targets.ndim == 2:
        return finding_labels(targets, count)
    num_classes = int(np.max(targets, initial=0)) + 1
    classes = class_indices("labels", targets, count, num_classes)
    return (classes[:, None] == np.arange(num_classes)).astype(np.float64)


def positive_weights(values: ArrayLike | None, num_classes: int) -> Floats:
    """Read ``[num_classes]`` weights above 0; ``None`` is 1 for each.

    Raises:
        ValueError: for any other shape or range.
    """
    weights = np.ones(num_classes) if values is None else np.asarray(values, dtype=np.float64)
    if weights.shape != (num_classes,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(
            f"class_weights must be {num_classes} finite numbers above 0, got {weights.tolist()}."
        )
    return weights


def check_penalties(l1: float, ridge: float) -> None:
    """Refuse what has no minimum.

    Raises:
        ValueError: if ``l1`` is not 0 or more, or ``ridge`` not above 0.
    """
    if not (np.isfinite(l1) and l1 >= 0):
        raise ValueError(f"l1 must be a finite number >= 0, got {l1}.")
    if not (np.isfinite(ridge) and ridge > 0):
        raise ValueError(
            f"ridge must be a finite number above 0, got {ridge}: without ridge separable "
            "data have no minimiser."
        )
