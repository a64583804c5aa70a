"""The convex problem of the last layer: value, gradient, proximal step, certificate.

Symbols: ``N`` images, ``P`` prototypes, ``K`` classes; ``s_i`` the ``[P]`` scores of image ``i``,
``y_i`` its class, ``c_k`` the weight of class ``k``, ``W`` the ``[K, P]`` weights, ``b`` the
``[K]`` biases, ``class(p)`` the class that prototype ``p`` belongs to. The problem is::

    minimise  (1/N) sum_i c_{y_i} CE(W s_i + b, y_i)
              + l1 * sum_{k != class(p)} |W_kp|  +  ridge/2 * ||W||^2
    subject to  W_kp >= 0 where k = class(p)

The ridge makes the weights unique. The bias carries no penalty; adding one number to all its
entries changes nothing, so ``sum(b) = 0`` picks one of them. All numbers are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LastLayerProblem", "SmoothPart", "class_indices"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class SmoothPart:
    """Cross-entropy and ridge at one point.

    Args:
        value: without the L1 term.
        weights_gradient: ``[K, P]``.
        bias_gradient: ``[K]``; sums to zero.
        probabilities: ``[N, K]``, the softmax of the logits.
    """

    value: float
    weights_gradient: Floats
    bias_gradient: Floats
    probabilities: Floats


@dataclass(frozen=True, eq=False)
class LastLayerProblem:
    """The data and the penalties of one problem; see the module's head for the objective.

    Args:
        scores: ``[N, P]`` pooled similarities, finite.
        labels: ``[N]`` classes, zero-based; every class occurs.
        prototype_class: ``[P]`` classes, zero-based.
        class_weights: ``[K]``, above 0; ``K`` is at least 2.
        l1: weight of the L1 term, 0 or more.
        ridge: above 0. Without it separable data have no minimiser.
    """

    scores: Floats
    labels: Integers
    prototype_class: Integers
    class_weights: Floats
    l1: float
    ridge: float

    @classmethod
    def checked(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        prototype_class: ArrayLike,
        *,
        num_classes: int,
        class_weights: ArrayLike | None = None,
        l1: float,
        ridge: float,
    ) -> LastLayerProblem:
        """Build the problem from anything that numpy reads; ``None`` weighs all classes by 1.

        Raises:
            ValueError: if a shape, a range or a class is not as the class describes.
        """
        matrix = _scores(scores)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}.")
        owners = class_indices("prototype_class", prototype_class, matrix.shape[1], num_classes)
        targets = class_indices("labels", labels, matrix.shape[0], num_classes)
        missing = sorted(set(range(num_classes)) - set(targets.tolist()))
        if missing:
            raise ValueError(
                f"labels must contain each of the {num_classes} classes, got none of {missing}. "
                "Train on the classes that have images only."
            )
        balance = np.ones(num_classes) if class_weights is None else _floats(class_weights)
        if balance.shape != (num_classes,) or not (np.isfinite(balance) & (balance > 0)).all():
            raise ValueError(
                f"class_weights must be {num_classes} finite numbers above 0, "
                f"got {balance.tolist()}."
            )
        if not (np.isfinite(l1) and l1 >= 0):
            raise ValueError(f"l1 must be a finite number >= 0, got {l1}.")
        if not (np.isfinite(ridge) and ridge > 0):
            raise ValueError(
                f"ridge must be a finite number above 0, got {ridge}: without ridge separable "
                "data have no minimiser."
            )
        return cls(matrix, targets, owners, balance, float(l1), float(ridge))

    @cached_property
    def own(self) -> NDArray[np.bool_]:
        """``[K, P]``, true where the prototype belongs to the class."""
        classes = np.arange(len(self.class_weights))
        return np.asarray(classes[:, None] == self.prototype_class[None, :])

    @cached_property
    def case_weights(self) -> Floats:
        """``[N]``, ``c_{y_i} / N``."""
        return np.asarray(self.class_weights[self.labels] / len(self.labels))

    @cached_property
    def lipschitz(self) -> float:
        """A bound on the curvature of the smooth part, weights and bias together.

        The Hessian of the cross-entropy in the logits, ``diag(q) - q q^T``, has no eigenvalue
        above 1/2, so half the largest eigenvalue of the weighted ``[S 1]^T [S 1]``, plus the
        ridge, bounds the whole.
        """
        design = np.column_stack([self.scores, np.ones(len(self.scores))])  # [N, P + 1]
        gram = design.T @ (self.case_weights[:, None] * design)
        return float(np.linalg.eigvalsh(gram)[-1]) / 2 + self.ridge

    def smooth(self, weights: Floats, bias: Floats) -> SmoothPart:
        """Value and gradient of everything but the L1 term and the constraint."""
        logits = self.scores @ weights.T + bias  # [N, K]
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        totals = probabilities.sum(axis=1)
        rows = np.arange(len(self.labels))
        cross_entropy = np.log(totals) - logits[rows, self.labels]
        probabilities /= totals[:, None]
        errors = probabilities * self.case_weights[:, None]
        errors[rows, self.labels] -= self.case_weights
        return SmoothPart(
            float(self.case_weights @ cross_entropy) + self.ridge / 2 * float(np.sum(weights**2)),
            errors.T @ self.scores + self.ridge * weights,
            errors.sum(axis=0),
            probabilities,
        )

    def penalty(self, weights: Floats) -> float:
        """The L1 term, over the wrong-class weights alone."""
        return self.l1 * float(np.abs(weights[~self.own]).sum())

    def value(self, weights: Floats, bias: Floats) -> float:
        """The objective at a feasible point."""
        return self.smooth(weights, bias).value + self.penalty(weights)

    def prox(self, weights: Floats, step: float) -> Floats:
        """Proximal map of the L1 term and the constraint: zeros come out exact."""
        shrunk = np.sign(weights) * np.maximum(np.abs(weights) - step * self.l1, 0.0)
        return np.where(self.own, np.maximum(weights, 0.0), shrunk)

    def residual(self, weights: Floats, bias: Floats) -> float:
        """Optimality residual ``||w - prox_t(w - t grad)|| / (t max(1, ||w||))``, ``t = 1/L``.

        ``w`` is weights and bias together and ``L`` is :attr:`lipschitz`. Zero exactly at the
        minimum.
        """
        part = self.smooth(weights, bias)
        step = 1.0 / self.lipschitz
        moved = weights - self.prox(weights - step * part.weights_gradient, step)
        change = np.hypot(np.linalg.norm(moved) / step, np.linalg.norm(part.bias_gradient))
        size = np.hypot(np.linalg.norm(weights), np.linalg.norm(bias))
        return float(change / max(1.0, size))

    def gap(self, weights: Floats, bias: Floats) -> float:
        """How far the objective lies above its minimum at most: the duality gap.

        The cross-entropy lies above its tangent, and tangent, L1 term, constraint and ridge have
        their minimum in closed form. The bias has no ridge, so its gradient (zero at the minimum)
        enters times ``||b||``, as if the best bias were no further away than that.
        """
        part = self.smooth(weights, bias)
        slope = self.ridge * weights - part.weights_gradient  # minus that of the cross-entropy
        reach = np.where(self.own, np.maximum(slope, 0), np.maximum(np.abs(slope) - self.l1, 0))
        conjugate = reach**2 / (2 * self.ridge)
        primal = self.ridge / 2 * weights**2 + np.where(self.own, 0, self.l1 * np.abs(weights))
        slack = np.linalg.norm(part.bias_gradient) * np.linalg.norm(bias)
        return float(np.sum(primal + conjugate - weights * slope) + slack)


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


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _scores(values: ArrayLike) -> Floats:
    matrix = _floats(values)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"scores must have shape [images, prototypes], got {list(matrix.shape)}.")
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).sum())
        raise ValueError(f"scores must be finite, got {bad} values that are NaN or infinite.")
    return matrix
