import hashlib
import hmac
import os
import sys

import numpy as np
import pytest

from medproto.data import Cohort, check_cohort, from_dicom, from_folder, from_npz, read_image
from medproto.errors import CohortError


def notes_of(built):
    return "\n".join(built.notes)


# ---- from_folder


def test_sub_folders_name_the_labels(tmp_path, write_png, noise):
    for number, name in enumerate(["b/deep/1.png", "a/0.png", "b/2.png", "top.png", "a/.x.png"]):
        write_png(tmp_path / name, noise(number))
    (tmp_path / "a" / "readme.txt").write_text("no image")
    built = from_folder(tmp_path)
    assert built.cohort.table.to_dict("list") == {
        "image": ["a/0.png", "b/2.png", "b/deep/1.png"],
        "label": ["a", "b", "b"],
    }
    assert "1 images lie outside" in notes_of(built)
    assert "1 files are not DICOM" in notes_of(built)


def test_folders_of_a_ready_made_split(tmp_path, write_png, noise):
    names = ["train/a/0.png", "train/b/1.png", "test/a/2.png", "val/b/3.png", "val/loose.png"]
    for number, name in enumerate(names):
        write_png(tmp_path / name, noise(number))
    built = from_folder(tmp_path)
    table = built.cohort.table
    assert table["label"].tolist() == ["a", "a", "b", "b"]
    assert table["split"].tolist() == ["test", "train", "train", "val"]
    assert "1 images lie outside" in notes_of(built)


