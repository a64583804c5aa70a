"""What of a table of labels is taken over: nothing that names anybody."""

import numpy as np
import pandas as pd
import pytest

from medproto.data import from_dicom
from medproto.data.identities import columns_to_keep, is_identity


@pytest.mark.parametrize(
    "column",
    [
        "PatientName", "patient_name", "surname", "Last Name", "first-name", "Initials", "MRN",
        "mrn_2", "hospitalMRN", "birth year", "DateOfBirth", "SOPInstanceUID", "frame_uid",
        "InstanceUID", "StudyID", "accession", "Accession No.", "path", "source_path", "filePath",
        "filename", "file", "original filename", "e-mail", "phone", "SSN", "session",
    ],
)  # fmt: skip
def test_names_of_identities(column):
    assert is_identity(column)


@pytest.mark.parametrize(
    "column",
    [
        "label", "mask", "image", "image_path_t1", "fluid", "pleural_fluid", "FluidLevel",
        "fluidIn", "pathology", "pathological", "age", "sex", "site", "profile", "class_name",
        "birads", "studies", "filed",
    ],
)  # fmt: skip
def test_names_of_no_identities(column):
    assert not is_identity(column)


LABELS = pd.DataFrame(
    {
        "SeriesInstanceUID": ["1.2.34", "1.2.35", "1.2.36"],
        "label": ["smith-01", "well", "ill"],
        "mask": ["Smith-01/mask.nii", "", ""],
        "image_path_t2": ["smith-01/t2.nii", "", ""],
        "filename": ["x", "y", "zzzzz"],
        "name": ["1", "0", "1"],
        "site": ["K", "L", "M"],
        "remark": ["Seen again: SMITH-01!", "", ""],
        "note": ["", "see Jones-02", ""],
        "scan": ["", "export", "head_7"],
        "echo": ["", "", "as zzzzz"],
        "other": ["jones-02", "1.2.36", "abc"],
        "age": ["40", "50", "60"],
    }
)
IDENTIFIERS = {
    "image": ["a/b.nii", "long folder/c.nii", "x/head_7.nii.gz"],
    "PatientID": ["Smith-01", "jones-02", "abc"],
    "StudyInstanceUID": ["1.2.34", None, "1.2.36"],
}


def test_columns_with_an_identifier_of_their_own_row_are_left_out():
    kept, notes = columns_to_keep(LABELS, [0, 1, 2], IDENTIFIERS, ("name",))
    # `other` names other rows' patients, and its own by three letters, which are too few to say.
    assert kept == ["label", "mask", "image_path_t2", "name", "site", "other", "age"]
    assert notes == [
        "columns of the labels that name identities were left out: 'SeriesInstanceUID', "
        "'filename', 'remark', 'note', 'scan', 'echo'.",
        "further columns of the labels were taken over as they are: 'site', 'other'. "
        "Look whether they name anybody.",
    ]


def test_a_folder_of_the_path_is_an_identifier_and_rows_without_an_image_are_not_looked_into():
    labels = pd.DataFrame({"ward": ["", "in Long Folder"], "room": ["Smith-01", ""]})
    kept, notes = columns_to_keep(labels, [None, 1, None], IDENTIFIERS, ())
    assert kept == ["room"]
    assert "left out: 'ward'." in notes[0]
    assert columns_to_keep(labels[["room"]], [None, None, 1], IDENTIFIERS, ())[0] == ["room"]
    assert columns_to_keep(pd.DataFrame({"label": ["x"]}), [0], {}, ()) == (["label"], [])


def test_a_note_obeys_no_column():
    labels = pd.DataFrame({"mrn\x1b[2J": ["1"], "site\n": ["K"]})
    assert all(note.isprintable() for note in columns_to_keep(labels, [0], {}, ())[1])


def test_the_builder_tells_what_it_left_out(tmp_path, write_dicom, write_csv):
    write_dicom(tmp_path / "in/a.dcm", np.zeros((8, 8), np.uint8), PatientID="Smith-01")
    write_dicom(tmp_path / "in/b.dcm", np.ones((8, 8), np.uint8), PatientID="Jones-02")
    rows = [
        {"PatientID": "Smith-01", "label": "ill", "fluid": "1", "remark": "Smith-01: again"},
        {"PatientID": "Jones-02", "label": "well", "fluid": "0", "remark": ""},
    ]
    cohort, notes = from_dicom(
        tmp_path / "in", labels=write_csv(tmp_path / "l.csv", rows), key="key of the tests"
    )
    assert cohort.table["fluid"].tolist() == ["1", "0"]
    assert "Smith" not in cohort.table.to_csv() + "".join(notes)
    assert "columns of the labels that name identities were left out: 'PatientID', 'remark'." in (
        notes
    )
    assert (
        "further columns of the labels were taken over as they are: 'fluid'. "
        "Look whether they name anybody." in notes
    )
