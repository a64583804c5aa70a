"""Figures of a cross-validation: computed within each fold, then averaged over the folds.

Outputs of different models are on different scales, so cases of several folds are never ranked
against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medproto.metrics.base import Direction, MetricResult, draw_groups, rows_of_groups

__all__ = ["mean_over_folds"]


def mean_over_folds(
    compute: Callable[..., float | None],
    folds: Sequence[Sequence[Any]],
    *,
    groups: Sequence[Sequence[object]],
    name: str,
    direction: Direction = "higher is better",
    seed: int = 0,
    rounds: int = 1000,
    level: float = 0.95,
) -> MetricResult:
    """Average a figure over folds, with a percentile interval over resampled groups.

    Each round draws, in each fold, as many of its groups as it has, with replacement, and averages
    the folds' figures. So the interval says what other test patients would have given; it does not
    hold the spread of training again.

    Args:
        compute: takes the arrays of one fold; ``None`` where it is not defined.
        folds: the arrays of each fold; the first axis of each array is the fold's cases.
        groups: ``[n]`` group of each case, per fold; a group lies in one fold.
        name: of the figure.
        direction: which way is better.
        seed: of the resampling.
        rounds: resamples, at least 1; those in which a fold's figure is not defined are left out.
        level: coverage of the interval, strictly between 0 and 1.

    Raises:
        ValueError: if there is no fold, lengths differ or an argument is out of range.
    """
    if not folds or len(folds) != len(groups):
        raise ValueError(
            f"there must be folds, each with its groups, got {len(folds)} and {len(groups)}."
        )
    if rounds < 1 or not 0.0 < level < 1.0:
        raise ValueError(
            f"rounds must be at least 1 and level between 0 and 1, got {rounds} and {level}."
        )
    cases = [[np.asarray(array) for array in arrays] for arrays in folds]
    for arrays, names in zip(cases, groups, strict=True):
        if any(len(array) != len(names) for array in arrays):
            sizes = [len(array) for array in arrays]
            raise ValueError(f"groups must have one entry a case, got {len(names)} for {sizes}.")
    members = [rows_of_groups(names) for names in groups]
    value = _mean([compute(*arrays) for arrays in cases])
    figures: list[float] = []
    if value is not None and all(len(rows) > 1 for rows in members):
        # Each fold draws from a stream of its own, whatever the sizes of the others.
        streams = np.random.SeedSequence(seed).generate_state(len(folds)).tolist()
        draws = [draw_groups(m, s, rounds) for m, s in zip(members, streams, strict=True)]
        for drawn in zip(*draws, strict=True):
            parts = zip(cases, drawn, strict=True)
            figure = _mean([compute(*(a[rows] for a in arrays)) for arrays, rows in parts])
            if figure is not None:
                figures.append(figure)
    low = high = None
    if figures:
        tail = (1.0 - level) / 2
        low, high = (float(q) for q in np.quantile(figures, [tail, 1.0 - tail]))
    n, count = sum(len(names) for names in groups), sum(len(rows) for rows in members)
    return MetricResult(name, value, low, high, n, count, direction, len(figures) / rounds)


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if len(known) == len(figures) else None
