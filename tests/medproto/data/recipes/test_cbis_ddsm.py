import numpy as np
import pytest

from medproto.data import check_cohort
from medproto.data.recipes import cbis_ddsm
from medproto.errors import CohortError

COLUMNS = [
    "patient_id", "breast_density", "left or right breast", "image view", "abnormality id",
    "abnormality type", "mass shape", "mass margins", "assessment", "pathology", "subtlety",
    "image file path", "cropped image file path", "ROI mask file path",
]  # fmt: skip


def row(patient, side, view, number, pathology, *, kind="Mass-Training", uids=("1", "2", "3")):
    """Return a row of a table; ``uids`` are of the series of mammogram, outline and crop."""
    name = f"{kind}_{patient}_{side}_{view}"
    paths = [f"{name}/9.{uids[0]}/1.{uids[0]}/000000.dcm"]
    paths += [f"{name}_{number}/9.{uid}/1.{uid}/00000{k}.dcm\n" for k, uid in enumerate(uids[1:])]
    values = [
        patient, 3, side, view, number, kind.split("-")[0].lower(), "OVAL", "x", 4, pathology, 4,
        paths[0], paths[2], paths[1],
    ]  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


@pytest.fixture
def release(tmp_path, write_dicom, write_csv, noise):
    """Download as it comes: one folder each, named by date and number; headers have the UIDs."""
    written = iter(range(1000))

    def write(patient, series, *, mask=False, crop=False):
        number = next(written)
        shape = (9, 8) if crop else (12, 10)
        pixels = noise(number, shape)
        if mask:
            pixels = np.zeros(shape, np.uint8)
            pixels[3:5, 2:6] = 255
        return write_dicom(
            tmp_path / f"CBIS-DDSM/{patient}/07-20-2016-DDSM-{number}/1-1.dcm",
            pixels, Modality="MG", PatientID=patient, SeriesInstanceUID=f"1.{series}",
        )  # fmt: skip

    rows = [
        row("P_00001", "LEFT", "CC", 1, "MALIGNANT", uids=("11", "12", "12")),
        row("P_00001", "LEFT", "CC", 1, "MALIGNANT", uids=("11", "12", "12")),  # as it stands twice
        row("P_00002", "RIGHT", "MLO", 1, "BENIGN_WITHOUT_CALLBACK", uids=("21", "22", "23")),
        row("P_00003", "LEFT", "CC", 1, "BENIGN", uids=("31", "32", "33")),
        row("P_00003", "LEFT", "CC", 2, "MALIGNANT", uids=("31", "34", "35")),
        row("P_00004", "LEFT", "CC", 1, "BENIGN", uids=("41", "42", "43")),
        row("P_00005", "LEFT", "CC", 1, "BENIGN", uids=("51", "52", "53")),
    ]
    write_csv(tmp_path / "mass_case_description_train_set.csv", rows)
    # Outline and crop in one series.
    write("Mass-Training_P_00001_LEFT_CC", 11)
    write("Mass-Training_P_00001_LEFT_CC_1", 12, crop=True)
    write("Mass-Training_P_00001_LEFT_CC_1", 12, mask=True)
    # The table has the series of the outline and of the crop exchanged.
    write("Mass-Training_P_00002_RIGHT_MLO", 21)
    write("Mass-Training_P_00002_RIGHT_MLO_1", 22, crop=True)
    write("Mass-Training_P_00002_RIGHT_MLO_1", 23, mask=True)
    # Two abnormalities; the series of the mammogram is another one, its PatientID is right.
    write("Mass-Training_P_00003_LEFT_CC", 39)
    write("Mass-Training_P_00003_LEFT_CC_1", 32, mask=True)
    # Two files that could be the mammogram.
    write("Mass-Training_P_00004_LEFT_CC", 48)
    write("Mass-Training_P_00004_LEFT_CC", 49)
    # No outline of the size of the mammogram.
    write("Mass-Training_P_00005_LEFT_CC", 51)
    write("Mass-Training_P_00005_LEFT_CC_1", 52, crop=True)
    return tmp_path, write


def test_files_are_found_by_their_headers_and_nothing_is_guessed(release, pseudonym):
    folder, _ = release
    cohort, notes = cbis_ddsm(folder)
    table = cohort.table
    assert table["label"].tolist() == ["malignant", "benign", "malignant", "benign"]
    assert table["patient_id"].tolist() == [pseudonym("P", f"P_0000{k}") for k in (1, 2, 3, 5)]
    assert table["view"].tolist() == ["CC", "MLO", "CC", "CC"]
    assert table["side"].tolist() == ["LEFT", "RIGHT", "LEFT", "LEFT"]
    assert set(table["abnormality"]) == {"mass"}
    assert set(table["breast_density"]) == {"3"}
    folders = [path.split("/")[1:3] for path in table["image"]]
    assert [numbers[1].rsplit("-")[-1] for numbers in folders] == ["0", "3", "6", "10"]
    masks = [path.split("/")[2].rsplit("-")[-1] if path else "" for path in table["mask"]]
    assert masks == ["2", "5", "", ""]
    text = "\n".join(notes)
    assert "not yet been run on the real files" in notes[0]
    assert "1 mammograms of the tables have no file, or several" in text
    assert "1 mammograms have several abnormalities and no mask" in text
    assert "1 mammograms have no outline of their size" in text
    assert "without a table of the test set there is no split" in text
    assert "split" not in table
    assert not [p for p in check_cohort(cohort).problems if p.stage in ("image", "mask")]


def test_patients_of_a_test_set_leave_training(release, write_csv, pseudonym):
    folder, write = release
    rows = [row("P_00001", "LEFT", "MLO", 1, "BENIGN", kind="Calc-Test", uids=("61", "62", "63"))]
    rows[0]["breast density"] = rows[0].pop("breast_density")
    write_csv(folder / "calc_case_description_test_set.csv", rows)
    write("Calc-Test_P_00001_LEFT_MLO", 61)
    cohort, notes = cbis_ddsm(folder)
    table = cohort.table
    assert table["patient_id"].tolist() == [pseudonym("P", f"P_0000{k}") for k in (2, 3, 5, 1)]
    assert table["abnormality"].tolist() == ["mass", "mass", "mass", "calc"]
    assert table["split"].tolist()[-1] == "test"
    assert set(table["split"].tolist()[:3]) <= {"train", "val"}
    assert "1 images outside the test set are of patients in it" in "\n".join(notes)


def test_what_is_not_the_data_set(release, tmp_path, write_csv, write_dicom, noise):
    folder, _ = release
    path = folder / "mass_case_description_train_set.csv"
    path.write_text(path.read_text().replace("MALIGNANT", "UNPROVEN"))
    with pytest.raises(CohortError, match=r"row 0 of .* must have a pathology out of"):
        cbis_ddsm(folder)
    other = tmp_path / "other"
    write_dicom(other / "a.dcm", noise(0))
    with pytest.raises(CohortError, match="one or more of the tables"):
        cbis_ddsm(other)
    write_csv(other / path.name, [row("P_00001", "LEFT", "CC", 1, "BENIGN")])
    with pytest.raises(CohortError, match="holds none of them") as caught:
        cbis_ddsm(other)
    assert "P_0" not in str(caught.value)
