import numpy as np
import pytest

from pipelines.charts import confusion_figure, curves_figure, roc_curve_points, roc_figure


def test_roc_points_by_hand():
    # Falling scores: hit, miss, then a tie of one hit and one miss.
    x, y = roc_curve_points([0.9, 0.8, 0.4, 0.4], [True, False, True, False])
    assert x.tolist() == [0, 0, 0.5, 1]
    assert y.tolist() == [0, 0.5, 0.5, 1]


def test_the_area_under_the_points_is_the_share_of_ordered_pairs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60).astype(bool)
    scores = np.round(rng.random(60) + 0.4 * labels, 1)  # many ties
    x, y = roc_curve_points(scores, labels)
    area = np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert area == pytest.approx(np.mean(pairs))


def test_one_class_alone_has_no_curve():
    x, y = roc_curve_points([0.1, 0.2], [True, True])
    assert (len(x), len(y)) == (0, 0)


@pytest.mark.parametrize(("classes", "lines"), [(("no", "yes"), 2), (("a", "b", "c"), 4)])
def test_roc_draws_chance_and_the_curves(classes, lines):
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(len(classes)), 30)
    figure = roc_figure(chances, rng.integers(0, len(classes), 30), classes)
    assert len(figure.axes[0].lines) == lines


def curve(line):
    return np.stack(line.get_data(), axis=1).tolist()


def test_roc_of_findings_leaves_out_what_is_not_known():
    chances = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.9], [0.3, 0.3]]
    labels = [[1, np.nan], [np.nan, 0], [0, 1], [1, np.nan]]
    figure = roc_figure(chances, labels, ("nodule", "edema"), head="multilabel")
    _, nodule, edema = figure.axes[0].lines
    # Of the known ones: hit at 0.9, miss at 0.4, hit at 0.3; and a hit before a miss.
    assert curve(nodule) == [[0, 0], [0, 0.5], [1, 0.5], [1, 1]]
    assert curve(edema) == [[0, 0], [0, 1], [1, 1]]
    assert [line.get_label() for line in (nodule, edema)] == ["nodule", "edema"]


def test_roc_of_grades_is_of_the_thresholds():
    chances = [[0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.125, 0.25, 0.625]]
    figure = roc_figure(chances, [0, 1, 1, 2], ("none", "mild", "severe"), head="ordinal")
    _, low, high = figure.axes[0].lines
    assert [line.get_label() for line in (low, high)] == ["above none", "above mild"]
    # P(above none) 0.2, 0.5, 0.75, 0.875 with one miss, the last; P(above mild) has a tie of two.
    assert curve(low)[-2:] == [[0, 1], [1, 1]]
    assert curve(high) == [[0, 0], [0, 1], [2 / 3, 1], [1, 1]]


def test_many_findings_are_told_apart_by_color_and_dashes():
    names = [f"finding {k}" for k in range(14)]
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.zeros((10, 14)), np.ones((10, 14))])
    figure = roc_figure(rng.random((20, 14)), labels, names, head="multilabel")
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[1:]}
    assert len(looks) == 14


def test_confusion_writes_counts_and_shares_of_the_true_class():
    figure = confusion_figure([[3, 1], [0, 4]], ["no", "yes"])
    found = [text.get_text() for text in figure.axes[0].texts]
    assert found == ["3\n75%", "1\n25%", "0\n0%", "4\n100%"]


def test_curves_go_on_over_the_segments(history):
    figure = curves_figure(history)
    loss, auroc = figure.axes
    assert [line.get_xdata().tolist() for line in auroc.lines] == [
        [1, 2, 3, 4],
        [5, 6, 7],
        [8, 9, 10],
    ]
    assert [line.get_linestyle() for line in auroc.lines] == ["-", "-", "--"]
    assert len(loss.lines) == 6
