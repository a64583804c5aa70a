import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from medproto.metrics import (
    auroc,
    bootstrap,
    multilabel_auroc,
    multilabel_average_precision,
    multilabel_calibration_error,
    summarize_multilabel,
)


@pytest.fixture
def example():
    random = np.random.default_rng(0)
    chances = random.random((200, 3))
    labels = (random.random((200, 3)) < chances).astype(float)
    labels[random.random((200, 3)) < 0.25] = np.nan
    return chances, labels


def per_finding(measure, chances, labels):
    rows = [~np.isnan(column) for column in labels.T]
    return [measure(labels[r, k], chances[r, k]) for k, r in enumerate(rows)]


def test_ranking_equals_sklearn_finding_by_finding(example):
    for ours, theirs in (
        (multilabel_auroc, sklearn_metrics.roc_auc_score),
        (multilabel_average_precision, sklearn_metrics.average_precision_score),
    ):
        assert ours(*example) == pytest.approx(np.mean(per_finding(theirs, *example)), abs=1e-12)


def test_calibration_error_by_pencil():
    # Bins of 0.5. First finding: 0.2 (absent), 0.4 (present): |0.3 - 0.5|; 0.9 (present): 0.1; so
    # (2 x 0.2 + 0.1) / 3. Second: 0.5 (absent) belongs to the lower bin: 0.5; the rest is unknown.
    nan = np.nan
    chances = [[0.2, 0.5], [0.4, 0.9], [0.9, 0.9]]
    labels = [[0, 0], [1, nan], [1, nan]]
    error = multilabel_calibration_error(chances, labels, bins=2)
    assert error == pytest.approx((0.5 / 3 + 0.5) / 2, abs=1e-12)


def test_calibration_error_equals_a_loop(example):
    def error(targets, scores):
        total = 0.0
        for b in range(15):
            chosen = [i for i, p in enumerate(scores) if b / 15 < p <= (b + 1) / 15]
            if chosen:
                total += abs(sum(scores[i] - targets[i] for i in chosen))
        return total / len(scores)

    expected = np.mean(per_finding(error, *example))
    assert multilabel_calibration_error(*example) == pytest.approx(expected, abs=1e-12)


def test_a_finding_with_one_class_is_left_out():
    chances = np.array([[0.1, 0.3], [0.8, 0.2], [0.7, 0.9]])
    labels = np.array([[0, 0], [0, 0], [1, 0]])
    # First finding: 0.7 beats 0.1, not 0.8.
    assert multilabel_auroc(chances, labels) == 0.5
    assert multilabel_average_precision(chances, labels) == 0.5
    assert multilabel_auroc(chances[:2], labels[:2]) is None
    assert multilabel_calibration_error(chances, np.full((3, 2), np.nan)) is None
    assert multilabel_auroc(np.zeros((0, 2)), np.zeros((0, 2))) is None


def test_summary_has_the_macro_figures_and_each_finding(example):
    chances, labels = example
    labels[:, 2] = np.nan
    labels[:2, 2] = 0
    groups = np.arange(200) // 2
    summary = summarize_multilabel(chances, labels, groups, ["a", "b", "c"], rounds=50, seed=3)
    assert (summary["n"], summary["groups"]) == (200, 100)
    assert summary["auroc"]["value"] == multilabel_auroc(chances, labels)
    assert summary["auroc"]["low"] < summary["auroc"]["value"] < summary["auroc"]["high"]
    known = ~np.isnan(labels[:, 0])
    alone = bootstrap(
        auroc,
        chances[known, 0],
        labels[known, 0].astype(int),
        groups=groups[known],
        rounds=50,
        seed=3,
    )
    assert summary["findings"]["a"]["auroc"] == alone.to_dict()
    assert summary["findings"]["a"]["n"] == known.sum()
    assert summary["findings"]["a"]["positives"] == (labels[:, 0] == 1).sum()
    rare = summary["findings"]["c"]
    assert (rare["n"], rare["positives"], rare["auroc"]["value"]) == (2, 0, None)
    assert rare["ece"]["value"] is not None


@pytest.mark.parametrize(
    ("chances", "labels", "message"),
    [
        (np.zeros(3), np.zeros(3), r"\[cases, findings\], got \[3\]"),
        (np.zeros((3, 2)), np.zeros((2, 2)), r"labels must have shape \[3, 2\], got \[2, 2\]"),
        ([[np.nan]], [[1]], "finite"),
        ([[0.5]], [[2]], "0, 1 or NaN"),
    ],
)
def test_wrong_arguments(chances, labels, message):
    with pytest.raises(ValueError, match=message):
        multilabel_auroc(chances, labels)


def test_wrong_arguments_of_the_rest():
    with pytest.raises(ValueError, match=r"lie in 0\.\.1, got 3 to 3"):
        multilabel_calibration_error([[3.0]], [[1]])
    with pytest.raises(ValueError, match="bins must be at least 1"):
        multilabel_calibration_error([[0.5]], [[1]], bins=0)
    with pytest.raises(ValueError, match="findings must be 1 names, got 2"):
        summarize_multilabel([[0.5]], [[1]], ["p"], ["a", "b"])
