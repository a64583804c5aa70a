"""Streamed correlations against numpy's over the whole series."""

import numpy as np
import pytest

from medproto.projection.pair_correlation import PairCorrelation


def test_equals_numpy_over_the_whole_series():
    random = np.random.default_rng(0)
    left = random.normal(size=(50, 3)) * [1.0, 1e-3, 50.0] + [0.0, 9.0, -200.0]
    right = left[:, [0, 1, 1, 2]] + random.normal(size=(50, 4)) * [0.5, 1e-3, 1.0, 5.0]
    pairs = PairCorrelation([0, 1, 2, 2, 0], [0, 1, 2, 3, 3])
    for x, y in zip(left, right, strict=True):
        pairs.add(x, y)
    expected = [
        np.corrcoef(left[:, i], right[:, j])[0, 1]
        for i, j in [(0, 0), (1, 1), (2, 2), (2, 3), (0, 3)]
    ]
    assert pairs.count == 50
    assert pairs.values() == pytest.approx(expected, abs=1e-9)


def test_a_constant_series_has_no_correlation_nor_has_rounding():
    pairs = PairCorrelation([0, 0, 0], [0, 1, 2])
    for x, noise in [(1.0, 0.0), (2.0, 4e-7), (4.0, -4e-7), (5.0, 0.0)]:
        pairs.add([x], [7.0, 7.0 + noise, 7.0 + 1e-3 * x])
    assert np.isnan(pairs.values()[:2]).all()
    assert pairs.values()[2] == pytest.approx(1.0)


def test_one_value_or_none_is_no_series():
    pairs = PairCorrelation([0], [0])
    assert np.isnan(pairs.values()).all()
    pairs.add([1.0], [2.0])
    assert np.isnan(pairs.values()).all()
