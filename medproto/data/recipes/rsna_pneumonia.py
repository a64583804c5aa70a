"""RSNA Pneumonia Detection Challenge, stage 2: lung opacities on chest radiographs, with boxes.

Not yet run on the real files. Layout, as published::

    stage_2_train_images/<patientId>.dcm
    stage_2_train_labels.csv             patientId, x, y, width, height, Target
    stage_2_detailed_class_info.csv      optional: patientId, class

A patient with several boxes has several rows. The images are a part of NIH ChestX-ray14, and every
image has a ``patientId`` of its own: which of them show one person is not in these files.

References:
    [1] Shih et al., "Augmenting the National Institutes of Health Chest Radiograph Dataset with
        Expert Annotations of Possible Pneumonia", Radiology: Artificial Intelligence 1 (2019).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from medproto.data.builders import BuiltCohort
from medproto.data.cohort import Cohort
from medproto.data.native_table import read_native
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.recipes.layout import UNTRIED, box_text, count_notes, files_by_name
from medproto.data.walk import source_folder
from medproto.errors import CohortError

__all__ = ["rsna_pneumonia"]

_IMAGES, _LABELS = "stage_2_train_images", "stage_2_train_labels.csv"
_DETAILS = "stage_2_detailed_class_info.csv"
_BOX = ("x", "y", "width", "height")
_CLASSES = {"0": "no opacity", "1": "opacity"}
_SIDE = 1024


def rsna_pneumonia(folder: Path, *, key: str | bytes | None = None) -> BuiltCohort:
    """Build a cohort from a folder with the RSNA pneumonia challenge; not yet run on real files.

    Columns: ``image``, ``label`` (``opacity``: at least one box of a lung opacity suspicious for
    pneumonia; else ``no opacity``), ``patient_id``, ``box``, and ``detailed_class`` where that
    table is there.

    Raises:
        CohortError: if a table or the images are missing or of another layout, or the rows of a
            patient contradict each other.
        ValueError: if the key is empty.
    """
    folder = source_folder(folder)
    pseudonyms = Pseudonymizer(key)
    targets, boxes = _targets(folder)
    files, notes = files_by_name(folder, ".dcm", parent=_IMAGES)
    paths = {name[: -len(".dcm")]: path for name, path in files.items()}
    counts: Counter[str] = Counter()
    counts["images of the table are not in the folder and were left out."] = len(
        set(targets) - set(paths)
    )
    counts["images of the folder have no label and were left out."] = len(set(paths) - set(targets))
    patients = [patient for patient in targets if patient in paths]
    if not patients:
        raise CohortError("the folder must hold images that the table names, and holds none.")
    columns = {
        "image": [paths[patient] for patient in patients],
        "label": [_CLASSES[targets[patient]] for patient in patients],
        "patient_id": [pseudonyms.name("P", patient) for patient in patients],
        "box": [";".join(boxes[patient]) for patient in patients],
    }
    if (folder / _DETAILS).is_file():
        known = _details(folder)
        columns["detailed_class"] = [known.get(patient, "") for patient in patients]
    notes = [
        UNTRIED,
        *notes,
        "each image counts as a patient of its own: which of them are of one person is not in "
        "these files, so a split may divide a person.",
        *count_notes(counts),
        *pseudonyms.notes(),
    ]
    return BuiltCohort(Cohort(pd.DataFrame(columns), folder), tuple(notes))


def _details(folder: Path) -> dict[str, str]:
    """Return the detailed class of each patient."""
    table = read_native(folder / _DETAILS, ["patientId", "class"])
    known: dict[str, str] = {}
    for number, row in table.iterrows():
        if known.setdefault(row["patientId"], row["class"]) != row["class"]:
            raise CohortError(f"row {number} of {_DETAILS} must have the class of its patient.")
    return known


def _targets(folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the target, ``0`` or ``1``, and the boxes of each patient."""
    table = read_native(folder / _LABELS, ["patientId", *_BOX, "Target"])
    targets: dict[str, str] = {}
    boxes: dict[str, list[str]] = defaultdict(list)
    for number, row in table.iterrows():
        target, cells = row["Target"], [row[name] for name in _BOX]
        if target not in _CLASSES or any(cells) != (target == "1"):
            raise CohortError(
                f"row {number} of {_LABELS} must have Target 1 and a box, or Target 0 and none."
            )
        if targets.setdefault(row["patientId"], target) != target:
            raise CohortError(f"row {number} of {_LABELS} must have the Target of its patient.")
        if target == "1":
            box = box_text(cells, side=_SIDE, where=f"row {number} of {_LABELS}")
            if box not in boxes[row["patientId"]]:
                boxes[row["patientId"]].append(box)
    return targets, boxes
