"""From logits to probabilities, and the one temperature that makes them honest.

Symbols: ``N`` cases, ``K`` logits, ``T`` temperature. The four heads:

- ``"multiclass"``: ``K`` classes, softmax; labels ``[N]`` in ``0..K-1``.
- ``"binary"``: as multiclass with ``K`` = 2.
- ``"multilabel"``: ``K`` findings, a sigmoid each; labels ``[N, K]`` 1, 0 or NaN for unknown.
- ``"ordinal"``: ``K + 1`` grades in order; logit ``k`` is that of "the grade exceeds ``k``" [2];
  labels ``[N]`` in ``0..K``.

Dividing all logits by one ``T`` changes no decision and no ranking within a finding or between two
classes, only how sure the probabilities are. Fit ``T`` on validation cases that trained nothing.

References:
    [1] Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
        https://arxiv.org/abs/1706.04599
    [2] Cao, Mirjalili, Raschka, "Rank consistent ordinal regression for neural networks", Pattern
        Recognition Letters 140, 2020. https://arxiv.org/abs/1901.07884
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, log_expit, log_softmax, softmax

from medproto.records import HeadKind

__all__ = [
    "TEMPERATURE_BOUNDS",
    "Temperature",
    "apply_temperature",
    "fit_temperature",
    "probabilities",
]

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""No temperature lies outside. Where the validation cases are separated without an error the best
``T`` would be 0, where the logits point the wrong way it would be infinite."""

Floats = NDArray[np.float64]
Slope = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Temperature:
    """A fitted temperature and what it did to the validation cases.

    Args:
        value: ``T``; logits are divided by it.
        bound: which of :data:`TEMPERATURE_BOUNDS` stopped the search, ``None`` if the optimum lies
            between them. At ``"lower"`` the cases were too few or too easy to tell how sure the
            model may be, so the probabilities are close to 0 and 1 and deserve no trust.
        loss_before: mean negative log-likelihood at ``T`` = 1, in nats a known label.
        loss: the same at ``T``.
        cases: ``N``.
    """

    value: float
    bound: Literal["lower", "upper"] | None
    loss_before: float
    loss: float
    cases: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Undo :meth:`to_dict`."""
        return cls(**fields)


def fit_temperature(logits: ArrayLike, labels: ArrayLike, *, head: HeadKind) -> Temperature:
    """Find the temperature with the smallest negative log-likelihood.

    The loss is convex in ``1 / T``, so its slope has one change of sign, which Brent's method
    brackets. For ordinal grades it is the binary cross-entropy summed over the thresholds, as in
    [2]: finite even where two thresholds coincide. Logits that say nothing (all differences zero)
    get ``T`` = 1.

    Args:
        logits: ``[N, K]``.
        labels: see the head of the module; NaN is left out.

    Raises:
        ValueError: if the shapes disagree, a logit is not finite, a label is out of range, or no
            label is known.
    """
    scores, targets = _checked(logits, labels, head)
    if head in ("multiclass", "binary"):
        loss, slope = _softmax_loss(scores, targets.astype(np.int64))
    else:
        loss, slope = _sigmoid_loss(scores, _indicators(targets, scores.shape[1], head))
    low, high = TEMPERATURE_BOUNDS
    value: float = 1.0
    bound: Literal["lower", "upper"] | None = None
    if slope(0.0) == 0.0 == slope(1.0):
        pass  # the logits say nothing
    elif slope(1 / low) <= 0:
        value, bound = low, "lower"
    elif slope(1 / high) >= 0:
        value, bound = high, "upper"
    else:
        value = 1 / float(brentq(slope, 1 / high, 1 / low, xtol=1e-12, rtol=1e-12))
    return Temperature(value, bound, loss(1.0), loss(1 / value), len(scores))


def apply_temperature(logits: ArrayLike, temperature: float) -> Floats:
    """Return ``logits / T``.

    Raises:
        ValueError: if the temperature is not a finite number above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and above 0, got {temperature}.")
    return np.asarray(logits, dtype=np.float64) / temperature


