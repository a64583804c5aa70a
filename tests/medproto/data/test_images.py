import logging
import math
import threading
import warnings

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medproto.data import ImageFrame, read_image, read_mask
from medproto.data.padding import padding_mask
from medproto.data.stored import pixel_digest
from medproto.errors import ImageReadError

RAMP = np.arange(96, dtype=np.uint8).reshape(8, 12)
RAMP16 = (np.arange(96, dtype=np.uint16) * 40).reshape(8, 12)  # 0..3800, 12 bits


def lut(values, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = np.asarray(values, dtype="<u2").tobytes()
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "OW"
    return Sequence([item])


def regions(*deltas, unit=3, form=1):
    """Return calibrated regions: (x, y) centimetres a pixel, columns first as DICOM has it."""
    items = []
    for x, y in deltas:
        item = Dataset()
        item.RegionSpatialFormat = form
        item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = unit
        item.PhysicalDeltaX, item.PhysicalDeltaY = x, y
        items.append(item)
    return Sequence(items)


# ---- plain images


@pytest.mark.parametrize(
    ("dtype", "full_scale", "bits"), [(np.uint8, 255, 8), (np.uint16, 65535, 16)]
)
def test_png_values_are_divided_by_the_full_scale_of_the_format(
    tmp_path, write_png, dtype, full_scale, bits
):
    stored = np.linspace(0, full_scale, 96).astype(dtype).reshape(8, 12)
    pixels, reference = read_image(write_png(tmp_path / "a.png", stored))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, stored / full_scale, atol=1e-7)
    assert (reference.modality, reference.bits_stored, reference.shape) == ("PNG", bits, (8, 12))
    assert (reference.spacing_mm, reference.spacing_kind) == (None, "none")
    assert reference.pixel_digest == pixel_digest(stored)


