"""Build a cohort table from a BIDS data set: one image suffix, labels of ``participants.tsv``.

A name is ``sub-<subject>[_ses-<session>][_<key>-<value>…]_<suffix>.nii[.gz]`` in the folder
``sub-<subject>[/ses-<session>]/<datatype>``; [1].

References:
    [1] The Brain Imaging Data Structure, https://bids-specification.readthedocs.io
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medproto.data.builders import BuiltCohort
from medproto.data.cohort import Cohort
from medproto.data.label_join import join_labels
from medproto.data.native_table import read_native
from medproto.data.nifti_builder import PATHS_NOTE, copy_volumes, find_nifti
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.walk import source_folder
from medproto.errors import CohortError

__all__ = ["from_bids"]

_PARTICIPANTS, _DESCRIPTION, _ID = "participants.tsv", "dataset_description.json", "participant_id"
_LABELS = ("label", "diagnosis", "group")
_NAME = re.compile(
    r"(?P<subject>sub-[A-Za-z0-9]+)/((?P<session>ses-[A-Za-z0-9]+)/)?(?P<datatype>[a-z]+)/"
    r"(?P=subject)(_(?P<named>ses-[A-Za-z0-9]+))?(_[a-z]+-[A-Za-z0-9+]+)*_(?P<suffix>[A-Za-z0-9]+)"
    r"\.nii(\.gz)?"
)
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}


def from_bids(
    source: Path,
    *,
    suffix: str = "T1w",
    label: str | None = None,
    label_columns: Sequence[str] = (),
    key: str | bytes | None = None,
    copy_to: Path | None = None,
) -> BuiltCohort:
    """Build a cohort from the images of one suffix in a BIDS data set.

    Columns: ``image``, ``label``, ``patient_id`` (``P-`` and 16 hex digits), ``study_uid`` (``S-``
    likewise) where there are sessions, and the other columns of ``participants.tsv``, except those
    that name identities. ``n/a`` becomes empty; images whose participant has no label are left out.
    Derivatives are not looked into.

    Args:
        suffix: which images, as ``T1w``, ``FLAIR``, ``bold``. Runs and acquisitions are rows each.
        label: column of ``participants.tsv``; ``None`` takes the first of ``label``, ``diagnosis``
            and ``group`` that is there.
        label_columns: columns of ``participants.tsv`` that hold a finding each, see `Cohort`; in
            place of ``label``.
        key: secret of the pseudonyms, see `Pseudonymizer`.
        copy_to: folder for copies named by pseudonyms; what is inside the files is unchanged.

    Raises:
        CohortError: if the folder is no BIDS data set, has no image of that suffix, or
            ``participants.tsv`` lacks the columns or the participants.
        ValueError: if the key is empty, or ``label`` and ``label_columns`` are both given.

    Example:
        >>> cohort, notes = from_bids("ds000001", label="group")  # doctest: +SKIP
    """
    if label is not None and label_columns:
        raise ValueError("label and label_columns exclude each other, got both.")
    source, findings = source_folder(source), tuple(label_columns)
    pseudonyms = Pseudonymizer(key)
    _check_description(source)
    paths, notes = find_nifti(source)
    images, more = _images(paths, suffix)
    participants = _participants(source, label, findings)
    subjects: list[str | None] = [image.subject for image in images]
    known: dict[str, list[str | None]] = {
        "image": [image.path for image in images],
        "subject": [image.subject.removeprefix("sub-") for image in images],
    }
    joined = join_labels({_ID: subjects}, participants, findings, known=known)
    columns = {
        "image": [image.path for image in images],
        "patient_id": [pseudonyms.name("P", image.subject) for image in images],
    }
    if any(image.session for image in images):
        columns["study_uid"] = [
            pseudonyms.name("S", f"{image.subject}/{image.session}" if image.session else "")
            for image in images
        ]
    for name in map(str, joined.columns):
        columns.setdefault(name, list(joined.columns[name]))
    table = pd.DataFrame(columns).loc[joined.rows].reset_index(drop=True)
    several = int(table["image"].groupby(_sessions(table)).size().gt(1).sum())
    if several:
        more.append(f"{several} sessions or subjects have several {suffix} images, a row each.")
    notes = [*notes, *more, *joined.notes, *pseudonyms.notes()]
    if copy_to is None:
        return BuiltCohort(Cohort(table, source, None, findings), (*notes, PATHS_NOTE))
    copied = copy_volumes(table, source, Path(copy_to), pseudonyms)
    cohort = Cohort(copied.table, copy_to, None, findings)
    return BuiltCohort(cohort, (*notes, *copied.notes()))


@dataclass(frozen=True)
class _Image:
    """A file whose name follows the layout; ``session`` is empty without one."""

    path: str
    subject: str
    session: str


def _images(paths: list[str], suffix: str) -> tuple[list[_Image], list[str]]:
    """Return the images of a suffix, and notes."""
    found, suffixes, astray = [], set[str](), 0
    for path in paths:
        match = _NAME.fullmatch(path)
        # A session is in the folder and in the name, or in neither.
        if match is None or match["session"] != match["named"]:
            astray += path.startswith("sub-")
            continue
        suffixes.add(match["suffix"])
        if match["suffix"] == suffix:
            found.append(_Image(path, match["subject"], match["session"] or ""))
    if not found:
        raise CohortError(
            f"the data set must hold images sub-*/[ses-*/]<datatype>/*_{suffix}.nii.gz, none was "
            f"found; its suffixes are {sorted(suffixes)}."
        )
    if astray:
        return found, [f"{astray} NIfTI files of subjects do not follow the layout: left out."]
    return found, []


def _check_description(source: Path) -> None:
    try:
        document = json.loads((source / _DESCRIPTION).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not {"Name", "BIDSVersion"} <= document.keys():
        raise CohortError(
            f"a BIDS data set must have {_DESCRIPTION} with Name and BIDSVersion at its top; for "
            "NIfTI files in another layout take from-nifti."
        )


def _participants(source: Path, label: str | None, findings: tuple[str, ...]) -> pd.DataFrame:
    """Return the table of participants with ``label``, or the findings; ``n/a`` is empty."""
    table = read_native(source / _PARTICIPANTS, [_ID], delimiter="\t")
    table = table.mask(table.isin(["n/a", "N/A"]), "")
    names = [str(name) for name in table.columns if name != _ID]
    missing = [name for name in findings or ((label,) if label else ()) if name not in names]
    if not findings and label is None:
        label = next((name for name in _LABELS if name in names), None)
        missing = [] if label else ["label"]
    if missing:
        raise CohortError(
            f"{_PARTICIPANTS} must have the columns that are asked for, {missing} are not there; "
            f"its columns are {names}. Name the one with the label by --label."
        )
    # Some data sets leave the prefix out.
    table[_ID] = [name if name.startswith("sub-") else f"sub-{name}" for name in table[_ID]]
    if label is not None:
        table = table.drop(
            columns=["label"] if label != "label" and "label" in names else []
        ).rename(columns={label: "label"})
    if "sex" in table:
        table["sex"] = [_SEXES.get(str(sex).lower(), "") for sex in table["sex"]]
    return table


def _sessions(table: pd.DataFrame) -> pd.Series:
    """Return what tells the sessions of all patients apart."""
    return table["patient_id"] + "/" + table.get("study_uid", "")
