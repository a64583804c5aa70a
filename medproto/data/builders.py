"""Build a cohort table from a folder of images: class-named sub-folders, or a table of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from medproto.data.cohort import Cohort
from medproto.data.signature import file_kind
from medproto.data.table import read_table
from medproto.data.walk import source_folder, walk_folder
from medproto.errors import CohortError, ImageReadError

__all__ = ["LABELS_FILE", "NO_TABLE", "BuiltCohort", "from_folder"]

LABELS_FILE = "labels.csv"
"""Table that is taken when it lies in the source folder and no other is named."""

NO_TABLE = "label_columns name columns of a table of labels; pass labels as well."

_SPLITS = ("train", "val", "test")


class BuiltCohort(NamedTuple):
    """A new cohort and what its builder left out, merged or could not know, a sentence each."""

    cohort: Cohort
    notes: tuple[str, ...]


def from_folder(
    source: Path,
    *,
    labels: Path | None = None,
    group: str | None = None,
    label_columns: Sequence[str] = (),
) -> BuiltCohort:
    """Build a cohort from PNG, JPEG and DICOM images in a folder.

    With a table of labels (``labels``, else ``labels.csv`` in the folder) its rows are the cohort:
    it needs ``image`` (path relative to ``source``) and ``label``, or ``image`` and
    ``label_columns``; a ``mask`` is relative likewise, other columns are kept. Without one, the
    name of the sub-folder is the label: ``source/<label>/…``, or
    ``source/<train|val|test>/<label>/…``.

    Args:
        group: column of the table that names patients or groups.
        label_columns: columns of the table that hold a finding each, see `Cohort`.

    Raises:
        CohortError: if there is no image, the table is unusable, or ``group`` or ``label_columns``
            come without one.

    Example:
        >>> cohort, notes = from_folder("busi", group="near_duplicate_group")  # doctest: +SKIP
        >>> cohort.save("busi.csv")  # doctest: +SKIP
    """
    source = source_folder(source)
    if labels is None and (source / LABELS_FILE).is_file():
        labels = source / LABELS_FILE
    if labels is not None:
        return _from_table(source, Path(labels), group, tuple(label_columns))
    if group is not None:
        raise CohortError("group names a column of a table of labels; pass labels as well.")
    if label_columns:
        raise CohortError(NO_TABLE)
    return _from_names(source)


def _from_table(
    source: Path, labels: Path, group: str | None, label_columns: tuple[str, ...]
) -> BuiltCohort:
    cohort = Cohort(read_table(labels), source, group, label_columns)
    there = sum(cohort.image_path(row).is_file() for row in range(len(cohort)))
    if not there:
        raise CohortError(
            f"the column 'image' must hold paths relative to the source folder: none of its "
            f"{len(cohort)} files is there."
        )
    notes = [f"labels of {len(cohort)} rows are from the table {labels.name!r}."]
    if there < len(cohort):
        notes.append(f"{len(cohort) - there} of the rows name a file that is not there.")
    if cohort.group_column is None:
        notes.append(_NO_GROUPS)
    return BuiltCohort(cohort, tuple(notes))


_NO_GROUPS = "no grouping column: only identical pixels form a group, a patient's images do not."


def _from_names(source: Path) -> BuiltCohort:
    rows, outside, other = [], 0, 0
    walk = walk_folder(source)
    for path in walk.files:
        if not _is_image(path):
            other += 1
            continue
        parts = path.relative_to(source).parts
        if len(parts) < 2:
            outside += 1
            continue
        rows.append({"image": Path(*parts).as_posix(), "label": parts[0], "parts": parts})
    split = bool(rows) and {row["label"] for row in rows} <= set(_SPLITS)
    if split:
        outside += sum(len(row["parts"]) < 3 for row in rows)
        rows = [row for row in rows if len(row["parts"]) >= 3]
    if not rows:
        raise CohortError(
            "the source must hold images in sub-folders named after the labels, or a table "
            f"{LABELS_FILE!r}; no such image was found."
        )
    table = pd.DataFrame({"image": [row["image"] for row in rows]})
    table["label"] = [row["parts"][1 if split else 0] for row in rows]
    if split:
        table["split"] = [row["label"] for row in rows]
    notes = [f"labels of {len(rows)} images are the names of their sub-folders.", _NO_GROUPS]
    notes += walk.notes
    if outside:
        notes.append(f"{outside} images lie outside a sub-folder of a label and were left out.")
    if other:
        notes.append(f"{other} files are not DICOM, PNG or JPEG and were left out.")
    return BuiltCohort(Cohort(table, source), tuple(notes))


def _is_image(path: Path) -> bool:
    try:
        return file_kind(path) is not None
    except ImageReadError:
        return False
