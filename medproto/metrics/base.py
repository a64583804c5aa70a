"""What every metric shares: direction, applicability, and an interval over groups.

Symbols: ``n`` cases; a *group* is the patient, or whatever else makes cases depend on each other.

Intervals are percentile intervals of a grouped bootstrap: whole groups are drawn with replacement,
so ten images of one patient count as one piece of evidence. Single cases drawn instead would
make every interval too narrow.

References:
    [1] Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8.3 and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CaseMetric",
    "Direction",
    "Metric",
    "MetricResult",
    "bootstrap",
    "case_metric",
    "metric",
    "paired_difference",
]

Direction = Literal["higher is better", "lower is better", "neither is better"]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MetricResult:
    """A figure with its interval.

    Args:
        name: of the metric.
        value: over all cases; ``None`` where the metric is not defined, e.g. an AUROC of cases
            that all have one class.
        low: lower end of the interval; ``None`` without a value, with fewer than two groups, or
            where the metric was defined in no resample.
        high: upper end, as ``low``.
        n: cases.
        groups: groups they come from.
        direction: which way is better.
        rounds_used: share of the resamples, 0 to 1, in which the metric was defined; the interval
            is over these.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    direction: Direction
    rounds_used: float

    def to_dict(self) -> dict[str, float | None]:
        """Return ``{"value", "low", "high"}`` for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Metric:
    """A function of all cases together that knows its direction and what it may be applied to.

    Made by the decorator :func:`metric`; called like the function.

    Args:
        function: takes arrays whose first axis is the cases; returns the figure or ``None``.
        direction: which way is better.
        applies_to: the cases and inputs it is defined for, in words.
    """

    def __init__(
        self, function: Callable[..., float | None], *, direction: Direction, applies_to: str
    ) -> None:
        update_wrapper(self, function)
        self.name = function.__name__
        self.direction: Direction = direction
        self.applies_to = applies_to
        self._function = function

    def __call__(self, *arrays: Any, **options: Any) -> float | None:
        """Return the figure; ``None`` where it is not defined."""
        return self._function(*arrays, **options)

    def __repr__(self) -> str:
        return f"<metric {self.name}: {self.direction}; {self.applies_to}>"

    def __reduce__(self) -> str:
        return self.name


class CaseMetric:
    """A figure per case; the metric itself is their mean.

    Made by the decorator :func:`case_metric`; called like the function.

    Args:
        function: returns one number per case.
        direction: which way is better.
        applies_to: the cases and inputs it is defined for, in words.
    """

    def __init__(
        self,
        function: Callable[..., NDArray[np.float64]],
        *,
        direction: Direction,
        applies_to: str,
    ) -> None:
        update_wrapper(self, function)
        self.name = function.__name__
        self.direction: Direction = direction
        self.applies_to = applies_to
        self._function = function

    def __call__(self, *arrays: Any, **options: Any) -> NDArray[np.float64]:
        """Return ``[n]`` figures."""
        return self._function(*arrays, **options)

    def __repr__(self) -> str:
        return f"<case metric {self.name}: {self.direction}; {self.applies_to}>"

    def __reduce__(self) -> str:
        return self.name


def metric(
    *, direction: Direction, applies_to: str
) -> Callable[[Callable[..., float | None]], Metric]:
    """Turn a function into a :class:`Metric`."""
    return lambda function: Metric(function, direction=direction, applies_to=applies_to)


def case_metric(
    *, direction: Direction, applies_to: str
) -> Callable[[Callable[..., NDArray[np.float64]]], CaseMetric]:
    """Turn a function into a :class:`CaseMetric`."""
    return lambda function: CaseMetric(function, direction=direction, applies_to=applies_to)


def bootstrap(
    measure: Metric | CaseMetric,
    *arrays: Any,
    groups: Sequence[object] | NDArray[Any],
    seed: int = 0,
    rounds: int = 1000,
    level: float = 0.95,
    **options: Any,
) -> MetricResult:
    """Compute a metric with a percentile interval over resampled groups.

    Args:
        measure: the metric. Of a :class:`CaseMetric` the figures are computed once and their mean
            is resampled.
        arrays: inputs of the metric; the first axis of each is the cases. A case metric also takes
            lists, e.g. of masks of several shapes.
        groups: ``[n]`` group of each case, any hashable values.
        seed: of the resampling; the same seed draws the same groups.
        rounds: resamples, at least 1. Those in which the metric is not defined are left out.
        level: coverage of the interval, strictly between 0 and 1.
        options: keyword arguments of the metric, e.g. ``threshold``.

    Raises:
        ValueError: if the lengths differ, an argument is out of range, or the metric refuses its
            inputs.
    """
    if isinstance(measure, CaseMetric):
        figures = measure(*arrays, **options)
        return _interval(measure, _mean, (figures,), groups, seed, rounds, level)

    def compute(*cases: Any) -> float | None:
        return measure(*cases, **options)

    return _interval(measure, compute, arrays, groups, seed, rounds, level)


def paired_difference(
    measure: Metric,
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    *,
    groups: Sequence[object] | NDArray[Any],
    seed: int = 0,
    rounds: int = 1000,
    level: float = 0.95,
    **options: Any,
) -> MetricResult:
    """Difference ``measure(first) - measure(second)`` of two models on the same cases.

    Both are computed on the same resamples, so that what makes a resample easy for both cancels.

    Args:
        measure: takes the outputs of a model and the labels.
        first: outputs of the one model; the first axis is the cases.
        second: outputs of the other.
        labels: ``[n]``.
        groups: as in :func:`bootstrap`, as are ``seed``, ``rounds``, ``level`` and ``options``.

    Raises:
        ValueError: as :func:`bootstrap`.
    """

    def compute(one: Any, other: Any, targets: Any) -> float | None:
        left, right = measure(one, targets, **options), measure(other, targets, **options)
        return None if left is None or right is None else left - right

    arrays = (first, second, labels)
    result = _interval(measure, compute, arrays, groups, seed, rounds, level)
    return MetricResult(
        f"{measure.name}_difference",
        result.value,
        result.low,
        result.high,
        result.n,
        result.groups,
        result.direction,
        result.rounds_used,
    )


def _mean(figures: NDArray[np.float64]) -> float | None:
    return float(figures.mean()) if figures.size else None


def _interval(
    measure: Metric | CaseMetric,
    compute: Callable[..., float | None],
    arrays: Sequence[Any],
    groups: Sequence[object] | NDArray[Any],
    seed: int,
    rounds: int,
    level: float,
) -> MetricResult:
    if rounds < 1 or not 0.0 < level < 1.0:
        raise ValueError(
            f"rounds must be at least 1 and level between 0 and 1, got {rounds} and {level}."
        )
    cases = [np.asarray(array) for array in arrays]
    sizes = [len(case) for case in cases]
    if any(size != len(groups) for size in sizes):
        raise ValueError(f"groups must have one entry a case, got {len(groups)} for {sizes}.")
    members = rows_of_groups(groups)
    value = compute(*cases)
    low: float | None = None
    high: float | None = None
    figures: list[float] = []
    if value is not None and len(members) > 1:
        draws = draw_groups(members, seed, rounds)
        resamples = (compute(*(c[rows] for c in cases)) for rows in draws)
        figures = [figure for figure in resamples if figure is not None]
    if figures:
        tail = (1.0 - level) / 2
        low, high = (float(q) for q in np.quantile(figures, [tail, 1.0 - tail]))
    return MetricResult(
        measure.name,
        value,
        low,
        high,
        len(groups),
        len(members),
        measure.direction,
        len(figures) / rounds,
    )


def rows_of_groups(groups: Sequence[object] | NDArray[Any]) -> list[Integers]:
    """Rows of each group, groups in the order in which they first occur."""
    rows: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return [np.array(members) for members in rows.values()]


def draw_groups(members: Sequence[Integers], seed: int, rounds: int) -> Iterator[Integers]:
    """Rows of as many groups as there are, drawn with replacement, once a round."""
    random = np.random.default_rng(seed)
    order = np.concatenate(members)
    sizes = np.array([len(rows) for rows in members])
    starts = np.cumsum(sizes) - sizes
    for _ in range(rounds):
        drawn = random.integers(len(members), size=len(members))
        counts = sizes[drawn]
        ends = np.cumsum(counts)
        # Position within the resample, minus where its group begins there, plus where that group
        # begins in ``order``: all groups at once, no loop.
        shift = np.repeat(starts[drawn] - (ends - counts), counts)
        yield order[np.arange(ends[-1]) + shift]