def test_color_becomes_gray_by_the_weights_of_bt601(tmp_path, write_png):
    stored = np.zeros((8, 8, 3), dtype=np.uint8)
    stored[0, 0], stored[0, 1], stored[0, 2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stored[1, 0] = (77, 77, 77)
    pixels = read_image(write_png(tmp_path / "a.png", stored)).pixels
    np.testing.assert_allclose(pixels[0, :3], [0.299, 0.587, 0.114], atol=1e-6)
    assert pixels[1, 0] == pytest.approx(77 / 255, abs=1e-7)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_other_color_models_keep_their_gray(tmp_path, mode):
    gray = Image.fromarray(np.where(RAMP > 40, 255, 0).astype(np.uint8))
    gray.convert("RGB").convert(mode).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(pixels, (RAMP > 40).astype(np.float32))


def test_content_decides_and_not_the_name(tmp_path, write_dicom):
    Image.fromarray(RAMP).save(tmp_path / "a.dcm", format="JPEG")
    assert read_image(tmp_path / "a.dcm").reference.modality == "JPEG"
    write_dicom(tmp_path / "b.png", RAMP)
    assert read_image(tmp_path / "b.png").reference.modality == "CR"


def test_an_unsupported_color_model_is_refused(tmp_path):
    Image.new("CMYK", (9, 9)).save(tmp_path / "a.jpg")
    with pytest.raises(ImageReadError, match="gray or RGB, got the color model 'CMYK'"):
        read_image(tmp_path / "a.jpg")


# ---- DICOM gray values


@pytest.mark.parametrize("voi", ["voi", "full-range"])
def test_without_a_window_the_range_is_what_bits_stored_allows(tmp_path, write_dicom, voi):
    path = write_dicom(tmp_path / "a", RAMP16, bits=12)
    pixels, reference = read_image(path, voi=voi)
    np.testing.assert_allclose(pixels, RAMP16 / 4095, atol=1e-7)
    assert (reference.voi, reference.window, reference.bits_stored) == ("full-range", None, 12)
    assert (reference.inverted, reference.synthetic) == (False, False)


def test_signed_pixels_and_rescale_move_the_full_range(tmp_path, write_dicom):
    stored = (np.arange(96, dtype=np.int16) - 48).reshape(8, 12)
    path = write_dicom(tmp_path / "a", stored, bits=8, RescaleSlope=2, RescaleIntercept=-10)
    # Stored -128..127 becomes -266..244; the value 2 s - 10 lies (s + 128) / 255 of the way.
    np.testing.assert_allclose(read_image(path).pixels, (stored + 128) / 255, atol=1e-7)


def test_a_negative_slope_turns_the_scale(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a", RAMP, RescaleSlope=-1, RescaleIntercept=255)
    np.testing.assert_allclose(read_image(path).pixels, (255 - RAMP) / 255.0, atol=1e-7)


@pytest.mark.parametrize("voi", ["voi", "full-range"])
def test_monochrome1_is_inverted_exactly_once(tmp_path, write_dicom, voi):
    tags = {"WindowCenter": 2048, "WindowWidth": 4096}
    plain = read_image(write_dicom(tmp_path / "a", RAMP16, bits=12, **tags), voi=voi)
    turned = write_dicom(
        tmp_path / "b",
        RAMP16,
        bits=12,
        PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE",
        **tags,
    )
    inverted = read_image(turned, voi=voi)
    np.testing.assert_allclose(inverted.pixels, 1 - plain.pixels, atol=1e-6)
    assert inverted.reference.inverted
    assert not plain.reference.inverted
    assert inverted.reference.pixel_digest == plain.reference.pixel_digest


def linear(x, c, w):
    """PS3.3 C.11.2.1.2.1, one value at a time, with y from 0 to 1."""
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    if x > c - 0.5 + (w - 1) / 2:
        return 1.0
    return (x - (c - 0.5)) / (w - 1) + 0.5


def linear_exact(x, c, w):
    if x <= c - w / 2:
        return 0.0
    if x > c + w / 2:
        return 1.0
    return (x - c) / w + 0.5


def sigmoid(x, c, w):
    return 1 / (1 + math.exp(-4 * (x - c) / w))


@pytest.mark.parametrize(
    ("function", "definition"),
    [(None, linear), ("LINEAR", linear), ("LINEAR_EXACT", linear_exact), ("SIGMOID", sigmoid)],
)
@pytest.mark.parametrize("window", [(50, 40), (30.5, 1), (20, 101)])
def test_window_equals_the_definition_of_the_standard(
    tmp_path, write_dicom, function, definition, window
):
    path = write_dicom(
        tmp_path / "a",
        RAMP,
        WindowCenter=window[0],
        WindowWidth=window[1],
        VOILUTFunction=function,
        RescaleSlope=1,
        RescaleIntercept=-5,
    )
    pixels, reference = read_image(path)
    expected = np.vectorize(lambda x: definition(x - 5.0, *window))(RAMP.astype(float))
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert (reference.voi, reference.window) == ("window", window)
    assert read_image(path, voi="full-range").reference.voi == "full-range"


def test_the_first_of_several_windows_counts(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a", RAMP, WindowCenter=[40, 90], WindowWidth=[60, 10])
    assert read_image(path).reference.window == (40.0, 60.0)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowWidth": 0.0},
        {"WindowWidth": None},
        {"WindowWidth": 10, "VOILUTFunction": "CUBIC"},
    ],
)
def test_an_unusable_window_gives_way_to_the_full_range(tmp_path, write_dicom, tags):
    path = write_dicom(tmp_path / "a", RAMP, WindowCenter=50, **tags)
    pixels, reference = read_image(path)
    assert (reference.voi, reference.window) == ("full-range", None)
    np.testing.assert_allclose(pixels, RAMP / 255.0, atol=1e-7)


@pytest.mark.parametrize("bits", [8, 12])
def test_voi_lut_goes_before_the_window_and_may_have_many_entries(tmp_path, write_dicom, bits):
    table = np.linspace(2**bits - 1, 0, 400).astype(np.uint16)
    path = write_dicom(
        tmp_path / "a",
        RAMP16,
        bits=12,
        VOILUTSequence=lut(table, 100, bits),
        WindowCenter=1,
        WindowWidth=2,
    )
    pixels, reference = read_image(path)
    expected = [table[min(max(int(v) - 100, 0), 399)] / (2**bits - 1) for v in RAMP16.flat]
    np.testing.assert_allclose(pixels.ravel(), expected, atol=1e-6)
    assert (reference.voi, reference.window) == ("lut", None)


def test_modality_lut_with_packed_bytes_sets_the_range(tmp_path, write_dicom):
    sequence = lut([0], 0, 8)
    table = np.arange(95, -1, -1, dtype=np.uint8)
    sequence[0].LUTDescriptor = [96, 0, 8]
    sequence[0].LUTData = table.tobytes()
    path = write_dicom(tmp_path / "a", RAMP, ModalityLUTSequence=sequence)
    np.testing.assert_allclose(read_image(path).pixels, table[RAMP] / 255.0, atol=1e-7)


def test_a_lut_with_a_negative_first_value_written_unsigned(tmp_path, write_dicom):
    stored = (np.arange(96, dtype=np.int16) - 48).reshape(8, 12)
    table = np.arange(96, dtype=np.uint16) * 2
    path = write_dicom(tmp_path / "a", stored, VOILUTSequence=lut(table, 2**16 - 48, 8), bits=16)
    np.testing.assert_allclose(read_image(path).pixels, (stored + 48) * 2 / 255.0, atol=1e-6)


def test_color_dicom_by_luma(tmp_path, write_dicom):
    stored = np.zeros((8, 9, 3), dtype=np.uint8)
    stored[..., 1] = 200
    path = write_dicom(
        tmp_path / "a",
        stored,
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
    )
    np.testing.assert_allclose(read_image(path).pixels, 0.587 * 200 / 255, atol=1e-6)


# ---- other policies, and padding


def test_an_explicit_window_is_in_modality_units_and_goes_before_the_files(tmp_path, write_dicom):
    stored = (np.arange(96, dtype=np.int16) * 20).reshape(8, 12)
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 1, "WindowWidth": 2}
    path = write_dicom(tmp_path / "a", stored, **tags)
    pixels, reference = read_image(path, voi="window:40,400")
    # -160 HU is black and 240 HU is white.
    np.testing.assert_allclose(pixels, np.clip((stored - 1024 + 160) / 400, 0, 1), atol=1e-6)
    assert (reference.voi, reference.window) == ("explicit-window", (40.0, 400.0))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_percentiles_leave_the_padding_out_and_show_it_black(tmp_path, write_dicom, photometric):
    stored = np.full((20, 20), 60_000, np.uint16)
    stored[:, 10:] = 1000 + np.arange(200).reshape(20, 10)
    path = write_dicom(
        tmp_path / "a", stored, PhotometricInterpretation=photometric, PixelPaddingValue=60_000
    )
    pixels, reference = read_image(path, voi="percentile")
    low, high = 1000 + 0.005 * 199, 1000 + 0.995 * 199  # linear between the ranks 0..199
    expected = np.clip((stored[:, 10:] - low) / (high - low), 0, 1)
    if photometric == "MONOCHROME1":
        expected = 1 - expected
    np.testing.assert_allclose(pixels[:, 10:], expected, atol=1e-6)
    assert (pixels[:, :10] == 0).all()
    assert (reference.voi, reference.padded) == ("percentile", 200)
    assert reference.window == pytest.approx(((low + high) / 2, high - low))


