import hmac
import json

import nibabel
import numpy as np
import pytest

from medproto.data import check_cohort, from_bids
from medproto.errors import CohortError

KEY = "key of the tests"
FILES = [
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_acq-highres_run-2_T1w.nii",
    "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
    "sub-02/dwi/sub-02_dwi.nii.gz",
    "sub-03/anat/sub-03_T1w.nii.gz",
    "sub-04/anat/sub-04_T1w.nii.gz",
    "sub-02/anat/sub-09_T1w.nii.gz",
    "sub-02/anat/sub-02_ses-a_T1w.nii.gz",
    "derivatives/fix/sub-02/anat/sub-02_T1w.nii.gz",
]
PARTICIPANTS = (
    "participant_id\tage\tsex\tgroup\tscore\tname\n"
    "sub-01\t91\tFemale\tpatient\t3\tJane\n"
    "02\t30\tM\tcontrol\tn/a\tJohn\n"
    "sub-03\tn/a\tn/a\tn/a\t5\tJim\n"
    "sub-05\t40\tO\tcontrol\t1\tJo\n"
)


def pseudonym(prefix, identifier):
    return f"{prefix}-{hmac.digest(KEY.encode(), identifier.encode(), 'sha256').hex()[:16]}"


@pytest.fixture
def release(tmp_path):
    source = tmp_path / "source"
    for number, name in enumerate(FILES):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 9, (9, 9, 3)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    description = {"Name": "test", "BIDSVersion": "1.9.0"}
    (source / "dataset_description.json").write_text(json.dumps(description))
    (source / "participants.tsv").write_text(PARTICIPANTS)
    return source


def test_images_of_a_suffix_with_the_labels_of_their_participants(release):
    cohort, notes = from_bids(release, key=KEY)
    one, two = pseudonym("P", "sub-01"), pseudonym("P", "sub-02")
    a, b = pseudonym("S", "sub-01/ses-a"), pseudonym("S", "sub-01/ses-b")
    assert cohort.table.to_dict("list") == {
        "image": [FILES[0], FILES[1], FILES[2], FILES[4]],
        "patient_id": [one, one, one, two],
        "study_uid": [a, a, b, ""],
        "age": ["90", "90", "90", "30"],
        "sex": ["F", "F", "F", "M"],
        "label": ["patient", "patient", "patient", "control"],
        "score": ["3", "3", "3", ""],
    }
    text = "\n".join(notes)
    assert "2 images have no label in the table" in text
    assert "1 rows of the labels have no image" in text
    assert "2 NIfTI files of subjects do not follow the layout" in text
    assert "1 sessions or subjects have several T1w images" in text
    assert "2 files are not NIfTI" in text
    assert not any(secret in text for secret in ["sub-0", "Jane", "ses-"])
    problems = check_cohort(cohort, voi="percentile").problems
    assert not [problem for problem in problems if problem.stage == "image"]


def test_another_suffix_label_and_findings(release):
    table = from_bids(release, key=KEY, suffix="dwi", label="age").cohort.table
    assert table["image"].tolist() == [FILES[5]]
    assert table["label"].tolist() == ["30"]
    assert table["group"].tolist() == ["control"]
    assert "study_uid" not in table
    path = release / "participants.tsv"
    path.write_text(path.read_text().replace("score", "lesion").replace("\t3\t", "\t1\t"))
    cohort = from_bids(release, key=KEY, label_columns=["lesion"]).cohort
    assert cohort.classes == ("lesion",)
    assert cohort.table["lesion"].tolist() == ["1", "1", "1", "", "5"]


def test_copies_name_no_subject(release, tmp_path):
    cohort, notes = from_bids(release, key=KEY, copy_to=tmp_path / "copies")
    stem = f"{pseudonym('P', 'sub-01')}/{pseudonym('S', 'sub-01/ses-b')}"
    assert cohort.table["image"][2] == f"{stem}/{pseudonym('I', FILES[2])}.nii.gz"
    assert cohort.table["image"][3].split("/")[1] == "S-unknown"
    assert all(cohort.image_path(row).is_file() for row in range(4))
    assert "sub-" not in cohort.table.to_csv()
    assert "text that is burned into pixels" in notes[-1]


def test_what_is_no_such_data_set(release):
    with pytest.raises(CohortError, match=r"suffixes are \['FLAIR', 'T1w', 'dwi'\]"):
        from_bids(release, key=KEY, suffix="bold")
    with pytest.raises(CohortError, match=r"\['iq'\] are not there; its columns are \['age'"):
        from_bids(release, key=KEY, label="iq")
    with pytest.raises(ValueError, match="exclude each other"):
        from_bids(release, key=KEY, label="age", label_columns=["score"])
    path = release / "participants.tsv"
    path.write_text(PARTICIPANTS.replace("group", "cohort"))
    with pytest.raises(CohortError, match=r"\['label'\] are not there.*Name the one .* by --label"):
        from_bids(release, key=KEY)
    path.write_text(PARTICIPANTS.replace("sub-01\t", 'sub-01\t"', 1))
    with pytest.raises(CohortError, match=r"line \d of participants.tsv, .* a quotation mark"):
        from_bids(release, key=KEY)
    path.write_text("participant_id\tgroup\nsub-77\tx\n")
    with pytest.raises(CohortError, match="'participant_id' of the labels matches none of 6"):
        from_bids(release, key=KEY)
    path.unlink()
    with pytest.raises(CohortError, match=r"participants.tsv must be in the folder"):
        from_bids(release, key=KEY)
    for text in ("{}", "[", "[]"):
        (release / "dataset_description.json").write_text(text)
        with pytest.raises(CohortError, match=r"must have dataset_description.json with Name"):
            from_bids(release, key=KEY)
