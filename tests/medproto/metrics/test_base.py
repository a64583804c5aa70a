import pickle
import time

import numpy as np
import pytest

import medproto.metrics as metrics
from medproto.metrics import (
    METRICS,
    MetricResult,
    auroc,
    balanced_accuracy,
    bootstrap,
    case_metric,
    expected_calibration_error,
    metric,
    paired_difference,
    sensitivity,
)
from medproto.metrics.base import draw_groups, rows_of_groups


@metric(direction="higher is better", applies_to="any numbers")
def mean(values):
    return float(np.mean(values))


@case_metric(direction="lower is better", applies_to="lists of numbers")
def total(lists):
    return np.array([float(sum(entries)) for entries in lists])


@pytest.mark.parametrize("measure", METRICS, ids=lambda m: m.name)
def test_every_metric_states_direction_and_applicability_and_pickles(measure):
    assert measure.direction in {"higher is better", "lower is better", "neither is better"}
    assert measure.applies_to
    assert measure.__doc__
    assert measure.name in repr(measure)
    assert measure.direction in repr(measure)
    assert getattr(metrics, measure.name) is measure
    assert pickle.loads(pickle.dumps(measure)) is measure


def test_public_names_are_sorted_and_importable():
    assert sorted(metrics.__all__) == metrics.__all__
    assert all(hasattr(metrics, name) for name in metrics.__all__)


def test_interval_by_pencil():
    # Groups a: 1, b: 2 4, c: 9. Of the 27 resamples, sorted by their mean, 5 to 7 have 2.6 (a b b)
    # and 21 to 23 have 6 (b c c); 20 % of 27 is 5.4, 80 % is 21.6.
    values, groups = np.array([1.0, 2.0, 4.0, 9.0]), ["a", "b", "b", "c"]
    result = bootstrap(mean, values, groups=groups, rounds=5000, level=0.6)
    assert (result.value, result.n, result.groups) == (4.0, 4, 3)
    assert (result.low, result.high) == (pytest.approx(2.6), pytest.approx(6.0))
    assert result.rounds_used == 1.0


def test_resamples_keep_groups_whole():
    groups = [7, "x", 7, 3, "x", 7]
    members = rows_of_groups(groups)
    assert [rows.tolist() for rows in members] == [[0, 2, 5], [1, 4], [3]]
    for rows in draw_groups(members, 0, 50):
        counts = np.bincount(rows, minlength=6)
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3  # as many groups as there are


def test_grouped_interval_is_wider_than_one_over_cases(make_scores):
    scores, labels = make_scores(0, cases=40)
    scores, labels = np.repeat(scores, 10, axis=0), np.repeat(labels, 10)
    grouped = bootstrap(auroc, scores, labels, groups=np.repeat(np.arange(40), 10), rounds=300)
    single = bootstrap(auroc, scores, labels, groups=np.arange(400), rounds=300)
    assert grouped.value == single.value
    assert grouped.high - grouped.low > 2 * (single.high - single.low)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(150):
        values = np.repeat(random.normal(size=40), 3)
        result = bootstrap(
            mean, values, groups=np.arange(120) // 3, rounds=200, seed=trial, level=0.9
        )
        covered += result.low <= 0.0 <= result.high
    assert 0.80 <= covered / 150 <= 0.97


def test_same_seed_same_interval_other_seed_another(make_scores):
    scores, labels = make_scores(2)
    groups = np.arange(120) // 2
    first, again = (bootstrap(auroc, scores, labels, groups=groups, rounds=100) for _ in range(2))
    other = bootstrap(auroc, scores, labels, groups=groups, rounds=100, seed=1)
    assert first == again
    assert first.value == other.value
    assert (first.low, first.high) != (other.low, other.high)


def test_resamples_without_a_class_are_left_out_and_counted():
    # One positive among four: a resample lacks it with probability (3/4)^4 = 0.316, and lacks
    # the negatives with (1/4)^4 = 0.004.
    result = bootstrap(auroc, [0.1, 0.4, 0.3, 0.9], [0, 0, 0, 1], groups=range(4), rounds=4000)
    assert (result.value, result.low, result.high) == (1.0, 1.0, 1.0)
    assert result.rounds_used == pytest.approx(1 - (3 / 4) ** 4 - (1 / 4) ** 4, abs=0.03)


def test_what_is_not_defined_has_no_value_but_a_count():
    result = bootstrap(auroc, [0.1, 0.4], [1, 1], groups=["a", "b"], rounds=10)
    assert result == MetricResult("auroc", None, None, None, 2, 2, "higher is better", 0.0)
    assert result.to_dict() == {"value": None, "low": None, "high": None}


def test_one_group_gives_a_value_without_an_interval():
    result = bootstrap(auroc, [0.1, 0.4], [0, 1], groups=["a", "a"])
    assert (result.value, result.low, result.high, result.groups) == (1.0, None, None, 1)


def test_case_metric_takes_ragged_lists_and_resamples_the_mean():
    result = bootstrap(total, [[1], [2, 3], [], [5]], groups=[0, 1, 2, 2], rounds=500)
    assert result.value == pytest.approx(11 / 4)
    assert 0.0 <= result.low < 11 / 4 < result.high <= 5.0
    assert result.direction == "lower is better"
    assert bootstrap(total, [], groups=[]).value is None


def test_options_reach_the_metric():
    result = bootstrap(sensitivity, [0.2, 0.6, 0.9], [1, 1, 1], groups=range(3), threshold=0.5)
    assert result.value == pytest.approx(2 / 3)


def test_paired_difference_draws_the_same_groups_for_both(make_scores):
    scores, labels = make_scores(3)
    groups = np.arange(120) // 2
    worse, _ = make_scores(4)
    same = paired_difference(auroc, scores, scores, labels, groups=groups, rounds=50)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert same.name == "auroc_difference"
    result = paired_difference(auroc, scores, worse, labels, groups=groups, rounds=200)
    assert result.value == pytest.approx(auroc(scores, labels) - auroc(worse, labels))
    expected = [
        auroc(scores[rows], labels[rows]) - auroc(worse[rows], labels[rows])
        for rows in draw_groups(rows_of_groups(groups), 0, 200)
    ]
    assert result.low == pytest.approx(np.quantile(expected, 0.025))
    assert result.high == pytest.approx(np.quantile(expected, 0.975))


def test_paired_difference_of_an_undefined_metric_is_undefined():
    result = paired_difference(auroc, [0.1, 0.2], [0.3, 0.4], [1, 1], groups=[0, 1], rounds=5)
    assert result.value is None


def test_inputs_are_left_alone(make_scores):
    scores, labels = make_scores(5)
    before = scores.copy(), labels.copy()
    for measure in (auroc, balanced_accuracy, expected_calibration_error):
        bootstrap(measure, scores, labels, groups=np.arange(120), rounds=3)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_a_thousand_rounds_are_fast(make_scores):
    scores, labels = make_scores(6, cases=600)
    begun = time.perf_counter()
    bootstrap(auroc, scores, labels, groups=np.arange(600) // 2)
    assert (
        time.perf_counter() - begun < 5.0
    )  # 0.2 s alone; the bound leaves room for a busy machine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(groups=[0]), r"groups must have one entry a case, got 1 for \[2\]"),
        (dict(rounds=0), "rounds must be at least 1 and level between 0 and 1, got 0"),
        (dict(level=1.0), "got 1000 and 1.0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(mean, [1.0, 2.0], **(dict(groups=[0, 1]) | change))
