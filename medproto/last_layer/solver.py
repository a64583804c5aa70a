"""Solve the last layer: proximal gradient steps, each followed by a Newton step on the support.

Symbols as in :mod:`medproto.last_layer.objective`: ``N`` images, ``P`` prototypes, ``K`` logits.

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

import numpy as np

from medproto.last_layer.objective import Floats, LastLayerProblem, Mask

__all__ = ["LastLayerSolution", "minimize"]

_ARMIJO = 1e-4  # share of the predicted decrease that a step must bring
_HALVINGS = 40


@dataclass(frozen=True, eq=False)
class LastLayerSolution:
    """A last layer and the proof of how good it is.

    Args:
        weights: ``[K, P]`` float64, with exact zeros.
        bias: ``[K]`` float64.
        objective: value reached.
        residual: optimality residual in the scores as given, see
            :meth:`LastLayerProblem.residual`.
        gap: the objective lies at most this far above its minimum, see ``gap`` of the problem.
        iterations: rounds of one proximal and one Newton step.
        zeros: number of weights that were solved for and are exactly zero: a weight that several
            rows share counts once, a row fixed at zero does not count.
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


def minimize(
    problem: LastLayerProblem, *, max_iterations: int, tolerance: float
) -> LastLayerSolution:
    """Minimise the problem from zero. Deterministic: no random start, no sampling.

    Args:
        max_iterations: rounds, at least 1. 20 are rarely needed.
        tolerance: for the residual and for the relative gap, above 0.

    Returns:
        The solution, its weights of the shape that the problem has; ``converged`` is false where
        ``max_iterations`` ended the search.

    Raises:
        ValueError: if ``max_iterations`` or ``tolerance`` is outside its range.
    """
    if max_iterations < 1 or not tolerance > 0:
        raise ValueError(
            "max_iterations must be at least 1 and tolerance above 0, "
            f"got {max_iterations} and {tolerance}."
        )
    means = problem.scores.mean(axis=0)  # [P]
    centred = replace(problem, scores=problem.scores - means)
    weights = np.zeros(problem.signs.shape)
    bias = np.zeros(problem.num_biases)
    for iteration in range(1, max_iterations + 1):
        weights, bias = _newton_step(centred, *_proximal_step(centred, weights, bias))
        moved = problem.uncentred(bias, weights, means)
        solution = _certify(problem, weights, moved, iteration, tolerance)
        if solution.converged:
            break
    return solution


def _certify(
    problem: LastLayerProblem, weights: Floats, bias: Floats, iteration: int, tolerance: float
) -> LastLayerSolution:
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
    point = np.concatenate([weights.ravel(), bias])
    is_weight = np.arange(len(point)) < weights.size
    support = (point != 0) | ~is_weight
    slope = part.weights_gradient + problem.l1 * np.sign(weights)
    gradient = np.concatenate([slope.ravel(), part.bias_gradient])[support]
    target = _minimum_under_signs(
        problem.curvature(part, support), gradient, point[support], is_weight[support]
    )
    direction = np.zeros(len(point))
    direction[support] = target - point[support]
    weights_direction = direction[is_weight].reshape(weights.shape)
    predicted = float(gradient @ direction[support])
    # Near the minimum the decrease drowns in rounding; a few units in the last place are let pass.
    slack = 4 * np.finfo(float).eps * abs(start)
    for length in 0.5 ** np.arange(_HALVINGS):
        new_weights = weights + length * weights_direction
        new_bias = bias + length * direction[~is_weight]
        if problem.value(new_weights, new_bias) <= start + _ARMIJO * length * predicted + slack:
            return new_weights, new_bias
    return weights, bias


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
