"""The last layer of each head, solved.

Symbols: ``N`` images, ``P`` prototypes, ``K`` logits.

====================  ==========  ==================  ============================================
head                  K           targets             weights
====================  ==========  ==================  ============================================
multiclass            classes     ``[N]`` classes     own class >= 0, L1 on the others
binary                2           ``[N]`` 0 or 1      row 0 is zero, row 1 >= 0
multilabel            findings    ``[N, K]`` 1/0/NaN  own finding >= 0, L1 on the others
ordinal               grades - 1  ``[N]`` grades      all rows equal; lowest grade <= 0, highest
                                                      >= 0, L1 on those between
====================  ==========  ==================  ============================================

The problems are written down in :mod:`medproto.last_layer.softmax` (multiclass) and
:mod:`medproto.last_layer.logistic` (the others).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from medproto.last_layer.arguments import (
    check_penalties,
    class_indices,
    positive_weights,
    score_matrix,
)
from medproto.last_layer.logistic import binary_problem, finding_problems, ordinal_problem
from medproto.last_layer.softmax import SoftmaxProblem
from medproto.last_layer.solver import LastLayerSolution, minimize
from medproto.last_layer.source_scores import replace_source_scores

__all__ = ["HEADS", "solve_head", "solve_last_layer"]

HEADS = ("multiclass", "binary", "multilabel", "ordinal")


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
        The solution, its bias summing to zero; ``converged`` is false where ``max_iterations``
        ended the search.

    Raises:
        ValueError: if an argument is outside its range, a class has no image, or a score is not
            finite.
    """
    if own_score_replacement is not None:
        scores = replace_source_scores(scores, labels, prototype_class, own_score_replacement)
    problem = SoftmaxProblem.checked(
        scores,
        labels,
        prototype_class,
        num_classes=num_classes,
        class_weights=class_weights,
        l1=l1,
        ridge=ridge,
    )
    return minimize(problem, max_iterations=max_iterations, tolerance=tolerance)


def solve_head(
    head: str,
    scores: ArrayLike,
    targets: ArrayLike,
    prototype_class: ArrayLike,
    *,
    num_classes: int,
    class_weights: ArrayLike | None = None,
    l1: float,
    ridge: float,
    max_iterations: int = 200,
    tolerance: float = 1e-6,
) -> LastLayerSolution:
    """Solve the last layer of a head to a certified optimum; see the module's head.

    In a multi-label head each finding is a problem of its own: its loss is divided by the number
    of images on which it is known. The solution then has the sum of their objectives and gaps, and
    the largest of their residuals and rounds.

    The biases of an ordinal head fall from grade to grade: its questions weigh the images alike, so
    at the minimum the mean of ``P(y > k)`` is the share of the images above ``k`` [1].

    Args:
        head: "multiclass", "binary", "multilabel" or "ordinal".
        scores: ``[N, P]`` pooled similarities of the training images, without augmentation.
        targets: ``[N]`` classes, zero-based, each of which occurs; multilabel: ``[N, K]``, 1 shown,
            0 not shown, NaN unknown, with both known answers to each finding.
        prototype_class: ``[P]`` classes or findings, zero-based; binary: all 1.
        num_classes: of classes, findings or grades; binary: 2.
        class_weights: ``[num_classes]``, above 0, for the images of each class; multilabel: for
            the images that show the finding, the others weigh 1. ``None`` is 1 for each.
        l1: weight of the L1 term, per unit of weight, 0 or more; a binary head has no such term.
        ridge: weight of the squared weights, above 0; ordinal: a shared weight counts once.
        max_iterations: rounds, at least 1. 20 are rarely needed.
        tolerance: for the residual and for the relative gap, above 0.

    Returns:
        The solution; ``converged`` is false where ``max_iterations`` ended the search.

    Raises:
        ValueError: if the head is none of the four, an argument is outside its range, a class has
            no image, or a finding no known image that shows it or none that does not.

    References:
        [1] Cao, Mirjalili, Raschka, "Rank consistent ordinal regression for neural networks",
            Pattern Recognition Letters 140, 2020, theorem 1. https://arxiv.org/abs/1901.07884
    """
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}.")
    if head == "multiclass":
        return solve_last_layer(
            scores,
            targets,
            prototype_class,
            num_classes=num_classes,
            class_weights=class_weights,
            l1=l1,
            ridge=ridge,
            max_iterations=max_iterations,
            tolerance=tolerance,
        )
    if num_classes < 1 or (head == "binary" and num_classes != 2):
        wanted = "2 for a binary head" if head == "binary" else "at least 1"
        raise ValueError(f"num_classes must be {wanted}, got {num_classes}.")
    matrix = score_matrix(scores)
    owners = class_indices("prototype_class", prototype_class, matrix.shape[1], num_classes)
    weights = positive_weights(class_weights, num_classes)
    check_penalties(l1, ridge)
    solve = partial(minimize, max_iterations=max_iterations, tolerance=tolerance)
    if head == "multilabel":
        problems = finding_problems(matrix, targets, owners, weights, l1=l1, ridge=ridge)
        return _together([solve(problem) for problem in problems])
    if head == "binary":
        return _with_zero_row(solve(binary_problem(matrix, targets, owners, weights, ridge=ridge)))
    problem = ordinal_problem(matrix, targets, owners, weights, l1=l1, ridge=ridge)
    solution = solve(problem)
    return replace(solution, weights=np.tile(solution.weights, (problem.num_biases, 1)))


def _with_zero_row(solution: LastLayerSolution) -> LastLayerSolution:
    """Logit 0 of a binary head is zero."""
    return replace(
        solution,
        weights=np.stack([np.zeros_like(solution.weights), solution.weights]),
        bias=np.concatenate([[0.0], solution.bias]),
    )


def _together(solutions: list[LastLayerSolution]) -> LastLayerSolution:
    """The findings of a multi-label head, one a row."""
    return LastLayerSolution(
        np.stack([solution.weights for solution in solutions]),
        np.concatenate([solution.bias for solution in solutions]),
        sum(solution.objective for solution in solutions),
        max(solution.residual for solution in solutions),
        sum(solution.gap for solution in solutions),
        max(solution.iterations for solution in solutions),
        sum(solution.zeros for solution in solutions),
        all(solution.converged for solution in solutions),
    )
