import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from medproto.metrics import (
    auroc,
    average_precision,
    balanced_accuracy,
    confusion,
    expected_calibration_error,
    operating_point,
    sensitivity,
    specificity,
)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_two_classes_equal_sklearn(seed, ties, make_scores):
    chances, labels = make_scores(seed, ties=ties)
    positive = chances[:, 1]
    for given in (chances, positive):
        assert auroc(given, labels) == pytest.approx(
            sklearn_metrics.roc_auc_score(labels, positive), abs=1e-12
        )
        assert average_precision(given, labels) == pytest.approx(
            sklearn_metrics.average_precision_score(labels, positive), abs=1e-12
        )
        assert balanced_accuracy(given, labels) == pytest.approx(
            sklearn_metrics.balanced_accuracy_score(labels, chances.argmax(axis=1)), abs=1e-12
        )


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_four_classes_equal_sklearns_macro_average(ties, make_scores):
    chances, labels = make_scores(7, classes=4, ties=ties)
    assert auroc(chances, labels) == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, chances, multi_class="ovr"), abs=1e-12
    )
    assert average_precision(chances, labels) == pytest.approx(
        sklearn_metrics.average_precision_score(np.eye(4)[labels], chances), abs=1e-12
    )
    assert balanced_accuracy(chances, labels) == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(labels, chances.argmax(axis=1)), abs=1e-12
    )


def test_auroc_by_pencil():
    # Pairs (positive, negative): 0.4 > 0.1, 0.4 = 0.4, 0.8 > 0.1, 0.8 > 0.4: 3.5 of 4.
    assert auroc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1]) == 3.5 / 4
    assert auroc([-5.0, 30.0], [1, 0]) == 0.0  # any scale
    assert auroc([0.5] * 4, [0, 1, 0, 1]) == 0.5


@pytest.mark.parametrize("measure", [auroc, average_precision, balanced_accuracy])
@pytest.mark.parametrize(
    ("chances", "labels"),
    [
        (np.array([0.2, 0.8]), [1, 1]),
        (np.full((3, 3), 1 / 3), [0, 1, 1]),
        (np.zeros((0, 2)), []),
    ],
    ids=["one class", "one of three absent", "no case"],
)
def test_an_absent_class_gives_none(measure, chances, labels):
    assert measure(chances, labels) is None


def test_calibration_error_by_pencil():
    # Bins of width 0.25: (0.5, 0.75] holds 0.6 (wrong) and 0.75 (right), confidence 0.675,
    # accuracy 0.5; (0.75, 1] holds 0.9 and 1.0, both right: |0.95 - 1|.
    chances = [0.6, 0.75, 0.1, 1.0]
    expected = 0.5 * 0.175 + 0.5 * 0.05
    error = expected_calibration_error(chances, [0, 1, 0, 1], bins=4)
    assert error == pytest.approx(expected, abs=1e-12)


def test_calibration_error_equals_a_loop(make_scores):
    chances, labels = make_scores(8, classes=3, cases=500)
    expected = 0.0
    for b in range(15):
        chosen = [i for i in range(500) if b / 15 < chances[i].max() <= (b + 1) / 15]
        if chosen:
            confidence = np.mean([chances[i].max() for i in chosen])
            accuracy = np.mean([chances[i].argmax() == labels[i] for i in chosen])
            expected += len(chosen) / 500 * abs(confidence - accuracy)
    assert expected_calibration_error(chances, labels) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_needs_probabilities():
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1, got -2 to 3"):
        expected_calibration_error([3.0, 0.5], [0, 1])
    assert expected_calibration_error([], []) is None


def test_operating_point_by_pencil():
    # Youden's J of ">= t": 0.3 -> 1 - 1/2, 0.6 -> 2/3 - 0; the best lies between 0.5 and 0.6.
    scores, labels = [0.1, 0.5, 0.3, 0.6, 0.9], [0, 0, 1, 1, 1]
    threshold = operating_point(scores, labels)
    assert threshold == pytest.approx(0.55)
    assert sensitivity(scores, labels, threshold=threshold) == pytest.approx(2 / 3)
    assert specificity(scores, labels, threshold=threshold) == 1.0


def test_operating_point_has_the_best_index_of_sklearns_curve(make_scores):
    for seed in range(4):
        chances, labels = make_scores(seed, ties=seed % 2 == 1)
        threshold = operating_point(chances, labels)
        reached = (
            sensitivity(chances, labels, threshold=threshold)
            + specificity(chances, labels, threshold=threshold)
            - 1
        )
        false, true, _ = sklearn_metrics.roc_curve(labels, chances[:, 1])
        assert reached == pytest.approx(np.max(true - false), abs=1e-12)


def test_operating_point_at_the_edges():
    assert operating_point([0.2, 0.7], [1, 1]) is None
    assert operating_point([0.9, 0.1], [0, 1]) == 0.1  # nothing beats "all positive"
    low = 0.5
    high = np.nextafter(low, 1.0)  # no number between them
    assert operating_point([low, high], [0, 1]) == high


def test_threshold_counts_as_positive():
    assert sensitivity([0.5], [1], threshold=0.5) == 1.0
    assert specificity([0.5], [0], threshold=0.5) == 0.0
    assert sensitivity([0.5], [0], threshold=0.5) is None
    assert specificity([0.5], [1], threshold=0.5) is None


def test_confusion_rows_are_true_columns_predicted():
    counted = confusion([0, 1, 1, 2, 1], [0, 0, 1, 2, 2], classes=["a", "b", "c"])
    assert counted == {"labels": ["a", "b", "c"], "matrix": [[1, 1, 0], [0, 1, 0], [0, 1, 1]]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([0.1, np.nan], [0, 1]), "must be finite"),
        (lambda: auroc([0.1, 0.2], [0, 2]), r"labels must lie in 0\.\.1, got 0 to 2"),
        (lambda: auroc([0.1, 0.2], [0]), r"labels must have shape \[2\], got \[1\]"),
        (lambda: auroc([0.1, 0.2], [0.0, 1.0]), "labels must be whole numbers, got float64"),
        (lambda: auroc([0.1, 0.2], [[0], [1]]), r"labels must have shape \[cases\]"),
        (lambda: auroc([[0.1], [0.2]], [0, 1]), r"classes >= 2\], got \[2, 1\]"),
        (lambda: operating_point(np.ones((2, 3)), [0, 1]), "those of two classes, got 3"),
        (lambda: confusion([0], [0, 1], classes="ab"), r"predicted must have shape \[2\]"),
        (lambda: confusion([2], [0], classes="ab"), r"predicted must lie in 0\.\.1, got 2"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
