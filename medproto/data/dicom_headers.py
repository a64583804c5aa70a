"""Find the DICOM images of a folder or a DICOMDIR and read what a cohort needs of their headers.

References:
    [1] DICOM PS3.10, section 8.6 (DICOMDIR), and PS3.3, F.3 (Basic Directory).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from medproto.data.dicom import code_string
from medproto.data.signature import file_kind
from medproto.data.stored import check_bytes, quietly
from medproto.data.walk import check_name, is_inside, walk_folder
from medproto.errors import CohortError, ImageReadError

__all__ = ["DicomFiles", "find_dicom"]

_TAGS = (
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Rows",
    "Columns", "NumberOfFrames", "ViewPosition", "Modality", "PatientAge", "PatientSex",
    "BurnedInAnnotation",
)  # fmt: skip


@dataclass
class DicomFiles:
    """DICOM images, and the tags that are needed, as text.

    Args:
        root: the folder that was searched.
        paths: of the images, relative to ``root``.
        headers: the tags of each image by keyword, empty where absent.
        imageless: paths of DICOM files without pixels.
        left_out: number of files by the reason why they are no image.
        notes: further sentences on what was left out.
    """

    root: Path
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    imageless: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def all_notes(self) -> list[str]:
        """Say what was left out and why."""
        counted = sorted(self.left_out.items())
        return [*self.notes, *(f"{count} files {why} and were left out." for why, count in counted)]


def find_dicom(source: Path) -> DicomFiles:
    """Read the headers of all DICOM images of a folder, or of those that a DICOMDIR names; [1].

    Raises:
        CohortError: if there is none, or ``source`` is a file but no DICOMDIR, or a reference of
            the DICOMDIR leads out of its folder.
    """
    source = Path(source)
    if source.is_file():
        files, missing = _referenced(source)
        found = DicomFiles(source.parent)
        if missing:
            found.notes.append(f"{missing} files that the DICOMDIR names are not there.")
    else:
        walk = walk_folder(source)
        found, files = DicomFiles(source, notes=walk.notes), list(walk.files)
    for path in files:
        _read_header(path, found)
    if not found.paths:
        raise CohortError("the source must hold DICOM images, none was found.")
    return found


def _read_header(path: Path, found: DicomFiles) -> None:
    name = path.relative_to(found.root).as_posix()
    try:
        if file_kind(path) != "DICOM":
            found.left_out["are not DICOM"] += 1
            return
        with quietly():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            header = {tag: _text(dataset, tag) for tag in _TAGS}
            header["ViewPosition"] = code_string(dataset, "ViewPosition")
            header["Modality"] = code_string(dataset, "Modality")
    except Exception:  # a damaged header may raise anything
        found.left_out["have a header that cannot be read"] += 1
        return
    if not header["Rows"]:
        found.left_out["hold no image or are truncated"] += 1
        found.imageless.add(name)
        return
    found.paths.append(name)
    found.headers.append(header)


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _referenced(directory: Path) -> tuple[list[Path], int]:
    """Return the files that the records of a DICOMDIR name, and how many are not there."""
    files, missing = [], 0
    for parts in _names(directory):
        # Some systems show the names of a disc in small letters.
        spelled = (directory.parent.joinpath(*p) for p in (parts, map(str.lower, parts)))
        there = None
        for path in spelled:
            if not is_inside(directory.parent, path):
                raise CohortError(
                    "a DICOMDIR may name files below its own folder only, and one of its "
                    "references leads out of it; give the folder of images itself, without the "
                    "DICOMDIR."
                )
            there = there or (path if path.is_file() else None)
        if there is None:
            missing += 1
            continue
        check_name(there)
        files.append(there)
    return sorted(files), missing


def _names(directory: Path) -> list[tuple[str, ...]]:
    """Return the parts of each path that a DICOMDIR names, once."""
    wrong = (
        "the source must be a folder or a DICOMDIR, got a file that is none; name the folder that "
        "holds it."
    )
    try:
        if file_kind(directory) != "DICOM":
            raise CohortError(wrong)
        check_bytes(directory)
        with quietly():
            dataset = pydicom.dcmread(directory)
            if dataset.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:
                raise CohortError(wrong)
            names = [record.get("ReferencedFileID") for record in dataset.DirectoryRecordSequence]
            parts = [(n,) if isinstance(n, str) else tuple(map(str, n)) for n in names if n]
            return list(dict.fromkeys(parts))
    except (CohortError, ImageReadError):
        raise
    except Exception as cause:  # a damaged file may raise anything
        raise CohortError(
            f"the DICOMDIR cannot be read ({type(cause).__name__}); give the folder of images "
            "itself, without the DICOMDIR."
        ) from None
