"""Every file that comes with pydicom and with the package pydicom-data: read, or the reason."""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from medproto.data import ImageFrame, read_image
from medproto.data.dicom import read_dicom_stored
from medproto.errors import ImageReadError

BUNDLED = [path for path in Path(pydicom.data.__file__).parent.rglob("*") if path.is_file()]
PACKAGED = [Path(str(path.locate())) for path in distribution("pydicom-data").files or ()]
FILES = sorted(
    [path for path in [*BUNDLED, *PACKAGED] if path.suffix not in (".py", ".pyc", ".json")],
    key=lambda path: path.name,
)
NO_PREFIX = r"must be DICOM \(with prefix\)"
NO_PIXELS = "must hold pixels; it has none, or is truncated"
FRAMES = "name one, counted from 0"
# By name, what is not read and why; the plain text beside the images is not DICOM.
REASONS = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "'JPEG 2000 Image Compression' cannot be decoded",
    "MR_truncated.dcm": "cannot be decoded",
    "SC_rgb_small_odd.dcm": "at least 8 x 8 pixels, got 3 x 3",
    "SC_rgb_small_odd_big_endian.dcm": "at least 8 x 8 pixels, got 3 x 3",
    "SC_rgb_small_odd_jpeg.dcm": "at least 8 x 8 pixels, got 3 x 3",
    "badVR.dcm": "NumberOfFrames must be a whole number",
}


def is_dicom(path):
    return path.read_bytes()[128:132] == b"DICM"


def without_image(path):
    """Tell whether pydicom itself finds no image in a DICOM file."""
    return "PixelData" not in dcmread(path) or "Rows" not in dcmread(path)


def colors(stored, dataset):
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        looked_up = apply_color_lut(stored, dataset)[..., :3]
        return looked_up / np.iinfo(looked_up.dtype).max
    return stored / (2.0**dataset.BitsStored - 1)


def gray_by_pydicom(stored, dataset):
    """Modality and VOI by pydicom's own functions, brought to [0, 1] as `read_image` says."""
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        red, green, blue = np.moveaxis(colors(stored, dataset), -1, 0)
        return 0.299 * red + 0.587 * green + 0.114 * blue
    low, high = 0, 2**dataset.BitsStored - 1
    if dataset.PixelRepresentation:
        low, high = -(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1
    values = apply_modality_lut(stored, dataset).astype(float)
    if dataset.get("ModalityLUTSequence"):
        low, high = 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    elif "RescaleSlope" in dataset:
        low, high = (v * dataset.RescaleSlope + dataset.RescaleIntercept for v in (low, high))
    if dataset.get("VOILUTSequence"):
        looked_up = apply_voi_lut(values.astype(int), dataset)
        values, low, high = looked_up, 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif "WindowWidth" in dataset:
        # pydicom maps the window to the range of the values.
        values = apply_voi_lut(values, dataset)
    gray = np.clip((values - low) / (high - low), 0, 1)
    return 1 - gray if dataset.PhotometricInterpretation == "MONOCHROME1" else gray


@pytest.mark.filterwarnings("ignore")  # pydicom's, of its own damaged files
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_read_as_pydicom_reads_it_or_refused_with_its_reason(path):
    if is_dicom(path):
        reason = REASONS.get(path.name) or (NO_PIXELS if without_image(path) else None)
    else:
        reason = NO_PREFIX
    if reason:
        with pytest.raises(ImageReadError, match=reason):
            read_image(path)
        return
    dataset = dcmread(path)
    frame = 0 if int(dataset.get("NumberOfFrames", 1)) > 1 else None
    stored = read_dicom_stored(path, frame=frame)
    if dataset.file_meta.TransferSyntaxUID.name.startswith("JPEG Extended"):
        # pydicom refuses 12 bits; these two points are those of its own tests of the same file.
        assert (stored[420, 140], stored[230, 120]) == (244, 95)
        return
    expected = dataset.pixel_array if frame is None else dataset.pixel_array[frame]
    np.testing.assert_array_equal(stored, expected)
    if "PerFrameFunctionalGroupsSequence" in dataset:
        return  # gray values of frames: test_volumes.py
    pixels, reference = read_image(path if frame is None else ImageFrame(path, frame))
    assert reference.shape == stored.shape[:2]
    np.testing.assert_allclose(pixels, gray_by_pydicom(stored, dataset), atol=2e-5)


@pytest.mark.parametrize("name", ["RG1", "RG3", "MR2", "US1", "693"])
def test_the_codings_of_one_image_agree(name):
    """R is coded without loss, I with loss; UNC is the same after decoding."""
    found = {}
    for coding in ("UNCR", "J2KR", "UNCI", "J2KI"):
        paths = [path for path in FILES if path.name == f"{name}_{coding}.dcm"]
        assert len(paths) == 1
        found[coding] = read_dicom_stored(paths[0])
    np.testing.assert_array_equal(found["UNCR"], found["J2KR"])
    np.testing.assert_array_equal(found["UNCI"], found["J2KI"])
    assert (found["UNCR"] != found["UNCI"]).any()
