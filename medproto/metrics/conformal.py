"""Sets of classes that hold the true one at a stated rate, and abstention.

Symbols: ``N`` cases, ``C`` classes or grades, ``K`` findings, ``alpha`` the share of cases whose
set may miss the truth, ``G`` groups (patients).

Split-conformal sets [1, 2]: the score of a case is one minus the probability of its true class; a
class enters the set of a new case if its score is no larger than the ``k``-th smallest of ``n``
calibration scores, ``k = ceil((n + 1) (1 - alpha))``. If the new patient is exchangeable with the
calibration patients the set holds the truth with probability ``>= 1 - alpha``, whatever the model.
This is a promise over patients, not for one patient, not for a subgroup (see ``per_class``), and
not for another hospital. Over ``m`` new cases the number covered follows
BetaBinomial(m, k, n + 1 - k) where scores have no ties.

With ``n < 1 / alpha - 1`` calibration cases ``k`` exceeds ``n`` and every set is everything.

Several images of a patient are not exchangeable with each other. A case therefore weighs one over
the cases of its group [3]: the promise is then for a random image of a new patient. With one
case a group this is the rule above. One image drawn per patient would promise the same from less.

The temperature may be fitted on the same cases. For two classes and for findings it changes no
set at all, because it keeps the order of the scores. For more classes and for grades it moves one
parameter, and ``benchmarks/doubt.py`` measures what that costs in coverage.

References:
    [1] Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels",
        JASA 114, 2019. https://arxiv.org/abs/1609.00451
    [2] Angelopoulos, Bates, "A Gentle Introduction to Conformal Prediction", 2021, section 1 and
        appendix C. https://arxiv.org/abs/2107.07511
    [3] Lee, Barber, Willett, "Distribution-free inference with hierarchical data", 2023.
        https://arxiv.org/abs/2306.06342
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.metrics.base import metric
from medproto.metrics.calibration import check_head, checked_labels
from medproto.records import HeadKind

__all__ = [
    "ConformalSets",
    "abstention_rate",
    "conformal_quantile",
    "set_coverage",
]

_ROUNDING = 1e-9  # of (n + 1) (1 - alpha), which is often meant to be a whole number

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Groups = Sequence[object] | NDArray[Any]


@dataclass(frozen=True, slots=True)
class ConformalSets:
    """Prediction sets at a stated rate of misses. Made by :meth:`fit`.

    Args:
        head: one of :data:`medproto.metrics.calibration.Head`.
        alpha: share of the cases whose set may miss the truth, 0 to 1.
        thresholds: largest score ``1 - p`` that enters a set: ``C`` of them, or for the multilabel
            head ``(absent, present)`` of each finding, ``2 K``. Infinite: always in the set.
        cases: calibration cases.
        groups: calibration groups.
    """

    head: HeadKind
    alpha: float
    thresholds: tuple[float, ...]
    cases: int
    groups: int

    @classmethod
    def fit(
        cls,
        probabilities: ArrayLike,
        labels: ArrayLike,
        *,
        head: HeadKind,
        alpha: float,
        groups: Groups | None = None,
        per_class: bool = False,
    ) -> Self:
        """Choose the thresholds on calibration cases.

        Args:
            probabilities: ``[N, C]``, or ``[N, K]`` for the multilabel head, as
                :func:`medproto.metrics.calibration.probabilities` returns them.
            labels: ``[N]`` in ``0..C-1``, or ``[N, K]`` 1, 0 or NaN for unknown.
            alpha: as above, strictly between 0 and 1.
            groups: ``[N]`` patient of each case; ``None``: each case is its own.
            per_class: a threshold of its own for each class, and for the presence and the absence
                of each finding. The promise then holds within each, also for a rare finding, which
                else may bear all the misses; the price is larger sets, and a class with fewer than
                ``1 / alpha - 1`` groups is in every set.

        Raises:
            ValueError: if an argument is out of range or the shapes disagree.
        """
        chances = _candidates(probabilities, head)  # [N, C] or [N, K, 2]
        members = list(range(len(chances))) if groups is None else list(groups)
        if len(members) != len(chances):
            raise ValueError(
                f"groups must have one entry a case, got {len(members)} for {len(chances)}."
            )
        truth = _truth(labels, chances, head)
        scores = 1.0 - chances

        def threshold(chosen: Booleans) -> float:
            rows = np.nonzero(chosen)[0]
            return conformal_quantile(scores[chosen], alpha, groups=[members[i] for i in rows])

        # Candidates of one slot share a threshold.
        slots = np.zeros(chances.shape[1:], dtype=np.int64)  # [C] or [K, 2]
        if per_class:
            slots = np.arange(slots.size).reshape(slots.shape)
        elif head == "multilabel":
            slots += np.arange(len(slots))[:, None]
        by_slot = [threshold(truth & (slots == slot)) for slot in range(slots.max() + 1)]
        thresholds = tuple(by_slot[slot] for slot in slots.ravel())
        return cls(head, float(alpha), thresholds, len(chances), len(set(members)))

    def sets(self, probabilities: ArrayLike) -> Booleans:
        """Return which classes are in the set of each case.

        Returns:
            ``[N, C]``; for the multilabel head ``[N, K, 2]``, the last axis (absent, present). An
            empty set says that no class is as probable as the true one usually is. Sets of grades
            have no gap.

        Raises:
            ValueError: if the probabilities are none or their columns another number.
        """
        chances = _candidates(probabilities, self.head)
        if chances[:1].size not in (0, len(self.thresholds)):
            raise ValueError(
                f"probabilities must have {len(self.thresholds)} classes in all "
                f"(two a finding), got {chances[:1].size}."
            )
        limits = np.reshape(self.thresholds, chances.shape[1:])
        members = np.asarray(1.0 - chances <= limits)
        if self.head == "ordinal":  # thresholds per class may leave a gap again
            after = np.logical_or.accumulate(members, axis=1)
            before = np.logical_or.accumulate(members[:, ::-1], axis=1)[:, ::-1]
            members = after & before
        return members

    def abstained(self, probabilities: ArrayLike) -> Booleans:
        """Return where the set has not exactly one member: ``[N]``, or ``[N, K]`` for findings.

        Raises:
            ValueError: as :meth:`sets`.
        """
        return np.asarray(self.sets(probabilities).sum(axis=-1) != 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with ``None`` for an infinite threshold."""
        return {
            "head": self.head,
            "alpha": self.alpha,
            "thresholds": [t if math.isfinite(t) else None for t in self.thresholds],
            "cases": self.cases,
            "groups": self.groups,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Undo :meth:`to_dict`."""
        thresholds = tuple(math.inf if t is None else float(t) for t in fields["thresholds"])
        return cls(fields["head"], fields["alpha"], thresholds, fields["cases"], fields["groups"])


def conformal_quantile(scores: ArrayLike, alpha: float, *, groups: Groups | None = None) -> float:
    """Return the score that a new one exceeds with probability at most ``alpha``.

    The ``ceil((n + 1) (1 - alpha))``-th smallest; infinite if there is none. With groups, the
    smallest at which the weights, ``1 / ((G + 1) cases of the group)`` each, reach ``1 - alpha``.

    Args:
        scores: ``[n]``.
        alpha: strictly between 0 and 1.
        groups: ``[n]``; ``None``: each score is its own.

    Raises:
        ValueError: if an argument is out of range or the lengths differ.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha}.")
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(f"scores must be [n] without NaN, got shape {list(values.shape)}.")
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"groups must have {len(values)} entries, got {len(groups)}.")
    names: dict[object, int] = {}
    keys = range(len(values)) if groups is None else groups
    index = np.array([names.setdefault(key, len(names)) for key in keys], dtype=np.int64)
    weights = 1.0 / np.bincount(index)[index]
    order = np.argsort(values, kind="stable")
    # In groups, so that with one score a group the sums are whole numbers.
    needed = (len(names) + 1) * (1.0 - alpha) - _ROUNDING
    reached = np.flatnonzero(np.cumsum(weights[order]) >= needed)
    return float(values[order[reached[0]]]) if len(reached) else math.inf