def test_an_image_of_one_value_is_black_by_its_percentiles(tmp_path, write_png):
    path = write_png(tmp_path / "a.png", np.full((9, 9), 77, np.uint8))
    assert (read_image(path, voi="percentile").pixels == 0).all()


def test_plain_gray_images_have_percentiles_and_no_window(tmp_path, write_png):
    path = write_png(tmp_path / "a.png", RAMP)
    low, high = np.percentile(RAMP, [0.5, 99.5])
    pixels, reference = read_image(path, voi="percentile")
    np.testing.assert_allclose(pixels, np.clip((RAMP - low) / (high - low), 0, 1), atol=1e-6)
    assert reference.voi == "percentile"
    with pytest.raises(ImageReadError, match="values of a PNG image have none"):
        read_image(path, voi="window:40,400")


@pytest.mark.parametrize(
    "voi", ["window", "window:", "window:1", "window:1,0", "window:nan,3", "window:1,inf", "minmax"]
)
def test_an_unknown_policy_names_the_known_ones(tmp_path, voi):
    with pytest.raises(ValueError, match=r"voi must be one of \['voi', 'full-range'"):
        read_image(tmp_path / "a", voi=voi)


@pytest.mark.parametrize("limits", [(3, 5), (5, 3)])
def test_a_range_of_padding_goes_either_way(tmp_path, write_dicom, limits):
    tags = {"PixelPaddingValue": limits[0], "PixelPaddingRangeLimit": limits[1]}
    pixels, reference = read_image(write_dicom(tmp_path / "a", RAMP + 2, **tags))
    expected = (RAMP + 2) / 255.0
    expected[(RAMP + 2 >= 3) & (RAMP + 2 <= 5)] = 0
    np.testing.assert_allclose(pixels, expected, atol=1e-7)
    assert reference.padded == 3


