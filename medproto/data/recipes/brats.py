"""BraTS 2021 and others of its layout: brain tumors in four MR sequences, with outlines.

Not yet run on the real files. Layout, as published, at any depth::

    BraTS2021_00000/BraTS2021_00000_t1.nii.gz, …_t1ce.nii.gz, …_t2.nii.gz, …_flair.nii.gz,
                    …_seg.nii.gz
    train_labels.csv     optional: BraTS21ID, MGMT_value of the RSNA-MICCAI challenge

References:
    [1] Baid et al., "The RSNA-ASNR-MICCAI BraTS 2021 Benchmark on Brain Tumor Segmentation and
        Radiogenomic Classification", 2021. https://arxiv.org/abs/2107.02314
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from medproto.data.builders import LABELS_FILE, BuiltCohort
from medproto.data.cohort import Cohort
from medproto.data.label_join import LabelJoin, join_labels
from medproto.data.native_table import read_native
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.recipes.layout import UNTRIED, count_notes
from medproto.data.table import read_table
from medproto.data.walk import source_folder, walk_folder
from medproto.errors import CohortError

__all__ = ["SEQUENCES", "brats"]

SEQUENCES = ("t1", "t1ce", "t2", "flair")
"""Endings of the names of a subject's images."""

_MASK = "seg"
_MGMT, _ID, _VALUE = "train_labels.csv", "BraTS21ID", "MGMT_value"
_METHYLATION = {"0": "unmethylated", "1": "methylated"}


def brats(
    folder: Path,
    *,
    labels: Path | None = None,
    sequence: str = "flair",
    key: str | bytes | None = None,
) -> BuiltCohort:
    """Build a cohort from a folder of BraTS subjects; not yet run on the real files.

    A row is a subject. Columns: ``image`` (one sequence), ``label``, ``patient_id``, ``mask`` (all
    parts of the tumor), and ``image_path_t1``, ``image_path_t1ce``, ``image_path_t2``,
    ``image_path_flair``.

    Args:
        labels: table with ``subject`` (the name of its folder) and ``label``, or with ``BraTS21ID``
            and ``MGMT_value`` (label ``methylated`` or ``unmethylated``). ``None`` takes
            ``train_labels.csv`` or ``labels.csv`` in the folder, and without these leaves the
            label empty.
        sequence: which image is the row's ``image``: ``"t1"``, ``"t1ce"``, ``"t2"`` or ``"flair"``.
        key: secret of the pseudonyms, see `Pseudonymizer`.

    Raises:
        CohortError: if there is no subject with that sequence, or the table of labels does not fit.
        ValueError: if ``sequence`` is none of the four, or the key is empty.
    """
    if sequence not in SEQUENCES:
        raise ValueError(f"sequence must be one of {list(SEQUENCES)}, got {sequence!r}.")
    folder = source_folder(folder)
    pseudonyms = Pseudonymizer(key)
    subjects, notes = _subjects(folder)
    names = [name for name, files in subjects.items() if sequence in files]
    counts: Counter[str] = Counter()
    counts[f"subjects have no {sequence} image and were left out."] = len(subjects) - len(names)
    if not names:
        raise CohortError(
            f"the folder must hold <subject>/<subject>_{sequence}.nii.gz, and no such file was "
            "found."
        )
    columns = {
        "image": [subjects[name][sequence] for name in names],
        "label": [""] * len(names),
        "patient_id": [pseudonyms.name("P", name) for name in names],
        "mask": [subjects[name].get(_MASK, "") for name in names],
    }
    for other in SEQUENCES:
        columns[f"image_path_{other}"] = [subjects[name].get(other, "") for name in names]
        counts[f"subjects have no {other} image."] = columns[f"image_path_{other}"].count("")
    counts["subjects have no outline, and no mask."] = columns["mask"].count("")
    notes = [UNTRIED, *notes, *count_notes(counts), *pseudonyms.notes()]
    table = pd.DataFrame(columns)
    joined = _labels(folder, labels, names, columns["image"])
    if joined is None:
        notes.append("no table of labels: fill in the column 'label'.")
    else:
        for name in joined.columns:
            if name == "label" or name not in table:
                table[name] = joined.columns[name]
        table, notes = table.loc[joined.rows].reset_index(drop=True), [*notes, *joined.notes]
    return BuiltCohort(Cohort(table, folder), tuple(notes))


def _subjects(folder: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the paths of each subject's files by sequence, and notes."""
    walk = walk_folder(folder)
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in walk.files:
        subject = path.parent.name
        match = re.fullmatch(re.escape(subject) + r"_([a-z0-9]+)\.nii(\.gz)?", path.name)
        if match is None or match[1] not in (*SEQUENCES, _MASK):
            continue
        if match[1] in found[subject]:
            raise CohortError(
                "each image of a subject must be in the folder once, and two files have one name; "
                "keep one of the copies."
            )
        found[subject][match[1]] = path.relative_to(folder).as_posix()
    return found, walk.notes


def _labels(
    folder: Path, labels: Path | None, subjects: list[str], images: list[str]
) -> LabelJoin | None:
    """Return the labels of the subjects, ``None`` if there are none."""
    if labels is None:
        here = (folder / name for name in (_MGMT, LABELS_FILE))
        labels = next((path for path in here if path.is_file()), None)
    if labels is None:
        return None
    table = read_table(Path(labels))
    if _ID not in table:
        paths = list[str | None](images)
        return join_labels(
            {"subject": list[str | None](subjects)}, table, (), known={"image": paths}
        )
    table = read_native(Path(labels), [_ID, _VALUE])
    strange = sorted(set(table[_VALUE]) - set(_METHYLATION))
    if strange:
        raise CohortError(f"{_VALUE} must be 0 or 1, got {strange[0]!r}.")
    # A table that went through a spreadsheet has lost the zeros in front.
    numbers = [number.zfill(5) for number in table[_ID]]
    known = pd.DataFrame(
        {"subject": numbers, "label": [_METHYLATION[value] for value in table[_VALUE]]}
    )
    ends: list[str | None] = [_number(name) for name in subjects]
    return join_labels({"subject": ends}, known, ())


def _number(subject: str) -> str | None:
    match = re.fullmatch(r"BraTS2021_(\d{5})", subject)
    return match[1] if match else None
