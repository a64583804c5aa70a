import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from medproto.metrics import (
    ConformalSets,
    abstention_rate,
    conformal_quantile,
    fit_temperature,
    probabilities,
    set_coverage,
)


def cases(random, count, classes=3):
    """Logits with some knowledge of the labels; all cases alike."""
    labels = random.integers(classes, size=count)
    return random.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels], labels


@pytest.mark.parametrize(
    ("count", "alpha", "rank"),
    [(9, 0.2, 8), (9, 0.1, 9), (9, 0.05, None), (19, 0.05, 19), (99, 0.07, 93), (0, 0.5, None)],
)
def test_quantile_by_pencil(count, alpha, rank):
    # ceil((n + 1)(1 - alpha)): 8, 9, ceil(9.5) > 9, 19, 93, 1 > 0.
    scores = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    expected = math.inf if rank is None else float(rank)
    assert conformal_quantile(scores, alpha) == expected
    assert conformal_quantile(scores, alpha, groups=[f"p{i}" for i in range(count)]) == expected


def test_quantile_of_groups_by_pencil():
    # Weights over 3 groups + 1: a 1/8 1/8, b 1/4, c 1/4, infinity 1/4. Sorted: 1 (a) 0.125,
    # 2 (b) 0.375, 3 (a) 0.5, 4 (c) 0.75.
    scores, groups = [3.0, 1.0, 2.0, 4.0], ["a", "a", "b", "c"]
    for alpha, expected in [(0.26, 4.0), (0.25, 4.0), (0.5, 3.0), (0.51, 3.0), (0.63, 2.0)]:
        assert conformal_quantile(scores, alpha, groups=groups) == expected
    assert conformal_quantile(scores, 0.24, groups=groups) == math.inf


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=25),
    alpha=st.floats(0.05, 0.9),
    seed=st.integers(0, 1000),
)
def test_each_group_left_out_once_is_covered_at_the_stated_rate(sizes, alpha, seed):
    # Exact, not only on average over draws: the promise averaged over which patient is the new
    # one. With one case a patient and no ties it is met without slack.
    groups = np.repeat(np.arange(len(sizes)), sizes)
    scores = np.random.default_rng(seed).normal(size=len(groups)) + groups % 3
    covered = []
    for group in range(len(sizes)):
        new = groups == group
        limit = conformal_quantile(scores[~new], alpha, groups=groups[~new])
        covered.append(np.mean(scores[new] <= limit))
    assert np.mean(covered) >= 1 - alpha - 1e-8
    if max(sizes) == 1:
        assert sum(covered) == math.ceil(len(sizes) * (1 - alpha) - 1e-9)


def test_sets_by_pencil():
    # Scores of the true class 0.1 0.3 0.5 0.6; alpha 0.4: ceil(5 x 0.6) = third, so p >= 0.5.
    chances = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.25, 0.25, 0.5], [0.4, 0.5, 0.1]])
    fitted = ConformalSets.fit(chances, [0, 1, 2, 0], head="multiclass", alpha=0.4)
    assert fitted.thresholds == (0.5,) * 3
    assert (fitted.cases, fitted.groups) == (4, 4)
    new = [[0.5, 0.5, 0.0], [0.6, 0.2, 0.2], [0.4, 0.3, 0.3]]
    sets = fitted.sets(new)
    np.testing.assert_array_equal(sets, [[True, True, False], [True, False, False], [False] * 3])
    np.testing.assert_array_equal(fitted.abstained(new), [True, False, True])
    assert abstention_rate(sets) == pytest.approx(2 / 3)
    assert set_coverage(sets, [1, 1, 0]) == pytest.approx(1 / 3)
    assert abstention_rate(np.zeros((0, 3), bool)) is None
    assert set_coverage(np.zeros((0, 3), bool), []) is None


def test_too_few_cases_put_everything_in_the_set():
    fitted = ConformalSets.fit([[0.9, 0.1]] * 8, [0] * 8, head="binary", alpha=0.1)
    assert fitted.thresholds == (math.inf, math.inf)
    assert fitted.sets([[1.0, 0.0]]).all()
    assert fitted.abstained([[1.0, 0.0]]).all()
    none = ConformalSets.fit(np.zeros((0, 2)), [], head="binary", alpha=0.1)
    assert none.thresholds == (math.inf, math.inf)


def test_findings_have_a_threshold_each_and_unknown_labels_are_left_out():
    random = np.random.default_rng(3)
    chances = random.random((60, 2))
    labels = (random.random((60, 2)) < chances).astype(float)
    labels[random.random((60, 2)) < 0.3] = np.nan
    fitted = ConformalSets.fit(chances, labels, head="multilabel", alpha=0.2)
    sets = fitted.sets(chances)
    for k in range(2):
        rows = np.flatnonzero(~np.isnan(labels[:, k]))
        scores = sorted(1 - p if y else p for p, y in zip(chances[rows, k], labels[rows, k]))
        limit = scores[math.ceil((len(rows) + 1) * 0.8) - 1]
        np.testing.assert_array_equal(sets[:, k, 0], chances[:, k] <= limit + 1e-12)
        np.testing.assert_array_equal(sets[:, k, 1], 1 - chances[:, k] <= limit + 1e-12)
    np.testing.assert_array_equal(fitted.abstained(chances), sets.sum(axis=2) != 1)
    covered = [
        np.mean([sets[i, k, int(labels[i, k])] for i in range(60) if labels[i, k] >= 0])
        for k in range(2)
    ]
    assert set_coverage(sets, labels) == pytest.approx(np.mean(covered))


