"""Synthetic chests: the same in either form, and what they show where they say."""

import csv
import hashlib

import numpy as np
import pytest
from pydicom import dcmread

from medproto.data import read_image, read_mask
from medproto.data.phantom_volume import SPACING_MM, draw_volume, make_volume_phantoms
from medproto.data.phantom_volume_files import write_mask, write_nifti, write_series
from medproto.transforms import preprocessing


@pytest.fixture(scope="module")
def chest():
    return draw_volume("mass", seed=[0, 1])


@pytest.fixture(scope="module")
def both(chest, tmp_path_factory):
    """The same chest and mask in both forms."""
    folder = tmp_path_factory.mktemp("chest")
    write_series(folder, chest.values, SPACING_MM, patient=0, seed=0)
    write_nifti(folder, chest.values, SPACING_MM, patient=0)
    for name, series in (("series", True), ("nifti", False)):
        write_mask(folder / f"{name}-mask.nii.gz", chest.mask, SPACING_MM, series=series)
    return {
        "series": (folder / "series_0000", folder / "series-mask.nii.gz"),
        "nifti": (folder / "syn0000.nii.gz", folder / "nifti-mask.nii.gz"),
    }


def test_the_labels_differ_by_the_mass_alone(chest):
    normal = draw_volume("normal", seed=[0, 1])
    assert not normal.mask.any()
    far = ~chest.mask
    for axis in range(3):  # the smoothing reaches two voxels at most
        for step in (-2, -1, 1, 2):
            far &= ~np.roll(chest.mask, step, axis=axis)
    changed = normal.values != chest.values
    assert changed[chest.mask].all()
    assert changed[far].mean() < 0.001
    assert chest.values[chest.mask].mean() > normal.values[chest.mask].mean() + 400


def test_a_mass_has_the_size_it_should(chest):
    millilitres = chest.mask.sum() * np.prod(SPACING_MM) / 1000
    low, high = (4 / 3 * np.pi * radius**3 / 1000 for radius in (20 * 0.8, 30 * 1.2))
    assert low < millilitres < high


def test_both_forms_are_the_same_chest(both):
    steps = preprocessing((48, 48, 48))
    tensors = [steps({"image": image})["image"].as_tensor() for image, _ in both.values()]
    np.testing.assert_allclose(*tensors, atol=1e-5)
    assert tensors[0].std() > 0.2


def test_both_masks_lie_at_the_same_place_of_the_patient(both):
    places = []
    for image, mask in both.values():
        reference, marked = read_image(image).reference, read_mask(mask)
        assert marked.shape == reference.shape
        index = np.append(np.argwhere(marked).mean(axis=0), 1)
        places.append(np.array(reference.affine) @ index)
    np.testing.assert_allclose(*places, atol=1e-3)


def test_the_mass_is_bright_where_the_mask_is(both):
    for image, mask in both.values():
        pixels, marked = read_image(image).pixels, read_mask(mask)
        assert pixels[marked].mean() > pixels.mean() + 0.2


def test_the_cohort_is_the_same_again_and_says_what_it_is(tmp_path):
    digests = []
    for name in ("a", "b"):
        folders = make_volume_phantoms(tmp_path / name, patients=4, seed=3)
        files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
        content = b"".join(p.read_bytes() for p in files if p.suffix in (".dcm", ".csv"))
        digests.append(hashlib.sha256(content).hexdigest())
    assert digests[0] == digests[1]
    for folder in folders:
        with (folder / "labels.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["label"] for row in rows] == ["normal", "mass"]
        assert [row["synthetic"] for row in rows] == ["1", "1"]
        assert [bool(row["mask"]) for row in rows] == [False, True]
    slices = sorted((folders[0] / "series_0001").iterdir())
    assert len(slices) == 48
    places = [dcmread(path).ImagePositionPatient[2] for path in slices]
    assert places != sorted(places)
    assert "SYNTHETIC" in dcmread(slices[0]).ImageType


@pytest.mark.parametrize(("label", "seed"), [("effusion", 0)])
def test_an_unknown_label_is_refused(label, seed):
    with pytest.raises(ValueError, match="label must be one of"):
        draw_volume(label, seed=seed)


def test_too_few_patients_are_refused(tmp_path):
    with pytest.raises(ValueError, match="patients must be at least 4, got 3"):
        make_volume_phantoms(tmp_path, patients=3)
