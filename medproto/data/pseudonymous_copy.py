"""A copy of a DICOM image that holds what reading it needs, and nothing that names anybody.

Elements are kept by a list, not removed by one: what a maker or a ward has put anywhere else,
private elements, free text, dates, names and numbers, is not in the copy. Pixels are copied as they
are coded; what is written into them stays, and ``BurnedInAnnotation`` says whether there is any.

This is no profile of DICOM PS3.15: such a file lacks attributes that its SOP class asks for.
"""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from medproto.data.ages import whole_years
from medproto.data.dicom import is_synthetic
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.stored import check_bytes, quietly, refusing

__all__ = ["copy_pseudonymously"]

_PIXELS = {"PixelData", "FloatPixelData", "DoubleFloatPixelData"}
_IMAGE = {
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue",
    "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit", "PixelSpacing", "PixelSpacingCalibrationType",
    "NominalScannedPixelSpacing", "ImagerPixelSpacing",
    "EstimatedRadiographicMagnificationFactor", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "PresentationLUTShape",
    "LossyImageCompression", "BurnedInAnnotation", "ModalityLUTSequence", "VOILUTSequence",
    "LUTDescriptor", "LUTData", "ModalityLUTType",
    *(f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue", "Alpha")
      for part in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
}  # fmt: skip
_PLACE = {
    "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices",
    "SequenceOfUltrasoundRegions", "RegionSpatialFormat", "PhysicalUnitsXDirection",
    "PhysicalUnitsYDirection", "PhysicalDeltaX", "PhysicalDeltaY", "RegionLocationMinX0",
    "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelMeasuresSequence",
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
}  # fmt: skip
_CODES = {
    "Modality", "ViewPosition", "Laterality", "ImageLaterality", "PatientSex",
    "PresentationIntentType",
}  # fmt: skip
_KEPT = _PIXELS | _IMAGE | _PLACE | _CODES | {"SOPClassUID"}
# What the codes of these elements look like; a name in capitals does not. Others are code strings.
_SHORT = re.compile(r"[A-Z0-9]{0,4}")
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")
_TEXTS = {"CS", "LO", "SH", "ST", "LT", "UT", "UC"}
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def copy_pseudonymously(source: Path, target: Path, pseudonyms: Pseudonymizer) -> None:
    """Write a copy of a DICOM image under pseudonyms; a file that is there is replaced.

    The patient's identifier becomes the pseudonym that `from_dicom` gives, UIDs become ones that
    only the key links to the old ones, and the age is given in years, 90 for all above 89.

    Raises:
        ImageReadError: if the file is no DICOM image, or cannot be read.
        OSError: if the copy cannot be written.
    """
    source, target = Path(source), Path(target)
    with quietly(), refusing("the DICOM image"):
        check_bytes(source)
        original = pydicom.dcmread(source)
        kept = _kept(original)
        syntax = original.file_meta.TransferSyntaxUID
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        copy = FileDataset(str(target), kept, file_meta=meta, preamble=bytes(128))
        copy.set_original_encoding(*original.original_encoding, original.original_character_set)
        _name(copy, original, pseudonyms)
        meta.MediaStorageSOPClassUID = copy.get("SOPClassUID") or "1.2.840.10008.5.1.4.1.1.7"
        meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with quietly():
        copy.save_as(partial, enforce_file_format=True)
    partial.replace(target)


def _kept(dataset: Dataset) -> Dataset:
    """Return the elements of the list, those of items included."""
    kept = Dataset()
    for element in dataset:
        if element.keyword not in _KEPT:
            continue
        if element.VR == "SQ":
            items = [_kept(item) for item in element.value]
            kept.add_new(element.tag, "SQ", items)
        elif element.VR not in _TEXTS or _is_code(element):
            kept.add(element)
    return kept


def _is_code(element: DataElement) -> bool:
    short = element.keyword in _CODES - {"PresentationIntentType"}
    return bool((_SHORT if short else _CODE_STRING).fullmatch(str(element.value or "")))


def _name(copy: Dataset, original: Dataset, pseudonyms: Pseudonymizer) -> None:
    """Put pseudonyms where DICOM wants identifiers."""
    copy.PatientID = pseudonyms.name("P", str(original.get("PatientID") or "").strip())
    copy.PatientName = ""
    years = whole_years(str(original.get("PatientAge") or "").strip())
    if years:
        copy.PatientAge = f"{int(years):03d}Y"
    for keyword in _UIDS:
        old = str(original.get(keyword) or "").strip()
        if old or keyword != "FrameOfReferenceUID":
            setattr(copy, keyword, pseudonyms.uid(old or keyword))
    copy.PatientIdentityRemoved = "YES"
    copy.DeidentificationMethod = "elements that reading the image needs, no others"
    if is_synthetic(original):
        copy.ImageComments = "SYNTHETIC"