def probabilities(logits: ArrayLike, *, head: HeadKind, temperature: float = 1.0) -> Floats:
    """Turn logits into probabilities.

    Args:
        logits: ``[N, K]``.
        temperature: ``T``.

    Returns:
        ``[N, K]``; for the ordinal head ``[N, K + 1]``, one column a grade, from the differences of
        the cumulative probabilities. Cumulative logits that are out of order are sorted first, so
        that none is negative. Rows sum to 1 for all heads but multilabel.

    Raises:
        ValueError: if the shape does not fit the head, a logit is not finite, or as
            :func:`apply_temperature`.
    """
    scores = apply_temperature(_checked_logits(logits, head), temperature)
    if head == "multilabel":
        return np.asarray(expit(scores))
    if head != "ordinal":
        return np.asarray(softmax(scores, axis=1))
    falling = -np.sort(-scores, axis=1)
    padded = np.pad(falling, ((0, 0), (1, 1)), constant_values=((0, 0), (math.inf, -math.inf)))
    above, below = padded[:, :-1], padded[:, 1:]  # of P(y > k - 1) and P(y > k)
    # sigmoid(a) - sigmoid(b), without the cancellation of two numbers close to 1.
    return np.asarray(-np.expm1(below - above) * expit(above) * expit(-below))


def check_head(head: str) -> None:
    """Refuse an unknown head.

    Raises:
        ValueError: if ``head`` is none of :data:`HeadKind`.
    """
    if head not in get_args(HeadKind):
        raise ValueError(f"head must be one of {', '.join(get_args(HeadKind))}, got {head!r}.")


def checked_labels(labels: ArrayLike, *, cases: int, columns: int, head: HeadKind) -> Floats:
    """Return labels as floats: ``[N]``, or ``[N, columns]`` with NaN for the multilabel head.

    Args:
        cases: ``N``.
        columns: findings for the multilabel head, else classes or grades.

    Raises:
        ValueError: if the shape is another or a label is out of range.
    """
    targets = np.asarray(labels, dtype=np.float64)
    shape = (cases, columns) if head == "multilabel" else (cases,)
    if targets.shape != shape:
        raise ValueError(f"labels must have shape {list(shape)}, got {list(targets.shape)}.")
    if head == "multilabel":
        if not np.isin(targets[~np.isnan(targets)], (0.0, 1.0)).all():
            raise ValueError("labels must be 0, 1 or NaN, got another value.")
    elif not np.isin(targets, np.arange(columns)).all():
        raise ValueError(f"labels must be whole numbers in 0..{columns - 1}, got another value.")
    return targets


def _checked_logits(logits: ArrayLike, head: HeadKind) -> Floats:
    check_head(head)
    scores = np.asarray(logits, dtype=np.float64)
    fewest = 2 if head in ("multiclass", "binary") else 1
    most = 2 if head == "binary" else math.inf
    if scores.ndim != 2 or not fewest <= scores.shape[1] <= most:
        wanted = "2" if head == "binary" else f"logits >= {fewest}"
        raise ValueError(
            f"logits must have shape [cases, {wanted}] for the {head} head, "
            f"got {list(scores.shape)}."
        )
    if not np.isfinite(scores).all():
        raise ValueError("logits must be finite, got NaN or infinity.")
    return scores


def _checked(logits: ArrayLike, labels: ArrayLike, head: HeadKind) -> tuple[Floats, Floats]:
    scores = _checked_logits(logits, head)
    columns = scores.shape[1] + (head == "ordinal")
    targets = checked_labels(labels, cases=len(scores), columns=columns, head=head)
    if not (~np.isnan(targets)).any():
        raise ValueError("labels must hold at least one known label, got none.")
    return scores, targets


def _indicators(targets: Floats, count: int, head: HeadKind) -> Floats:
    """Return ``[N, K]`` 1, 0 or NaN: the finding is there, or the grade exceeds ``k``."""
    if head == "multilabel":
        return targets
    return (targets[:, None] > np.arange(count)).astype(np.float64)


def _softmax_loss(scores: Floats, targets: NDArray[np.int64]) -> tuple[Slope, Slope]:
    """Mean loss and its slope as functions of ``1 / T``."""
    rows = np.arange(len(scores))
    # Relative to the true class: cases that say nothing become exact zeros.
    margins = scores - scores[rows, targets][:, None]  # [N, K]

    def loss(inverse: float) -> float:
        return float(-log_softmax(inverse * margins, axis=1)[rows, targets].mean())

    def slope(inverse: float) -> float:
        return float((softmax(inverse * margins, axis=1) * margins).sum(axis=1).mean())

    return loss, slope


def _sigmoid_loss(scores: Floats, indicators: Floats) -> tuple[Slope, Slope]:
    known = ~np.isnan(indicators)
    margins = np.where(indicators == 1, scores, -scores)[known]  # positive where right

    def loss(inverse: float) -> float:
        return float(-log_expit(inverse * margins).mean())

    def slope(inverse: float) -> float:
        return float(-(expit(-inverse * margins) * margins).mean())

    return loss, slope
