"""CBIS-DDSM: digitized screening mammograms with masses and calcifications, and their outlines.

Not yet run on the real files. Layout, as published::

    mass_case_description_train_set.csv, mass_case_description_test_set.csv,
    calc_case_description_train_set.csv, calc_case_description_test_set.csv     one or more
    …/*.dcm                                                                     in any folders

A row of a table is an abnormality, its columns name a mammogram and an outline by paths
``<PatientID>/<study UID>/<series UID>/<file>``. The download has other names for folders and files,
and some tables have the outline and the cropped image exchanged. So files are found by what their
headers say, the series first, then the ``PatientID``, and an outline must have the size of its
mammogram; where that leaves none or several, nothing is guessed.

References:
    [1] Lee et al., "A curated mammography data set for use in computer-aided detection and
        diagnosis research", Scientific Data 4 (2017) 170177.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from medproto.data.builders import BuiltCohort
from medproto.data.cohort import Cohort
from medproto.data.dicom_headers import DicomFiles, find_dicom
from medproto.data.native_table import read_native
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.recipes.layout import UNTRIED, count_notes, split_by_test_set
from medproto.data.walk import source_folder
from medproto.errors import CohortError

__all__ = ["cbis_ddsm"]

_TABLES = [
    f"{kind}_case_description_{part}_set.csv"
    for kind in ("mass", "calc")
    for part in ("train", "test")
]
_IMAGE, _MASK = "image file path", "ROI mask file path"
_SIDE, _VIEW, _KIND = "left or right breast", "image view", "abnormality type"
_NEEDED = ["patient_id", _SIDE, _VIEW, _KIND, "pathology", _IMAGE, _MASK]
_DENSITIES = ("breast_density", "breast density")
_CLASSES = {
    "MALIGNANT": "malignant", "BENIGN": "benign", "BENIGN_WITHOUT_CALLBACK": "benign",
}  # fmt: skip

_Row = dict[str, str]


def cbis_ddsm(folder: Path, *, key: str | bytes | None = None) -> BuiltCohort:
    """Build a cohort from a folder with CBIS-DDSM; not yet run on the real files.

    A row is a mammogram. Columns: ``image``, ``label`` (``malignant`` if any of its abnormalities
    is, else ``benign``), ``patient_id``, ``view``, ``side``, ``abnormality``, ``breast_density``,
    ``mask`` where the mammogram has one abnormality, and ``split`` where a test table is there (see
    `split_by_test_set`).

    Raises:
        CohortError: if no table or no DICOM file is there, they do not belong together, or a table
            has another layout.
        ValueError: if the key is empty.
    """
    folder = source_folder(folder)
    pseudonyms = Pseudonymizer(key)
    mammograms = _mammograms(folder)
    files = _Files(find_dicom(folder))
    counts: Counter[str] = Counter()
    rows: list[dict[str, str]] = []
    kept: list[list[_Row]] = []
    for path, findings in mammograms.items():
        image = files.image(path)
        if image is None:
            counts["mammograms of the tables have no file, or several, and were left out."] += 1
            continue
        rows.append(_cells(image, findings, files, pseudonyms, counts))
        kept.append(findings)
    if not rows:
        raise CohortError(
            "the folder must hold the mammograms that the tables name, by the series or the "
            "PatientID of their headers, and holds none of them."
        )
    table = pd.DataFrame(rows)
    notes = [UNTRIED, *files.found.all_notes(), *count_notes(counts), *pseudonyms.notes()]
    test = [any(row["part"] == "test" for row in findings) for findings in kept]
    if any(test):
        patients = [findings[0]["patient_id"] for findings in kept]
        table["split"], stay, more = split_by_test_set(patients, test)
        table, notes = table.loc[stay].reset_index(drop=True), [*notes, *more]
    else:
        notes.append("without a table of the test set there is no split: make one by patient.")
    return BuiltCohort(Cohort(table, folder), tuple(notes))


def _mammograms(folder: Path) -> dict[str, list[_Row]]:
    """Return the abnormalities of each mammogram, by the path that the tables give it.

    Masses and calcifications were split apart from each other, so a patient may be in the test set
    of one and the training set of the other.
    """
    names = [name for name in _TABLES if (folder / name).is_file()]
    if not names:
        raise CohortError(f"the folder must hold one or more of the tables {_TABLES}.")
    found: dict[str, list[_Row]] = defaultdict(list)
    for name in names:
        table = read_native(folder / name, _NEEDED)
        for number, row in table.iterrows():
            if row["pathology"] not in _CLASSES:
                raise CohortError(
                    f"row {number} of {name} must have a pathology out of {list(_CLASSES)}."
                )
            part = {"part": "test" if "_test_" in name else "train"}
            finding = {**row.to_dict(), **part}
            if finding not in found[_clean(row[_IMAGE])]:  # a row that stands twice is one finding
                found[_clean(row[_IMAGE])].append(finding)
    return found


def _cells(
    image: int,
    findings: Sequence[_Row],
    files: _Files,
    pseudonyms: Pseudonymizer,
    counts: Counter[str],
) -> dict[str, str]:
    """Return the row of a mammogram."""
    first = findings[0]
    mask = None
    if len(findings) > 1:
        counts[
            "mammograms have several abnormalities and no mask, which would show one of them."
        ] += 1
    else:
        mask = files.mask(_clean(first[_MASK]), image)
        counts["mammograms have no outline of their size, or several, and no mask."] += mask is None
    malignant = any(_CLASSES[row["pathology"]] == "malignant" for row in findings)
    density = next((first[name] for name in _DENSITIES if name in first), "")
    return {
        "image": files.found.paths[image],
        "label": "malignant" if malignant else "benign",
        "patient_id": pseudonyms.name("P", first["patient_id"]),
        "view": first[_VIEW],
        "side": first[_SIDE],
        "abnormality": ";".join(sorted({row[_KIND] for row in findings})),
        "breast_density": density,
        "mask": "" if mask is None else files.found.paths[mask],
    }


class _Files:
    """The DICOM files by the series and the patient of their headers."""

    def __init__(self, found: DicomFiles) -> None:
        self.found = found
        self._by_series: dict[str, list[int]] = defaultdict(list)
        self._by_patient: dict[str, list[int]] = defaultdict(list)
        for row, header in enumerate(found.headers):
            self._by_series[header["SeriesInstanceUID"]].append(row)
            self._by_patient[header["PatientID"]].append(row)

    def image(self, path: str) -> int | None:
        """Return the one file that a path of a table means, ``None`` if there is not one."""
        return next((rows[0] for rows in self._meant(path) if len(rows) == 1), None)

    def mask(self, path: str, image: int) -> int | None:
        """Return the one file that a path means and that has the size of the mammogram."""
        size = self._size(image)
        for rows in self._meant(path):
            fitting = [row for row in rows if row != image and self._size(row) == size]
            if len(fitting) == 1:
                return fitting[0]
        return None

    def _meant(self, path: str) -> list[list[int]]:
        parts = PurePosixPath(path).parts
        if len(parts) != 4:
            return []
        return [self._by_series.get(parts[2], []), self._by_patient.get(parts[0], [])]

    def _size(self, row: int) -> tuple[str, str]:
        header = self.found.headers[row]
        return header["Rows"], header["Columns"]


def _clean(path: str) -> str:
    """Return a path without the line breaks that some cells have."""
    return "".join(path.split())
