"""Gather the files of DICOM series, and say which of them can be read as a volume as they lie.

A folder is read as a volume when it holds the slices of one series and no other DICOM image. So a
series keeps its folder only where that holds, or is laid out in a new one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medproto.data.copies import without_repeats
from medproto.data.dicom_headers import DicomFiles
from medproto.data.signature import file_kind
from medproto.errors import CohortError, ImageReadError

__all__ = ["DicomImage", "gather_series", "single_files"]

_SERIES = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
_LAY_OUT = "copies under pseudonyms (--copy-as-pseudonyms) lay each out in a folder of its own."
_REASONS = {
    "single": "series have a single slice and are no volume; without --series each file is an "
    "image.",
    "frames": "series have several files of which some hold several frames; without --series each "
    "file is an image.",
    "mixed": f"series lie in a folder with other DICOM images and were left out; {_LAY_OUT}",
    "spread": f"series lie in several folders and were left out; {_LAY_OUT}",
}


@dataclass(frozen=True)
class DicomImage:
    """What becomes a row: a file, or a series.

    Args:
        path: file, or folder of the series, relative to the source; ``None`` if the series has no
            folder for itself.
        files: paths of its files, relative to the source.
        header: tags of the first file.
    """

    path: str | None
    files: list[str]
    header: dict[str, str]


def single_files(found: DicomFiles) -> list[DicomImage]:
    """Return an image for each file."""
    return [DicomImage(path, [path], header) for path, header in zip(found.paths, found.headers)]


def gather_series(found: DicomFiles, *, anywhere: bool) -> tuple[list[DicomImage], list[str]]:
    """Return an image for each series that is a volume, and notes on the others.

    Files belong together by patient, study and series. A series of one file with several frames is
    that file.

    Args:
        anywhere: take series that have no folder for themselves, too: they will be copied. Files
            that repeat another one of the series are left out then.

    Raises:
        CohortError: if nothing is left.
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    notes, nameless = [], 0
    for row, header in enumerate(found.headers):
        if header["SeriesInstanceUID"]:
            groups[tuple(header[tag] for tag in _SERIES)].append(row)
        else:
            nameless += 1
    if nameless:
        notes.append(f"{nameless} images have no SeriesInstanceUID and were left out.")
    crowded = _crowded(found, groups.values())
    images, left_out, repeated = [], Counter[str](), 0
    for rows in groups.values():
        image, reason = _volume(found, rows, crowded)
        if anywhere and image is not None:
            names = [found.headers[row]["SOPInstanceUID"] for row in rows]
            files = without_repeats(image.files, names, found.root)
            repeated += len(image.files) - len(files)
            image = DicomImage(image.path, files, image.header)
            if len(files) < 2 and not _several(image.header):
                image, reason = None, "single"
        elif reason:
            image = None
        if image is None:
            left_out[reason] += 1
        else:
            images.append(image)
    notes += [f"{count} {_REASONS[reason]}" for reason, count in sorted(left_out.items())]
    if repeated:
        notes.append(f"{repeated} files repeat another one of their series and were not copied.")
    if not images:
        raise CohortError(" ".join(["no DICOM series is a volume that can be read.", *notes]))
    return sorted(images, key=lambda image: image.files), notes


def _volume(
    found: DicomFiles, rows: Sequence[int], crowded: set[Path]
) -> tuple[DicomImage | None, str]:
    """Return a series as an image, if it can be one, and what is against its folder."""
    files = [found.paths[row] for row in rows]
    header = found.headers[rows[0]]
    several = [_several(found.headers[row]) for row in rows]
    if len(rows) == 1:
        return (DicomImage(files[0], files, header), "") if several[0] else (None, "single")
    if any(several):
        return None, "frames"
    folders = {Path(path).parent for path in files}
    if len(folders) > 1:
        return DicomImage(None, files, header), "spread"
    folder = folders.pop()
    if folder in crowded:
        return DicomImage(None, files, header), "mixed"
    return DicomImage(folder.as_posix(), files, header), ""


def _several(header: dict[str, str]) -> bool:
    return header["NumberOfFrames"] not in ("", "0", "1")


def _crowded(found: DicomFiles, groups: Iterable[Sequence[int]]) -> set[Path]:
    """Return the folders, relative to the source, that hold more than the files of one series."""
    series: dict[Path, set[int]] = defaultdict(set)
    for number, rows in enumerate(groups):
        for row in rows:
            series[Path(found.paths[row]).parent].add(number)
    crowded = {folder for folder, numbers in series.items() if len(numbers) > 1}
    # The reader takes a whole folder: also what a DICOMDIR does not name, or a hidden file.
    known = {*found.paths, *found.imageless}
    grouped = {found.paths[row] for rows in groups for row in rows}
    strangers = {Path(path).parent for path in set(found.paths) - grouped}
    for folder in set(series) - crowded:
        inside = (found.root / folder).iterdir()
        others = (p for p in inside if p.relative_to(found.root).as_posix() not in known)
        if folder in strangers or any(_is_dicom(path) for path in others):
            crowded.add(folder)
    return crowded


def _is_dicom(path: Path) -> bool:
    try:
        return path.is_file() and file_kind(path) == "DICOM"
    except ImageReadError:
        return False
