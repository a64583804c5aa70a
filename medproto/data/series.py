"""DICOM volumes: a folder with one series, or one enhanced object.

References:
    [1] DICOM PS3.3, C.7.6.16 (Multi-frame Functional Groups), C.7.6.2 (Image Plane).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medproto.data.dicom import decode_frame, open_dicom
from medproto.data.frames import MAX_FRAMES, frame_count, frame_dataset
from medproto.data.gray import GrayPolicy
from medproto.data.patient_space import read_plane
from medproto.data.signature import file_kind
from medproto.data.stored import MIN_SIDE, check_bytes, quietly, refusing
from medproto.data.volume import Slice, read_slices, read_slices_stored
from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = ["is_stack", "read_series", "read_series_stored"]

Loaded = tuple[NDArray[np.float32], ImageReference]


def read_series(path: Path, *, policy: GrayPolicy) -> Loaded:
    """Read the one series in a folder, or the frames of an enhanced object, as a volume.

    Files in the folder that are no DICOM, or hold no pixels, are passed over; subfolders are not
    looked into.

    Raises:
        ImageReadError: if there are several series, or the slices are no even, straight stack.
    """
    with quietly(), refusing("the DICOM volume"):
        return read_slices(_slices(path), policy)


def read_series_stored(path: Path) -> NDArray[Any]:
    """Return the stored pixels ``[rows, columns, slices]``.

    Raises:
        ImageReadError: as `read_series`.
    """
    with quietly(), refusing("the DICOM volume"):
        return read_slices_stored(_slices(path))


def is_stack(path: Path) -> bool:
    """Return whether each frame of a DICOM file says where in the patient it lies.

    Raises:
        ImageReadError: if its header cannot be read.
    """
    with quietly(), refusing("the DICOM image"):
        check_bytes(path)
        head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        if frame_count(head) == 1:
            return False
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if not dataset.get("PerFrameFunctionalGroupsSequence"):
            return False
        return read_plane(frame_dataset(dataset, 0)) is not None


def _slices(path: Path) -> list[Slice]:
    return _files(path) if path.is_dir() else _frames(path)


def _frames(path: Path) -> list[Slice]:
    dataset = open_dicom(path)
    return [
        Slice(
            frame_dataset(dataset, frame),
            partial(decode_frame, dataset, path, frame, least=MIN_SIDE),
        )
        for frame in range(frame_count(dataset))
    ]


def _files(folder: Path) -> list[Slice]:
    slices = []
    for path in sorted(folder.iterdir()):
        if not path.is_file() or file_kind(path) != "DICOM":
            continue
        check_bytes(path)
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if "Rows" not in header:
            continue
        if frame_count(header) != 1:
            raise ImageReadError(
                "a folder must hold the single slices of one series; it has a file of several "
                "frames. Name that file itself."
            )
        slices.append(Slice(header, partial(_decode_file, path)))
        if len(slices) > MAX_FRAMES:
            raise ImageReadError(f"a series may have at most {MAX_FRAMES} slices.")
    if not slices:
        raise ImageReadError("a folder must hold the slices of a DICOM series, it has no image.")
    series = {str(item.header.get("SeriesInstanceUID")) for item in slices}
    if len(series) != 1:
        raise ImageReadError(
            f"a folder must hold the slices of one DICOM series, got {len(series)} series. Give "
            "each a folder of its own."
        )
    return slices


def _decode_file(path: Path) -> tuple[NDArray[Any], str]:
    dataset: Dataset = open_dicom(path)
    return decode_frame(dataset, path, 0, least=MIN_SIDE)
