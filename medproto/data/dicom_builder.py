"""Build a cohort table from a folder of DICOM files, with pseudonyms in place of identities."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pydicom
from pydicom.dataset import Dataset

from medproto.data.builders import LABELS_FILE, NO_TABLE, BuiltCohort, walk_files
from medproto.data.cohort import Cohort
from medproto.data.dicom import code_string
from medproto.data.pseudonyms import KEY_VARIABLE, Pseudonymizer
from medproto.data.signature import file_kind
from medproto.data.stored import quietly
from medproto.data.table import read_table, relative_path
from medproto.errors import CohortError

__all__ = ["from_dicom"]

_KEYS = ("image", "SOPInstanceUID", "StudyInstanceUID", "PatientID")
# Names of columns, in small letters and without separators, that would carry an identity.
_IDENTITIES = {
    "accessionnumber", "birthdate", "birthname", "dateofbirth", "dob", "mrn", "name",
    "otherpatientids", "patientbirthdate", "patientid", "patientname", "seriesinstanceuid",
    "seriesuid", "sopinstanceuid", "studydate", "studyinstanceuid", "studyuid",
}  # fmt: skip
_TAGS = (
    "PatientID", "StudyInstanceUID", "SOPInstanceUID", "Rows", "ViewPosition", "Modality",
    "PatientAge", "PatientSex",
)  # fmt: skip


def from_dicom(
    source: Path,
    *,
    labels: Path | None = None,
    key: str | bytes | None = None,
    copy_to: Path | None = None,
    label_columns: Sequence[str] = (),
) -> BuiltCohort:
    """Build a cohort from the DICOM images in a folder, by their headers.

    Columns: ``image``, ``label``, ``patient_id`` (``P-`` and 16 hex digits), ``study_uid`` (``S-``
    likewise), ``view``, ``modality``, and ``age`` (years, 90 for all above 89) and ``sex`` where
    headers have them. Columns of the labels' table are kept, except those that name identities.

    Args:
        labels: table with ``label`` (or ``label_columns``) and one of ``image`` (path relative to
            ``source``), ``SOPInstanceUID``, ``StudyInstanceUID``, ``PatientID``; ``None`` takes
            ``labels.csv`` in the folder, and without that leaves the label empty.
        key: secret of the pseudonyms, see `Pseudonymizer`.
        copy_to: folder for copies named by pseudonyms. Without it the table names the files as they
            are, and file names may identify. Headers are copied unchanged.
        label_columns: columns of the table of labels that hold a finding each, see `Cohort`; in
            place of ``label``.

    Raises:
        CohortError: if there is no DICOM image, the table of labels does not fit, or
            ``label_columns`` come without one.
        ValueError: if the key is empty.
    """
    source = Path(source)
    pseudonyms = Pseudonymizer(key)
    found = _read_headers(source)
    if labels is None and (source / LABELS_FILE).is_file():
        labels = source / LABELS_FILE
    if labels is None and label_columns:
        raise CohortError(NO_TABLE)
    extra = pd.DataFrame(index=range(len(found.paths)))
    keep = list(extra.index)
    notes = list(found.notes())
    if labels is not None:
        extra, keep, joined = _join(found, read_table(Path(labels)), tuple(label_columns))
        notes += joined
    else:
        notes.append("no table of labels: fill in the column 'label'.")
    table = _table(found, extra, pseudonyms, labeled=not label_columns)
    if pseudonyms.fresh:
        notes.append(
            "pseudonyms are made with a key of this build alone and cannot be linked across "
            f"builds; set {KEY_VARIABLE} for lasting ones."
        )
    if not all(table["patient_id"]):
        notes.append(f"{(table['patient_id'] == '').sum()} images have no PatientID.")
    table, paths = table.loc[keep].reset_index(drop=True), [found.paths[row] for row in keep]
    if copy_to is None:
        return BuiltCohort(Cohort(table, source, None, tuple(label_columns)), tuple(notes))
    uids = [pseudonyms.name("I", found.headers[row]["SOPInstanceUID"]) for row in keep]
    table = _copy(table, paths, uids, source, Path(copy_to))
    notes.append("the copies keep their headers: they are pseudonymous by name only.")
    return BuiltCohort(Cohort(table, copy_to, None, tuple(label_columns)), tuple(notes))


@dataclass
class _Found:
    """DICOM images of a folder: paths relative to it, and the tags that are needed, as text."""

    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """Say what was left out and why."""
        return [f"{count} files {reason} and were left out." for reason, count in
                sorted(self.left_out.items())]  # fmt: skip


def _read_headers(source: Path) -> _Found:
    found = _Found()
    for path in walk_files(source):
        try:
            if file_kind(path) != "DICOM":
                found.left_out["are not DICOM"] += 1
                continue
            with quietly():
                dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
                header = {tag: _text(dataset, tag) for tag in _TAGS}
                header["ViewPosition"] = code_string(dataset, "ViewPosition")
                header["Modality"] = code_string(dataset, "Modality")
        except Exception:  # a damaged header may raise anything
            found.left_out["have a header that cannot be read"] += 1
            continue
        if not header["Rows"]:
            found.left_out["hold no image or are truncated"] += 1
            continue
        found.paths.append(path.relative_to(source).as_posix())
        found.headers.append(header)
    if not found.paths:
        raise CohortError("the source must hold DICOM images, none was found.")
    return found


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _join(
    found: _Found, labels: pd.DataFrame, findings: tuple[str, ...]
) -> tuple[pd.DataFrame, list[int], list[str]]:
    """Return the table's columns, a row for each image found, those with a label, and notes."""
    names = [name for name in _KEYS if name in labels]
    missing = [name for name in findings or ("label",) if name not in labels]
    if missing or not names:
        wanted = " and ".join(map(repr, findings or ("label",)))
        raise CohortError(
            f"the table of labels must have {wanted} and one of {list(_KEYS)}, "
            f"got {list(labels.columns)}."
            + ("" if findings else " A 0/1 column for each finding is named by label_columns.")
        )
    key = names[0]
    rows = _rows_of_keys(labels, key, findings or ("label",))
    keys = found.paths if key == "image" else [header[key] for header in found.headers]
    matches = [rows.get(value) for value in keys]
    if not any(match is not None for match in matches):
        hint = "Does it name the same images, before or after pseudonyms were given?"
        if key == "image":
            hint = "Its paths must be relative to the folder of images that is given."
        raise CohortError(
            f"the column {key!r} of the labels matches none of {len(keys)} images. {hint}"
        )
    kept = [
        n
        for n in map(str, labels.columns)
        if re.sub("[^a-z]", "", n.lower()) not in {*_IDENTITIES, "image"}
    ]
    extra = pd.DataFrame(
        {name: ["" if match is None else labels[name][match] for match in matches] for name in kept}
    )
    # Findings may all be uncertain, so there an image is labeled by its row alone.
    labeled = [
        row
        for row, match in enumerate(matches)
        if match is not None and (findings or extra["label"][row])
    ]
    unlabeled, unused = len(keys) - len(labeled), len(set(rows.values()) - set(matches))
    notes = [f"labels are joined by {key!r}."]
    if unlabeled:
        notes.append(f"{unlabeled} images have no label in the table and were left out.")
    if unused:
        notes.append(f"{unused} rows of the labels have no image.")
    if len(kept) + (key == "image") < labels.shape[1]:
        notes.append("columns of the labels that name identities were left out.")
    return extra, labeled, notes


