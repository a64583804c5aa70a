"""Rows of whole series, and the files that a DICOMDIR names."""

import hmac
import shutil
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from medproto.data import check_cohort, from_dicom, read_image
from medproto.errors import CohortError

KEY = "key of the tests"
AXIAL = [1, 0, 0, 0, 1, 0]


def pseudonym(prefix, identifier):
    return f"{prefix}-{hmac.digest(KEY.encode(), identifier.encode(), 'sha256').hex()[:16]}"


@pytest.fixture
def write_slice(tmp_path, write_dicom, noise):
    """Write slice ``k`` of a CT series, 3 mm above the one before."""

    def write(name, series, k, *, patient="A1", study="1.9.1", **tags):
        values = {
            "Modality": "CT", "PatientID": patient, "StudyInstanceUID": study,
            "SeriesInstanceUID": series, "SOPInstanceUID": f"{series or 9}.{k}",
            "PixelSpacing": [1, 1], "ImageOrientationPatient": AXIAL,
            "ImagePositionPatient": [0, 0, 3 * k], **tags,
        }  # fmt: skip
        return write_dicom(
            tmp_path / "source" / name, noise(zlib.crc32(f"{series} {k}".encode())), **values
        )

    return write


@pytest.fixture
def series(tmp_path, write_slice):
    """Two series in folders of their own, one of them at the top; two that share a folder."""
    for k in range(3):
        write_slice(f"DOE/ct/{k}.dcm", "1.2.10", k)
        write_slice(f"{k}.dcm", "1.2.20", k, patient="B2", study="1.9.2", PatientAge="091Y")
        write_slice(f"mixed/x{k}.dcm", "1.2.30", k)
        write_slice(f"mixed/y{k}.dcm", "1.2.40", k)
    return tmp_path / "source"


def notes_of(built):
    return "\n".join(built.notes)


def test_a_series_with_a_folder_for_itself_is_a_row(series):
    built = from_dicom(series, key=KEY, series=True)
    table = built.cohort.table
    assert table["image"].tolist() == [".", "DOE/ct"]
    assert table["patient_id"].tolist() == [pseudonym("P", "B2"), pseudonym("P", "A1")]
    assert table["study_uid"].tolist() == [pseudonym("S", "1.9.2"), pseudonym("S", "1.9.1")]
    assert table["age"].tolist() == ["90", ""]
    assert "2 series lie in a folder with other DICOM images and were left out" in notes_of(built)
    assert "--copy-as-pseudonyms" in notes_of(built)
    assert read_image(built.cohort.image_path(1)).reference.shape == (12, 10, 3)


def test_copies_give_each_series_a_folder(series, tmp_path):
    built = from_dicom(series, key=KEY, series=True, copy_to=tmp_path / "copies")
    table = built.cohort.table
    expected = [
        "/".join([pseudonym("P", p), pseudonym("S", s), pseudonym("R", r)])
        for p, s, r in [
            ("B2", "1.9.2", "1.2.20"), ("A1", "1.9.1", "1.2.10"),
            ("A1", "1.9.1", "1.2.30"), ("A1", "1.9.1", "1.2.40"),
        ]
    ]  # fmt: skip
    assert table["image"].tolist() == expected
    names = [path.name for path in sorted((tmp_path / "copies" / expected[2]).iterdir())]
    assert names == ["0000.dcm", "0001.dcm", "0002.dcm"]
    for row in range(4):
        assert read_image(built.cohort.image_path(row)).reference.shape == (12, 10, 3)
    text = table.to_csv() + notes_of(built)
    assert not any(secret in text for secret in ["A1", "B2", "DOE", "1.2.", "1.9."])
    with pytest.raises(CohortError, match="old slices would mix with new ones"):
        from_dicom(series, key=KEY, series=True, copy_to=tmp_path / "copies")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("image", [".", "DOE/ct"]),
        ("SeriesInstanceUID", ["1.2.20", "1.2.10"]),
        ("StudyInstanceUID", ["1.9.2", "1.9.1"]),
        ("PatientID", ["B2", "A1"]),
    ],
)
def test_labels_of_series(series, tmp_path, write_csv, column, values):
    rows = [{column: v, "label": n} for v, n in zip(values, ["ill", "well"], strict=True)]
    labels = write_csv(tmp_path / "l.csv", rows)
    table = from_dicom(series, key=KEY, series=True, labels=labels).cohort.table
    assert dict(zip(table["image"], table["label"], strict=True)) == {".": "ill", "DOE/ct": "well"}