@metric(direction="neither is better", applies_to="sets of classes; a known label occurs")
def set_coverage(sets: ArrayLike, labels: ArrayLike) -> float | None:
    """Share of the cases whose set holds the truth, 0 to 1; should be ``1 - alpha``.

    Of findings, the mean over those with a known label.

    Args:
        sets: ``[N, C]`` or ``[N, K, 2]``, see :meth:`ConformalSets.sets`.
        labels: ``[N]``, or ``[N, K]`` 1, 0 or NaN for unknown.

    Raises:
        ValueError: if the shapes disagree or a label is out of range.
    """
    members = np.asarray(sets, dtype=bool)
    truth = _truth(labels, members, "multilabel" if members.ndim == 3 else "multiclass")
    covered = (members & truth).any(axis=-1).sum(axis=0)  # [] or [K]
    known = truth.any(axis=-1).sum(axis=0)
    shares = covered[known > 0] / known[known > 0]
    return float(shares.mean()) if shares.size else None


@metric(direction="lower is better", applies_to="sets of classes; at least one case")
def abstention_rate(sets: ArrayLike) -> float | None:
    """Share of the cases (and findings) whose set has not exactly one member, 0 to 1."""
    members = np.asarray(sets, dtype=bool)
    return float(np.mean(members.sum(axis=-1) != 1)) if members.size else None


def _candidates(probabilities: ArrayLike, head: HeadKind) -> Floats:
    """Return what the scores are made of: ``[N, C]``, or ``[N, K, 2]`` for the multilabel head."""
    check_head(head)
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.ndim != 2 or chances.shape[1] < (1 if head == "multilabel" else 2):
        raise ValueError(
            "probabilities must have shape [cases, classes >= 2], or [cases, findings] for the "
            f"multilabel head, got {list(chances.shape)}."
        )
    if not ((chances >= 0) & (chances <= 1 + 1e-6)).all():
        raise ValueError("probabilities must lie in 0..1. Pass `probabilities(logits, ...)`.")
    if head == "multilabel":
        return np.stack([1.0 - chances, chances], axis=-1)
    if head == "ordinal":
        # A valley between two likely grades is filled up, so that sets have no gap. Done alike to
        # calibration and new cases it is only another score, and the promise stays exact.
        rising = np.maximum.accumulate(chances, axis=1)
        falling = np.maximum.accumulate(chances[:, ::-1], axis=1)[:, ::-1]
        return np.minimum(rising, falling)
    return chances


def _truth(labels: ArrayLike, like: NDArray[Any], head: HeadKind) -> Booleans:
    """Return the true candidate of each case, in the shape of ``like``; none where unknown."""
    columns = like.shape[1]
    targets = checked_labels(labels, cases=len(like), columns=columns, head=head)
    return np.asarray(targets[..., None] == np.arange(like.shape[-1]))