def test_padding_of_signed_pixels_that_was_written_unsigned(tmp_path, write_dicom):
    stored = (np.arange(96, dtype=np.int16) - 2000).reshape(8, 12)
    path = write_dicom(tmp_path / "a", stored, PixelPaddingValue=-2000)
    assert read_image(path).reference.padded == 1
    dataset = Dataset()
    dataset.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    assert padding_mask(stored, dataset).sum() == 1


@pytest.mark.parametrize("intent", ["FOR PRESENTATION", "FOR PROCESSING", ""])
def test_what_a_radiograph_was_made_for_is_kept(tmp_path, write_dicom, intent):
    path = write_dicom(tmp_path / "a", RAMP, PresentationIntentType=intent or None)
    assert read_image(path).reference.presentation_intent == intent


# ---- frames


def test_a_frame_is_chosen_and_checked(tmp_path, write_dicom):
    frames = np.stack([RAMP, RAMP + 100, RAMP + 50])
    path = write_dicom(tmp_path / "a", frames, NumberOfFrames=3, Rows=8, Columns=12)
    for index in range(3):
        pixels, reference = read_image(ImageFrame(path, index))
        np.testing.assert_allclose(pixels, frames[index] / 255.0, atol=1e-7)
        assert (reference.frame, reference.shape) == (index, (8, 12))
    with pytest.raises(ImageReadError, match="the file holds 3: name one, counted from 0"):
        read_image(path)
    with pytest.raises(ImageReadError, match=r"frame must lie in 0\.\.2, got 3"):
        read_image(ImageFrame(path, 3))


@pytest.mark.parametrize("count", [0, -1, 10**9])
def test_an_absurd_number_of_frames_is_refused(tmp_path, write_dicom, count):
    path = write_dicom(tmp_path / "a", RAMP, NumberOfFrames=count)
    if count == 0:  # as good as absent
        assert read_image(path).pixels.shape == (8, 12)
        return
    with pytest.raises(ImageReadError, match=r"NumberOfFrames must lie in 1\.\.20000"):
        read_image(path)


def test_a_plain_image_has_no_frames(tmp_path, write_png):
    with pytest.raises(ImageReadError, match="no frames to choose from, got 1"):
        read_image(ImageFrame(write_png(tmp_path / "a.png", RAMP), 1))


def test_the_place_in_the_patient_is_that_of_the_standard(tmp_path, write_dicom):
    # Rows run to the back, columns to the left; the first pixel's centre is at (-10, -20, 5).
    tags = {
        "PixelSpacing": [2, 3],
        "ImagePositionPatient": [-10, -20, 5],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }
    reference = read_image(write_dicom(tmp_path / "a", RAMP, **tags)).reference
    assert reference.affine == ((0, 3, -10), (2, 0, -20), (0, 0, 5))
    # Centre of the pixel in row 4, column 6: position 4.5, 6.5 from the outer corner.
    assert reference.to_patient((4.5, 6.5)) == (-10 + 18, -20 + 8, 5)
    with pytest.raises(ValueError, match="position must have 2 values"):
        reference.to_patient((1.0,))


