from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medproto.data import Cohort, split_cohort
from medproto.errors import CohortError


def cohort(labels, groups):
    table = pd.DataFrame(
        {"image": [f"{i}.png" for i in range(len(labels))], "label": labels, "patient_id": groups}
    )
    return Cohort(table, "nowhere")


def patients(n):
    """Return ``n`` patients of one to three images, every third of them positive."""
    labels, groups = [], []
    for patient in range(n):
        for _ in range(patient % 3 + 1):
            labels.append("positive" if patient % 9 < 3 else "negative")
            groups.append(f"p{patient}")
    return cohort(labels, groups)


def parts_of_groups(table, column):
    return table.groupby("patient_id")[column].nunique()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(30, 90))
def test_no_patient_is_divided_and_every_class_is_everywhere(seed, n):
    table = split_cohort(patients(n), seed=seed).table
    assert (parts_of_groups(table, "split") == 1).all()
    counts = Counter(zip(table["label"], table["split"], strict=True))
    for label in ("positive", "negative"):
        assert counts[label, "train"] >= 2
        assert counts[label, "val"] >= 1
        assert counts[label, "test"] >= 1


def test_shares_are_near_what_was_asked():
    table = split_cohort(patients(300), seed=3).table
    share = table["split"].value_counts(normalize=True)
    assert share["test"] == pytest.approx(0.2, abs=0.03)
    assert share["val"] == pytest.approx(0.8 / 6, abs=0.03)
    positive = (table["label"] == "positive").groupby(table["split"]).mean()
    assert positive.max() - positive.min() < 0.05
    table = split_cohort(patients(300), seed=3, test_fraction=0.4, val_fraction=0.3).table
    share = table["split"].value_counts(normalize=True)
    assert share["test"] == pytest.approx(0.4, abs=0.03)
    assert share["val"] == pytest.approx(0.6 * 0.3, abs=0.03)


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_grouped_stratified_and_of_near_equal_size(folds):
    table = split_cohort(patients(120), folds=folds, seed=0).table
    assert sorted(set(table["fold"])) == list(range(folds))
    assert (parts_of_groups(table, "fold") == 1).all()
    sizes = table["fold"].value_counts()
    assert sizes.max() - sizes.min() <= 0.1 * len(table) / folds + 3
    assert table.groupby("fold")["label"].nunique().eq(2).all()


def test_the_seed_decides():
    one = split_cohort(patients(60), folds=4, seed=1).table["fold"].tolist()
    assert one == split_cohort(patients(60), folds=4, seed=1).table["fold"].tolist()
    assert one != split_cohort(patients(60), folds=4, seed=2).table["fold"].tolist()


def test_an_earlier_division_is_replaced():
    first = split_cohort(patients(60), seed=1)
    second = split_cohort(first, folds=3, seed=1)
    assert "split" not in second.table
    assert "fold" not in split_cohort(second, seed=1).table
    assert second.group_column == "patient_id"


def test_a_smallest_possible_cohort():
    small = cohort(["x", "y"] * 4, [f"p{i}" for i in range(8)])
    counts = Counter(zip(*split_cohort(small, seed=0).table[["label", "split"]].T.to_numpy()))
    assert counts == {
        (label, split): n
        for label in "xy"
        for split, n in {"train": 2, "val": 1, "test": 1}.items()
    }


@pytest.mark.parametrize(
    ("labels", "groups", "reason"),
    [
        (["x"] * 6, list("abcdef"), r"needs two classes, got \['x'\]"),
        (["x"] * 5 + [""], list("abcdef"), "1 have none, the first is row 5"),
        (["x"] * 5 + ["y"], list("abcdef"), "class 'y' must have at least 3 groups .* got 1"),
        (["x"] * 6 + ["y"] * 3, list("abcdefghi"), "no split of this size gives every class"),
    ],
)
def test_what_cannot_be_split(labels, groups, reason):
    with pytest.raises(CohortError, match=reason):
        split_cohort(cohort(labels, groups), seed=0)


def test_folds_that_cannot_hold_every_class():
    with pytest.raises(CohortError, match="class 'y' must have at least 5 groups"):
        split_cohort(cohort(["x"] * 9 + ["y"] * 2, list("abcdefghijk")), folds=5, seed=0)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"folds": 1}, "folds must be at least 2"), ({"val_fraction": 0.0}, "between 0 and 1")],
)
def test_wrong_arguments(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        split_cohort(patients(30), **{"folds": None, "seed": 0, **arguments})
