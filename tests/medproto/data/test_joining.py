"""Cohorts put together: rows, columns and paths."""

import pandas as pd
import pytest

from medproto.data import Cohort, join_cohorts
from medproto.errors import CohortError


def cohort(root, **columns):
    return Cohort(pd.DataFrame(columns), root)


def test_rows_follow_each_other_and_paths_lead_to_the_same_files(tmp_path):
    first = cohort(tmp_path / "a", image=["x.png", "y.png"], label=["n", "p"], mask=["", "m/y.png"])
    second = cohort(tmp_path / "b" / "c", image=["x.png"], label=["p"], age=["51"])
    joined = join_cohorts([first, second], tmp_path)
    assert joined.table["image"].tolist() == ["a/x.png", "a/y.png", "b/c/x.png"]
    assert joined.table["label"].tolist() == ["n", "p", "p"]
    assert joined.table["mask"].tolist() == ["", "a/m/y.png", ""]
    assert joined.table["age"].tolist() == ["", "", "51"]
    assert joined.image_path(2) == tmp_path / "b" / "c" / "x.png"


def test_findings_and_groups_stay(tmp_path):
    parts = [
        Cohort(
            pd.DataFrame({"image": [name], "patient_id": [name], "mass": ["1"]}),
            tmp_path,
            "patient_id",
            ("mass",),
        )
        for name in ("x", "y")
    ]
    joined = join_cohorts(parts, tmp_path)
    assert joined.group_column == "patient_id"
    assert joined.label_columns == ("mass",)
    assert joined.groups() == ["x", "y"]


def test_nothing_to_join_is_refused(tmp_path):
    with pytest.raises(CohortError, match="there must be a cohort to join, got none"):
        join_cohorts([], tmp_path)


def test_cohorts_of_different_kinds_are_refused(tmp_path):
    first = cohort(tmp_path, image=["x"], label=["n"])
    second = cohort(tmp_path, image=["y"], label=["n"], patient_id=["1"])
    with pytest.raises(CohortError, match="must have one grouping column, findings and channels"):
        join_cohorts([first, second], tmp_path)
