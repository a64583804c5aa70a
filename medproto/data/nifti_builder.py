"""Build a cohort table from a folder of NIfTI volumes and a table of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from medproto.data.builders import LABELS_FILE, NO_TABLE, BuiltCohort
from medproto.data.cohort import Cohort
from medproto.data.cohort_columns import holds_paths
from medproto.data.copies import Copied, copy_images
from medproto.data.label_join import join_labels
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.signature import file_kind
from medproto.data.table import read_table
from medproto.data.walk import walk_folder
from medproto.errors import CohortError, ImageReadError

__all__ = ["PATHS_NOTE", "copy_volumes", "find_nifti", "from_nifti"]

PATHS_NOTE = (
    "the column 'image' holds the names of the files, which may identify; "
    "--copy-as-pseudonyms gives copies without them."
)
"""Sentence for a table that names files as they are."""

_PATIENTS = ("patient_id", "subject")
_SESSIONS = ("study_uid", "session")


def from_nifti(
    source: Path,
    *,
    labels: Path | None = None,
    key: str | bytes | None = None,
    copy_to: Path | None = None,
    label_columns: Sequence[str] = (),
) -> BuiltCohort:
    """Build a cohort from the NIfTI files in a folder, plain or gzip; content decides.

    Columns: ``image``, ``label``, ``patient_id`` (``P-`` and 16 hex digits), ``study_uid`` (``S-``
    likewise) where the table of labels has ``session`` or ``study_uid``. Its other columns are
    kept, except those that name identities. The patient is the one that the table names in
    ``patient_id`` or ``subject``, else the top folder of a file's path.

    Args:
        labels: table with ``label`` (or ``label_columns``) and one of ``image`` (path relative to
            ``source``), ``subject`` or ``patient_id`` (top folder of the path, or the name, without
            its ending, of a file that lies in none). Files in its columns ``mask`` and
            ``image_path_…``, paths relative to ``source``, are no images of their own. ``None``
            takes ``labels.csv`` in the folder, and without that leaves the label empty.
        key: secret of the pseudonyms, see `Pseudonymizer`.
        copy_to: folder for copies named by pseudonyms; what is inside the files is unchanged.
        label_columns: columns of the table of labels that hold a finding each, see `Cohort`; in
            place of ``label``.

    Raises:
        CohortError: if there is no NIfTI file, the table of labels does not fit, or
            ``label_columns`` come without one.
        ValueError: if the key is empty.

    Example:
        >>> cohort, notes = from_nifti("volumes", labels="labels.csv")  # doctest: +SKIP
    """
    source, findings = Path(source), tuple(label_columns)
    pseudonyms = Pseudonymizer(key)
    paths, notes = find_nifti(source)
    if labels is None and (source / LABELS_FILE).is_file():
        labels = source / LABELS_FILE
    if labels is None and findings:
        raise CohortError(NO_TABLE)
    known = None if labels is None else read_table(Path(labels))
    joined = _joined(paths, known, findings)
    notes += joined.notes
    table = pd.DataFrame(_rows(joined, pseudonyms, labeled=not findings))
    missing = int((table["patient_id"] == "").sum())
    if missing:
        notes.append(f"{missing} images are of no known patient: nothing keeps them together.")
    notes += pseudonyms.notes()
    table = table.loc[joined.keep].reset_index(drop=True)
    if copy_to is None:
        return BuiltCohort(Cohort(table, source, None, findings), (*notes, PATHS_NOTE))
    copied = copy_volumes(table, source, Path(copy_to), pseudonyms)
    cohort = Cohort(copied.table, copy_to, None, findings)
    return BuiltCohort(cohort, (*notes, *copied.notes()))


def find_nifti(source: Path) -> tuple[list[str], list[str]]:
    """Return the NIfTI files under a folder, relative to it, and notes on what else is there.

    Raises:
        CohortError: if there is none.
    """
    walk = walk_folder(source)
    paths = [path.relative_to(source).as_posix() for path in walk.files if _is_nifti(path)]
    if not paths:
        raise CohortError("the source must hold NIfTI files, none was found.")
    notes, others = walk.notes, len(walk.files) - len(paths)
    if others:
        notes.append(f"{others} files are not NIfTI and were left out.")
    return paths, notes


def copy_volumes(
    table: pd.DataFrame, source: Path, target: Path, pseudonyms: Pseudonymizer
) -> Copied:
    """Copy the files of a table to ``<patient>/[<study>/]<pseudonym of the path>``."""
    parts = [name for name in ("patient_id", "study_uid") if name in table]
    stems = []
    for row, path in enumerate(table["image"]):
        names = [table[part][row] or f"{part[0].upper()}-unknown" for part in parts]
        stems.append("/".join([*names, pseudonyms.name("I", path)]))
    files = [[path] for path in table["image"]]
    return copy_images(table, files, stems, source, target, pseudonyms)


@dataclass(frozen=True)
class _Joined:
    """What is known of each image.

    Args:
        columns: of the table of labels, without identities.
        patients: raw names, pseudonyms yet to come.
        sessions: likewise, ``None`` if the table has none.
        keep: rows that have a label.
    """

    paths: list[str]
    columns: pd.DataFrame
    patients: list[str]
    sessions: list[str] | None
    keep: list[int]
    notes: list[str]


def _joined(paths: list[str], labels: pd.DataFrame | None, findings: tuple[str, ...]) -> _Joined:
    if labels is None:
        note = "no table of labels: fill in the column 'label'."
        patients, more = _top_folders(paths)
        everything = list(range(len(paths)))
        return _Joined(
            paths, pd.DataFrame(index=everything), patients, None, everything, [note, *more]
        )
    beside = [name for name in map(str, labels.columns) if holds_paths(name) and name != "image"]
    named = {PurePosixPath(cell).as_posix() for name in beside for cell in labels[name] if cell}
    paths = [path for path in paths if path not in named]
    if not paths:
        raise CohortError(
            "the source must hold NIfTI files that are neither masks nor further channels; all of "
            f"them are in the columns of the labels that name these ({', '.join(beside)})."
        )
    subjects: list[str | None] = [_subject(path) for path in paths]
    keys = {"image": list[str | None](paths), "subject": subjects, "patient_id": subjects}
    joined = join_labels(keys, labels, findings)
    notes = list(joined.notes)
    known = _of_rows(labels, _PATIENTS, joined.matches)
    patients, more = _top_folders(paths) if known is None else (known, [])
    notes += more
    sessions = _of_rows(labels, _SESSIONS, joined.matches)
    columns = joined.columns.drop(columns=list(_SESSIONS), errors="ignore")
    return _Joined(paths, columns, patients, sessions, joined.rows, notes)


def _rows(joined: _Joined, pseudonyms: Pseudonymizer, *, labeled: bool) -> list[dict[str, str]]:
    """Return the cells of each image; ``labeled`` gives each a label, if an empty one."""
    rows = []
    for number, path in enumerate(joined.paths):
        patient = joined.patients[number]
        row = {"image": path}
        if labeled:
            row["label"] = ""
        row["patient_id"] = pseudonyms.name("P", patient)
        if joined.sessions is not None:
            session = joined.sessions[number]
            # A session's name may recur from patient to patient.
            row["study_uid"] = pseudonyms.name("S", f"{patient}/{session}" if session else "")
        kept = {str(name): joined.columns[name][number] for name in joined.columns}
        rows.append(row | kept)
    return rows


def _of_rows(
    labels: pd.DataFrame, names: Sequence[str], matches: Sequence[int | None]
) -> list[str] | None:
    """Return the first of some columns for each image, ``None`` if there is none of them."""
    for name in names:
        if name in labels:
            return ["" if match is None else str(labels[name][match]) for match in matches]
    return None


def _top_folders(paths: list[str]) -> tuple[list[str], list[str]]:
    """Return the top folder of each path, empty for a file in none, and a note on that guess."""
    tops = [PurePosixPath(path).parts[0] if "/" in path else "" for path in paths]
    count = len(set(tops) - {""})
    if not count:
        return tops, []
    return tops, [
        f"patients are the {count} top folders of the paths; if these are something else, name the "
        "patients in a column patient_id or subject of the table of labels."
    ]


def _subject(path: str) -> str:
    """Return the top folder, or the name without its ending of a file in none."""
    first, *others = PurePosixPath(path).parts
    return first if others else first.removesuffix(".gz").removesuffix(".nii")


def _is_nifti(path: Path) -> bool:
    try:
        return file_kind(path) == "NIfTI"
    except ImageReadError:
        return False