def test_masks_of_series_are_copied_beside_them(series, tmp_path, write_slice, write_csv):
    for k in range(3):
        write_slice(f"marks/DOE/{k}.dcm", "1.2.50", k)
    rows = [{"image": "DOE/ct", "label": "ill", "mask": "marks/DOE"}]
    labels = write_csv(tmp_path / "l.csv", rows)
    target = tmp_path / "copies"
    built = from_dicom(series, key=KEY, series=True, labels=labels, copy_to=target)
    mask = built.cohort.table["mask"][0]
    assert mask == built.cohort.table["image"][0] + "-mask"
    assert len(list((target / mask).iterdir())) == 3
    assert not [p for p in check_cohort(built.cohort).problems if p.stage in ("image", "mask")]


def test_what_is_no_volume_is_counted(series, write_slice, write_dicom, noise):
    write_slice("scout/0.dcm", "1.2.60", 0)
    write_slice("part1/0.dcm", "1.2.70", 0)
    write_slice("part2/1.dcm", "1.2.70", 1)
    write_slice("nameless/0.dcm", None, 0)
    film = np.stack([noise(k) for k in range(4)])
    tags = {"Rows": 12, "Columns": 10, "NumberOfFrames": 4}
    write_dicom(series / "cine/0.dcm", film, SeriesInstanceUID="1.2.80", **tags)
    for k in range(2):
        write_dicom(series / f"cines/{k}.dcm", film, SeriesInstanceUID="1.2.90", **tags)
    built = from_dicom(series, key=KEY, series=True)
    assert built.cohort.table["image"].tolist() == [".", "DOE/ct", "cine/0.dcm"]
    notes = notes_of(built)
    assert "1 series have a single slice" in notes
    assert "1 series lie in several folders" in notes
    assert "1 series have several files of which some hold several frames" in notes
    assert "1 images have no SeriesInstanceUID" in notes


@pytest.mark.parametrize("stranger", [".hidden.dcm", "nameless.dcm"])
def test_a_folder_with_any_other_image_is_not_given_as_a_series(series, write_slice, stranger):
    uid = None if stranger == "nameless.dcm" else "1.2.99"
    write_slice(f"DOE/ct/{stranger}", uid, 7)
    built = from_dicom(series, key=KEY, series=True)
    assert built.cohort.table["image"].tolist() == ["."]


def test_a_scattered_series_is_put_together_and_repeated_files_are_not(
    series, write_slice, tmp_path
):
    for k in range(2):
        write_slice(f"part{k}/{k}.dcm", "1.2.70", k)
    shutil.copyfile(series / "part1/1.dcm", series / "part0/again.dcm")
    built = from_dicom(series, key=KEY, series=True, copy_to=tmp_path / "copies")
    assert "1 files repeat another one of their series" in notes_of(built)
    shapes = [read_image(built.cohort.image_path(row)).reference.shape for row in range(5)]
    assert sorted(shapes)[0] == (12, 10, 2)


def test_two_patients_with_one_series_uid_stay_apart(tmp_path, write_slice):
    for k in range(2):
        write_slice(f"s/{k}.dcm", "1.2.10", k)
        write_slice(f"s/o{k}.dcm", "1.2.10", k, patient="B2")
    with pytest.raises(CohortError, match=r"no DICOM series is a volume.*2 series lie in a folder"):
        from_dicom(tmp_path / "source", key=KEY, series=True)
    built = from_dicom(tmp_path / "source", key=KEY, series=True, copy_to=tmp_path / "copies")
    assert sorted(built.cohort.table["patient_id"]) == sorted(
        [pseudonym("P", "A1"), pseudonym("P", "B2")]
    )


# ---- DICOMDIR


