import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from medproto.metrics import (
    grade_accuracy,
    grade_error,
    ordinal_auroc,
    predicted_grade,
    quadratic_weighted_kappa,
    summarize_ordinal,
)


@pytest.fixture
def example():
    random = np.random.default_rng(0)
    chances = random.dirichlet([0.5] * 4, size=150)
    return chances, np.array([random.choice(4, p=row) for row in chances])


def test_the_predicted_grade_is_the_median():
    # Cumulative chances 0.4 0.7 1; 0.5 1 1 (even: the lower); 0.2 0.3 1.
    chances = [[0.4, 0.3, 0.3], [0.5, 0.5, 0.0], [0.2, 0.1, 0.7]]
    assert predicted_grade(chances).tolist() == [1, 0, 2]


def test_the_median_has_the_smallest_expected_error(example):
    for row, grade in zip(example[0], predicted_grade(example[0])):
        errors = [sum(p * abs(k - guess) for k, p in enumerate(row)) for guess in range(4)]
        assert errors[grade] == pytest.approx(min(errors))


def test_figures_equal_sklearn(example):
    chances, labels = example
    predicted = predicted_grade(chances)
    assert quadratic_weighted_kappa(chances, labels) == pytest.approx(
        sklearn_metrics.cohen_kappa_score(labels, predicted, weights="quadratic"), abs=1e-12
    )
    assert grade_error(chances, labels) == pytest.approx(
        sklearn_metrics.mean_absolute_error(labels, predicted)
    )
    assert grade_accuracy(chances, labels) == sklearn_metrics.accuracy_score(labels, predicted)
    thresholds = [
        sklearn_metrics.roc_auc_score(labels > k, chances[:, k + 1 :].sum(axis=1)) for k in range(3)
    ]
    assert ordinal_auroc(chances, labels) == pytest.approx(np.mean(thresholds), abs=1e-12)


def test_by_pencil():
    # Predicted 0 1 2 2, true 0 2 2 1. Cohen: mean squared disagreement 2/4; by chance, predicted
    # {0, 1, 2 2} against true {0, 1, 2 2}: 2 var = 2 x 11/16.
    chances = np.eye(3)[[0, 1, 2, 2]]
    labels = [0, 2, 2, 1]
    assert quadratic_weighted_kappa(chances, labels) == pytest.approx(1 - 0.5 / (22 / 16))
    assert grade_error(chances, labels) == 0.5
    assert grade_accuracy(chances, labels) == 0.5


def test_undefined_figures_are_none_and_a_missing_grade_is_left_out():
    chances = np.eye(3)[[0, 0]]
    assert quadratic_weighted_kappa(chances, [0, 0]) is None
    assert ordinal_auroc(chances, [0, 0]) is None
    # No grade 2: only the threshold "above 0" counts. 0.4 beats 0.3, ties 0.4: 1.5 of 2.
    some = [[0.7, 0.3, 0.0], [0.6, 0.2, 0.2], [0.6, 0.4, 0.0]]
    assert ordinal_auroc(some, [0, 0, 1]) == pytest.approx(0.75)
    none = np.zeros((0, 3))
    assert grade_error(none, np.zeros(0, int)) is None
    assert grade_accuracy(none, np.zeros(0, int)) is None
    assert quadratic_weighted_kappa(none, np.zeros(0, int)) is None


def test_summary(example):
    chances, labels = example
    names = ["0", "I", "II", "III"]
    summary = summarize_ordinal(chances, labels, np.arange(150) // 3, names, rounds=60)
    assert (summary["n"], summary["groups"], summary["classes"]) == (150, 50, names)
    for name, measure in (
        ("quadratic_weighted_kappa", quadratic_weighted_kappa),
        ("grade_error", grade_error),
        ("grade_accuracy", grade_accuracy),
        ("auroc", ordinal_auroc),
    ):
        block = summary[name]
        assert block["value"] == measure(chances, labels)
        assert block["low"] <= block["value"] <= block["high"]
    assert summary["ece"]["value"] is not None
    matrix = np.array(summary["confusion"]["matrix"])
    assert matrix.sum() == 150
    assert np.trace(matrix) / 150 == pytest.approx(summary["grade_accuracy"]["value"])


@pytest.mark.parametrize(
    ("chances", "labels", "message"),
    [
        (np.ones(3), [0], r"\[cases, grades >= 2\], got \[3\]"),
        ([[0.9, 0.9]], [0], "sum to 1"),
        ([[0.5, 0.5]], [0, 1], r"labels must have shape \[1\], got \[2\]"),
        ([[0.5, 0.5]], [2], r"in 0\.\.1, got another"),
    ],
)
def test_wrong_arguments(chances, labels, message):
    with pytest.raises(ValueError, match=message):
        grade_error(chances, labels)


def test_wrong_number_of_names():
    with pytest.raises(ValueError, match="grades must be 2 names, got 3"):
        summarize_ordinal([[0.5, 0.5]], [0], ["p"], ["a", "b", "c"])
