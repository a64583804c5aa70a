import gzip
import hmac

import nibabel
import numpy as np
import pytest

from medproto.data import Cohort, check_cohort, from_nifti, read_image
from medproto.data.ages import capped_age, whole_years
from medproto.errors import CohortError

KEY = "key of the tests"


def pseudonym(prefix, identifier):
    return f"{prefix}-{hmac.digest(KEY.encode(), identifier.encode(), 'sha256').hex()[:16]}"


@pytest.fixture
def volumes(tmp_path):
    """Two subjects, one with two volumes and a mask; a text, and a volume under a wrong name."""
    source = tmp_path / "source"
    names = ["doe/a.nii.gz", "doe/b.nii", "doe/mark.nii.gz", "roe/deep/c.nii.gz", "top.nii"]
    for number, name in enumerate(names):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 99, (9, 9, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    (source / "roe/deep/c.nii.gz").rename(source / "roe/deep/volume")
    (source / "fake.nii.gz").write_bytes(gzip.compress(b"no volume at all" * 40))
    (source / "notes.txt").write_text("text")
    return source


def notes_of(built):
    return "\n".join(built.notes)


def test_content_decides_and_the_top_folder_is_the_patient(volumes):
    built = from_nifti(volumes, key=KEY)
    table = built.cohort.table
    assert table["image"].tolist() == [
        "top.nii", "doe/a.nii.gz", "doe/b.nii", "doe/mark.nii.gz", "roe/deep/volume",
    ]  # fmt: skip
    doe, roe = pseudonym("P", "doe"), pseudonym("P", "roe")
    assert table["patient_id"].tolist() == ["", doe, doe, doe, roe]
    assert set(table["label"]) == {""}
    assert list(table) == ["image", "label", "patient_id"]
    notes = notes_of(built)
    assert "2 files are not NIfTI" in notes
    assert "patients are the 2 top folders of the paths" in notes
    assert "1 images are of no known patient" in notes
    assert "no table of labels" in notes
    assert "--copy-as-pseudonyms" in notes


def test_labels_by_image_with_masks_and_sessions(volumes, tmp_path, write_csv):
    rows = [
        {"image": "doe/a.nii.gz", "label": "ill", "mask": "doe/mark.nii.gz", "subject": "Doe",
         "session": "2001-02-03", "age": "93", "birth date": "1908", "site": "K"},
        {"image": "roe/deep/volume", "label": "well", "mask": "", "subject": "Roe",
         "session": "", "age": "45", "birth date": "1956", "site": "L"},
        {"image": "gone.nii", "label": "well", "mask": "", "subject": "X",
         "session": "", "age": "", "birth date": "", "site": ""},
    ]  # fmt: skip
    built = from_nifti(volumes, labels=write_csv(tmp_path / "l.csv", rows), key=KEY)
    table = built.cohort.table
    assert table.to_dict("list") == {
        "image": ["doe/a.nii.gz", "roe/deep/volume"],
        "label": ["ill", "well"],
        "patient_id": [pseudonym("P", "Doe"), pseudonym("P", "Roe")],
        "study_uid": [pseudonym("S", "Doe/2001-02-03"), ""],
        "mask": ["doe/mark.nii.gz", ""],
        "age": ["90", "45"],
        "site": ["K", "L"],
    }
    notes = notes_of(built)
    assert "2 images have no label in the table" in notes
    assert "1 rows of the labels have no image" in notes
    assert "columns of the labels that name identities were left out" in notes
    assert not any(secret in notes for secret in ["Doe", "2001", "1908"])
    report = check_cohort(built.cohort, voi="percentile")
    assert not [p for p in report.problems if p.stage in ("image", "mask")]


@pytest.mark.parametrize("column", ["subject", "patient_id"])
def test_labels_by_subject_reach_every_volume_of_it(volumes, tmp_path, write_csv, column):
    rows = [
        {column: "doe", "label": "ill", "mask": "./doe/mark.nii.gz"},
        {column: "top", "label": "well", "mask": ""},
    ]
    built = from_nifti(volumes, labels=write_csv(tmp_path / "l.csv", rows), key=KEY)
    table = built.cohort.table
    assert table["image"].tolist() == ["top.nii", "doe/a.nii.gz", "doe/b.nii"]
    assert table["label"].tolist() == ["well", "ill", "ill"]
    assert table["patient_id"][0] == pseudonym("P", "top")
    assert "top folders" not in notes_of(built)


def test_findings_and_copies(volumes, tmp_path, write_csv):
    rows = [
        {"subject": "doe", "bleed": "1", "mass": "", "mask": "doe/mark.nii.gz"},
        {"subject": "roe", "bleed": "0", "mass": "-1", "mask": ""},
    ]
    write_csv(volumes / "labels.csv", rows)
    target = tmp_path / "out/copies"
    built = from_nifti(volumes, key=KEY, copy_to=target, label_columns=["bleed", "mass"])
    table = built.cohort.table
    assert table["bleed"].tolist() == ["1", "1", "0"]
    stem = f"{pseudonym('P', 'doe')}/{pseudonym('I', 'doe/a.nii.gz')}"
    assert table["image"][0] == f"{stem}.nii.gz"
    assert table["mask"][0] == f"{stem}-mask.nii.gz"
    assert table["image"][1].endswith(".nii")
    last = f"{pseudonym('P', 'roe')}/{pseudonym('I', 'roe/deep/volume')}.nii.gz"
    assert table["image"][2] == last
    before = read_image(volumes / "roe/deep/volume", voi="percentile")
    after = read_image(target / last, voi="percentile")
    assert after.reference == before.reference
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert not any(name in table.to_csv() for name in ["doe", "roe", "deep"])
    built.cohort.save(tmp_path / "out/c.csv")
    again = Cohort.read(tmp_path / "out/c.csv", label_columns=["bleed", "mass"])
    assert again.image_path(2).is_file()


def test_further_channels_are_no_rows_and_are_copied_with_their_image(volumes, tmp_path, write_csv):
    rows = [{"image": "doe/a.nii.gz", "label": "ill", "image_path_t2": "doe/b.nii"}]
    rows.append({"image": "roe/deep/volume", "label": "well", "image_path_t2": "roe/gone.nii"})
    write_csv(volumes / "labels.csv", rows)
    plain = from_nifti(volumes, key=KEY).cohort.table
    assert "doe/b.nii" not in plain["image"].tolist()
    built = from_nifti(volumes, key=KEY, copy_to=tmp_path / "copies")
    table = built.cohort.table
    stem = f"{pseudonym('P', 'doe')}/{pseudonym('I', 'doe/a.nii.gz')}"
    assert table["image_path_t2"][0] == f"{stem}-channel-1.nii"
    before = read_image(volumes / "doe/b.nii", voi="percentile")
    after = read_image(tmp_path / "copies" / table["image_path_t2"][0], voi="percentile")
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert not any(name in table.to_csv() for name in ["doe", "roe", "gone"])
    assert "1 files are missing or cannot be read and were not copied" in notes_of(built)


def test_what_makes_no_cohort(volumes, tmp_path, write_csv):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="must hold NIfTI files, none"):
        from_nifti(tmp_path / "empty", key=KEY)
    with pytest.raises(CohortError, match="pass labels as well"):
        from_nifti(volumes, key=KEY, label_columns=["a"])
    labels = write_csv(tmp_path / "l.csv", [{"case": "doe", "label": "x"}])
    with pytest.raises(CohortError, match=r"one of \['image', 'subject', 'patient_id'\]"):
        from_nifti(volumes, labels=labels, key=KEY)
    labels = write_csv(tmp_path / "l.csv", [{"image": "x.nii", "label": "x"}])
    with pytest.raises(CohortError, match="matches none of 5 images"):
        from_nifti(volumes, labels=labels, key=KEY)
    paths = ["top.nii", "doe/a.nii.gz", "doe/b.nii", "doe/mark.nii.gz", "roe/deep/volume"]
    rows = [{"subject": "doe", "label": "x", "mask": path} for path in paths]
    with pytest.raises(CohortError, match=r"in the columns of the labels that name these \(mask\)"):
        from_nifti(volumes, labels=write_csv(tmp_path / "l.csv", rows), key=KEY)


@pytest.mark.parametrize(
    ("age", "years"),
    [("045Y", "45"), ("006M", "0"), ("030M", "2"), ("090Y", "90"), ("104Y", "90"), ("45", "")],
)
def test_whole_years(age, years):
    assert whole_years(age) == years


@pytest.mark.parametrize(
    ("age", "capped"),
    [("89", "89"), ("89.9", "89.9"), ("90", "90"), ("103", "90"), ("n/a", "n/a"), ("", "")],
)
def test_capped_age(age, capped):
    assert capped_age(age) == capped