def _rows_of_keys(labels: pd.DataFrame, key: str, answers: Sequence[str]) -> dict[str, int]:
    """Return the first row of each key; the columns ``answers`` of its other rows must agree."""
    known = list(zip(*(labels[name] for name in answers), strict=True))
    rows: dict[str, int] = {}
    for number, value in enumerate(labels[key]):
        value = Path(value).as_posix() if key == "image" else str(value).strip()
        first = rows.setdefault(value, number)
        if known[first] != known[number]:
            raise CohortError(f"rows {first} and {number} of the labels have one key, two labels.")
    return rows


def _table(
    found: _Found, extra: pd.DataFrame, pseudonyms: Pseudonymizer, *, labeled: bool
) -> pd.DataFrame:
    """Put the columns together; what a header says goes before what the labels say.

    Args:
        labeled: have the column ``label`` even where it is empty.
    """
    headers = found.headers
    columns: dict[str, list[str]] = {
        "image": found.paths,
        "label": list(extra["label"]) if "label" in extra else [""] * len(headers),
        "patient_id": [pseudonyms.name("P", header["PatientID"]) for header in headers],
        "study_uid": [pseudonyms.name("S", header["StudyInstanceUID"]) for header in headers],
        "view": [header["ViewPosition"] for header in headers],
        "modality": [header["Modality"] for header in headers],
        "age": [_years(header["PatientAge"]) for header in headers],
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


def _years(age: str) -> str:
    """Return whole years of a DICOM age string, 90 for all above 89; empty if it is none."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", age)
    if match is None:
        return ""
    per_year = {"D": 365, "W": 52, "M": 12, "Y": 1}[match[2]]
    return str(min(int(match[1]) // per_year, 90))


def _copy(
    table: pd.DataFrame, paths: list[str], instances: list[str], source: Path, target: Path
) -> pd.DataFrame:
    """Copy images and masks to ``<patient>/<study>/<instance>``; return the changed table."""
    table, taken = table.copy(), Counter[str]()
    for row, path in enumerate(paths):
        parts = [table["patient_id"][row] or "P-unknown", table["study_uid"][row] or "S-unknown"]
        stem = "/".join([*parts, instances[row] or "I-unknown"])
        taken[stem] += 1
        name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / f"{name}.dcm")
        table.loc[row, "image"] = f"{name}.dcm"
        mask = str(table["mask"][row]) if "mask" in table else ""
        if mask:
            table.loc[row, "mask"] = _copy_mask(source, mask, target, name)
    return table


def _copy_mask(source: Path, mask: str, target: Path, name: str) -> str:
    """Copy a mask beside its image; one that is not there keeps its path, for the check to find."""
    if not (source / mask).is_file():
        return relative_path(source, mask, target)
    copied = f"{name}-mask{Path(mask).suffix}"
    shutil.copyfile(source / mask, target / copied)
    return copied
