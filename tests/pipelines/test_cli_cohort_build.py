"""The builders of `medproto cohort`, as a user types them."""

import nibabel
import numpy as np
import pytest

from medproto.data import Cohort
from medproto.data.phantom_dicom import write_dicom


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MEDPROTO_PSEUDONYM_KEY", "key of the tests")


def test_series_from_dicom(tmp_path, main):
    pixels = np.zeros((16, 16), np.uint16)
    for patient in range(2):
        for number in range(2):
            path = tmp_path / f"s/{patient}-{number}.dcm"
            path.parent.mkdir(exist_ok=True)
            write_dicom(path, pixels, patient=patient, number=number, seed=0)
    table = tmp_path / "out/c.csv"
    status, _, err = main("cohort", "from-dicom", tmp_path / "s", "--series", "--out", table)
    assert status == 1
    assert "2 series lie in a folder with other DICOM images" in err
    assert err.count("\n") == 1
    status, _, err = main(
        "cohort", "from-dicom", tmp_path / "s", "--series", "--copy-as-pseudonyms", "--out", table
    )
    assert status == 0, err
    assert "wrote 2 rows" in err
    cohort = Cohort.read(table)
    names = [sorted(path.name for path in cohort.image_path(row).iterdir()) for row in range(2)]
    assert names == [["0000.dcm", "0001.dcm"]] * 2


def write_nifti(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 9, (9, 9, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def test_volumes_from_nifti(tmp_path, main):
    for number in range(3):
        write_nifti(tmp_path / f"s/{number}/t1.nii.gz", number)
    (tmp_path / "l.csv").write_text("subject,bleed\n0,1\n1,0\n")
    table = tmp_path / "out/c.csv"
    labels = ("--labels", tmp_path / "l.csv", "--label-columns", "bleed")
    status, out, err = main(
        "cohort", "from-nifti", tmp_path / "s", *labels, "--copy-as-pseudonyms", "--out", table
    )
    assert (status, out) == (0, ""), err
    assert "1 images have no label" in err
    cohort = Cohort.read(table, label_columns=["bleed"])
    assert [cohort.image_path(row).is_file() for row in range(2)] == [True, True]
    assert all(path.startswith("c_images/P-") for path in cohort.table["image"])


def test_images_from_bids(tmp_path, main):
    source = tmp_path / "s"
    for number in range(2):
        write_nifti(source / f"sub-{number}/anat/sub-{number}_FLAIR.nii.gz", number)
    (source / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    (source / "participants.tsv").write_text("participant_id\tarm\nsub-0\ta\nsub-1\tb\n")
    table = tmp_path / "c.csv"
    given = ("cohort", "from-bids", source, "--suffix", "FLAIR", "--out", table)
    status, out, err = main(*given, "--label", "arm")
    assert (status, out) == (0, ""), err
    assert Cohort.read(table).table["label"].tolist() == ["a", "b"]
    status, _, err = main(*given)
    assert status == 1
    assert "its columns are ['arm']" in err
    assert main(*given, "--label", "arm", "--label-columns", "arm")[0] == 2


def test_a_recipe_by_name(tmp_path, main):
    for number in range(2):
        name = f"BraTS2021_0000{number}"
        write_nifti(tmp_path / f"s/{name}/{name}_t2.nii.gz", number)
    (tmp_path / "l.csv").write_text("BraTS21ID,MGMT_value\n00000,1\n00001,0\n")
    table = tmp_path / "out/c.csv"
    given = ("brats", tmp_path / "s", "--labels", tmp_path / "l.csv", "--out", table)
    status, out, err = main("cohort", "recipe", *given, "--sequence", "t2")
    assert (status, out) == (0, ""), err
    assert "not yet been run on the real files" in err
    assert Cohort.read(table).classes == ("methylated", "unmethylated")
    status, _, err = main("cohort", "recipe", *given)
    assert status == 1
    assert "_flair.nii.gz" in err
    for wrong in ([*given, "--sequence", "t9"], ["other", *given[1:]], ["medmnist", *given[1:]]):
        assert main("cohort", "recipe", *wrong)[0] == 2
