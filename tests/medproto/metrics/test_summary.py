import json

import numpy as np
import pytest

from medproto.metrics import (
    auroc,
    bootstrap,
    sensitivity,
    summarize_classification,
    summarize_localization,
)
from medproto.records import PixelBox

INTERVAL = {"value", "low", "high"}


def test_classification_has_the_keys_of_the_command_contract(make_scores):
    chances, labels = make_scores(0, cases=60)
    groups = np.arange(60) // 2
    summary = summarize_classification(
        chances, labels, groups, ["benign", "malignant"], threshold=0.4, rounds=50
    )
    assert set(summary) == {
        "n", "groups", "classes", "auroc", "balanced_accuracy", "average_precision", "ece",
        "operating_point", "confusion", "subgroups",
    }  # fmt: skip
    assert (summary["n"], summary["groups"]) == (60, 30)
    for name in ("auroc", "balanced_accuracy", "average_precision", "ece"):
        assert set(summary[name]) == INTERVAL
    point = summary["operating_point"]
    assert point["threshold"] == 0.4
    expected = bootstrap(sensitivity, chances, labels, groups=groups, rounds=50, threshold=0.4)
    assert point["sensitivity"] == expected.to_dict()
    assert set(point["specificity"]) == INTERVAL
    assert sum(map(sum, summary["confusion"]["matrix"])) == 60
    assert summary["subgroups"] == {}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_no_operating_point_without_threshold_or_with_three_classes(make_scores):
    chances, labels = make_scores(1, classes=3)
    groups = np.arange(120)
    summary = summarize_classification(chances, labels, groups, "abc", threshold=0.5, rounds=5)
    assert summary["operating_point"] is None
    chances, labels = make_scores(1)
    summary = summarize_classification(chances, labels, groups, "ab", rounds=5)
    assert summary["operating_point"] is None


def test_subgroups_are_computed_from_their_own_cases(make_scores):
    chances, labels = make_scores(2, cases=60)
    site = np.array(["north", "south"] * 30)
    sex = ["F"] * 30 + [None] * 10 + [float("nan")] * 10 + [""] * 10
    summary = summarize_classification(
        chances, labels, np.arange(60), "ab", columns={"site": site, "sex": sex}, rounds=20
    )
    north = summary["subgroups"]["site"]["north"]
    assert (north["n"], north["groups"]) == (30, 30)
    assert north["auroc"]["value"] == auroc(chances[site == "north"], labels[site == "north"])
    assert summary["subgroups"]["sex"].keys() == {"(missing)", "F"}
    assert summary["subgroups"]["sex"]["(missing)"]["n"] == 30


def test_a_split_of_one_class_is_summarized_without_a_crash():
    chances = np.array([[0.3, 0.7], [0.6, 0.4]])
    summary = summarize_classification(chances, [1, 1], ["a", "b"], "ab", threshold=0.5)
    assert summary["n"] == 2
    assert summary["auroc"] == {"value": None, "low": None, "high": None}
    assert summary["operating_point"]["sensitivity"]["value"] == 0.5
    assert summary["operating_point"]["specificity"]["value"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(probabilities=[[2.0, -1.0], [0.5, 0.5]]), "sum to 1 in each row. Pass the softmax"),
        (dict(probabilities=[0.1, 0.2]), r"shape \[cases, 2\], got \[2\]"),
        (dict(columns={"site": ["x"]}), "a column must have 2 values, got 1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = dict(probabilities=[[0.5, 0.5]] * 2, labels=[0, 1], groups=[0, 1], classes="ab")
    with pytest.raises(ValueError, match=message):
        summarize_classification(**(arguments | change))


def test_localization_stands_beside_its_controls():
    left, right = np.zeros((8, 8), bool), np.zeros((4, 8), bool)
    left[2:6, :4] = right[:, 4:] = True  # areas 1/4 and 1/2
    empty = np.zeros((8, 8), bool)
    summary = summarize_localization(
        [(3, 1), (1, 1), (0, 0), (0, 0)],  # hit, miss, no mask, empty mask
        [left, right, None, empty],
        ["a", "b", "c", "d"],
        train_masks=[None, left, left, right, empty],
        heats=[left * 2.0, np.ones((4, 8)), None, None],
        boxes=[PixelBox((0, 0), (4, 4)), PixelBox((0, 0), (2, 4)), None, None],
        rounds=20,
    )
    assert (summary["n"], summary["groups"]) == (2, 2)
    assert summary["pointing_game"]["value"] == 0.5
    assert summary["energy_inside"]["value"] == (1.0 + 0.5) / 2
    assert summary["area"]["value"] == (1 / 4 + 1 / 2) / 2
    assert summary["box_area"]["value"] == (16 / 64 + 8 / 32) / 2
    # Two of three training masks are `left`; its middle lies outside `right`.
    assert summary["constant_location"]["value"] == 0.5
    assert summary["constant_location"]["position"] == pytest.approx([0.5, 0.25], abs=1 / 64)
    assert summary["image_center"]["value"] == 0.5  # column 4 belongs to `right`
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_localization_without_masks_is_none_and_without_training_masks_has_no_constant():
    assert summarize_localization([(1, 1)], [None], ["a"], train_masks=[]) is None
    summary = summarize_localization([(1, 1)], [np.ones((2, 2), bool)], ["a"], train_masks=[])
    assert summary["constant_location"] is None
    assert summary["energy_inside"] is None
    assert summary["box_area"] is None
    with pytest.raises(ValueError, match="equally many, got 1, 1 and 0"):
        summarize_localization([(1, 1)], [None], [], train_masks=[])
