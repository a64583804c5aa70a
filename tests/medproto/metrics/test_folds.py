"""The mean over folds: by hand, and against the bootstrap of a single fold."""

import numpy as np
import pytest

from medproto.metrics import auroc, bootstrap, mean_over_folds


def mean(values):
    return float(values.mean())


def test_folds_count_equally_whatever_their_size():
    folds = [[np.array([1.0, 1.0, 1.0, 1.0])], [np.array([0.0, 1.0])]]
    result = mean_over_folds(mean, folds, groups=[list("abcd"), list("ef")], name="hits")
    assert result.value == 0.75  # (1 + 1/2) / 2, not 5 / 6
    assert (result.name, result.n, result.groups) == ("hits", 6, 6)
    # The second fold's two groups drawn with replacement give 0, 1/2 or 1; the first always 1.
    assert (result.low, result.high) == (0.5, 1.0)


def test_the_interval_of_one_fold_is_about_that_of_the_plain_bootstrap():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 80)
    scores = np.stack([1 - (x := labels * 0.5 + random.random(80) * 0.8), x], axis=1)
    groups = [int(i) // 2 for i in range(80)]
    one = mean_over_folds(auroc, [[scores, labels]], groups=[groups], name="auroc")
    plain = bootstrap(auroc, scores, labels, groups=groups)
    assert one.value == plain.value
    assert one.low == pytest.approx(plain.low, abs=0.02)
    assert one.high == pytest.approx(plain.high, abs=0.02)


def test_two_equal_folds_halve_the_variance():
    values = np.arange(40.0)
    names = [str(i) for i in range(40)]
    one = mean_over_folds(mean, [[values]], groups=[names], name="m", rounds=4000)
    two = mean_over_folds(mean, [[values]] * 2, groups=[names] * 2, name="m", rounds=4000)
    ratio = (two.high - two.low) / (one.high - one.low)
    assert ratio == pytest.approx(0.5**0.5, abs=0.05)


def test_a_fold_without_a_figure_leaves_the_mean_undefined():
    folds = [[np.array([1.0])], [np.array([])]]
    result = mean_over_folds(
        lambda values: mean(values) if len(values) else None,
        folds,
        groups=[["a"], []],
        name="hits",
    )
    assert (result.value, result.low, result.high) == (None, None, None)


def test_groups_stay_together():
    # Two groups, one all right and one all wrong: a resample has 0, half or all right, no other.
    values = np.array([1.0] * 10 + [0.0] * 10)
    groups = ["a"] * 10 + ["b"] * 10
    result = mean_over_folds(mean, [[values]], groups=[groups], name="hits")
    assert (result.value, result.low, result.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": [], "groups": []}, "there must be folds, each with its groups, got 0 and 0"),
        ({"groups": [["a"]]}, "groups must have one entry a case, got 1 for \\[2\\]"),
        ({"rounds": 0}, "rounds must be at least 1 and level between 0 and 1, got 0"),
        ({"level": 1.0}, "level between 0 and 1, got 1000 and 1.0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    given = {"folds": [[np.array([1.0, 0.0])]], "groups": [["a", "b"]], "name": "m"} | arguments
    with pytest.raises(ValueError, match=message):
        mean_over_folds(mean, given.pop("folds"), **given)
