import nibabel
import numpy as np
import pytest

from medproto.data import Cohort, check_cohort
from medproto.data.recipes import brats
from medproto.errors import CohortError


@pytest.fixture
def release(tmp_path):
    """Three subjects; one has neither outline nor t2, one has no flair."""
    folder = tmp_path / "train"
    for number in (0, 2, 3):
        for k, name in enumerate(["t1", "t1ce", "t2", "flair", "seg"]):
            if (number, name) in [(2, "seg"), (2, "t2"), (3, "flair")]:
                continue
            subject = f"BraTS2021_0000{number}"
            path = folder / f"{subject}/{subject}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng([number, k]).integers(0, 9, (9, 9, 3)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    (folder / "BraTS2021_00000/other_t1.nii.gz").touch()
    return folder


def path_of(number, name):
    return f"BraTS2021_0000{number}/BraTS2021_0000{number}_{name}.nii.gz"


def test_the_published_layout_with_the_table_of_methylation(release, tmp_path, pseudonym):
    # As a spreadsheet leaves it, without the zeros in front.
    (release / "train_labels.csv").write_text("BraTS21ID,MGMT_value\n0,1\n00002,0\n3,1\n9,0\n")
    cohort, notes = brats(release)
    assert cohort.table.to_dict("list") == {
        "image": [path_of(0, "flair"), path_of(2, "flair")],
        "label": ["methylated", "unmethylated"],
        "patient_id": [pseudonym("P", f"BraTS2021_0000{k}") for k in (0, 2)],
        "mask": [path_of(0, "seg"), ""],
        "image_path_t1": [path_of(0, "t1"), path_of(2, "t1")],
        "image_path_t1ce": [path_of(0, "t1ce"), path_of(2, "t1ce")],
        "image_path_t2": [path_of(0, "t2"), ""],
        "image_path_flair": [path_of(0, "flair"), path_of(2, "flair")],
    }
    text = "\n".join(notes)
    assert "not yet been run on the real files" in notes[0]
    assert "1 subjects have no flair image and were left out" in text
    assert "1 subjects have no t2 image" in text
    assert "1 subjects have no outline, and no mask" in text
    assert "2 rows of the labels have no image" in text
    report = check_cohort(cohort, voi="percentile")
    assert not [p for p in report.problems if p.stage in ("image", "mask")]
    # The paths of the other sequences follow the table to another folder, as image and mask do.
    cohort.save(tmp_path / "out/c.csv")
    again = Cohort.read(tmp_path / "out/c.csv")
    assert again.table["image_path_t1"][0] == f"../train/{path_of(0, 't1')}"
    assert again.table["image_path_t2"][1] == ""
    assert again.content_digest == cohort.content_digest


def test_labels_of_ones_own_and_another_sequence(release, write_csv, tmp_path):
    rows = [
        {"subject": "BraTS2021_00003", "label": "high", "age": "91"},
        {"subject": "BraTS2021_00002", "label": "low", "age": "50"},
    ]
    cohort, notes = brats(release, labels=write_csv(tmp_path / "l.csv", rows), sequence="t1ce")
    assert cohort.table["image"].tolist() == [path_of(2, "t1ce"), path_of(3, "t1ce")]
    assert cohort.table["label"].tolist() == ["low", "high"]
    assert cohort.table["age"].tolist() == ["50", "90"]
    assert "1 images have no label in the table" in "\n".join(notes)


def test_without_labels_the_column_waits(release):
    cohort, notes = brats(release)
    assert set(cohort.table["label"]) == {""}
    assert notes[-1] == "no table of labels: fill in the column 'label'."


def test_what_is_not_the_data_set(release, tmp_path):
    with pytest.raises(ValueError, match="sequence must be one of"):
        brats(release, sequence="t3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match=r"must hold <subject>/<subject>_flair\.nii\.gz"):
        brats(tmp_path / "empty")
    labels = tmp_path / "l.csv"
    labels.write_text("BraTS21ID,MGMT_value\n00000,0.5\n")
    with pytest.raises(CohortError, match=r"MGMT_value must be 0 or 1, got '0\.5'"):
        brats(release, labels=labels)
    labels.write_text("subject,label\nsomeone,x\n")
    with pytest.raises(CohortError, match="matches none of 2 images"):
        brats(release, labels=labels)
    copy = release / "again" / "BraTS2021_00000"
    copy.mkdir(parents=True)
    (copy / "BraTS2021_00000_t1.nii.gz").touch()
    with pytest.raises(CohortError, match="two files have one name"):
        brats(release)
