"""Several images of a subject as channels: one geometry, one digest over all."""

import hashlib
from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest

from medproto.data import Cohort, ImageChannels, ImageFrame, check_cohort, read_image, readers
from medproto.errors import CohortError, ImageReadError
from medproto.transforms import preprocessing


def write(path, value, *, shape=(9, 10, 8), move=(0, 0, 0), scale=2.0):
    affine = np.diag([scale, scale, scale, 1.0])
    affine[:3, 3] = move
    data = np.zeros(shape, np.int16)
    data[2:5, 3:6, 2:4] = value
    image = nibabel.Nifti1Image(data, affine)
    image.header["cal_max"] = 100
    image.set_sform(affine, 1)
    nibabel.save(image, path)
    return path


@pytest.fixture
def pair(tmp_path):
    return write(tmp_path / "t1.nii", 50), write(tmp_path / "t2.nii", 100)


def test_channels_stand_in_their_order(pair):
    image = read_image(ImageChannels(pair))
    assert image.pixels.shape == (2, 9, 10, 8)
    np.testing.assert_array_equal(image.channels, image.pixels)
    for channel, path in zip(image.channels, pair, strict=True):
        np.testing.assert_array_equal(channel, read_image(path).pixels)
    single = read_image(pair[0])
    assert single.channels.shape == (1, 9, 10, 8)


def test_the_digest_is_that_of_the_digests(pair):
    parts = [read_image(path).reference for path in pair]
    text = "\n".join(part.pixel_digest for part in parts)
    reference = read_image(ImageChannels(pair)).reference
    assert reference.pixel_digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert reference == replace(parts[0], pixel_digest=reference.pixel_digest)
    turned = read_image(ImageChannels(pair[::-1])).reference
    assert turned.pixel_digest != reference.pixel_digest


def test_readers_of_their_own_find_the_same(pair):
    source = ImageChannels((pair[0], ImageFrame(pair[1], 0)))
    image, isolated = read_image(source), readers().image(source)
    np.testing.assert_array_equal(isolated.pixels, image.pixels)
    assert isolated.reference == image.reference
    (reference,) = readers().map(lambda reader, item: reader.reference(item), [source])
    assert reference == image.reference


def test_all_channels_are_fitted_alike(pair):
    fitted = preprocessing((16, 16, 16), mode="stretch")({"image": ImageChannels(pair)})["image"]
    assert fitted.shape == (2, 16, 16, 16)
    np.testing.assert_allclose(2 * fitted[0], fitted[1], atol=1e-5)  # 50 and 100 of 100


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": (9, 10, 7)}, r"one size, \[9, 10, 8\] of the first, got \[9, 10, 7\]"),
        ({"move": (0, 0, 3)}, r"channel 1 lies 3\.0 mm beside the first; register them"),
        ({"scale": 2.1}, r"channel 1 lies \d\.\d mm beside the first"),
    ],
)
def test_other_geometries_are_refused(pair, tmp_path, changed, message):
    other = write(tmp_path / "flair.nii", 9, **changed)
    for read in (read_image, readers().image):
        with pytest.raises(ImageReadError, match=message):
            read(ImageChannels((pair[0], other)))


def test_rounding_in_a_header_is_no_other_place(pair, tmp_path):
    other = write(tmp_path / "flair.nii", 9, move=(0.001, 0, 0))
    assert read_image(ImageChannels((pair[0], other))).pixels.shape == (2, 9, 10, 8)


def test_a_volume_without_a_place_goes_with_none_that_has_one(pair, tmp_path):
    image = nibabel.Nifti1Image(np.zeros((9, 10, 8), np.int16), None)
    image.header["cal_max"] = 100
    nibabel.save(image, tmp_path / "bare.nii")
    with pytest.raises(ImageReadError, match="must all say how they lie in the patient, or none"):
        read_image(ImageChannels((pair[0], tmp_path / "bare.nii")))


def table(tmp_path, pair, **columns):
    names = [path.name for path in pair]
    rows = {"image": names[:1] * 2, "image_path_t2": names[1:] * 2, "label": ["a", "b"]}
    return pd.DataFrame({**rows, **columns})


def test_a_cohort_names_them_by_columns(tmp_path, pair):
    cohort = Cohort(table(tmp_path, pair), tmp_path, channels=["image_path_t2"])
    assert cohort.image_source(1) == ImageChannels(pair)
    assert cohort.select(["a"]).image_source(0) == ImageChannels(pair)
    cohort.save(tmp_path / "sub" / "c.csv")
    again = Cohort.read(tmp_path / "sub" / "c.csv", channels=["image_path_t2"])
    assert read_image(again.image_source(0)).pixels.shape == (2, 9, 10, 8)
    assert Cohort(cohort.table, tmp_path).image_source(0) == pair[0]


def test_a_row_without_a_channel_is_a_problem(tmp_path, pair):
    rows = table(tmp_path, pair, image_path_t2=["t2.nii", ""])
    cohort = Cohort(rows, tmp_path, channels=["image_path_t2"])
    found = [(p.row, p.stage, p.reason) for p in check_cohort(cohort).problems if p.row is not None]
    assert found == [(1, "image", "it must name an image in the column 'image_path_t2'.")]
    with pytest.raises(CohortError, match="row 1 must name an image in the column 'image_path_t2'"):
        cohort.image_source(1)


@pytest.mark.parametrize("name", ["image_path_flair", "label", "mask"])
def test_columns_that_hold_no_images_are_refused(tmp_path, pair, name):
    with pytest.raises(CohortError, match=r"columns image_path_\.\.\. of the table \(image_path"):
        Cohort(table(tmp_path, pair), tmp_path, channels=[name])