@pytest.mark.parametrize("named", [True, False])
def test_a_table_of_labels_and_its_own_columns(tmp_path, write_png, write_csv, noise, named):
    source = tmp_path / "source"
    rows = []
    for number, label in enumerate("xyxy"):
        write_png(source / f"i/{number}.png", noise(number))
        write_png(source / f"m/{number}.png", np.ones((12, 10), dtype=np.uint8))
        rows.append(
            {"image": f"i/{number}.png", "mask": f"m/{number}.png", "label": label,
             "near": number // 2, "depth": number}
        )  # fmt: skip
    labels = write_csv(source / ("other.csv" if named else "labels.csv"), rows)
    built = from_folder(source, labels=labels if named else None, group="near")
    assert built.cohort.groups() == ["0", "0", "1", "1"]
    built.cohort.save(tmp_path / "out" / "cohort.csv")
    again = Cohort.read(tmp_path / "out" / "cohort.csv", group="near")
    assert list(again.table) == ["image", "mask", "label", "near", "depth"]
    assert again.table["image"][0] == "../source/i/0.png"
    assert check_cohort(again).ok


def test_folders_that_make_no_cohort(tmp_path, write_csv, write_png, noise):
    with pytest.raises(CohortError, match="must be a folder that exists"):
        from_folder(tmp_path / "none")
    with pytest.raises(CohortError, match="no such image was found"):
        from_folder(tmp_path)
    with pytest.raises(CohortError, match="pass labels as well"):
        from_folder(tmp_path, group="patient")
    labels = write_csv(tmp_path / "labels.csv", [{"image": "a.png", "label": "x"}])
    with pytest.raises(CohortError, match="none of its 1 files is there"):
        from_folder(tmp_path)
    write_png(tmp_path / "a.png", noise(0))
    with pytest.raises(CohortError, match="grouping column 'patient' must be in the table"):
        from_folder(tmp_path, group="patient")
    labels.write_text("image,label\na.png,x\nb.png,y\n")
    assert "1 of the rows name a file that is not there" in notes_of(from_folder(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
def test_loops_of_links_broken_links_and_pipes_end(tmp_path, write_png, noise):
    write_png(tmp_path / "a/0.png", noise(0))
    write_png(tmp_path / "b/1.png", noise(1))
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "b/self").symlink_to(tmp_path / "b")
    (tmp_path / "b/broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "b/pipe.png")
    assert from_folder(tmp_path).cohort.table["image"].tolist() == ["a/0.png", "b/1.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_name_that_is_no_text(tmp_path, write_png, noise):
    write_png(tmp_path / "a/0.png", noise(0)).rename(tmp_path / "a" / "\udcff.png")
    with pytest.raises(CohortError, match="names must be UTF-8, and one is not"):
        from_folder(tmp_path)


# ---- from_dicom

KEY = "key of the tests"


def pseudonym(prefix, identifier):
    return f"{prefix}-{hmac.digest(KEY.encode(), identifier.encode(), 'sha256').hex()[:16]}"


@pytest.fixture
def studies(tmp_path, write_dicom, noise):
    """Three patients, four images; a report without pixels and a text beside them."""
    source = tmp_path / "source"
    tags = [
        ("DOE_JANE/0.dcm", "A1", "1.2.1", {"PatientAge": "045Y", "PatientSex": "F"}),
        ("DOE_JANE/1.dcm", "A1", "1.2.2", {"PatientAge": "095Y", "ViewPosition": "PA"}),
        ("2.dcm", "B2", "1.2.3", {"PatientAge": "006M", "ViewPosition": "LATERALLY"}),
        ("3", "", "1.2.4", {}),
    ]
    for number, (name, patient, uid, more) in enumerate(tags):
        write_dicom(
            source / name,
            noise(number),
            PatientID=patient,
            StudyInstanceUID="1.9." + (patient[1:] or "0"),
            SOPInstanceUID=uid,
            **more,
        )
    write_dicom(source / "report.dcm", noise(9), PixelData=None, Rows=None, Columns=None)
    (source / "notes.txt").write_text("text")
    # A free text where the standard wants a code: it may identify.
    odd = source / "2.dcm"
    odd.write_bytes(odd.read_bytes().replace(b"LATERALLY", b"Jane view"))
    return source


def test_headers_become_pseudonymous_columns(studies):
    built = from_dicom(studies, key=KEY)
    table = built.cohort.table
    assert table["image"].tolist() == ["2.dcm", "3", "DOE_JANE/0.dcm", "DOE_JANE/1.dcm"]
    assert table["patient_id"].tolist() == [
        pseudonym("P", "B2"), "", pseudonym("P", "A1"), pseudonym("P", "A1"),
    ]  # fmt: skip
    assert table["study_uid"][0] == pseudonym("S", "1.9.2")
    assert table["age"].tolist() == ["0", "", "45", "90"]
    assert table["sex"].tolist() == ["", "", "F", ""]
    assert table["view"].tolist() == ["", "", "", "PA"]
    assert set(table["modality"]) == {"CR"}
    assert set(table["label"]) == {""}
    notes = notes_of(built)
    assert "1 files are not DICOM and were left out" in notes
    assert "1 files hold no image or are truncated and were left out" in notes
    assert "1 images have no PatientID" in notes
    assert "no table of labels" in notes
    assert "across builds" not in notes


def test_without_a_key_pseudonyms_differ_from_build_to_build(studies, monkeypatch):
    monkeypatch.delenv("MEDPROTO_PSEUDONYM_KEY", raising=False)
    one, other = from_dicom(studies), from_dicom(studies)
    assert one.cohort.table["patient_id"][0] != other.cohort.table["patient_id"][0]
    assert "cannot be linked across builds" in notes_of(one)
    monkeypatch.setenv("MEDPROTO_PSEUDONYM_KEY", KEY)
    assert from_dicom(studies).cohort.table["patient_id"][0] == pseudonym("P", "B2")
    with pytest.raises(ValueError, match="must not be empty"):
        from_dicom(studies, key="")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("image", ["DOE_JANE/0.dcm", "DOE_JANE/1.dcm", "2.dcm", "gone.dcm"]),
        ("SOPInstanceUID", ["1.2.1", "1.2.2", "1.2.3", "1.2.99"]),
        ("PatientID", ["A1", "A1", "B2", "Z9"]),
        ("StudyInstanceUID", ["1.9.1", "1.9.1", "1.9.2", "1.9.77"]),
    ],
)
def test_labels_are_joined_by_any_key_and_identities_stay_out(
    studies, tmp_path, write_csv, column, values
):
    rows = [
        {column: value, "label": label, "PatientName": "Doe", "patient_id": "raw", "site": "K"}
        for value, label in zip(values, ["ill", "ill", "well", "well"], strict=True)
    ]
    built = from_dicom(studies, labels=write_csv(tmp_path / "l.csv", rows), key=KEY)
    table = built.cohort.table
    assert table["image"].tolist() == ["2.dcm", "DOE_JANE/0.dcm", "DOE_JANE/1.dcm"]
    assert table["label"].tolist() == ["well", "ill", "ill"]
    assert table["site"].tolist() == ["K"] * 3
    assert table["patient_id"][0] == pseudonym("P", "B2")
    text = table.to_csv()
    assert not any(secret in text for secret in ["A1", "1.2.", "1.9.", "PatientName", "raw"])
    notes = notes_of(built)
    assert "1 images have no label in the table and were left out" in notes
    assert "1 rows of the labels have no image" in notes
    assert "name identities were left out" in notes


def test_a_labels_file_in_the_folder_is_found_and_its_masks_kept(studies, write_csv, write_png):
    rows = [
        {"image": "2.dcm", "label": "ill", "mask": "masks/2.png", "finding_box": "1,1,3,3"},
        {"image": "3", "label": "well", "mask": "", "finding_box": ""},
    ]
    write_csv(studies / "labels.csv", rows)
    write_png(studies / "masks/2.png", np.ones((12, 10), dtype=np.uint8))
    cohort = from_dicom(studies, key=KEY).cohort
    assert cohort.table["finding_box"].tolist() == ["1,1,3,3", ""]
    assert cohort.mask_path(0) == studies / "masks/2.png"


def test_copies_are_named_by_pseudonyms(studies, tmp_path, write_csv, write_png):
    rows = [
        {"image": "DOE_JANE/0.dcm", "label": "ill", "mask": "masks/DOE.png"},
        {"image": "2.dcm", "label": "well", "mask": "masks/gone.png"},
        {"image": "3", "label": "well", "mask": ""},
    ]
    labels = write_csv(tmp_path / "l.csv", rows)
    write_png(studies / "masks/DOE.png", np.ones((12, 10), dtype=np.uint8))
    target = tmp_path / "copies"
    built = from_dicom(studies, labels=labels, key=KEY, copy_to=target)
    table = built.cohort.table
    stem = "/".join([pseudonym("P", "A1"), pseudonym("S", "1.9.1"), pseudonym("I", "1.2.1")])
    assert table["image"][2] == f"{stem}.dcm"
    assert table["mask"][2] == f"{stem}-mask.png"
    assert built.cohort.root == target
    before, after = read_image(studies / "DOE_JANE/0.dcm"), read_image(target / f"{stem}.dcm")
    assert after.reference == before.reference
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert built.cohort.mask_path(2).is_file()
    assert table["image"][1].startswith("P-unknown/")
    assert table["mask"][0] == table["image"][0].removesuffix(".dcm") + "-mask"
    assert not built.cohort.mask_path(0).exists()
    assert "1 files are missing or cannot be read and were not copied" in notes_of(built)
    assert "text that is burned into pixels" in notes_of(built)
    read_image(built.cohort.image_path(1))


def test_copies_of_the_same_instance_do_not_overwrite_each_other(tmp_path, write_dicom, noise):
    for number in range(2):
        write_dicom(tmp_path / f"s/{number}.dcm", noise(number), SOPInstanceUID="1.2.3")
    cohort = from_dicom(tmp_path / "s", key=KEY, copy_to=tmp_path / "t").cohort
    digests = {read_image(cohort.image_path(row)).reference.pixel_digest for row in range(2)}
    assert len(digests) == 2


def test_folders_and_labels_that_do_not_fit(studies, tmp_path, write_csv):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="must hold DICOM images, none"):
        from_dicom(tmp_path / "empty", key=KEY)
    for row, reason in [
        ({"image": "2.dcm"}, "must have 'label' and one of"),
        ({"name": "2.dcm", "label": "x"}, "must have 'label' and one of"),
        (
            {"image": "none.dcm", "label": "x"},
            "'image' of the labels matches none of 4 images. .* relative to",
        ),
    ]:
        labels = write_csv(tmp_path / "l.csv", [row])
        with pytest.raises(CohortError, match=reason):
            from_dicom(studies, labels=labels, key=KEY)
    rows = [{"PatientID": "A1", "label": label} for label in "xy"]
    with pytest.raises(
        CohortError, match=r"rows 0 and 1 of the labels .* have one key, two labels; keep"
    ):
        from_dicom(studies, labels=write_csv(tmp_path / "l.csv", rows), key=KEY)


def test_a_damaged_header_is_counted(studies):
    (studies / "bad.dcm").write_bytes((studies / "3").read_bytes()[:141])
    assert "1 files have a header that cannot be read" in notes_of(from_dicom(studies, key=KEY))


# ---- from_npz


@pytest.fixture
def archive(tmp_path, noise):
    def write(path=tmp_path / "a.npz", **changes):
        arrays = {
            "train_images": np.stack([noise(i) for i in (0, 1, 2, 2, 7)]),
            "train_labels": np.array([[0], [1], [0], [0], [1]]),
            "val_images": np.stack([noise(i) for i in (3, 1, 5)]),
            "val_labels": np.array([[0], [1], [1]]),
            "test_images": np.stack([noise(i) for i in (5, 6, 7)]),
            "test_labels": np.array([[1], [0], [1]]),
        } | changes
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
        return path

    return write


def test_npz_images_are_written_without_loss_and_leaks_are_dropped_and_named(
    archive, tmp_path, noise
):
    built = from_npz(archive(), tmp_path / "out", classes=["normal", "ill"])
    table = built.cohort.table
    assert table.drop(columns="image").to_dict("list") == {
        "label": ["normal", "normal", "normal", "normal", "ill", "ill", "normal", "ill"],
        "split": ["train", "train", "train", "val", "val", "test", "test", "test"],
        "source_row": ["0", "2", "3", "0", "1", "0", "1", "2"],
    }
    assert built.notes == (
        "val image 2 has the same pixels as test image 0 and was dropped from val.",
        "train image 1 has the same pixels as val image 1 and was dropped from train.",
        "train image 4 has the same pixels as test image 2 and was dropped from train.",
    )
    stored = read_image(built.cohort.image_path(0)).pixels
    np.testing.assert_allclose(stored, noise(0) / 255.0, atol=1e-7)
    assert built.cohort.groups()[1] == built.cohort.groups()[2]
    assert len(list((tmp_path / "out/images").iterdir())) == len(table)


def test_npz_names_numbers_by_default_and_takes_color_and_16_bits(archive, tmp_path):
    color = np.random.default_rng(0).integers(0, 255, (5, 9, 8, 3), dtype=np.uint8)
    deep = np.random.default_rng(1).integers(0, 65535, (3, 9, 8), dtype=np.uint16)
    built = from_npz(archive(train_images=color, val_images=deep), tmp_path / "out")
    assert built.cohort.classes == ("0", "1")
    table = built.cohort.table
    row = table.index[table["split"] == "val"][0]
    np.testing.assert_allclose(
        read_image(built.cohort.image_path(row)).pixels, deep[0] / 65535.0, atol=1e-7
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"val_labels": None}, r"\['val_labels'\] missing"),
        ({"train_images": np.zeros((5, 7, 7), np.uint8)}, "sides of at least 8, got uint8"),
        ({"train_images": np.zeros((5, 9, 9), np.float32)}, "got float32"),
        ({"train_images": np.zeros((5, 9, 9, 9), np.uint8)}, r"got uint8 \[5, 9, 9, 9\]"),
        ({"train_labels": np.zeros((5, 14), int)}, r"one an image, got int64 \[5, 14\]"),
        ({"train_labels": np.zeros(4, int)}, "must be 5 whole numbers"),
        ({"train_labels": np.array([{}] * 5, dtype=object)}, "must be an .npz file of plain"),
    ],
)
def test_archives_of_another_layout_leave_nothing_behind(archive, tmp_path, changes, reason):
    with pytest.raises(CohortError, match=reason):
        from_npz(archive(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_is_none_and_too_few_names(archive, tmp_path):
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(CohortError, match="archive cannot be read"):
        from_npz(tmp_path / "text.npz", tmp_path / "out")
    with pytest.raises(CohortError, match="classes must name every label, got 1 names for 1"):
        from_npz(archive(), tmp_path / "out", classes=["normal"])
    assert not (tmp_path / "out").exists()


# ---- real images


def unlocked(group):
    return int(hashlib.sha256(str(group).encode()).hexdigest(), 16) % 5 != 0


def test_busi_builds_from_its_table(real_data, tmp_path):
    built = from_folder(real_data / "busi_512", group="near_duplicate_group")
    cohort = built.cohort
    assert {name: (cohort.table["label"] == name).sum() for name in cohort.classes} == {
        "benign": 437,
        "malignant": 210,
        "normal": 133,
    }
    keep = [unlocked(group) for group in cohort.groups()]
    assert sum(keep) == 780 - 129
    some = Cohort(cohort.table[keep].iloc[::9], cohort.root, cohort.group_column)
    some.save(tmp_path / "some.csv")
    report = check_cohort(Cohort.read(tmp_path / "some.csv", group="near_duplicate_group"))
    assert report.problems == ()
    labels = report.summary["labels"]
    assert report.summary["masks"] == labels["benign"] + labels["malignant"]


def test_recurring_thumbnails_are_dropped_from_train_and_named(real_data, tmp_path):
    built = from_npz(real_data / "pneumoniamnist_28.npz", tmp_path, classes=["normal", "pneumonia"])
    # Eight thumbnails of val recur in train, two of them twice.
    assert all(note.startswith("train image") for note in built.notes)
    assert len(built.notes) == 10
    assert len({note.split(" as ")[1] for note in built.notes}) == 8
    counts = built.cohort.table["split"].value_counts()
    assert counts.to_dict() == {"train": 4708 - 10, "val": 524, "test": 624}
