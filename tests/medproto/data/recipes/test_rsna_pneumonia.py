import pytest

from medproto.data import check_cohort
from medproto.data.recipes import rsna_pneumonia
from medproto.errors import CohortError

LABELS = (
    "patientId,x,y,width,height,Target\n"
    "aa-1,,,,,0\n"
    "bb-2,264.0,152.0,213.0,379.0,1\n"
    "bb-2,562.0,152.0,256.0,453.0,1\n"
    "cc-3,,,,,0\n"
    "dd-4,1,2,3,4,1\n"
)


@pytest.fixture
def release(tmp_path, write_dicom, noise):
    (tmp_path / "stage_2_train_labels.csv").write_text(LABELS)
    (tmp_path / "stage_2_detailed_class_info.csv").write_text(
        "patientId,class\naa-1,No Lung Opacity / Not Normal\nbb-2,Lung Opacity\n"
        "bb-2,Lung Opacity\ncc-3,Normal\n"
    )
    for number, name in enumerate(["aa-1", "bb-2", "cc-3", "zz-9"]):
        path = tmp_path / f"stage_2_train_images/{name}.dcm"
        write_dicom(path, noise(number, (1024, 1024)), PatientID=name)
    write_dicom(tmp_path / "stage_2_test_images/ee-5.dcm", noise(5))
    return tmp_path


def test_the_published_layout(release, pseudonym):
    cohort, notes = rsna_pneumonia(release)
    assert cohort.table.to_dict("list") == {
        "image": [f"stage_2_train_images/{name}.dcm" for name in ("aa-1", "bb-2", "cc-3")],
        "label": ["no opacity", "opacity", "no opacity"],
        "patient_id": [pseudonym("P", name) for name in ("aa-1", "bb-2", "cc-3")],
        # y, x, y + height, x + width: 152 + 379 = 531, 264 + 213 = 477; 605, 818.
        "box": ["", "152,264,531,477;152,562,605,818", ""],
        "detailed_class": ["No Lung Opacity / Not Normal", "Lung Opacity", "Normal"],
    }
    text = "\n".join(notes)
    assert "not yet been run on the real files" in notes[0]
    assert "1 images of the table are not in the folder" in text
    assert "1 images of the folder have no label" in text
    assert "a split may divide a person" in text
    assert {problem.stage for problem in check_cohort(cohort).problems} == {"class"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("aa-1,,,,,0", "aa-1,,,,,1", "row 0 of .* must have Target 1 and a box"),
        ("aa-1,,,,,0", "aa-1,1,1,2,2,0", "row 0 of .* must have Target 1 and a box"),
        ("aa-1,,,,,0", "aa-1,,,,,2", "row 0 of .* must have Target 1 and a box"),
        ("cc-3,,,,,0", "bb-2,,,,,0", "row 3 of .* must have the Target of its patient"),
        ("264.0", "x", "row 1 of .* must have a box of four numbers"),
        ("Target", "target", "are not there once"),
    ],
)
def test_another_layout_is_refused(release, old, new, reason):
    (release / "stage_2_train_labels.csv").write_text(LABELS.replace(old, new))
    with pytest.raises(CohortError, match=reason):
        rsna_pneumonia(release)


def test_a_row_that_stands_twice_is_one_box_and_one_class(release):
    line = next(line for line in LABELS.splitlines() if "264.0" in line)
    once = rsna_pneumonia(release).cohort.table["box"].tolist()
    (release / "stage_2_train_labels.csv").write_text(f"{LABELS.rstrip()}\n{line}\n")
    assert rsna_pneumonia(release).cohort.table["box"].tolist() == once
    path = release / "stage_2_detailed_class_info.csv"
    path.write_text(path.read_text() + "aa-1,Normal\n")
    with pytest.raises(CohortError, match=r"row 4 of .* must have the class of its patient"):
        rsna_pneumonia(release)


def test_images_of_another_name_are_refused(release):
    rows = LABELS.splitlines()[0] + "\nother,,,,,0\n"
    (release / "stage_2_train_labels.csv").write_text(rows)
    with pytest.raises(CohortError, match="images that the table names, and holds none"):
        rsna_pneumonia(release)
