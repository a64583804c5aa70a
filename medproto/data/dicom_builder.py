"""Build a cohort table from DICOM files or series, with pseudonyms in place of identities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medproto.data.ages import whole_years
from medproto.data.builders import LABELS_FILE, NO_TABLE, BuiltCohort
from medproto.data.cohort import Cohort
from medproto.data.copies import copy_images
from medproto.data.dicom_headers import find_dicom
from medproto.data.dicom_series import DicomImage, gather_series, single_files
from medproto.data.label_join import join_labels
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.table import read_table
from medproto.errors import CohortError

__all__ = ["from_dicom"]

_FILE_KEYS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID")
_SERIES_KEYS = _FILE_KEYS[1:]


def from_dicom(
    source: Path,
    *,
    labels: Path | None = None,
    key: str | bytes | None = None,
    copy_to: Path | None = None,
    label_columns: Sequence[str] = (),
    series: bool = False,
) -> BuiltCohort:
    """Build a cohort from the DICOM images in a folder, or of a DICOMDIR, by their headers.

    Columns: ``image``, ``label``, ``patient_id`` (``P-`` and 16 hex digits), ``study_uid`` (``S-``
    likewise), ``view``, ``modality``, and ``age`` (years, 90 for all above 89) and ``sex`` where
    headers have them. Columns of the labels' table are kept, except those that name identities.

    Args:
        source: a folder, or a file DICOMDIR, of which the files that it names are taken.
        labels: table with ``label`` (or ``label_columns``) and one of ``image`` (path relative to
            the folder), ``SOPInstanceUID``, ``SeriesInstanceUID``, ``StudyInstanceUID``,
            ``PatientID``; ``None`` takes ``labels.csv`` in the folder, and without that leaves the
            label empty.
        key: secret of the pseudonyms, see `Pseudonymizer`.
        copy_to: folder for copies named by pseudonyms. Without it the table names the files as they
            are, and file names may identify. Headers are copied unchanged.
        label_columns: columns of the table of labels that hold a finding each, see `Cohort`; in
            place of ``label``.
        series: make a row of each series instead of each file, its ``image`` the folder that holds
            the slices of this series and no other image; or a file, where a series is one file of
            several frames. With ``copy_to`` each series is laid out in a folder
            ``<patient>/<study>/<series>``, so they may lie anywhere; without it those that share a
            folder are left out and counted. Labels are not joined by ``SOPInstanceUID`` then.

    Raises:
        CohortError: if there is no DICOM image, or no series that is a volume; the table of labels
            does not fit, or ``label_columns`` come without one; a DICOMDIR names a file outside its
            folder; or a series is in ``copy_to`` already.
        ValueError: if the key is empty.
    """
    pseudonyms = Pseudonymizer(key)
    found = find_dicom(Path(source))
    notes = found.all_notes()
    images = single_files(found)
    if series:
        images, more = gather_series(found, anywhere=copy_to is not None)
        notes += more
    if labels is None and (found.root / LABELS_FILE).is_file():
        labels = found.root / LABELS_FILE
    findings = tuple(label_columns)
    extra, keep, joined = _labels(images, labels, findings, series=series)
    notes += joined
    table = _table(images, extra, pseudonyms, labeled=not findings)
    notes += pseudonyms.notes()
    if not all(table["patient_id"]):
        notes.append(f"{(table['patient_id'] == '').sum()} images have no PatientID.")
    table, images = table.loc[keep].reset_index(drop=True), [images[row] for row in keep]
    burned = [image.header["BurnedInAnnotation"] for image in images]
    if burned.count("YES"):
        notes.append(f"{burned.count('YES')} images have text burned in, by their headers.")
    if copy_to is None:
        return BuiltCohort(Cohort(table, found.root, None, findings), tuple(notes))
    stems = [_stem(image.header, pseudonyms, series=series) for image in images]
    files = [image.files for image in images]
    copied = copy_images(table, files, stems, found.root, Path(copy_to), pseudonyms)
    notes += copied.notes()
    return BuiltCohort(Cohort(copied.table, copy_to, None, findings), tuple(notes))


def _labels(
    images: list[DicomImage], labels: Path | None, findings: tuple[str, ...], *, series: bool
) -> tuple[pd.DataFrame, list[int], list[str]]:
    """Return the columns of the labels' table, the images that have a label, and notes."""
    if labels is None:
        if findings:
            raise CohortError(NO_TABLE)
        note = "no table of labels: fill in the column 'label'."
        return pd.DataFrame(index=range(len(images))), list(range(len(images))), [note]
    keys: dict[str, list[str | None]] = {"image": [image.path for image in images]}
    for tag in _SERIES_KEYS if series else _FILE_KEYS:
        keys[tag] = [image.header[tag] for image in images]
    joined = join_labels(keys, read_table(Path(labels)), findings)
    return joined.columns, joined.rows, joined.notes


def _table(
    images: list[DicomImage], extra: pd.DataFrame, pseudonyms: Pseudonymizer, *, labeled: bool
) -> pd.DataFrame:
    """Put the columns together; what a header says goes before what the labels say.

    Args:
        labeled: have the column ``label`` even where it is empty.
    """
    headers = [image.header for image in images]
    columns: dict[str, list[str]] = {
        "image": [image.path or "" for image in images],
        "label": list(extra["label"]) if "label" in extra else [""] * len(headers),
        "patient_id": [pseudonyms.name("P", header["PatientID"]) for header in headers],
        "study_uid": [pseudonyms.name("S", header["StudyInstanceUID"]) for header in headers],
        "view": [header["ViewPosition"] for header in headers],
        "modality": [header["Modality"] for header in headers],
        "age": [whole_years(header["PatientAge"]) for header in headers],
        "sex": [
            header["PatientSex"] if header["PatientSex"] in set("MFO") else "" for header in headers
        ],
    }
    for name in ("view", "age", "sex"):
        if not any(columns[name]) and (name in extra or name != "view"):
            del columns[name]
    if not labeled and "label" not in extra:
        del columns["label"]
    for name in map(str, extra.columns):
        columns.setdefault(name, list(extra[name]))
    return pd.DataFrame(columns)


def _stem(header: dict[str, str], pseudonyms: Pseudonymizer, *, series: bool) -> str:
    """Return ``<patient>/<study>/<instance or series>`` in pseudonyms."""
    last = ("R", "SeriesInstanceUID") if series else ("I", "SOPInstanceUID")
    parts = (("P", "PatientID"), ("S", "StudyInstanceUID"), last)
    return "/".join(
        pseudonyms.name(letter, header[tag]) or f"{letter}-unknown" for letter, tag in parts
    )