@pytest.mark.parametrize(
    "tags",
    [
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"ImagePositionPatient": [0, 0, 1e6]},
        {"ImagePositionPatient": None},
        {"PixelSpacing": None},
    ],
)
def test_a_place_that_cannot_be_is_none(tmp_path, write_dicom, tags):
    whole = {
        "PixelSpacing": [1, 1],
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    } | tags
    reference = read_image(write_dicom(tmp_path / "a", RAMP, **whole)).reference
    assert reference.affine is None
    with pytest.raises(ValueError, match="must have patient coordinates"):
        reference.to_patient((0, 0))


# ---- spacing and marks


@pytest.mark.parametrize(
    ("tags", "spacing", "kind"),
    [
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3), "PixelSpacing"),
        ({"ImagerPixelSpacing": [0.15, 0.1]}, (0.15, 0.1), "ImagerPixelSpacing"),
        (
            {"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.15, 0.15]},
            (0.1, 0.1),
            "PixelSpacing",
        ),
        (
            {"PixelSpacing": [0.15, 0.15], "ImagerPixelSpacing": [0.15, 0.15]},
            (0.15, 0.15),
            "ImagerPixelSpacing",
        ),
        ({"NominalScannedPixelSpacing": [0.5, 0.5]}, (0.5, 0.5), "NominalScannedPixelSpacing"),
        ({"PixelSpacing": [0, 0]}, None, "none"),
        ({"PixelSpacing": [-1, 1]}, None, "none"),
        ({"PixelSpacing": [1e6, 1e6]}, None, "none"),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2),
         "ImagerPixelSpacing"),
        ({"ImagerPixelSpacing": [0.3, 0.15], "EstimatedRadiographicMagnificationFactor": 1.5},
         (0.2, 0.1), "EstimatedRadiographicMagnificationFactor"),
        ({"ImagerPixelSpacing": [0.3, 0.3], "EstimatedRadiographicMagnificationFactor": 0},
         (0.3, 0.3), "ImagerPixelSpacing"),
        ({"SequenceOfUltrasoundRegions": regions((0.02, 0.01))}, (0.1, 0.2),
         "SequenceOfUltrasoundRegions"),
        ({"SequenceOfUltrasoundRegions": regions((0.02, -0.01), (0.02, 0.01))}, (0.1, 0.2),
         "SequenceOfUltrasoundRegions"),
        ({"SequenceOfUltrasoundRegions": regions((0.02, 0.01), (0.03, 0.01))}, None, "none"),
        ({"SequenceOfUltrasoundRegions": regions((0.02, 0.01), unit=4)}, None, "none"),
        ({"SequenceOfUltrasoundRegions": regions((0.02, 0.01), form=3)}, None, "none"),
        ({"SequenceOfUltrasoundRegions": regions((0, 0))}, None, "none"),
        ({}, None, "none"),
    ],
)  # fmt: skip
def test_spacing_is_named_after_its_attribute(tmp_path, write_dicom, tags, spacing, kind):
    reference = read_image(write_dicom(tmp_path / "a", RAMP, **tags)).reference
    assert reference.spacing_mm == pytest.approx(spacing)
    assert reference.spacing_kind == kind


def test_spacing_that_is_no_number_is_refused(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a", RAMP, PixelSpacing=[0.25, 0.25])
    path.write_bytes(path.read_bytes().replace(b"0.25\\0.25", b"0.2x\\0.25"))
    assert read_image(path).reference.spacing_kind == "none"


@pytest.mark.parametrize(
    ("tags", "synthetic"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "SYNTHETIC"]}, True),
        ({"ImageType": ["DERIVED", "SYNTHETIC"]}, False),
        ({"ImageComments": "Synthetic phantom"}, True),
        ({"ImageType": "ORIGINAL"}, False),
    ],
)
def test_synthetic_images_say_so(tmp_path, write_dicom, tags, synthetic):
    assert read_image(write_dicom(tmp_path / "a", RAMP, **tags)).reference.synthetic is synthetic


