import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from medproto.data import ImageFrame, read_image, read_mask
from medproto.errors import ImageReadError

# A block whose voxels are all different: value = 100 * slice + 12 * row + column.
BLOCK = (np.arange(5) * 100)[None, None] + np.arange(96).reshape(8, 12, 1)
BLOCK = BLOCK.astype(np.int16)  # [8, 12, 5]
AXIAL = [1, 0, 0, 0, 1, 0]
SERIES = generate_uid()


@pytest.fixture
def write_series(tmp_path, write_dicom):
    """Write `BLOCK` as a CT series, 2.5 mm apart from 10 mm up; ``changes`` are tags by slice."""

    def write(folder="series", *, names=None, changes=None, heights=None, skip=(), **tags):
        heights = heights or [10 + 2.5 * k for k in range(5)]
        for k in range(5):
            if k in skip:
                continue
            values = {
                "Modality": "CT",
                "SeriesInstanceUID": SERIES,
                "PixelSpacing": [0.5, 0.8],
                "ImageOrientationPatient": AXIAL,
                "ImagePositionPatient": [-100, -50, heights[k]],
                "RescaleSlope": 1,
                "RescaleIntercept": -1024,
                "InstanceNumber": 99 - k,
                **tags,
                **(changes or {}).get(k, {}),
            }
            name = names[k] if names else f"{k}.dcm"
            write_dicom(tmp_path / folder / name, np.ascontiguousarray(BLOCK[..., k]), **values)
        return tmp_path / folder

    return write


@pytest.mark.parametrize("names", [["e", "c", "a", "d", "b"], None])
def test_slices_are_ordered_by_their_place_and_not_by_name_or_number(write_series, names):
    pixels, reference = read_image(write_series(names=names), voi="window:-824,600")
    expected = np.clip((BLOCK - 1024.0 + 824) / 600 + 0.5, 0, 1)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert reference.shape == (8, 12, 5)
    assert reference.spacing_mm == (0.5, 0.8, 2.5)
    assert (reference.modality, reference.spacing_kind) == ("CT", "affine")
    # Index (row 2, column 4, slice 3) lies 4 x 0.8 to the left, 2 x 0.5 back, 3 x 2.5 up.
    assert reference.to_patient((2.5, 4.5, 3.5)) == pytest.approx((-96.8, -49, 17.5))


@pytest.mark.parametrize(
    "orientation", [[0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], [-1, 0, 0, 0, 1, 0]]
)
def test_other_planes_stack_along_their_normal(write_series, orientation):
    right, down = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(right, down)
    places = {k: {"ImagePositionPatient": list(map(float, 7.0 * k * normal))} for k in range(5)}
    folder = write_series(changes=places, ImageOrientationPatient=orientation)
    pixels, reference = read_image(folder, voi="percentile")
    assert reference.spacing_mm[2] == pytest.approx(7)
    assert (np.diff(pixels.mean(axis=(0, 1))) > 0).all()  # slice 4, the brightest, is the last
    corner = reference.to_patient((0.5, 0.5, 4.5))
    assert corner == pytest.approx(tuple(28.0 * normal))
    step = np.subtract(reference.to_patient((1.5, 0.5, 4.5)), corner)
    assert step == pytest.approx(0.5 * down)


def test_one_gray_range_for_all_slices_that_of_the_middle(write_series):
    windows = {k: {"WindowCenter": -1000 + 10 * k, "WindowWidth": 401} for k in range(5)}
    pixels, reference = read_image(write_series(changes=windows))
    assert (reference.voi, reference.window) == ("window", (-980.0, 401.0))
    np.testing.assert_allclose(pixels, np.clip((BLOCK - 1024 + 980.5) / 400 + 0.5, 0, 1), atol=1e-6)


def test_each_slice_has_its_own_rescale(write_series):
    slopes = {k: {"RescaleSlope": 1 + k, "RescaleIntercept": 0} for k in range(5)}
    pixels = read_image(write_series(changes=slopes), voi="window:1000,2000").pixels
    np.testing.assert_allclose(pixels, np.clip(BLOCK * (1 + np.arange(5)) / 2000, 0, 1), atol=1e-6)


def test_monochrome1_and_padding_in_a_volume(write_series):
    folder = write_series(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=211)
    pixels, reference = read_image(folder, voi="window:-774,500")
    expected = 1 - np.clip((BLOCK - 1024 + 774) / 500 + 0.5, 0, 1)
    expected[BLOCK == 211] = 0
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert reference.inverted
    assert reference.padded == (BLOCK == 211).sum() > 0


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"skip": (2,)}, r"slices 1 and 2 lie 5 mm .* others are 2.5 mm apart, so 1 are not"),
        ({"heights": [10, 12.5, 12.5, 15, 17.5]}, "1 of 5 lie where another does"),
        ({"heights": [10, 12.5, 15, 17.5, 20.9]}, "even distances: 2.5 mm, but 3.4 mm"),
        ({"changes": {1: {"ImagePositionPatient": None}}}, "1 of 5 do not"),
        ({"changes": {1: {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}}}, "must be parallel"),
        ({"changes": {1: {"SeriesInstanceUID": "1.2.3"}}}, "one DICOM series, got 2 series"),
        ({"changes": {1: {"PixelSpacing": [0.5, 0.9]}}}, "one PixelSpacing, got 2"),
        ({"PixelSpacing": [0, 0]}, "must have a PixelSpacing"),
        ({"skip": (0, 1, 2, 3)}, "at least 2 slices, got 1"),
        ({"skip": range(5)}, "it has no image"),
        ({"changes": {1: {"NumberOfFrames": 2}}}, "a file of several frames"),
        ({"changes": {1: {"PhotometricInterpretation": "MONOCHROME1"}}},
         "one PhotometricInterpretation, got 2"),
        ({"changes": {1: {"RescaleSlope": 0}}}, "RescaleSlope"),
    ],
)  # fmt: skip
def test_what_is_no_even_stack_is_refused_with_the_reason(tmp_path, write_series, how, reason):
    (tmp_path / "series").mkdir()
    with pytest.raises(ImageReadError, match=reason):
        read_image(write_series(**how), voi="percentile")


