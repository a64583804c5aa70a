"""Write a synthetic chest as a CT series or as a NIfTI file that says what it is.

Symbols: volumes come in axes ``(P, L, S)``, see :mod:`medproto.data.phantom_volume`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

__all__ = ["write_mask", "write_nifti", "write_series"]

WINDOW = (-350.0, 1300.0)
"""Centre and width in Hounsfield units: the lungs, and what is denser."""

INTERCEPT = -1024


def write_series(
    folder: Path,
    values: NDArray[np.int16],
    spacing: Sequence[float],
    *,
    patient: int,
    seed: int,
) -> dict[str, str]:
    """Write axial slices into a folder of their own; return the cell that joins the label."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7, patient]))
    names = rng.permutation(values.shape[2])
    target = folder / f"series_{patient:04d}"
    target.mkdir(parents=True, exist_ok=True)
    stored = np.clip(values.astype(np.int32) - INTERCEPT, 0, 4095).astype("<u2")
    for index, name in enumerate(names.tolist()):
        path = target / f"{name:03d}.dcm"
        ds = _header(path, patient, index, seed)
        ds.PixelSpacing, ds.SliceThickness = list(spacing[:2]), spacing[2]
        first = [-(side - 1) / 2 * step for side, step in zip(values.shape, spacing, strict=True)]
        ds.ImagePositionPatient = [first[1], first[0], first[2] + index * spacing[2]]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.Rows, ds.Columns = stored.shape[:2]
        ds.PixelData = stored[..., index].tobytes()
        ds.save_as(path, enforce_file_format=True)
    return {"PatientID": f"SYN{patient:04d}"}


def _header(path: Path, patient: int, index: int, seed: int) -> FileDataset:
    def uid(*parts: object) -> str:
        texts = ["medproto volume phantom", *(str(part) for part in (seed, *parts))]
        return generate_uid(entropy_srcs=texts)

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid("slice", patient, index)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL", "SYNTHETIC"]
    ds.ImageComments = "SYNTHETIC IMAGE, NOT A PATIENT"
    ds.PatientName, ds.PatientID = f"SYNTHETIC^PATIENT {patient:04d}", f"SYN{patient:04d}"
    ds.PatientBirthDate = ""
    ds.PatientSex, ds.PatientAge = "MF"[patient // 2 % 2], f"{30 + patient * 7 % 55:03d}Y"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study", patient), uid("series", patient)
    ds.StudyDate, ds.StudyTime = "20000101", "120000"
    ds.FrameOfReferenceUID = uid("frame", patient)
    ds.Modality, ds.BodyPartExamined = "CT", "CHEST"
    ds.InstanceNumber = index + 1
    ds.BurnedInAnnotation = "NO"
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(INTERCEPT), "1", "HU"
    ds.WindowCenter, ds.WindowWidth = (str(value) for value in WINDOW)
    ds.Manufacturer = "medproto phantom"
    return ds


def write_nifti(
    folder: Path, values: NDArray[np.int16], spacing: Sequence[float], *, patient: int
) -> dict[str, str]:
    """Write a volume in axes right, front, head; return the cells that join the label."""
    name = f"syn{patient:04d}.nii.gz"
    image = nibabel.Nifti1Image(_to_world(values), _affine(values.shape, spacing))
    image.header["descrip"] = b"SYNTHETIC IMAGE, NOT A PATIENT"
    # What DICOM's window shows: its centre is half a unit off, and its width one unit less.
    image.header["cal_min"] = WINDOW[0] - 0.5 - (WINDOW[1] - 1) / 2
    image.header["cal_max"] = WINDOW[0] - 0.5 + (WINDOW[1] - 1) / 2
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / name)
    return {"image": name, "subject": f"SYN{patient:04d}"}


def write_mask(
    path: Path, mask: NDArray[np.bool_], spacing: Sequence[float], *, series: bool
) -> None:
    """Write a mask in the axes of its image: those of a series are rows, columns and slices."""
    if series:
        # The axes as they are, and where they run to: back, left, head.
        affine = np.array([[0, -spacing[1], 0], [-spacing[0], 0, 0], [0, 0, spacing[2]]])
        world = np.eye(4)
        world[:3, :3] = affine
        world[:3, 3] = -affine @ ((np.array(mask.shape) - 1) / 2)
        image = nibabel.Nifti1Image(mask.astype(np.uint8), world)
    else:
        image = nibabel.Nifti1Image(_to_world(mask.astype(np.uint8)), _affine(mask.shape, spacing))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _to_world(volume: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return ``(P, L, S)`` as axes toward the right, the front and the head."""
    return np.ascontiguousarray(volume.transpose(1, 0, 2)[::-1, ::-1])


def _affine(shape: Sequence[int], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the affine of `_to_world`'s axes, the middle of the volume at 0."""
    steps = np.array([spacing[1], spacing[0], spacing[2]])
    sides = np.array([shape[1], shape[0], shape[2]])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (sides - 1) / 2
    return affine
