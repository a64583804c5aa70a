"""Small files of every kind, written here so that each test knows what is in them."""

import csv

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid


@pytest.fixture
def write_dicom():
    """Write a CR image; keyword arguments are further tags, ``None`` removes one."""

    def write(path, pixels, *, bits=None, syntax=ExplicitVRLittleEndian, **tags):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
        meta.MediaStorageSOPInstanceUID = tags.get("SOPInstanceUID") or generate_uid()
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        values = {
            "SOPClassUID": meta.MediaStorageSOPClassUID,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "PatientID": "12345",
            "PatientName": "Doe^Jane",
            "Modality": "CR",
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 8 * pixels.itemsize,
            "BitsStored": bits or 8 * pixels.itemsize,
            "HighBit": (bits or 8 * pixels.itemsize) - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "PixelData": pixels.tobytes(),
        } | tags
        for name, value in values.items():
            if value is not None:
                setattr(dataset, name, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def write_png():
    def write(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def write_csv():
    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def noise():
    """Return a fresh 12 x 10 image for each number, so that no two are equal."""

    def make(number, shape=(12, 10), dtype=np.uint8):
        high = np.iinfo(dtype).max
        return np.random.default_rng(number).integers(0, high, shape, dtype=dtype)

    return make


@pytest.fixture
def cohort_folder(tmp_path, write_png, write_csv, noise):
    """Write ``n`` images a class and their table; return the path of the table."""

    def make(labels, **columns):
        rows = []
        for number, label in enumerate(labels):
            write_png(tmp_path / f"images/{number}.png", noise(number))
            extra = {name: values[number] for name, values in columns.items()}
            rows.append({"image": f"images/{number}.png", "label": label, **extra})
        return write_csv(tmp_path / "cohort.csv", rows)

    return make
