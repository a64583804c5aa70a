"""One logistic regression for the binary, the multi-label and the ordinal head.

Symbols: ``N`` images, ``P`` prototypes, ``M`` questions asked of each image, all answered by the
same weights; ``s_i`` the ``[P]`` scores of image ``i``, ``t_im`` in {0, 1} the answers, ``a_im``
above 0 what a case weighs, ``w`` the ``[P]`` weights, ``b`` the ``[M]`` biases. The problem is::

    minimise  sum_im a_im BCE(w . s_i + b_m, t_im)  +  sum_p l1_p |w_p|  +  ridge/2 * ||w||^2
    subject to  w_p >= 0 where sign_p = 1,  w_p <= 0 where sign_p = -1

- binary: one question, "is it class 1?"; ``a_i = c_{y_i} / N``; every sign 1, no L1.
- multi-label: one such problem for each finding, on its images with a known label; sign 1 for the
  finding's own prototypes, L1 on the others.
- ordinal: ``M = grades - 1`` questions "is the grade above m?"; ``a_im = c_{y_i} / N``; sign -1
  for prototypes of the lowest grade, 1 for those of the highest, L1 on those between [1].

References:
    [1] Cao, Mirjalili, Raschka, "Rank consistent ordinal regression for neural networks" (CORAL),
        Pattern Recognition Letters 140, 2020. https://arxiv.org/abs/1901.07884
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, xlog1py, xlogy

from medproto.last_layer.arguments import class_labels, finding_labels
from medproto.last_layer.objective import Floats, Integers, LastLayerProblem, Mask, SmoothPart

__all__ = ["LogisticProblem", "binary_problem", "finding_problems", "ordinal_problem"]


@dataclass(frozen=True, eq=False)
class LogisticProblem(LastLayerProblem):
    """See the module's head; ``probabilities`` of its parts are those of the *wrong* answer.

    Args:
        targets: ``[N, M]``; every question has both answers among the images.
        case_weights: ``[N, M]``, above 0.
    """

    targets: Mask
    case_weights: Floats

    @property
    def num_biases(self) -> int:
        """``M``."""
        return self.targets.shape[1]

    @cached_property
    def lipschitz(self) -> float:
        """A bound on the curvature of the smooth part, weights and biases together.

        ``q (1 - q)`` is at most 1/4, so a quarter of the largest eigenvalue of the weighted Gram
        matrix of scores and questions, plus the ridge, bounds the whole.
        """
        return float(np.linalg.eigvalsh(self._gram(self.case_weights))[-1]) / 4 + self.ridge

    def smooth(self, weights: Floats, bias: Floats) -> SmoothPart:
        """Value and gradient of binary cross-entropies and ridge."""
        margins = self._margins(weights, bias)
        wrong = expit(-margins)
        errors = self.case_weights * np.where(self.targets, -wrong, wrong)  # [N, M]
        loss = float(np.sum(self.case_weights * np.logaddexp(0.0, -margins)))
        return SmoothPart(
            loss + self.ridge / 2 * float(weights @ weights),
            errors.sum(axis=1) @ self.scores + self.ridge * weights,
            errors.sum(axis=0),
            wrong,
        )

    def loss_curvature(self, part: SmoothPart, support: Mask) -> Floats:
        """Hessian of the loss over the support."""
        wrong = part.probabilities
        return self._gram(self.case_weights * wrong * (1 - wrong))[np.ix_(support, support)]

    def gap(self, weights: Floats, bias: Floats) -> float:
        """How far the objective lies above its minimum at most: the duality gap.

        The dual point is the loss's gradient, with the pull of the two answers of each question
        made equal by weakening the stronger one: the biases are free, so only a balanced point is
        one of the dual problem. Weakened by ``r``, a case is off by ``a KL(r q || q)``, ``q`` the
        probability of its wrong answer; the rest is :meth:`penalty_gap`. No assumption enters.
        """
        margins = self._margins(weights, bias)
        wrong = expit(-margins)
        pull = self.case_weights * wrong
        answers = np.stack([~self.targets, self.targets])  # [2, N, M]
        totals = np.where(answers, pull, 0.0).sum(axis=1)  # [2, M]
        share = np.divide(totals.min(axis=0), totals, out=np.ones_like(totals), where=totals > 0)
        weakened = np.where(self.targets, share[1], share[0])  # [N, M]
        kept = weakened * wrong
        # log(1 - q) is minus the loss, which is exact where q rounds to 1.
        divergence = (
            xlogy(kept, weakened)
            + xlog1py(1 - kept, -kept)
            + (1 - kept) * np.logaddexp(0.0, -margins)
        )
        balanced = self.case_weights * np.where(self.targets, kept, -kept)
        slope = balanced.sum(axis=1) @ self.scores
        return float(np.sum(self.case_weights * divergence)) + self.penalty_gap(weights, slope)

    def _margins(self, weights: Floats, bias: Floats) -> Floats:
        logits = (self.scores @ weights)[:, None] + bias  # [N, M]
        return np.where(self.targets, logits, -logits)

    def _gram(self, cases: Floats) -> Floats:
        """``[P + M, P + M]``: ``sum_im cases_im x_im x_im^T``, ``x_im`` the scores and question."""
        rows = cases.sum(axis=1)
        weights = self.scores.T @ (rows[:, None] * self.scores)
        mixed = self.scores.T @ cases  # [P, M]
        return np.block([[weights, mixed], [mixed.T, np.diag(cases.sum(axis=0))]])


def binary_problem(
    scores: Floats,
    labels: ArrayLike,
    prototype_class: Integers,
    class_weights: Floats,
    *,
    ridge: float,
) -> LogisticProblem:
    """Class 1 against class 0, with prototypes of class 1 alone; ``class_weights`` is ``[2]``.

    Raises:
        ValueError: if the labels are not ``[N]`` of 0 and 1 with both, or a prototype is of class
            0.
    """
    targets = class_labels(labels, len(scores), 2)
    foreign = np.flatnonzero(prototype_class != 1)
    if foreign.size:
        raise ValueError(
            "prototype_class must be 1 throughout for a binary head, got 0 for prototypes "
            f"{foreign.tolist()}. Use the multiclass head for prototypes of both classes."
        )
    return LogisticProblem(
        scores=scores,
        signs=np.ones(scores.shape[1], dtype=np.int64),
        l1=np.zeros(scores.shape[1]),
        ridge=ridge,
        targets=targets[:, None] == 1,
        case_weights=(class_weights[targets] / len(targets))[:, None],
    )


def finding_problems(
    scores: Floats,
    labels: ArrayLike,
    prototype_class: Integers,
    class_weights: Floats,
    *,
    l1: float,
    ridge: float,
) -> list[LogisticProblem]:
    """One problem for each finding, on the images whose label is known.

    Args:
        labels: ``[N, K]``, 1 shown, 0 not shown, NaN unknown.
        class_weights: ``[K]``, for the images that show the finding; the others weigh 1.

    Raises:
        ValueError: if a label is something else, or a finding lacks one of the known answers.
    """
    table = finding_labels(labels, len(scores), len(class_weights))
    for answer, meaning in ((1, "shows"), (0, "is known not to show")):
        missing = np.flatnonzero(~(table == answer).any(axis=0))
        if missing.size:
            raise ValueError(
                f"labels of findings must have both answers, got no image that {meaning} finding "
                f"{', '.join(map(str, missing))}. Leave such a finding out or add images."
            )
    problems = []
    for finding, weight in enumerate(class_weights):
        known = ~np.isnan(table[:, finding])
        targets = table[known, finding] == 1
        own = prototype_class == finding
        problems.append(
            LogisticProblem(
                scores=scores[known],
                signs=own.astype(np.int64),
                l1=np.where(own, 0.0, l1),
                ridge=ridge,
                targets=targets[:, None],
                case_weights=(np.where(targets, weight, 1.0) / known.sum())[:, None],
            )
        )
    return problems


def ordinal_problem(
    scores: Floats,
    labels: ArrayLike,
    prototype_class: Integers,
    class_weights: Floats,
    *,
    l1: float,
    ridge: float,
) -> LogisticProblem:
    """Grades in order, one weight for each prototype and one bias for each step between grades.

    Raises:
        ValueError: if the labels are not ``[N]`` grades of which each occurs.
    """
    grades = len(class_weights)
    targets = class_labels(labels, len(scores), grades)
    signs = np.where(prototype_class == 0, -1, np.where(prototype_class == grades - 1, 1, 0))
    case_weights = class_weights[targets] / len(targets)
    return LogisticProblem(
        scores=scores,
        signs=signs,
        l1=np.where(signs == 0, l1, 0.0),
        ridge=ridge,
        targets=targets[:, None] > np.arange(grades - 1),
        case_weights=np.tile(case_weights[:, None], grades - 1),
    )
