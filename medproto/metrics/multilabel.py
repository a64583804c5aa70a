"""Metrics for several findings an image, some of whose labels are unknown.

Symbols: ``N`` cases, ``K`` findings. ``probabilities`` is ``[N, K]``; ``labels`` is ``[N, K]``
1, 0 or NaN for unknown. Unknown labels are left out, finding by finding.

The macro figures are means over the findings for which the figure is defined: a ranking needs a
positive and a negative case. In a bootstrap resample a rare finding may lose its last positive; it
is then left out of that resample's mean, so the interval says a little less about rare findings.
:func:`summarize_multilabel` lists each finding by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.metrics.base import Metric, bootstrap, metric
from medproto.metrics.calibration import checked_labels
from medproto.metrics.classification import auroc, average_precision

__all__ = [
    "multilabel_auroc",
    "multilabel_average_precision",
    "multilabel_calibration_error",
    "summarize_multilabel",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@metric(
    direction="higher is better",
    applies_to="scores of findings; one finding with a positive and a negative case",
)
def multilabel_auroc(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean over the findings of the area under the ROC curve, 0 to 1; chance is 0.5.

    Raises:
        ValueError: if the shapes disagree, a score is not finite or a label is not 0, 1 or NaN.
    """
    return _macro(auroc, probabilities, labels)


@metric(
    direction="higher is better",
    applies_to="scores of findings; one finding with a positive and a negative case",
)
def multilabel_average_precision(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean over the findings of the average precision, 0 to 1; chance is the mean prevalence.

    Raises:
        ValueError: as :func:`multilabel_auroc`.
    """
    return _macro(average_precision, probabilities, labels)


@metric(direction="lower is better", applies_to="probabilities of findings; a known label occurs")
def multilabel_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15
) -> float | None:
    """Mean over the findings of the expected calibration error, 0 to 1.

    Per finding, the distance of the mean probability and the share of positives, over equal-width
    bins ``(low, high]`` of the probability of the *finding*, weighted by their cases. (For classes,
    :func:`medproto.metrics.classification.expected_calibration_error` bins the winner's; for a rare
    finding that would be the absence nearly always.)

    Args:
        bins: number of bins, at least 1.

    Raises:
        ValueError: as :func:`multilabel_auroc`, or if a probability is outside 0 to 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")

    def error(chances: Floats, targets: Integers) -> float | None:
        if ((chances < 0) | (chances > 1)).any():
            raise ValueError(
                f"probabilities must lie in 0..1, got {chances.min():g} to {chances.max():g}."
            )
        index = np.clip(np.ceil(chances * bins).astype(np.int64) - 1, 0, bins - 1)
        surplus = np.bincount(index, weights=chances - targets, minlength=bins)
        return float(np.abs(surplus).sum() / len(targets)) if len(targets) else None

    return _macro(error, probabilities, labels)


def summarize_multilabel(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[object] | NDArray[Any],
    findings: Sequence[str],
    *,
    seed: int = 0,
    rounds: int = 1000,
) -> dict[str, Any]:
    """Discrimination and calibration of all findings together and of each.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N, K]`` 1, 0 or NaN.
        groups: ``[N]`` patient or group of each case.
        findings: ``K`` names.
        seed: of the bootstrap.
        rounds: of the bootstrap.

    Returns:
        ``n``, ``groups``, ``auroc``, ``average_precision``, ``ece`` (each ``value``, ``low``,
        ``high``: the macro figures) and ``findings``: name -> ``n`` (known labels), ``positives``,
        ``auroc``, ``average_precision``, ``ece``.

    Raises:
        ValueError: as :func:`multilabel_auroc`, or if the number of names differs.
    """
    chances, targets = _checked(probabilities, labels)
    if len(findings) != chances.shape[1]:
        raise ValueError(f"findings must be {chances.shape[1]} names, got {len(findings)}.")

    members = list(groups)

    def measured(columns: slice) -> dict[str, Any]:
        rows = np.flatnonzero((~np.isnan(targets[:, columns])).any(axis=1))
        patients = [members[row] for row in rows.tolist()]
        measures: dict[str, Metric] = {
            "auroc": multilabel_auroc,
            "average_precision": multilabel_average_precision,
            "ece": multilabel_calibration_error,
        }
        arrays = (chances[rows, columns], targets[rows, columns])
        return {
            name: bootstrap(measure, *arrays, groups=patients, seed=seed, rounds=rounds).to_dict()
            for name, measure in measures.items()
        }

    return {
        "n": len(chances),
        "groups": len(set(groups)),
        **measured(slice(None)),
        "findings": {
            name: {
                "n": int((~np.isnan(targets[:, k])).sum()),
                "positives": int((targets[:, k] == 1).sum()),
                **measured(slice(k, k + 1)),
            }
            for k, name in enumerate(findings)
        },
    }


def _macro(
    measure: Callable[[Floats, Integers], float | None],
    probabilities: ArrayLike,
    labels: ArrayLike,
) -> float | None:
    chances, targets = _checked(probabilities, labels)
    known = ~np.isnan(targets)
    figures = [
        measure(chances[rows, k], targets[rows, k].astype(np.int64))
        for k, rows in enumerate(known.T)
    ]
    defined = [figure for figure in figures if figure is not None]
    return float(np.mean(defined)) if defined else None


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.ndim != 2 or chances.shape[1] < 1:
        raise ValueError(
            f"probabilities must have shape [cases, findings], got {list(chances.shape)}."
        )
    if not np.isfinite(chances).all():
        raise ValueError("probabilities must be finite, got NaN or infinity.")
    cases, columns = chances.shape
    return chances, checked_labels(labels, cases=cases, columns=columns, head="multilabel")
