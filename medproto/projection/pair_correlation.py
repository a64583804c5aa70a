"""Pearson correlation of many pairs of series, value by value, without keeping the series."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PairCorrelation"]

FLAT = 1e-6
"""A series that varies by less, relative to 1 + its mean, is constant: that is rounding."""


class PairCorrelation:
    """Correlates series of a left and a right set, of which one value each comes at a time.

    Means and central moments are updated with each value in float64, by the formulas of [1]:
    memory of the number of pairs, and no dependence on how the values are cut into batches.

    Args:
        left: ``[T]`` number of the left series of each pair.
        right: ``[T]`` number of the right series of each pair.

    Example:
        >>> pairs = PairCorrelation([0, 0], [0, 1])
        >>> for x, a, b in [(1, 2, 1), (2, 4, 1), (3, 6, 1)]:
        ...     pairs.add([x], [a, b])
        >>> pairs.values()
        array([ 1., nan])

    References:
        [1] Welford, "Note on a method for calculating corrected sums of squares and products",
            Technometrics 4(3), 1962. https://doi.org/10.1080/00401706.1962.10490022
    """

    def __init__(self, left: ArrayLike, right: ArrayLike) -> None:
        self._pairs = np.asarray(left, dtype=np.intp), np.asarray(right, dtype=np.intp)
        self._mean = [np.zeros(1), np.zeros(1)]
        self._square = [np.zeros(1), np.zeros(1)]
        self._cross = np.zeros(len(self._pairs[0]))
        self.count = 0

    def add(self, left: ArrayLike, right: ArrayLike) -> None:
        """Take the next value of each series of the left and the right set."""
        self.count += 1
        before, after = [], []
        for side, given in enumerate((left, right)):
            value = np.asarray(given, dtype=np.float64)
            before.append(value - self._mean[side])
            self._mean[side] = self._mean[side] + before[side] / self.count
            after.append(value - self._mean[side])
            self._square[side] = self._square[side] + before[side] * after[side]
        self._cross += before[0][self._pairs[0]] * after[1][self._pairs[1]]

    def values(self) -> NDArray[np.float64]:
        """Return ``[T]`` correlations, -1 to 1; NaN where a series of the pair is constant."""
        if not self.count:
            return np.full(len(self._cross), np.nan)
        spread = []
        for mean, square in zip(self._mean, self._square, strict=True):
            deviation = np.sqrt(square / self.count)
            spread.append(np.where(deviation > FLAT * (1 + np.abs(mean)), np.sqrt(square), np.nan))
        left, right = self._pairs
        return np.clip(self._cross / (spread[0][left] * spread[1][right]), -1.0, 1.0)
