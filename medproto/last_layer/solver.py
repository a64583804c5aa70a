"""Solve the last layer: proximal gradient steps, each followed by a Newton step on the support.

Symbols as in :mod:`medproto.last_layer.objective`: ``N`` images, ``P`` prototypes, ``K`` classes.

The proximal step sets exact zeros and frees the weights that want to leave zero; alone it needs
thousands of rounds where scores are correlated. Once it has fixed the support (the weights that
are not zero) and their signs, the objective is smooth there, and one Newton step [1] does the rest:
the quadratic model is minimised under the signs by the active-set method of Lawson and Hanson [2],
so a weight that would change its sign becomes an exact zero. A line search makes every round go
down, which makes the whole converge from anywhere.

Solved in centred scores: subtracting each prototype's mean is undone by the unpenalised bias, so
it is the same problem, but scores of 9 +- 0.1 no longer all look alike. The certificate is
computed afterwards in the scores as they came.

References:
    [1] Lee, Sun, Saunders, "Proximal Newton-type methods for minimizing composite functions",
        SIAM J. Optim. 24, 2014. https://arxiv.org/abs/1206.1623
    [2] Lawson, Hanson, "Solving Least Squares Problems", 1974, chapter 23.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.last_layer.objective import LastLayerProblem, SmoothPart
from medproto.last_layer.source_scores import replace_source_scores

__all__ = ["LastLayerSolution", "solve_last_layer"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ARMIJO = 1e-4  # share of the predicted decrease that a step must bring
_HALVINGS = 40


@dataclass(frozen=True, eq=False)
class LastLayerSolution:
    """A last layer and the proof of how good it is.

    Args:
        weights: ``[K, P]`` float64, with exact zeros; ``>= 0`` for a prototype's own class.
        bias: ``[K]`` float64, sums to zero.
        objective: value reached.
        residual: optimality residual in the scores as given, see
            :meth:`LastLayerProblem.residual`.
        gap: the objective lies at most this far above its minimum, see
            :meth:`LastLayerProblem.gap`.
        iterations: rounds of one proximal and one Newton step.
        zeros: number of weights that are exactly zero.
        converged: ``residual <= tolerance`` and ``gap <= tolerance * objective``.
    """

    weights: Floats
    bias: Floats
    objective: float
    residual: float
    gap: float
    iterations: int
    zeros: int
    converged: bool


def solve_last_layer(
    scores: ArrayLike,
    labels: ArrayLike,
    prototype_class: ArrayLike,
    *,
    num_classes: int,
    class_weights: ArrayLike | None = None,
    l1: float = 1e-3,
    ridge: float = 1e-3,
    own_score_replacement: ArrayLike | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-6,
) -> LastLayerSolution:
    """Minimise weighted cross-entropy + L1 on wrong-class weights + ridge, own weights >= 0.

    Deterministic: no random start, no sampling.

    Args:
        scores: ``[N, P]`` pooled similarities of the training images, without augmentation.
        labels: ``[N]`` classes, zero-based; every class must occur.
        prototype_class: ``[P]`` classes, zero-based.
        num_classes: ``K``, at least 2.
        class_weights: ``[K]``, above 0; ``None`` weighs all classes by 1.
        l1: weight of the L1 term, per unit of weight, 0 or more.
        ridge: weight of the squared weights, above 0.
        own_score_replacement: ``[P]`` source rows of the prototypes; when given, the scores pass
            through :func:`replace_source_scores` first. ``None`` fits the scores as they are.
        max_iterations: rounds, at least 1. 20 are rarely needed.
        tolerance: for the residual and for the relative gap, above 0.

    Returns:
        The solution; ``converged`` is false where ``max_iterations`` ended the search.

    Raises:
        ValueError: if an argument is outside its range, a class has no image, or a score is not
            finite.
    """
    if max_iterations < 1 or not tolerance > 0:
        raise ValueError(
            "max_iterations must be at least 1 and tolerance above 0, "
            f"got {max_iterations} and {tolerance}."
        )
    if own_score_replacement is not None:
        scores = replace_source_scores(scores, labels, prototype_class, own_score_replacement)
    problem = LastLayerProblem.checked(
        scores,
        labels,
        prototype_class,
        num_classes=num_classes,
        class_weights=class_weights,
        l1=l1,
        ridge=ridge,
    )
    means = problem.scores.mean(axis=0)  # [P]
    centred = replace(problem, scores=problem.scores - means)
    weights = np.zeros(problem.own.shape)
    bias = np.zeros(num_classes)
    for iteration in range(1, max_iterations + 1):
        weights, bias = _newton_step(centred, *_proximal_step(centred, weights, bias))
        solution = _certify(problem, weights, bias - weights @ means, iteration, tolerance)
        if solution.converged:
            break
    return solution


def _certify(
    problem: LastLayerProblem, weights: Floats, bias: Floats, iteration: int, tolerance: float
) -> LastLayerSolution:
    bias = bias - bias.mean()
    objective = problem.value(weights, bias)
    residual = problem.residual(weights, bias)
    gap = problem.gap(weights, bias)
    return LastLayerSolution(
        weights,
        bias,
        objective,
        residual,
        gap,
        iteration,
        int((weights == 0).sum()),
        residual <= tolerance and gap <= tolerance * objective,
    )


def _proximal_step(
    problem: LastLayerProblem, weights: Floats, bias: Floats
) -> tuple[Floats, Floats]:
    step = 1.0 / problem.lipschitz
    part = problem.smooth(weights, bias)
    moved = problem.prox(weights - step * part.weights_gradient, step)
    return moved, bias - step * part.bias_gradient


def _newton_step(problem: LastLayerProblem, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """Minimise the quadratic model on the support under its signs, then search on the line."""
    part = problem.smooth(weights, bias)
    start = part.value + problem.penalty(weights)
    support = np.column_stack([weights != 0, np.ones(len(bias), dtype=bool)])  # [K, P + 1]
    signs = np.where(problem.own, 0.0, np.sign(weights))
    gradient = np.column_stack([part.weights_gradient + problem.l1 * signs, part.bias_gradient])[
        support
    ]
    point = np.column_stack([weights, bias])[support]
    is_weight = np.broadcast_to(np.arange(support.shape[1]) < weights.shape[1], support.shape)
    target = _minimum_under_signs(
        _curvature(problem, part, support), gradient, point, is_weight[support]
    )
    direction = np.zeros(support.shape)
    direction[support] = target - point
    predicted = float(gradient @ (target - point))
    # Near the minimum the decrease drowns in rounding; a few units in the last place are let pass.
    slack = 4 * np.finfo(float).eps * abs(start)
    for length in 0.5 ** np.arange(_HALVINGS):
        new_weights = weights + length * direction[:, :-1]
        new_bias = bias + length * direction[:, -1]
        if problem.value(new_weights, new_bias) <= start + _ARMIJO * length * predicted + slack:
            return new_weights, new_bias
    return weights, bias


def _curvature(problem: LastLayerProblem, part: SmoothPart, support: Mask) -> Floats:
    """Hessian over the support, in the order of ``array[support]``; positive definite."""
    design = np.column_stack([problem.scores, np.ones(len(problem.scores))])  # [N, P + 1]
    columns = [np.flatnonzero(row) for row in support]
    edges = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
    blocks = [slice(a, b) for a, b in pairwise(edges)]
    hessian = np.empty((edges[-1], edges[-1]))
    chances = part.probabilities
    for k, own in enumerate(columns):
        for m, other in enumerate(columns[: k + 1]):
            case = problem.case_weights * chances[:, k] * (float(k == m) - chances[:, m])
            block = (design[:, own] * case[:, None]).T @ design[:, other]
            hessian[blocks[k], blocks[m]] = block
            hessian[blocks[m], blocks[k]] = block.T
    biases = edges[1:] - 1
    # One number added to all biases changes nothing: this term makes the step leave it alone.
    hessian[np.ix_(biases, biases)] += 1.0 / len(biases)
    ridge = np.full(edges[-1], problem.ridge)
    ridge[biases] = 0.0
    hessian[np.diag_indices_from(hessian)] += ridge + 1e-13 * hessian.diagonal().max()
    return hessian


def _minimum_under_signs(hessian: Floats, gradient: Floats, point: Floats, signed: Mask) -> Floats:
    """Minimise ``g (x - point) + 1/2 (x - point) H (x - point)``, no signed entry changing sign.

    Walks towards the minimum over the free entries, stops where the first reaches zero, fixes it
    there and goes on: the model falls in each leg, so the result is a descent direction.
    """
    linear = gradient - hessian @ point
    free = np.ones(len(point), dtype=bool)
    current = point.copy()
    while True:
        index = np.flatnonzero(free)
        target = np.zeros_like(point)
        target[index] = np.linalg.solve(hessian[np.ix_(index, index)], -linear[index])
        crossing = np.flatnonzero(free & signed & (target * point <= 0))
        if not crossing.size:
            return target
        reach = current[crossing] / (current[crossing] - target[crossing])
        first = reach.min()
        current += np.clip(first, 0.0, 1.0) * (target - current)  # outside by rounding alone
        gone = crossing[reach <= first]
        current[gone] = 0.0
        free[gone] = False
