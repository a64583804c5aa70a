import nibabel
import numpy as np
import pytest

from medproto.data import Cohort, check_cohort

LABELS = ["x", "x", "y", "y", "x", "y", "x", "y"]
SPLIT = ["train"] * 4 + ["val"] * 2 + ["test"] * 2


def found(report):
    return [(problem.row, problem.stage) for problem in report.problems]


def test_a_good_cohort_has_no_problem_and_a_summary(cohort_folder):
    patients = ["a", "b", "c", "d", "e", "f", "g", "g"]
    path = cohort_folder(LABELS, split=SPLIT, patient_id=patients)
    steps = []
    report = check_cohort(Cohort.read(path), progress=lambda *step: steps.append(step))
    assert report.ok
    assert report.n == 8
    assert steps == [(i + 1, 8) for i in range(8)]
    assert [reference.shape for reference in report.references] == [(12, 10)] * 8
    assert report.summary == {
        "labels": {"x": 4, "y": 4},
        "splits": {
            "test": {"x": 1, "y": 1},
            "train": {"x": 2, "y": 2},
            "val": {"x": 1, "y": 1},
        },
        "groups": 7,
        "group_column": "patient_id",
        "masks": 0,
        "readable": 8,
        "synthetic": 0,
        "modality": {"PNG": 8},
        "spacing": {"none": 8},
        "sizes": {
            "rows": {"min": 12, "median": 12, "max": 12},
            "columns": {"min": 10, "median": 10, "max": 10},
        },
        "contradictions": [],
    }


def test_all_problems_come_in_one_pass(cohort_folder, tmp_path, write_png, noise):
    labels = [*LABELS, "z", ""]
    path = cohort_folder(
        labels,
        split=[*SPLIT, "train", "dev"],
        patient_id=["p0", "p1", "p2", "p3", "p0", "p5", "p6", "p7", "p8", "p9"],
        mask=["", "m1.png", "m2.png", "m3.png", "", "", "", "m7.png", "", ""],
        box=["", "0,0,4,4;1,1,2,2", "4,4,4,4", "", "0,0,13,10", "a,b", "", "", "", ""],
    )
    (tmp_path / "images/1.png").write_text("no image")
    write_png(tmp_path / "images/6.png", noise(2))  # the pixels of row 2, a training image
    write_png(tmp_path / "m2.png", np.ones((12, 11), dtype=np.uint8))
    write_png(tmp_path / "m3.png", np.ones((12, 10), dtype=np.uint8))
    write_png(tmp_path / "m7.png", np.zeros((12, 10), dtype=np.uint8))
    report = check_cohort(Cohort.read(path))
    assert not report.ok
    assert found(report) == [
        (1, "image"),
        (1, "mask"),
        (2, "box"),
        (2, "mask"),
        (4, "box"),
        (4, "group"),
        (5, "box"),
        (6, "duplicate"),
        (7, "mask"),
        (9, "label"),
        (9, "split"),
        (None, "class"),
    ]
    reasons = [problem.reason for problem in report.problems]
    assert "must be DICOM" in reasons[0]
    assert reasons[3] == "the mask must have the image's shape [12, 10], got [12, 11]."
    assert "also in split 'train', with row 0" in reasons[5]
    assert "same pixels are in split 'train', in row 2" in reasons[7]
    assert "empty, although others of class 'y' are not" in reasons[8]
    assert reasons[11] == "class 'z' needs at least 2 cases, got 1."
    assert report.references[1] is None
    assert report.summary["contradictions"] == [[2, 6]]  # y and x
    assert all("\n" not in reason and str(tmp_path) not in reason for reason in reasons)


def test_masks_that_are_empty_for_a_whole_class_are_no_problem(cohort_folder, tmp_path, write_png):
    path = cohort_folder(["x", "x", "y", "y"], mask=["0.png", "1.png", "2.png", "3.png"])
    for number in range(4):
        inside = np.full((12, 10), number < 2, dtype=np.uint8)
        write_png(tmp_path / f"{number}.png", inside)
    report = check_cohort(Cohort.read(path))
    assert report.ok
    assert report.summary["masks"] == 2


def test_one_class_only(cohort_folder):
    report = check_cohort(Cohort.read(cohort_folder(["x", "x", "x"])))
    assert found(report) == [(None, "class")]
    assert report.problems[0].reason == "a cohort needs two classes, got ['x']."


def test_a_class_must_be_in_every_split_and_fold(cohort_folder):
    split = ["train", "val", "train", "train", "train", "val", "test", "test"]
    labels = ["x", "x", "y", "y", "y", "y", "y", "y"]
    reasons = [
        p.reason for p in check_cohort(Cohort.read(cohort_folder(labels, split=split))).problems
    ]
    assert reasons == [
        "class 'x' needs at least 2 in split 'train', got 1.",
        "class 'x' needs at least 1 in split 'test', got 0.",
    ]
    path = cohort_folder(labels, fold=[0, 0, 0, 1, 2, 0, 1, 2])
    reasons = [p.reason for p in check_cohort(Cohort.read(path)).problems]
    assert reasons == ["class 'x' has no case in fold 1.", "class 'x' has no case in fold 2."]


def test_unknown_and_nearly_equal_labels(cohort_folder):
    cohort = Cohort.read(cohort_folder(["x", "X", "x", "X", "y", "y"]))
    report = check_cohort(cohort, classes=["x", "y"])
    assert found(report) == [(1, "label"), (3, "label"), (None, "class")]
    assert report.problems[0].reason == "the label must be one of ['x', 'y'], got 'X'."
    assert report.problems[2].reason == "classes 'X' and 'x' differ in case or spaces only."


def test_an_empty_path_and_a_foreign_digest(cohort_folder, tmp_path):
    path = cohort_folder(["x", "x", "y", "y"], pixel_digest=["", "sha256:00", "", ""])
    text = path.read_text().replace("images/0.png", "")
    path.write_text(text)
    report = check_cohort(Cohort.read(path))
    assert found(report) == [(0, "image"), (1, "image")]
    assert "not those of the column 'pixel_digest'" in report.problems[1].reason


@pytest.mark.parametrize("column", ["split", "fold"])
def test_without_a_group_column_identical_pixels_are_the_group(cohort_folder, tmp_path, column):
    parts = {"split": SPLIT, "fold": [0, 0, 0, 0, 1, 1, 1, 1]}
    path = cohort_folder(LABELS, **{column: parts[column]})
    (tmp_path / "images/4.png").write_bytes((tmp_path / "images/0.png").read_bytes())
    report = check_cohort(Cohort.read(path))
    assert found(report) == [(4, "group"), (4, "duplicate")]


def test_the_gray_policy_of_the_training_is_checked_too(tmp_path, write_csv):
    volume = np.arange(9 * 9 * 3, dtype=np.int16).reshape(9, 9, 3)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    table = write_csv(tmp_path / "c.csv", [{"image": "a.nii.gz", "label": "x"}] * 2)
    problems = check_cohort(Cohort.read(table)).problems
    assert "no gray range of its own" in problems[0].reason
    report = check_cohort(Cohort.read(table), voi="window:100,200")
    assert [problem.stage for problem in report.problems] == ["class"]  # there is but one
    assert report.summary["sizes"]["slices"] == {"min": 3, "median": 3, "max": 3}
    assert report.references[0].shape == (9, 9, 3)
