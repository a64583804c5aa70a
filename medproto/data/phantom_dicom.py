"""Write a synthetic radiograph as a CR or DX file that says what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

__all__ = ["write_dicom"]

BITS = 12
SPACING_AT_512 = 0.7
"""Millimetres between pixels of a 512-pixel image: a field of about 36 cm."""


def write_dicom(
    path: Path, pixels: NDArray[np.uint16], *, patient: int, number: int, seed: int
) -> None:
    """Write one image; what varies between files depends on the numbers given alone.

    About half of the patients are CR with PixelSpacing, half DX with ImagerPixelSpacing; chance
    decides, for the order of the patients goes with their class. About 30 % of the images are
    MONOCHROME1, 20 % have no window, 20 % are RLE compressed.

    Args:
        pixels: ``[rows, cols]`` of 12 bits, larger = brighter.
        patient: zero-based number of the synthetic patient.
        number: zero-based number of the image.
        seed: of the cohort; makes the UIDs.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3, patient, number]))
    of_patient = np.random.default_rng(np.random.SeedSequence([seed, 4, patient]))
    digital = bool(of_patient.random() < 0.5)
    ds = _dataset(path, digital, patient, number, seed)
    # Between the years 2000 and 2027, so that no date is a day on which something was done.
    ds.StudyDate = str(np.datetime64("2000-01-01") + of_patient.integers(10_000)).replace("-", "")
    spacing = [SPACING_AT_512 * 512 / len(pixels)] * 2
    if digital:
        ds.ImagerPixelSpacing = spacing
    else:
        ds.PixelSpacing = spacing
    inverted = rng.random() < 0.3
    ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    if rng.random() < 0.8:
        ds.WindowCenter, ds.WindowWidth = str(2 ** (BITS - 1)), str(2**BITS)
    stored = (2**BITS - 1 - pixels).astype(np.uint16) if inverted else pixels
    ds.Rows, ds.Columns = stored.shape
    ds.PixelData = stored.astype("<u2").tobytes()
    if rng.random() < 0.2:
        ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)


def _dataset(path: Path, digital: bool, patient: int, number: int, seed: int) -> FileDataset:
    def uid(*parts: object) -> str:
        return generate_uid(entropy_srcs=["medproto phantom", *(str(p) for p in (seed, *parts))])

    meta = FileMetaDataset()
    storage = DigitalXRayImageStorageForPresentation if digital else ComputedRadiographyImageStorage
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = uid("image", patient, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    ds.ImageType = ["DERIVED", "PRIMARY", "SYNTHETIC"]
    ds.ImageComments = "SYNTHETIC IMAGE, NOT A PATIENT"
    ds.PatientName, ds.PatientID = f"SYNTHETIC^PATIENT {patient:04d}", f"SYN{patient:04d}"
    ds.PatientSex, ds.PatientAge = "MF"[patient // 2 % 2], f"{30 + patient * 7 % 55:03d}Y"
    ds.PatientBirthDate = ""
    ds.StudyInstanceUID = uid("study", patient)
    ds.SeriesInstanceUID = uid("series", patient)
    ds.StudyTime = "120000"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = ("DX" if digital else "CR"), "CHEST", "PA"
    ds.InstanceNumber = number + 1
    ds.BurnedInAnnotation = "YES"
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, BITS, BITS - 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.Manufacturer = "medproto phantom"
    return ds
