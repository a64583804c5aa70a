"""From a cohort to the images of a split."""

import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medproto.data import Cohort
from medproto.errors import ImageReadError
from pipelines.datasets import ImageSet, check_command

STEPS = {"spatial_size": (32, 32), "voi": "voi", "mode": "letterbox"}
CLASSES = ("normal", "blob")


@pytest.fixture(scope="module")
def images(tiny_cohort):
    return ImageSet.load(tiny_cohort, range(17), CLASSES, STEPS)


def test_a_set_knows_its_rows_labels_and_groups(images, tiny_cohort):
    table = tiny_cohort.table
    assert len(images) == 17
    assert images.rows == tuple(range(17))
    assert [CLASSES[k] for k in images.labels] == table["label"].tolist()[:17]
    assert list(images.groups) == table["patient_id"].tolist()[:17]
    assert images.image(3).shape == (1, 32, 32)
    assert type(images.image(3)) is torch.Tensor
    assert images.placement(3).stored_shape == (64, 64)
    assert images.placement(3).scale == (0.5, 0.5)
    assert images.reference(3).modality == "PNG"


def test_batches_come_in_order_and_whole(images):
    batches = list(images.batches(8))
    assert [tuple(pixels.shape) for pixels, *_ in batches] == [
        (8, 1, 32, 32),
        (8, 1, 32, 32),
        (1, 1, 32, 32),
    ]
    assert [p for _, _, positions, _ in batches for p in positions] == list(range(17))
    assert [k for _, labels, _, _ in batches for k in labels] == list(images.labels)
    assert [g for *_, groups in batches for g in groups] == list(images.groups)
    assert torch.equal(batches[1][0][2], images.image(10))


def test_a_volume_among_planes_is_named_by_its_row(tmp_path):
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(tmp_path / "a.png")
    volume = nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4))
    nibabel.save(volume, tmp_path / "b.nii")
    table = pd.DataFrame({"image": ["a.png", "b.nii"], "label": ["normal", "blob"]})
    table["patient_id"] = ["P0", "P1"]
    steps = {**STEPS, "voi": "percentile"}
    with pytest.raises(ImageReadError, match=r"^row 1: .* 2 spatial axes, got \[1, 9, 9, 9\]"):
        ImageSet.load(Cohort(table, tmp_path), [0, 1], CLASSES, steps)


def test_an_unreadable_image_is_an_image_error(tmp_path):
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    table = pd.DataFrame({"image": ["a.png", "b.png"], "label": ["normal", "blob"]})
    table["patient_id"] = ["P0", "P1"]
    with pytest.raises(ImageReadError, match=r"^row 1: .*PNG.*cohort check") as caught:
        ImageSet.load(Cohort(table, tmp_path), [0, 1], CLASSES, STEPS)
    assert not isinstance(caught.value, RuntimeError)
    assert str(tmp_path) not in str(caught.value)


def test_the_command_that_checks_reads_alike(tiny_cohort, tmp_path):
    assert check_command(tiny_cohort, "voi") == "medproto cohort check TABLE"
    window = check_command(tiny_cohort, "window:-350,1300")
    assert window == "medproto cohort check TABLE --voi window:-350,1300"
    table = pd.DataFrame({"image": ["gone.png"], "label": ["blob"], "group": ["P"]})
    cohort = Cohort(table, tmp_path, "group")
    assert check_command(cohort, "voi") == "medproto cohort check TABLE --group group"
    # Of the group column of a run nothing is said to somebody whose table may lack it.
    with pytest.raises(ImageReadError, match="`medproto cohort check TABLE --voi percentile`"):
        ImageSet.load(cohort, [0], CLASSES, STEPS | {"voi": "percentile"})


def test_a_file_that_vanished_is_an_image_error(tiny_table, tmp_path):
    copy = tmp_path / "cohort"
    shutil.copytree(tiny_table.parent, copy)
    cohort = Cohort.read(copy / "cohort.csv")
    cohort.image_path(7).unlink()
    with pytest.raises(ImageReadError, match="row 7: the file does not exist"):
        ImageSet.load(cohort, [5, 7], CLASSES, STEPS)
