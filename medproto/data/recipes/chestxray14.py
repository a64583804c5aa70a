"""NIH ChestX-ray14: 14 findings, text-mined from reports, on frontal chest radiographs.

Not yet run on the real files. Layout, as published::

    Data_Entry_2017.csv (or Data_Entry_2017_v2020.csv)
    images_001/images/00000001_000.png … (or images/00000001_000.png …)
    train_val_list.txt, test_list.txt   optional: the official split by patient
    BBox_List_2017.csv                  optional: boxes of some findings of some images

References:
    [1] Wang et al., "ChestX-ray8", CVPR 2017. https://arxiv.org/abs/1705.02315
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from medproto.data.ages import OLDEST
from medproto.data.builders import BuiltCohort
from medproto.data.cohort import Cohort
from medproto.data.native_table import read_lines, read_native
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.recipes.layout import (
    UNTRIED,
    box_text,
    count_notes,
    files_by_name,
    split_by_test_set,
)
from medproto.data.walk import source_folder
from medproto.errors import CohortError

__all__ = ["FINDINGS", "chestxray14"]

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia",
)  # fmt: skip
"""Columns of findings, as the table of the data set spells them."""

_NOTHING = "No Finding"
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_NAME, _LABELS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"
_AGE, _VIEW, _SEXES = "Patient Age", "View Position", ("Patient Gender", "Patient Sex")
_BOXES, _BOX = "BBox_List_2017.csv", ("Bbox [x", "y", "w", "h]")
_SIDE = 1024


def chestxray14(folder: Path, *, key: str | bytes | None = None) -> BuiltCohort:
    """Build a cohort of findings from a folder with NIH ChestX-ray14; not yet run on real files.

    Columns: ``image``, the 14 findings (1 named in the report, 0 not), ``patient_id``, ``age``,
    ``sex``, ``view``; ``split`` where the official lists are there (see `split_by_test_set`), and
    ``box`` with ``box_finding``, the finding of each box, where the list of boxes is.

    Raises:
        CohortError: if a table or the images are missing or of another layout.
        ValueError: if the key is empty.
    """
    folder = source_folder(folder)
    pseudonyms = Pseudonymizer(key)
    table = _entries(folder)
    files, notes = files_by_name(folder, ".png", parent="images")
    counts: Counter[str] = Counter()
    there = [name in files for name in table[_NAME]]
    counts["images of the table are not in the folder and were left out."] = there.count(False)
    unknown = set(files) - set(table[_NAME])
    counts["images of the folder are not in the table and were left out."] = len(unknown)
    table = table[there].reset_index(drop=True)
    if not len(table):
        raise CohortError("the folder must hold images that the table names, and holds none.")
    columns = {"image": [files[name] for name in table[_NAME]], **_findings(table[_LABELS])}
    columns["patient_id"] = [pseudonyms.name("P", patient) for patient in table[_PATIENT]]
    columns["age"] = [_years(age) for age in table[_AGE]]
    impossible = sum(bool(a) and not b for a, b in zip(table[_AGE], columns["age"], strict=True))
    counts["ages are impossible and were left empty."] = impossible
    sex = next(name for name in _SEXES if name in table)
    columns["sex"] = [value if value in ("M", "F") else "" for value in table[sex]]
    columns["view"] = list(table[_VIEW])
    columns |= _boxes(folder, list(table[_NAME]), counts)
    split, keep, more = _split(folder, table)
    built = pd.DataFrame(columns | split).loc[keep].reset_index(drop=True)
    notes = [UNTRIED, *notes, *count_notes(counts), *more, *pseudonyms.notes()]
    notes.append(f"read the table with --label-columns {','.join(FINDINGS)}.")
    return BuiltCohort(Cohort(built, folder, None, FINDINGS), tuple(notes))


def _entries(folder: Path) -> pd.DataFrame:
    names = [name for name in _TABLES if (folder / name).is_file()]
    if not names:
        raise CohortError(
            f"the folder must hold {_TABLES[1]} (or {_TABLES[0]}) beside the folders of images."
        )
    path = folder / names[0]
    table = read_native(path, [_NAME, _LABELS, _PATIENT, _AGE, _VIEW])
    if not any(name in table for name in _SEXES):
        raise CohortError(f"{path.name} must have one of the columns {list(_SEXES)}.")
    if table[_NAME].duplicated().any():
        twice = int(table[_NAME].duplicated().to_numpy().argmax())
        raise CohortError(f"{path.name} must name each image once; row {twice} names one again.")
    if (table[_PATIENT] == "").any():
        row = int((table[_PATIENT] == "").to_numpy().argmax())
        raise CohortError(f"row {row} of {path.name} must have a {_PATIENT!r}, and has none.")
    return table


def _findings(cells: pd.Series) -> dict[str, list[str]]:
    """Return a column of 1 and 0 for each finding."""
    found = [set(cell.split("|")) for cell in cells]
    strange = set().union(*found) - {*FINDINGS, _NOTHING}
    mixed = any(_NOTHING in names and len(names) > 1 for names in found)
    if strange or mixed:
        raise CohortError(
            f"{_LABELS!r} must be {_NOTHING!r} or names out of {list(FINDINGS)} with | between, "
            f"got {sorted(strange) or 'both'}."
        )
    return {name: [str(int(name in names)) for names in found] for name in FINDINGS}


def _years(age: str) -> str:
    """Return years of ``058Y`` or ``58``, 90 for all above 89, empty for what no one reaches."""
    match = re.fullmatch(r"(\d+)([DMY]?)", age)
    if match is None:
        return ""
    years = int(match[1]) // {"D": 365, "M": 12}.get(match[2], 1)
    return "" if years > 120 else str(min(years, OLDEST))


def _boxes(folder: Path, names: list[str], counts: Counter[str]) -> dict[str, list[str]]:
    if not (folder / _BOXES).is_file():
        return {}
    table = read_native(folder / _BOXES, [_NAME, "Finding Label", *_BOX])
    boxes: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for number, row in table.iterrows():
        finding = {"Infiltrate": "Infiltration"}.get(row["Finding Label"], row["Finding Label"])
        where = f"row {number} of {_BOXES}"
        box = box_text([row[name] for name in _BOX], side=_SIDE, where=where)
        boxes[row[_NAME]].append((box, finding))
    lost = sum(len(found) for name, found in boxes.items() if name not in set(names))
    counts["boxes are of images that are not in the table or the folder and were left out."] = lost
    columns = {"box": 0, "box_finding": 1}
    return {
        column: [";".join(box[part] for box in boxes.get(name, [])) for name in names]
        for column, part in columns.items()
    }


def _split(folder: Path, table: pd.DataFrame) -> tuple[dict[str, list[str]], list[int], list[str]]:
    """Return the column of splits, the rows that stay, and notes."""
    lists = [folder / "train_val_list.txt", folder / "test_list.txt"]
    rows = list(range(len(table)))
    if not all(path.is_file() for path in lists):
        note = "without train_val_list.txt and test_list.txt there is no split: make one by patient"
        return {}, rows, [f"{note} (medproto cohort split)."]
    train, test = (set(read_lines(path)) for path in lists)
    if train & test:
        raise CohortError("train_val_list.txt and test_list.txt must share no image, and do.")
    names, patients = list(table[_NAME]), list(table[_PATIENT])
    splits, keep, notes = split_by_test_set(patients, [name in test for name in names])
    listed = [row for row in keep if names[row] in train or names[row] in test]
    if len(listed) < len(keep):
        notes.append(f"{len(keep) - len(listed)} images are in neither list and were left out.")
    return {"split": splits}, listed, notes