# ---- compressed transfer syntaxes, pydicom's own files


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_lossless_syntaxes_give_the_pixels_of_the_uncompressed_file(name):
    expected = read_image(get_testdata_file("MR_small.dcm", download=False))
    found = read_image(get_testdata_file(name, download=False))
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.reference == expected.reference


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("693_J2KI.dcm", (512, 512)),
        ("SC_rgb_jpeg.dcm", (256, 256)),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", (100, 100)),
        ("examples_palette.dcm", (350, 800)),
    ],
)
def test_lossy_and_color_files_are_read(name, shape):
    pixels, reference = read_image(get_testdata_file(name, download=False))
    assert pixels.shape == reference.shape == shape
    assert 0 <= pixels.min() < pixels.max() <= 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MR_truncated.dcm", "damaged or truncated"),
        ("SC_rgb_rle_2frame.dcm", "one frame, the file holds 2: name one"),
        ("rtplan.dcm", "must hold pixels"),
        ("no_meta.dcm", r"must be DICOM \(with prefix\), PNG, JPEG or NIfTI"),
        ("meta_missing_tsyntax.dcm", "must hold pixels"),
    ],
)
def test_unreadable_files_of_pydicom_are_one_clear_line(name, reason):
    with pytest.raises(ImageReadError, match=reason) as caught:
        read_image(get_testdata_file(name, download=False))
    assert "\n" not in str(caught.value)


# ---- bad input


def test_text_named_dcm(tmp_path):
    (tmp_path / "a.dcm").write_text("Patient: Jane Doe\n" * 20)
    with pytest.raises(ImageReadError, match="must be DICOM") as caught:
        read_image(tmp_path / "a.dcm")
    assert "Doe" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    reasons = {"a.dcm": "does not exist, or is not a regular file", "": "it has no image"}
    for name, reason in reasons.items():
        with pytest.raises(ImageReadError, match=reason) as caught:
            read_image(tmp_path / name)
        assert tmp_path.name not in str(caught.value)


@pytest.mark.parametrize("keep", [140, 300, 400, 500, -40, -1])
def test_truncated_dicom_at_any_place(tmp_path, write_dicom, keep):
    path = write_dicom(tmp_path / "a.dcm", RAMP16, bits=12, PatientID="SECRET77")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageReadError, match=r"cannot be|must hold pixels") as caught:
        read_image(path)
    assert "SECRET77" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_truncated_png_and_jpeg(tmp_path, write_png):
    path = write_png(
        tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    )
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ImageReadError, match="PNG image cannot be read"):
        read_image(path)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ImageReadError, match="JPEG image cannot be read"):
        read_image(tmp_path / "b.jpg")


@pytest.mark.parametrize("shape", [(1, 1), (7, 30)])
def test_too_small(tmp_path, write_png, write_dicom, shape):
    pixels = np.zeros(shape, dtype=np.uint8)
    for path in (write_png(tmp_path / "a.png", pixels), write_dicom(tmp_path / "a.dcm", pixels)):
        with pytest.raises(ImageReadError, match=f"8 x 8 pixels, got {shape[0]} x {shape[1]}"):
            read_image(path)


