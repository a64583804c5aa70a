import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medproto.data import read_image
from medproto.data.pseudonymous_copy import copy_pseudonymously
from medproto.data.pseudonyms import Pseudonymizer
from medproto.errors import ImageReadError

RAMP = np.arange(96, dtype=np.uint8).reshape(8, 12)
# Everywhere that a person or a machine may write who somebody is.
PLANTED = {
    "PatientName": "PLANTED^JANE",
    "PatientID": "PLANTED-1",
    "OtherPatientIDs": "PLANTED-2",
    "PatientBirthDate": "19510203",
    "PatientAddress": "PLANTED Street 5",
    "PatientComments": "PLANTED comment",
    "AccessionNumber": "PLANTED-3",
    "InstitutionName": "PLANTED clinic",
    "ReferringPhysicianName": "PLANTED^DOCTOR",
    "OperatorsName": "PLANTED^OPERATOR",
    "StationName": "PLANTED4",
    "DeviceSerialNumber": "PLANTED-5",
    "StudyDescription": "PLANTED study",
    "SeriesDescription": "PLANTED series",
    "ProtocolName": "PLANTED protocol",
    "ImageComments": "PLANTED image",
    "StudyDate": "20010203",
    "StudyID": "PLANTED-6",
    "StudyInstanceUID": "1.2.99999.1",
    "SeriesInstanceUID": "1.2.99999.2",
    "SOPInstanceUID": "1.2.99999.3",
    "FrameOfReferenceUID": "1.2.99999.4",
    "WindowCenterWidthExplanation": "PLANTED window",
    "BodyPartExamined": "PLANTED",
    "Laterality": "PLANTED JANE",
}


@pytest.fixture
def planted(tmp_path, write_dicom):
    """Return the path of an image with identities in elements, sequences and private tags."""
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.LUTData = bytes(range(256))
    item.LUTExplanation = "PLANTED table"
    path = write_dicom(
        tmp_path / "in" / "PLANTED.dcm",
        RAMP,
        **PLANTED,
        PatientAge="093Y",
        PatientSex="F",
        ViewPosition="PA",
        PixelSpacing=[0.2, 0.3],
        VOILUTSequence=Sequence([item]),
    )
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x0011, "PLANTED maker", create=True)
    block.add_new(0x01, "LO", "PLANTED private")
    request = Dataset()
    request.RequestedProcedureDescription = "PLANTED request"
    dataset.RequestAttributesSequence = Sequence([request])
    dataset.preamble = b"PLANTED".ljust(128)
    dataset.file_meta.SourceApplicationEntityTitle = "PLANTED"
    dataset.save_as(path)
    return path


def test_nothing_that_names_anybody_is_left(planted, tmp_path):
    copy_pseudonymously(planted, tmp_path / "out" / "a.dcm", Pseudonymizer("key"))
    content = (tmp_path / "out" / "a.dcm").read_bytes()
    assert b"planted" not in content.lower()
    for keyword, value in PLANTED.items():
        assert value.encode() not in content, keyword
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.dcm"]


def test_the_image_is_read_as_before(planted, tmp_path):
    copy_pseudonymously(planted, tmp_path / "a.dcm", Pseudonymizer("key"))
    before, after = read_image(planted), read_image(tmp_path / "a.dcm")
    assert after.reference == before.reference
    np.testing.assert_array_equal(after.pixels, before.pixels)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    assert (dataset.PatientSex, dataset.PatientAge, dataset.ViewPosition) == ("F", "090Y", "PA")
    assert dataset.PatientIdentityRemoved == "YES"


def test_pseudonyms_are_those_of_the_key_and_keep_what_belongs_together(planted, tmp_path):
    pseudonyms = Pseudonymizer("key")
    copies = []
    for name in ("a", "b"):
        copy_pseudonymously(planted, tmp_path / name, pseudonyms)
        copies.append(pydicom.dcmread(tmp_path / name))
    copy_pseudonymously(planted, tmp_path / "c", Pseudonymizer("another"))
    other = pydicom.dcmread(tmp_path / "c")
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert copies[0][keyword].value == copies[1][keyword].value != other[keyword].value
        assert dictionary_VR(keyword) != "UI" or copies[0][keyword].value.startswith("2.25.")
        assert len(str(copies[0][keyword].value)) <= 64
    assert copies[0].PatientID == pseudonyms.name("P", "PLANTED-1")
    assert copies[0].file_meta.MediaStorageSOPInstanceUID == copies[0].SOPInstanceUID


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_RLE.dcm",
        "examples_palette.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "693_J2KI.dcm",
        "image_dfl.dcm",
        "liver_1frame.dcm",
    ],
)
def test_every_coding_is_copied_with_its_pixels(tmp_path, name):
    source = get_testdata_file(name, download=False)
    copy_pseudonymously(source, tmp_path / "a", Pseudonymizer("key"))
    before, after = read_image(source), read_image(tmp_path / "a")
    assert after.reference == before.reference
    np.testing.assert_array_equal(after.pixels, before.pixels)


def test_a_file_without_an_image_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "in.txt").write_text("no DICOM")
    with pytest.raises(ImageReadError, match="the DICOM image cannot be read"):
        copy_pseudonymously(tmp_path / "in.txt", tmp_path / "out.dcm", Pseudonymizer("key"))
    assert not (tmp_path / "out.dcm").exists()