def write_dicomdir(path, references, *, kind=MediaStorageDirectoryStorage):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.FileSetID = "TEST"
    patient = Dataset()
    patient.DirectoryRecordType, patient.PatientID = "PATIENT", "A1"
    records = [patient]
    for parts in references:
        record = Dataset()
        with warnings.catch_warnings():  # small letters and points are not allowed, but occur
            warnings.simplefilter("ignore")
            record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", parts
        records.append(record)
    dataset.DirectoryRecordSequence = records
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_dicomdir_names_the_files(series, write_csv):
    directory = write_dicomdir(
        series / "DICOMDIR", [["DOE", "ct", "0.dcm"], ["MIXED", "X1.DCM"], ["gone"], "1.dcm"]
    )
    built = from_dicom(directory, key=KEY)
    assert built.cohort.table["image"].tolist() == ["1.dcm", "DOE/ct/0.dcm", "mixed/x1.dcm"]
    assert "1 files that the DICOMDIR names are not there" in notes_of(built)
    assert built.cohort.root == series
    # A folder whose other slices the directory does not name cannot be given as a series.
    parts = [["DOE", "ct", f"{k}.dcm"] for k in range(3)] + [[f"{k}.dcm"] for k in range(2)]
    write_dicomdir(directory, parts)
    table = from_dicom(directory, key=KEY, series=True).cohort.table
    assert table["image"].tolist() == ["DOE/ct"]


@pytest.mark.parametrize(
    "parts", [["..", "secret.dcm"], ["DOE", "..", "..", "secret.dcm"], ["link", "secret.dcm"]]
)
def test_a_dicomdir_that_leads_out_of_its_folder_is_refused(series, tmp_path, parts):
    shutil.copyfile(series / "0.dcm", tmp_path / "secret.dcm")
    (series / "link").symlink_to(tmp_path)
    directory = write_dicomdir(series / "DICOMDIR", [["0.dcm"], parts])
    with pytest.raises(CohortError, match="leads out of it; give the folder of images") as caught:
        from_dicom(directory, key=KEY)
    assert "secret" not in str(caught.value)


def test_an_absolute_reference_is_refused(series, tmp_path):
    shutil.copyfile(series / "0.dcm", tmp_path / "secret.dcm")
    directory = write_dicomdir(series / "DICOMDIR", [["0.dcm"], [str(tmp_path), "secret.dcm"]])
    with pytest.raises(CohortError, match="leads out of it"):
        from_dicom(directory, key=KEY)


def test_a_file_that_is_no_dicomdir_is_refused(series):
    with pytest.raises(CohortError, match="must be a folder or a DICOMDIR"):
        from_dicom(series / "0.dcm", key=KEY)
    (series / "text").write_text("text")
    with pytest.raises(CohortError, match="must be a folder or a DICOMDIR"):
        from_dicom(series / "text", key=KEY)


def test_a_dicomdir_as_scanners_write_it():
    path = Path(get_testdata_file("DICOMDIR", download=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = FileSet(path)
        instances = [(file.SeriesInstanceUID, file.path) for file in files]
        files._stage["t"].cleanup()  # else it complains when it is collected, in another test
    cohort = from_dicom(path, key=KEY).cohort
    there = [str(cohort.image_path(row)) for row in range(len(cohort))]
    assert sorted(there) == sorted(file for _, file in instances)
    # Where a folder holds one series of several slices, and nothing else, it is a row.
    folders = Counter(Path(file).parent for _, file in instances)
    series = {folder: {uid for uid, file in instances if Path(file).parent == folder}
              for folder in folders}  # fmt: skip
    expected = [f for f, count in folders.items() if count > 1 and len(series[f]) == 1]
    cohort = from_dicom(path, key=KEY, series=True).cohort
    assert sorted(cohort.image_path(row) for row in range(len(cohort))) == sorted(expected)


def test_a_damaged_dicomdir_is_one_clear_line(series):
    directory = write_dicomdir(series / "DICOMDIR", [["0.dcm"]])
    content = directory.read_bytes()
    directory.write_bytes(content[: content.index(b"TEST")])
    with pytest.raises(CohortError, match="the DICOMDIR cannot be read"):
        from_dicom(directory, key=KEY)
