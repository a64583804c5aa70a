"""What the convex problems of the last layer share: penalties, proximal step, certificate.

Symbols: ``N`` images, ``P`` prototypes, ``M`` logits; ``s_i`` the ``[P]`` scores of image ``i``,
``w`` the weights (``[M, P]``, or ``[P]`` where all logits share them), ``b`` the ``[M]`` biases.
Every problem has the form::

    minimise  loss(w, b)  +  sum_j l1_j |w_j|  +  ridge/2 * ||w||^2
    subject to  w_j >= 0 where sign_j = 1,  w_j <= 0 where sign_j = -1

with a smooth convex loss of the logits ``w . s_i + b``. The ridge makes the weights unique; the
biases carry no penalty. All numbers are float64.

What each head makes of it is told in :mod:`medproto.last_layer.softmax` (multi-class) and
:mod:`medproto.last_layer.logistic` (binary, multi-label, ordinal).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LastLayerProblem", "SmoothPart"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SmoothPart:
    """Loss and ridge at one point.

    Args:
        value: without the L1 term.
        weights_gradient: of the shape of the weights.
        bias_gradient: ``[M]``.
        probabilities: ``[N, M]``; of what, the problem says.
    """

    value: float
    weights_gradient: Floats
    bias_gradient: Floats
    probabilities: Floats


@dataclass(frozen=True, eq=False)
class LastLayerProblem(ABC):
    """The data and the penalties of one problem; see the module's head for the objective.

    Args:
        scores: ``[N, P]`` pooled similarities, finite.
        signs: of the shape of the weights: 1 for ``>= 0``, -1 for ``<= 0``, 0 for a free weight.
        l1: of the shape of the weights, 0 or more: what a unit of each weight costs.
        ridge: above 0. Without it separable data have no minimiser.
    """

    scores: Floats
    signs: Integers
    l1: Floats
    ridge: float

    @property
    @abstractmethod
    def num_biases(self) -> int:
        """``M``."""

    @property
    @abstractmethod
    def lipschitz(self) -> float:
        """A bound on the curvature of the smooth part, weights and biases together."""

    @abstractmethod
    def smooth(self, weights: Floats, bias: Floats) -> SmoothPart:
        """Value and gradient of everything but the L1 term and the constraint."""

    @abstractmethod
    def loss_curvature(self, part: SmoothPart, support: Mask) -> Floats:
        """Hessian of the loss over the support, in its order.

        Args:
            support: over ``concatenate([weights.ravel(), bias])``; true for every bias.
        """

    @abstractmethod
    def gap(self, weights: Floats, bias: Floats) -> float:
        """How far the objective lies above its minimum at most: the duality gap."""

    def curvature(self, part: SmoothPart, support: Mask) -> Floats:
        """Hessian of loss and ridge over the support; positive definite."""
        hessian = self.loss_curvature(part, support)
        ridge = np.full(len(hessian), self.ridge)
        ridge[-self.num_biases :] = 0.0
        hessian[np.diag_indices_from(hessian)] += ridge + 1e-13 * hessian.diagonal().max()
        return hessian

    def uncentred(self, bias: Floats, weights: Floats, means: Floats) -> Floats:
        """Biases that give, on the scores themselves, the logits of scores less ``means``."""
        return np.asarray(bias - weights @ means)

    def penalty(self, weights: Floats) -> float:
        """The L1 term."""
        return float(np.sum(self.l1 * np.abs(weights)))

    def value(self, weights: Floats, bias: Floats) -> float:
        """The objective at a feasible point."""
        return self.smooth(weights, bias).value + self.penalty(weights)

    def prox(self, weights: Floats, step: float) -> Floats:
        """Proximal map of the L1 term and the constraint: zeros come out exact."""
        shrunk = np.sign(weights) * np.maximum(np.abs(weights) - step * self.l1, 0.0)
        return np.where(self.signs * shrunk < 0, 0.0, shrunk)

    def residual(self, weights: Floats, bias: Floats) -> float:
        """Optimality residual ``||x - prox_t(x - t grad)|| / (t max(1, ||x||))``, ``t = 1/L``.

        ``x`` is weights and biases together and ``L`` is :attr:`lipschitz`. Zero exactly at the
        minimum.
        """
        part = self.smooth(weights, bias)
        step = 1.0 / self.lipschitz
        moved = weights - self.prox(weights - step * part.weights_gradient, step)
        change = np.hypot(np.linalg.norm(moved) / step, np.linalg.norm(part.bias_gradient))
        size = np.hypot(np.linalg.norm(weights), np.linalg.norm(bias))
        return float(change / max(1.0, size))

    def penalty_gap(self, weights: Floats, slope: Floats) -> float:
        """``h(w) + h*(v) - w . v``, never negative; ``h`` is L1 term, constraint and ridge.

        Args:
            weights: ``w``, feasible.
            slope: ``v``, of the same shape: minus the gradient of a tangent of the loss. Of tangent
                and ``h`` together, the minimum lies exactly this far below their value at ``w``.
        """
        allowed = np.where(self.signs * slope < 0, 0.0, slope)
        reach = np.maximum(np.abs(allowed) - self.l1, 0.0)
        primal = self.ridge / 2 * weights**2 + self.l1 * np.abs(weights)
        return float(np.sum(primal + reach**2 / (2 * self.ridge) - weights * slope))