def test_a_header_that_lies_about_its_size_is_refused_before_decoding(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", RAMP, Rows=65535, Columns=65535)
    with pytest.raises(ImageReadError, match="at most 67108864 pixels, its header says 65535"):
        read_image(path)
    path = write_dicom(tmp_path / "b.dcm", RAMP, Rows=4000, Columns=4000)
    with pytest.raises(ImageReadError, match="damaged or truncated"):
        read_image(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_float_pixels_must_be_finite(tmp_path, write_dicom, value):
    pixels = np.full((8, 8), 0.5, dtype=np.float32)
    tags = {"PixelData": None, "BitsStored": None, "WindowCenter": 0.5, "WindowWidth": 1.0}
    tags |= {"VOILUTFunction": "LINEAR_EXACT"}
    good = write_dicom(tmp_path / "a.dcm", pixels, FloatPixelData=pixels.tobytes(), **tags)
    np.testing.assert_allclose(read_image(good).pixels, 0.5)
    pixels[3, 4] = value
    bad = write_dicom(tmp_path / "b.dcm", pixels, FloatPixelData=pixels.tobytes(), **tags)
    with pytest.raises(ImageReadError, match="finite, got NaN or infinity"):
        read_image(bad)


def test_float_pixels_without_a_window_have_no_range(tmp_path, write_dicom):
    pixels = np.full((8, 8), 0.5, dtype=np.float32)
    path = write_dicom(
        tmp_path / "a.dcm", pixels, FloatPixelData=pixels.tobytes(), PixelData=None, BitsStored=None
    )
    with pytest.raises(ImageReadError, match="need a window"):
        read_image(path)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "slope not 0"),
        ({"BitsStored": 17}, "got 17 of 8"),
        (
            {"PhotometricInterpretation": "HSV"},
            "PhotometricInterpretation must be|cannot be decoded",
        ),
        ({"VOILUTSequence": lut([1, 2], 0, 4)}, "8 to 16 bits, got 4"),
    ],
)
def test_senseless_headers(tmp_path, write_dicom, tags, reason):
    with pytest.raises(ImageReadError, match=reason):
        read_image(write_dicom(tmp_path / "a.dcm", RAMP, **tags))


def test_unknown_policy(tmp_path, write_png):
    with pytest.raises(ValueError, match=r"voi must be one of .*, got 'auto'"):
        read_image(write_png(tmp_path / "a.png", RAMP), voi="auto")


def test_no_warning_or_log_line_leaves_the_reader_even_from_threads(tmp_path, write_dicom, caplog):
    path = write_dicom(tmp_path / "a.dcm", RAMP, PatientBirthDate="19700101")
    # An invalid date makes pydicom warn and log its value.
    path.write_bytes(path.read_bytes().replace(b"19700101", b"not-a-dt"))
    before, caught = list(warnings.filters), []

    def read():
        try:
            for _ in range(20):
                read_image(path)
        except Exception as error:  # kept for the main thread
            caught.append(error)

    with caplog.at_level(logging.DEBUG):
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not caught
    assert "not-a-dt" not in caplog.text
    assert warnings.filters == before


# ---- digest and masks


def test_digest_depends_on_values_shape_and_dtype_but_not_on_byte_order():
    assert pixel_digest(RAMP16) == pixel_digest(RAMP16.astype(">u2"))
    others = [RAMP16.T, RAMP16.reshape(12, 8), RAMP16.astype(np.int16), RAMP16 + np.uint16(1)]
    assert len({pixel_digest(a) for a in [RAMP16, *others]}) == 5
    assert pixel_digest(RAMP16).startswith("sha256:")


def test_masks_are_true_where_anything_is_stored(tmp_path, write_png, write_dicom):
    stored = np.zeros((8, 12), dtype=np.uint8)
    stored[2:4, 5] = 1
    expected = stored > 0
    np.testing.assert_array_equal(read_mask(write_png(tmp_path / "a.png", stored)), expected)
    np.testing.assert_array_equal(read_mask(write_dicom(tmp_path / "b", stored)), expected)
    bilevel = write_png(tmp_path / "c.png", expected)
    np.testing.assert_array_equal(read_mask(bilevel), expected)
    color = np.zeros((8, 12, 3), dtype=np.uint8)
    color[2:4, 5, 2] = 9
    np.testing.assert_array_equal(read_mask(write_png(tmp_path / "d.png", color)), expected)


def test_a_jpeg_is_no_mask(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.jpg")
    with pytest.raises(ImageReadError, match="PNG, DICOM or NIfTI, got JPEG"):
        read_mask(tmp_path / "a.jpg")