def test_a_tilted_stack_is_refused(write_series):
    sideways = 2.5 * np.tan(np.radians(12))
    places = {k: {"ImagePositionPatient": [0, sideways * k, 2.5 * k]} for k in range(5)}
    with pytest.raises(ImageReadError, match=r"tilted by 12\.0 degrees"):
        read_image(write_series(changes=places), voi="percentile")


def test_positions_that_are_rounded_to_a_tenth_are_even(write_series):
    folder = write_series(heights=[0, 0.6, 1.2, 1.9, 2.5])  # 0.625 mm apart
    reference = read_image(folder, voi="percentile").reference
    assert reference.spacing_mm[2] == pytest.approx(0.625)
    assert reference.to_patient((0.5, 0.5, 4.5))[2] == pytest.approx(2.5)


def test_files_beside_the_slices_are_passed_over(write_series, write_png):
    folder = write_series()
    (folder / "README.txt").write_text("exported")
    write_png(folder / "preview.png", np.zeros((9, 9), np.uint8))
    (folder / "more").mkdir()
    assert read_image(folder, voi="percentile").reference.shape == (8, 12, 5)


def test_a_mask_as_a_series_has_the_shape_of_the_volume(write_series):
    mask = read_mask(write_series())
    np.testing.assert_array_equal(mask, BLOCK != 0)


def enhanced(write_dicom, path, *, order=range(5), shared=True, **tags):
    """Write `BLOCK` as one enhanced CT object, its frames in this order."""
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.8]
    orientation.ImageOrientationPatient = AXIAL
    common = Dataset()
    common.PixelMeasuresSequence = Sequence([measures])
    common.PlaneOrientationSequence = Sequence([orientation])
    frames = []
    for k in order:
        place, rescale, frame = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-100, -50, 10 + 2.5 * k]
        rescale.RescaleSlope, rescale.RescaleIntercept = 1 + k, -1024
        frame.PlanePositionSequence = Sequence([place])
        frame.PixelValueTransformationSequence = Sequence([rescale])
        if not shared:
            frame.update(common)
        frames.append(frame)
    values = {
        "Modality": "CT",
        "NumberOfFrames": len(frames),
        "Rows": 8,
        "Columns": 12,
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
        "SharedFunctionalGroupsSequence": Sequence([common if shared else Dataset()]),
        **tags,
    }
    pixels = np.ascontiguousarray(np.moveaxis(BLOCK, 2, 0)[list(order)])
    return write_dicom(path, pixels, **values)


@pytest.mark.parametrize("order", [range(5), [3, 0, 4, 1, 2]])
@pytest.mark.parametrize("shared", [True, False])
def test_an_enhanced_object_is_the_volume_of_its_frames(tmp_path, write_dicom, order, shared):
    path = enhanced(write_dicom, tmp_path / "a", order=order, shared=shared)
    pixels, reference = read_image(path, voi="window:0,4000")
    expected = np.clip((BLOCK * (1 + np.arange(5)) - 1024 + 2000) / 4000, 0, 1)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert reference.spacing_mm == (0.5, 0.8, 2.5)
    assert reference.to_patient((0.5, 0.5, 0.5)) == pytest.approx((-100, -50, 10))


def test_a_frame_of_an_enhanced_object_has_its_own_rescale_and_place(tmp_path, write_dicom):
    path = enhanced(write_dicom, tmp_path / "a")
    pixels, reference = read_image(ImageFrame(path, 3), voi="window:0,4000")
    np.testing.assert_allclose(pixels, (BLOCK[..., 3] * 4 - 1024 + 2000) / 4000, atol=1e-6)
    assert reference.spacing_mm == (0.5, 0.8)
    assert reference.to_patient((0.5, 0.5)) == pytest.approx((-100, -50, 17.5))


def test_an_enhanced_object_that_lacks_groups_of_a_frame(tmp_path, write_dicom):
    path = enhanced(write_dicom, tmp_path / "a", NumberOfFrames=7)
    with pytest.raises(ImageReadError, match="there are 5, and frame 5 is asked for"):
        read_image(path)


def test_frames_without_a_place_are_no_volume(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "a",
        np.ascontiguousarray(np.moveaxis(BLOCK, 2, 0)),
        NumberOfFrames=5,
        Rows=8,
        Columns=12,
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=AXIAL,
    )
    with pytest.raises(ImageReadError, match="name one, counted from 0"):
        read_image(path)
