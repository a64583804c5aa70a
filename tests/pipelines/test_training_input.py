"""What a training refuses before it begins."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medproto.data import Cohort
from medproto.errors import CohortError
from pipelines.config import load_config
from pipelines.training_input import (
    check_groups,
    resampling_problems,
    snapshot,
    usable,
    write_left_out,
)


def images(labels, groups):
    return SimpleNamespace(labels=np.array(labels), groups=tuple(groups))


def test_each_class_has_a_patient_to_itself():
    check_groups(images([0, 1, 1, 0], "aabb"), [0, 0, 1], ("normal", "nodule"))
    check_groups(images([0, 1, 1], "aab"), [1, 1], ("normal", "nodule"))  # the positive class alone


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 1], "aa", "nodule must have a training patient .* it has 1, which other classes need"),
        ([0, 0], "ab", "nodule must have .* it has 0"),
    ],
)
def test_a_class_that_shares_its_only_patient_is_refused(labels, groups, message):
    with pytest.raises(CohortError, match=message):
        check_groups(images(labels, groups), [0, 1], ("normal", "nodule"))


def test_findings_share_patients():
    """Two findings in one patient, one of them in a second, too: it takes that one."""
    both = [[1.0, 1.0, 0.0], [np.nan, 1.0, 0.0], [0.0, 0.0, 1.0]]
    check_groups(images(both, "abc"), [0, 0, 1, 1], ("nodule", "effusion", "no finding"))
    with pytest.raises(CohortError, match="effusion must have"):
        check_groups(images(both[:1] + both[2:], "ac"), [0, 1], ("nodule", "effusion", "none"))


@pytest.fixture
def damaged(tmp_path):
    """Sixteen rows, three of them unusable: no image, a mask of another size, a box outside."""
    rows = []
    for k in range(16):
        pixels = np.full((16, 12), 10 * k, np.uint8)
        pixels[0, 0] = 200 + k
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        split = ("train", "train", "val", "test")[k // 4]
        rows.append((f"{k}.png", ("clear", "mass")[k % 2], f"P{k}", split, "", ""))
    columns = ["image", "label", "patient_id", "split", "mask", "box"]
    table = pd.DataFrame(rows, columns=columns)
    (tmp_path / "1.png").write_text("no image")
    Image.fromarray(np.ones((3, 3), np.uint8)).save(tmp_path / "small.png")
    table.loc[8, "mask"] = "small.png"
    table.loc[14, "box"] = "0,0,99,99"
    return Cohort(table, tmp_path)


def test_a_cohort_with_bad_files_is_refused_unless_they_may_be_left_out(damaged, tmp_path, caplog):
    with pytest.raises(CohortError, match=r"3 problem\(s\), the first: row 1: .*skip_bad=true"):
        usable(damaged, load_config(None))
    used = usable(damaged, load_config(None, ["data.skip_bad=true"]))
    assert used.cohort.table["row"].tolist() == [0, *range(2, 8), *range(9, 14), 15]
    assert used.report.ok
    assert len(used.report.references) == len(used.cohort) == 13
    assert [(problem.row, problem.stage) for problem in used.left_out] == [
        (1, "image"),
        (8, "mask"),
        (14, "box"),
    ]
    assert "left out: row 8 (mask): the mask must have the image's shape" in caplog.text
    write_left_out(used.left_out, tmp_path)
    table = pd.read_csv(tmp_path / "left_out.csv")
    assert table["row"].tolist() == [1, 8, 14]
    assert list(table.columns) == ["row", "stage", "reason"]


def test_rows_of_other_classes_keep_their_numbers(damaged):
    table = damaged.table.copy()
    table.loc[[0, 9], "label"] = "other"
    cohort = Cohort(table, damaged.root)
    settings = ["data.skip_bad=true", "data.classes=[clear,mass]"]
    used = usable(cohort, load_config(None, settings))
    assert used.cohort.table["row"].tolist() == [*range(2, 8), *range(10, 14), 15]
    assert [problem.row for problem in used.left_out] == [1, 8, 14]


def test_what_is_wrong_with_labels_or_splits_is_never_skipped(damaged):
    table = damaged.table.copy()
    table.loc[0, "split"] = "extra"
    with pytest.raises(CohortError, match="split must be one of") as caught:
        usable(Cohort(table, damaged.root), load_config(None, ["data.skip_bad=true"]))
    assert "skip_bad" not in str(caught.value)


def test_a_cohort_of_bad_files_alone_is_refused(damaged):
    table = damaged.table.iloc[[1, 8, 14]]
    with pytest.raises(CohortError, match="at least one row"):
        usable(Cohort(table, damaged.root), load_config(None, ["data.skip_bad=true"]))


def test_without_a_group_the_same_pixels_are_one_group_and_nothing_is_read_twice(damaged, tmp_path):
    table = damaged.table.drop(columns="patient_id")
    used = usable(Cohort(table, damaged.root), load_config(None, ["data.skip_bad=true"]))
    for path in tmp_path.glob("*.png"):
        path.unlink()
    (tmp_path / "run").mkdir()
    snapped = snapshot(used.cohort, used.report, tmp_path / "run")
    digests = [reference.pixel_digest for reference in used.report.references]
    assert snapped.table["group"].tolist() == digests


@pytest.fixture
def volumes(tmp_path):
    """Ten volumes of 9 x 9 x 9 voxels of 1 mm; of row 3 they lie 100 mm apart."""
    rows = []
    for k in range(10):
        values = np.random.default_rng(k).integers(0, 99, (9, 9, 9)).astype(np.int16)
        step = 100 if k == 3 else 1
        nibabel.save(nibabel.Nifti1Image(values, np.diag([step] * 3 + [1])), tmp_path / f"{k}.nii")
        split = ("train", "train", "train", "val", "test")[k // 2]
        rows.append((f"{k}.nii", ("clear", "mass")[k % 2], f"P{k}", split))
    table = pd.DataFrame(rows, columns=["image", "label", "patient_id", "split"])
    return Cohort(table, tmp_path)


SPACING = ["data.voi=percentile", "data.mode=spacing", "data.spacing_mm=1"]


def test_an_image_too_large_at_the_spacing_is_a_bad_row(volumes):
    """900 x 900 x 900 voxels are above 2^28, 9 x 9 x 9 are not."""
    reason = (
        r"1 problem\(s\), the first: row 3: .*has \[900, 900, 900\] at 1 mm.*"
        r"`medproto cohort check TABLE --voi percentile`.*skip_bad=true"
    )
    with pytest.raises(CohortError, match=reason):
        usable(volumes, load_config(None, SPACING))
    used = usable(volumes, load_config(None, [*SPACING, "data.skip_bad=true"]))
    assert [(problem.row, problem.stage) for problem in used.left_out] == [(3, "image")]
    assert used.cohort.table["row"].tolist() == [0, 1, 2, *range(4, 10)]
    assert resampling_problems(used.report, "spacing", 1.0) == ()
    assert [p.row for p in resampling_problems(used.report, "spacing", 0.01)] == list(range(9))
    assert resampling_problems(used.report, "letterbox", None) == ()
