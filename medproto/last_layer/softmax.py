"""The multi-class problem: cross-entropy of a softmax, own-class weights that are not negative.

Symbols: ``N`` images, ``P`` prototypes, ``K`` classes; ``s_i`` the ``[P]`` scores of image ``i``,
``y_i`` its class, ``c_k`` the weight of class ``k``, ``W`` the ``[K, P]`` weights, ``b`` the
``[K]`` biases, ``class(p)`` the class that prototype ``p`` belongs to. The problem is::

    minimise  (1/N) sum_i c_{y_i} CE(W s_i + b, y_i)
              + l1 * sum_{k != class(p)} |W_kp|  +  ridge/2 * ||W||^2
    subject to  W_kp >= 0 where k = class(p)

Adding one number to all biases changes nothing, so ``sum(b) = 0`` picks one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from medproto.last_layer.arguments import (
    check_penalties,
    class_indices,
    class_labels,
    positive_weights,
    score_matrix,
)
from medproto.last_layer.objective import Floats, Integers, LastLayerProblem, Mask, SmoothPart

__all__ = ["SoftmaxProblem"]


@dataclass(frozen=True, eq=False)
class SoftmaxProblem(LastLayerProblem):
    """See the module's head; the ``probabilities`` of its parts are the softmax of the logits.

    Args:
        labels: ``[N]`` classes, zero-based; every class occurs.
        case_weights: ``[N]``, ``c_{y_i} / N``.
    """

    labels: Integers
    case_weights: Floats

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
    ) -> SoftmaxProblem:
        """Build the problem from anything that numpy reads; ``None`` weighs all classes by 1.

        Raises:
            ValueError: if a shape, a range or a class is not as it must be.
        """
        matrix = score_matrix(scores)
        targets = class_labels(labels, len(matrix), num_classes)
        owners = class_indices("prototype_class", prototype_class, matrix.shape[1], num_classes)
        balance = positive_weights(class_weights, num_classes)
        check_penalties(l1, ridge)
        own = np.arange(num_classes)[:, None] == owners[None, :]  # [K, P]
        return cls(
            scores=matrix,
            signs=own.astype(np.int64),
            l1=np.where(own, 0.0, l1),
            ridge=float(ridge),
            labels=targets,
            case_weights=balance[targets] / len(targets),
        )

    @property
    def num_biases(self) -> int:
        """``K``."""
        return len(self.signs)

    @cached_property
    def lipschitz(self) -> float:
        """A bound on the curvature of the smooth part, weights and biases together.

        The Hessian of the cross-entropy in the logits, ``diag(q) - q q^T``, has no eigenvalue
        above 1/2, so half the largest eigenvalue of the weighted ``[S 1]^T [S 1]``, plus the
        ridge, bounds the whole.
        """
        design = np.column_stack([self.scores, np.ones(len(self.scores))])  # [N, P + 1]
        gram = design.T @ (self.case_weights[:, None] * design)
        return float(np.linalg.eigvalsh(gram)[-1]) / 2 + self.ridge

    def smooth(self, weights: Floats, bias: Floats) -> SmoothPart:
        """Value and gradient of cross-entropy and ridge; the bias gradient sums to zero."""
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

    def loss_curvature(self, part: SmoothPart, support: Mask) -> Floats:
        """Hessian of the loss over the support, filled class by class."""
        design = np.column_stack([self.scores, np.ones(len(self.scores))])  # [N, P + 1]
        weights = np.arange(self.signs.size).reshape(self.signs.shape)
        biases = self.signs.size + np.arange(self.num_biases)
        variables = np.column_stack([weights, biases])  # [K, P + 1], places in ``support``
        columns = [np.flatnonzero(row) for row in support[variables]]
        rank = np.cumsum(support) - 1
        places = [rank[row[column]] for row, column in zip(variables, columns, strict=True)]
        hessian = np.empty((rank[-1] + 1, rank[-1] + 1))
        chances = part.probabilities
        for k, own in enumerate(columns):
            for m, other in enumerate(columns[: k + 1]):
                case = self.case_weights * chances[:, k] * (float(k == m) - chances[:, m])
                block = (design[:, own] * case[:, None]).T @ design[:, other]
                hessian[np.ix_(places[k], places[m])] = block
                hessian[np.ix_(places[m], places[k])] = block.T
        # One number added to all biases changes nothing: this term makes the step leave it alone.
        hessian[-self.num_biases :, -self.num_biases :] += 1.0 / self.num_biases
        return hessian

    def gap(self, weights: Floats, bias: Floats) -> float:
        """How far the objective lies above its minimum at most: the duality gap.

        The cross-entropy lies above its tangent, and tangent, L1 term, constraint and ridge have
        their minimum in closed form. The bias has no ridge, so its gradient (zero at the minimum)
        enters times ``||b||``, as if the best bias were no further away than that.
        """
        part = self.smooth(weights, bias)
        slope = self.ridge * weights - part.weights_gradient  # minus that of the cross-entropy
        slack = float(np.linalg.norm(part.bias_gradient) * np.linalg.norm(bias))
        return self.penalty_gap(weights, slope) + slack

    def uncentred(self, bias: Floats, weights: Floats, means: Floats) -> Floats:
        """Biases for the scores themselves; they sum to zero."""
        moved = super().uncentred(bias, weights, means)
        return moved - moved.mean()
