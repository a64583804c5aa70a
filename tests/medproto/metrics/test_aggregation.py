import numpy as np
import pytest

from medproto.metrics import aggregate

GROUPS = ["b", "a", "b", "c", "b"]
LOGITS = np.array([[1.0, 4.0], [2.0, 0.0], [3.0, -2.0], [7.0, 7.0], [-1.0, 1.0]])


@pytest.mark.parametrize("head", ["multiclass", "binary", "ordinal"])
def test_classes_and_grades_take_the_mean(head):
    rows = aggregate(LOGITS, GROUPS, head=head, labels=[1, 0, 1, 1, 1])
    assert rows.groups == ("b", "a", "c")
    np.testing.assert_array_equal(rows.sizes, [3, 1, 1])
    np.testing.assert_allclose(rows.logits, [[1.0, 1.0], [2.0, 0.0], [7.0, 7.0]])
    np.testing.assert_array_equal(rows.labels, [1, 0, 1])
    assert rows.labels.dtype == np.int64


def test_findings_take_the_maximum_and_unknown_lies_between_absent_and_present():
    nan = np.nan
    labels = [[0, 0], [nan, 0], [nan, 1], [0, 1], [0, nan]]
    rows = aggregate(LOGITS, GROUPS, head="multilabel", labels=labels)
    np.testing.assert_array_equal(rows.logits, [[3.0, 4.0], [2.0, 0.0], [7.0, 7.0]])
    np.testing.assert_array_equal(rows.labels, [[nan, 1], [nan, 0], [0, 1]])
    mean = aggregate(LOGITS, GROUPS, head="multilabel", how="mean")
    np.testing.assert_allclose(mean.logits[0], [1.0, 1.0])
    assert mean.labels is None


@pytest.mark.parametrize(("head", "worst"), [("binary", 1), ("ordinal", 2)])
def test_the_worst_view_decides_under_max(head, worst):
    rows = aggregate(LOGITS, GROUPS, head=head, labels=[0, 0, worst, 1, 0], how="max")
    np.testing.assert_array_equal(rows.logits[0], [3.0, 4.0])
    np.testing.assert_array_equal(rows.labels, [worst, 0, 1])


def test_the_order_of_the_images_of_a_group_does_not_matter():
    order = np.random.default_rng(0).permutation(5)
    one = aggregate(LOGITS, GROUPS, head="multiclass")
    other = aggregate(LOGITS[order], np.array(GROUPS)[order], head="multiclass")
    places = [other.groups.index(name) for name in one.groups]
    np.testing.assert_allclose(one.logits, other.logits[places], rtol=1e-12)


def test_labels_that_disagree_are_counted_and_no_group_is_named():
    with pytest.raises(
        ValueError, match=r"got 2 of 3 groups with several. Group by study"
    ) as error:
        aggregate(
            LOGITS, ["anna", "bert", "anna", "bert", "carl"], head="binary", labels=[0, 1, 1, 0, 1]
        )
    assert "anna" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"how": "max"}, "must be mean for the multiclass head"),
        ({"how": "median"}, "mean or max, got 'median'"),
        ({"groups": ["a"]}, r"\[1, logits\].* got shape \[5, 2\]"),
        ({"logits": LOGITS * np.nan}, "must be finite"),
        ({"labels": [0, 1, 2, 0, 0]}, r"in 0\.\.1"),
        ({"head": "other"}, "head must be one of"),
    ],
)
def test_wrong_arguments(changes, message):
    arguments = {"logits": LOGITS, "groups": GROUPS, "head": "multiclass", **changes}
    logits, groups = arguments.pop("logits"), arguments.pop("groups")
    with pytest.raises(ValueError, match=message):
        aggregate(logits, groups, **arguments)
