import gzip

import nibabel
import numpy as np
import pandas as pd
import pytest

from medproto.data import Cohort, ImageFrame, check_cohort, read_image, read_mask
from medproto.errors import ImageReadError

BLOCK = np.arange(8 * 9 * 5, dtype=np.int16).reshape(8, 9, 5)
# Axes to the right, the front and the head, 2 x 3 x 4 mm; nibabel's axes are these, too.
AFFINE = np.array([[2.0, 0, 0, -7], [0, 3, 0, 11], [0, 0, 4, 13], [0, 0, 0, 1]])


@pytest.fixture
def write_nifti(tmp_path):
    def write(values=BLOCK, *, name="a.nii.gz", affine=AFFINE, kind=nibabel.Nifti1Image, **header):
        image = kind(values, affine)
        for key, value in header.items():
            image.header[key] = value
        nibabel.save(image, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_values_spacing_and_place(write_nifti, name, kind):
    path = write_nifti(name=name, kind=kind)
    path = path.rename(path.with_name("volume"))  # content decides
    pixels, reference = read_image(path, voi="window:100,200")
    np.testing.assert_allclose(pixels, np.clip(BLOCK / 200, 0, 1), atol=1e-6)
    assert (reference.modality, reference.shape) == ("NIFTI", (8, 9, 5))
    assert reference.spacing_mm == (2.0, 3.0, 4.0)
    # In DICOM's axes, to the left and to the back, the first two change sign.
    assert reference.to_patient((0.5, 0.5, 0.5)) == (7, -11, 13)
    assert reference.to_patient((1.5, 2.5, 4.5)) == (5, -17, 29)


def test_scale_offset_and_units(write_nifti):
    path = write_nifti(affine=AFFINE * [[1e-3], [1e-3], [1e-3], [1]])
    image = nibabel.load(path)
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(2, -10)
    nibabel.save(image, path)
    expected = np.asarray(nibabel.load(path).dataobj)
    pixels, reference = read_image(path, voi="window:0,1000")
    np.testing.assert_allclose(pixels, np.clip(expected / 1000 + 0.5, 0, 1), atol=1e-6)
    assert reference.spacing_mm == pytest.approx((2, 3, 4), rel=1e-5)


def test_the_range_is_the_files_or_must_be_named(write_nifti):
    pixels, reference = read_image(write_nifti(cal_min=50, cal_max=250))
    np.testing.assert_allclose(pixels, np.clip((BLOCK - 50) / 200, 0, 1), atol=1e-6)
    assert (reference.voi, reference.window) == ("window", (150.0, 200.0))
    with pytest.raises(ImageReadError, match="no gray range of its own: name one"):
        read_image(write_nifti())


def test_the_full_range_is_that_of_the_type_and_float_has_none(write_nifti):
    stored = (BLOCK % 200).astype(np.uint8)
    pixels = read_image(write_nifti(stored), voi="full-range").pixels
    np.testing.assert_allclose(pixels, stored / 255, atol=1e-6)
    with pytest.raises(ImageReadError, match="float pixels need a window"):
        read_image(write_nifti(BLOCK.astype(np.float32)), voi="full-range")


def test_one_of_several_volumes(write_nifti):
    several = np.stack([BLOCK, BLOCK[::-1]], axis=3)
    path = write_nifti(several)
    pixels, reference = read_image(ImageFrame(path, 1), voi="window:180,360")
    np.testing.assert_allclose(pixels, BLOCK[::-1] / 360, atol=1e-6)
    assert (reference.shape, reference.frame) == ((8, 9, 5), 1)
    alone = read_image(
        write_nifti(np.ascontiguousarray(BLOCK[::-1]), name="b.nii"), voi="percentile"
    )
    assert reference.pixel_digest == alone.reference.pixel_digest
    with pytest.raises(ImageReadError, match="one volume, the file holds 2"):
        read_image(path, voi="percentile")
    with pytest.raises(ImageReadError, match=r"frame must lie in 0\.\.1, got 2"):
        read_image(ImageFrame(path, 2), voi="percentile")


def test_without_an_affine_there_is_no_place_in_the_patient(write_nifti):
    path = write_nifti(name="a.nii")
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)  # qform_code and sform_code, which nibabel sets when it saves
    path.write_bytes(content)
    reference = read_image(path, voi="percentile").reference
    assert reference.affine is None
    assert reference.spacing_mm == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("third", [[2, 3, 0], [0, 3, 0.2]], ids=["in the plane", "nearly"])
def test_axes_in_one_plane_are_refused(write_nifti, third):
    affine = AFFINE.copy()
    affine[:3, 2] = third
    # An sform, since a qform cannot say it.
    path = write_nifti(affine=affine)
    with pytest.raises(ImageReadError, match="axes of the affine must point three ways"):
        read_image(path, voi="percentile")


def test_axes_in_one_plane_are_one_bad_row_of_the_check(write_nifti, tmp_path):
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 0]
    write_nifti(name="a.nii")
    write_nifti(BLOCK + 1, name="b.nii", affine=flat)
    write_nifti(BLOCK + 2, name="c.nii")
    table = pd.DataFrame({"image": ["a.nii", "b.nii", "c.nii"], "label": ["x", "y", "y"]})
    report = check_cohort(Cohort(table, tmp_path), voi="percentile")
    bad = [problem for problem in report.problems if problem.stage == "image"]
    assert [problem.row for problem in bad] == [1]
    assert bad[0].reason.startswith("the axes of the affine must point three ways in the patient")
    assert [reference is None for reference in report.references] == [False, True, False]


def test_a_mask_is_what_is_not_zero_before_the_scale(write_nifti):
    np.testing.assert_array_equal(read_mask(write_nifti()), BLOCK != 0)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((9, 9), np.int16), "3 axes in space"),
        (np.zeros((9, 9, 9), np.complex64), "real numbers"),
        (np.full((9, 9, 9), np.nan, np.float32), "finite"),
        (np.zeros((4, 9, 9), np.int16), "at least 8 x 8 x 1 voxels, got 4 x 9 x 9"),
        (np.zeros((9, 9, 9, 1, 2), np.int16), "3 axes in space"),
    ],
)
def test_what_is_no_volume_is_refused(write_nifti, values, reason):
    with pytest.raises(ImageReadError, match=reason):
        read_image(write_nifti(values), voi="percentile")


def test_a_header_that_lies_about_its_size_is_refused_before_the_memory_is_taken(write_nifti):
    path = write_nifti(name="a.nii")
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([30_000, 30_000, 30_000], "<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match="1 to 268435456 voxels, its header says 30000"):
        read_image(path, voi="percentile")


@pytest.mark.parametrize("keep", [400, 1000])
def test_truncated_files_are_one_clear_line(write_nifti, keep, tmp_path):
    whole = write_nifti(name="a.nii").read_bytes()
    for name, content in [("b", whole[:keep]), ("c", gzip.compress(whole)[: keep // 4])]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageReadError) as caught:
            read_image(tmp_path / name, voi="percentile")
        assert "\n" not in str(caught.value)