@pytest.mark.parametrize("head", ["multiclass", "multilabel"])
def test_per_class_thresholds_are_those_of_each_class_alone(head):
    random = np.random.default_rng(4)
    patients = random.integers(40, size=150)
    if head == "multiclass":
        logits, labels = cases(random, 150)
        chances = probabilities(logits, head=head)
        truths = [(labels == c, 1 - chances[:, c]) for c in range(3)]
    else:
        chances = random.random((150, 2))
        labels = (random.random((150, 2)) < chances**2).astype(float)
        truths = [
            (labels[:, k] == y, np.abs(y - chances[:, k])) for k in range(2) for y in range(2)
        ]
    fitted = ConformalSets.fit(
        chances, labels, head=head, alpha=0.1, groups=patients, per_class=True
    )
    expected = [conformal_quantile(s[rows], 0.1, groups=patients[rows]) for rows, s in truths]
    assert fitted.thresholds == pytest.approx(expected, abs=1e-12)
    assert fitted.groups == len(set(patients.tolist()))


@pytest.mark.parametrize("seed", range(3))
def test_sets_of_grades_have_no_gap_and_keep_the_promise(seed):
    random = np.random.default_rng(seed)
    chances = random.dirichlet([0.4] * 5, size=400)  # many valleys
    labels = np.array([random.choice(5, p=row) for row in chances])
    fitted = ConformalSets.fit(chances[:199], labels[:199], head="ordinal", alpha=0.2)
    sets = fitted.sets(chances)
    limit = 1 - fitted.thresholds[0]
    for row, members in zip(chances, sets):
        likely = np.flatnonzero(row >= limit - 1e-12)
        expected = np.zeros(5, bool)
        if len(likely):
            expected[likely[0] : likely[-1] + 1] = True
        np.testing.assert_array_equal(members, expected)
    inside = sets[np.arange(199), labels[:199]].sum()
    assert inside == 160  # ceil(200 x 0.8) of the calibration cases, no ties


def test_a_gap_that_thresholds_per_grade_leave_is_filled():
    fitted = ConformalSets("ordinal", 0.1, (0.9, 0.1, 0.9, 0.1), 50, 50)
    sets = fitted.sets([[0.3, 0.4, 0.3, 0.0], [0.95, 0.05, 0.0, 0.0]])
    np.testing.assert_array_equal(sets, [[True, True, True, False], [True, False, False, False]])


def test_coverage_of_twenty_cohorts_is_beta_binomial():
    # n calibration and m new cases, k = ceil((n + 1)(1 - alpha)): BetaBinomial(m, k, n + 1 - k).
    n, m, alpha = 199, 200, 0.1
    low, high = betabinom.interval(0.99, m, 180, 20)
    covered = []
    for seed in range(20):
        logits, labels = cases(np.random.default_rng(seed), n + m)
        temperature = fit_temperature(logits[:n], labels[:n], head="multiclass").value
        chances = probabilities(logits, head="multiclass", temperature=temperature)
        fitted = ConformalSets.fit(chances[:n], labels[:n], head="multiclass", alpha=alpha)
        covered.append(m * set_coverage(fitted.sets(chances[n:]), labels[n:]))
    assert sum(low <= count <= high for count in covered) >= 18
    assert np.mean(covered) / m == pytest.approx(1 - alpha, abs=0.02)


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_for_two_classes_and_findings_the_temperature_changes_no_set(temperature):
    random = np.random.default_rng(1)
    logits, labels = cases(random, 300, classes=2)
    findings = np.eye(2)[labels]
    for head, targets in (("binary", labels), ("multilabel", findings)):
        sets = []
        for value in (1.0, temperature):
            chances = probabilities(logits, head=head, temperature=value)
            fitted = ConformalSets.fit(chances[:100], targets[:100], head=head, alpha=0.15)
            sets.append(fitted.sets(chances[100:]))
        np.testing.assert_array_equal(*sets)


@given(
    head=st.sampled_from(["binary", "multilabel"]),
    thresholds=st.tuples(*[st.floats(0, 1) | st.just(math.inf)] * 2),
    alpha=st.floats(0.01, 0.99),
)
def test_record_round_trip(head, thresholds, alpha):
    fitted = ConformalSets(head, alpha, thresholds, 50, 20)
    text = json.dumps(fitted.to_dict(), allow_nan=False)
    assert ConformalSets.from_dict(json.loads(text)) == fitted


def test_wrong_arguments():
    fit = ConformalSets.fit
    good = [[0.5, 0.5]]
    with pytest.raises(ValueError, match=r"strictly between 0 and 1, got 1\.0"):
        fit(good, [0], head="binary", alpha=1.0)
    with pytest.raises(ValueError, match=r"lie in 0\.\.1. Pass"):
        fit([[-3.0, 3.0]], [0], head="binary", alpha=0.1)
    with pytest.raises(ValueError, match=r"\[cases, classes >= 2\].*got \[2\]"):
        fit([0.5, 0.5], [0, 1], head="binary", alpha=0.1)
    with pytest.raises(ValueError, match="one entry a case, got 2 for 1"):
        fit(good, [0], head="binary", alpha=0.1, groups=["a", "b"])
    with pytest.raises(ValueError, match="head must be one of"):
        fit(good, [0], head="grades", alpha=0.1)
    with pytest.raises(ValueError, match=r"must have 2 classes in all .* got 3"):
        fit(good, [0], head="multiclass", alpha=0.1).sets([[0.2, 0.3, 0.5]])
    with pytest.raises(ValueError, match=r"\[n\] without NaN"):
        conformal_quantile([0.1, math.nan], 0.1)
    with pytest.raises(ValueError, match="1 entries, got 2"):
        conformal_quantile([0.1], 0.1, groups=[1, 2])
