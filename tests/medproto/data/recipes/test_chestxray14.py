import pytest

from medproto.data import check_cohort
from medproto.data.recipes import chestxray14
from medproto.data.recipes.chestxray14 import FINDINGS
from medproto.errors import CohortError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
ROWS = [
    ("00000001_000.png", "Cardiomegaly", 0, 1, "058Y", "M", "PA"),
    ("00000001_001.png", "Cardiomegaly|Effusion", 1, 1, "93", "M", "AP"),
    ("00000002_000.png", "No Finding", 0, 2, "412Y", "F", "PA"),
    ("00000003_000.png", "Hernia|Pleural_Thickening", 0, 3, "007M", "F", "PA"),
    ("00000004_000.png", "Mass", 0, 4, "30", "", "PA"),
    ("00000005_000.png", "Mass", 0, 5, "30", "M", "PA"),
]


@pytest.fixture
def release(tmp_path, write_png, noise):
    """Five of the six images of the table, in two folders; lists and boxes."""
    lines = [HEADER]
    lines += [",".join(map(str, row)) + ",2682,2749,0.143,0.143," for row in ROWS]
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    for number, row in enumerate(ROWS[:5]):
        folder = f"images_{1 + number // 3:03d}/images"
        write_png(tmp_path / folder / row[0], noise(number, (1024, 1024)))
    write_png(tmp_path / "images_002/images/00000009_000.png", noise(9))
    (tmp_path / "train_val_list.txt").write_text("".join(f"{ROWS[k][0]}\n" for k in (0, 1, 2)))
    (tmp_path / "test_list.txt").write_text("".join(f"{ROWS[k][0]}\n" for k in (3, 5)))
    (tmp_path / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000001_001.png,Cardiomegaly,225.08,547.01,86.77,79.18,,,\n"
        "00000001_001.png,Infiltrate,10,20,30,40\n"
        "00000001_001.PNG,Mass,10,20,30,40\n00000005_000.png,Mass,10,20,30,40\n"
    )
    return tmp_path


def test_the_published_layout(release, pseudonym):
    cohort, notes = chestxray14(release)
    table = cohort.table
    assert cohort.classes == FINDINGS
    assert len(FINDINGS) == 14
    assert table["image"].tolist() == [
        "images_001/images/00000001_000.png", "images_001/images/00000001_001.png",
        "images_001/images/00000002_000.png", "images_002/images/00000003_000.png",
    ]  # fmt: skip
    present = [[name for name in FINDINGS if row[name] == "1"] for _, row in table.iterrows()]
    assert present == [
        ["Cardiomegaly"], ["Cardiomegaly", "Effusion"], [], ["Pleural_Thickening", "Hernia"],
    ]  # fmt: skip
    assert table["patient_id"].tolist() == [pseudonym("P", p) for p in "1123"]
    assert table["age"].tolist() == ["58", "90", "", "0"]
    assert table["sex"].tolist() == ["M", "M", "F", "F"]
    assert table["view"].tolist() == ["PA", "AP", "PA", "PA"]
    # 225.08 + 86.77 = 311.85 and 547.01 + 79.18 = 626.19, both upward.
    assert table["box"].tolist() == ["", "547,225,627,312;20,10,60,40", "", ""]
    assert table["box_finding"][1] == "Cardiomegaly;Infiltration"
    # sha256("1") begins with 6b86b273 = 3 (mod 8), sha256("2") with d4735e3a = 2 (mod 8).
    assert table["split"].tolist() == ["train", "train", "train", "test"]
    text = "\n".join(notes)
    assert "not yet been run on the real files" in notes[0]
    assert notes[-1].startswith("read the table with --label-columns Atelectasis,Cardiomegaly,")
    assert "1 images of the table are not in the folder" in text
    assert "1 images of the folder are not in the table" in text
    assert "1 ages are impossible" in text
    assert "2 boxes are of images that are not in the table or the folder" in text
    assert "1 images are in neither list" in text
    stages = {problem.stage for problem in check_cohort(cohort).problems}
    assert stages == {"class"}  # too few cases, and nothing else


def test_without_lists_and_boxes_there_is_no_split(release):
    for name in ("test_list.txt", "BBox_List_2017.csv"):
        (release / name).unlink()
    cohort, notes = chestxray14(release)
    assert not {"split", "box"} & set(cohort.table)
    assert any("there is no split" in note for note in notes)
    # The later release has another name, and no comma at the end of its lines.
    text = (release / "Data_Entry_2017.csv").read_text().replace(",\n", "\n")
    (release / "Data_Entry_2017_v2020.csv").write_text(text.replace("Gender", "Sex"))
    (release / "Data_Entry_2017.csv").unlink()
    assert chestxray14(release).cohort.table.equals(cohort.table)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("No Finding", "Fracture", r"got \['Fracture'\]"),
        ("No Finding", "No Finding|Mass", "got both"),
        ("Finding Labels", "Labels", r"\['Finding Labels'\] are not there once"),
        ("Patient Gender", "Gender", "must have one of the columns"),
        (
            "00000002_000.png",
            "00000001_000.png",
            "must name each image once; row 2 names one again",
        ),
        ("No Finding,0,2,", "No Finding,0,,", "row 2 of .* must have a 'Patient ID'"),
    ],
)
def test_another_layout_is_refused(release, old, new, reason):
    path = release / "Data_Entry_2017.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CohortError, match=reason):
        chestxray14(release)


def test_folders_that_are_not_the_data_set(release, tmp_path):
    (release / "test_list.txt").write_text("00000001_000.png\n")
    with pytest.raises(CohortError, match="must share no image"):
        chestxray14(release)
    (tmp_path / "other").mkdir()
    with pytest.raises(CohortError, match=r"must hold Data_Entry_2017.csv"):
        chestxray14(tmp_path / "other")
