"""Which columns of a table of labels name somebody, by their names and by what their cells say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import pandas as pd

from medproto.data.cohort_columns import holds_paths

__all__ = ["columns_to_keep", "is_identity"]

# Names of columns, in small letters and without separators, that would carry an identity.
_IDENTITIES = {
    "accession", "accessionnumber", "acquisitiondate", "address", "birthdate", "birthday",
    "birthname", "casenumber", "dateofbirth", "dateofdeath", "deathdate", "dob", "email",
    "emailaddress", "familyname", "file", "filename", "filepath", "firstname", "fullname",
    "givenname", "hospitalnumber", "initials", "instanceuid", "lastname", "medicalrecordnumber",
    "mrn", "name", "nhsnumber", "otherpatientids", "participant", "participantid", "path",
    "patient", "patientaddress", "patientbirthdate", "patientid", "patientname", "patientnumber",
    "phone", "phonenumber", "postcode", "referringphysicianname", "seriesdate",
    "seriesinstanceuid", "seriesuid", "session", "socialsecuritynumber", "sopinstanceuid",
    "sourcepath", "ssn", "studydate", "studyid", "studyinstanceuid", "studyuid", "subject",
    "subjectid", "surname", "telephone", "zipcode",
}  # fmt: skip
_WORDS = {
    "accession", "birth", "birthdate", "birthday", "filename", "filepath", "mrn", "path", "surname",
    "uid",
}  # fmt: skip
# Of these the meaning, and mostly the form, is fixed.
_OWN = ("label", "box", "split", "fold", "frame", "row")

LEAST_LETTERS = 5
"""Of an identifier that is looked for in cells: shorter ones stand in many by chance."""


def is_identity(column: str) -> bool:
    """Return whether a column's name says that it holds identities.

    ``mask`` and ``image_path_…`` are paths that the cohort needs, and do not count.
    """
    if holds_paths(column):
        return False
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", column)
    name = re.sub("[^a-z]", "", column.lower())
    return name in _IDENTITIES or any(word.lower() in _WORDS for word in words)


def columns_to_keep(
    labels: pd.DataFrame,
    matches: Sequence[int | None],
    identifiers: Mapping[str, Sequence[str | None]],
    findings: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Return the columns of a table of labels that name nobody, and notes on what became of all.

    Args:
        matches: row of the table of each image, ``None`` without one.
        identifiers: names and values of what identifies each image; of ``image``, which is a path,
            the name of the file and those of its folders, too.
        findings: columns that are kept, as those are that a cohort has a meaning for.
    """
    names = [name for name in map(str, labels.columns) if name != "image"]
    needed = {name for name in names if name in (*_OWN, *findings) or holds_paths(name)}
    dropped = {name for name in names if name not in needed and is_identity(name)}
    extra = [name for name in names if name not in needed and name not in dropped]
    secret = {name: labels[name].tolist() for name in sorted(dropped)}
    cells = {name: labels[name].tolist() for name in extra}
    for image, row in enumerate(matches):
        if row is None:
            continue
        own = set(_identifiers({name: values[image] for name, values in identifiers.items()}))
        own |= set(_identifiers({name: values[row] for name, values in secret.items()}))
        dropped |= {name for name in extra if _names_one(str(cells[name][row]), own)}
    kept = [name for name in names if name not in dropped]
    return kept, _notes([name for name in names if name in dropped], kept, needed)


def _identifiers(values: Mapping[str, str | None]) -> Iterator[str]:
    """Yield what names an image, in small letters, where it is long enough to be looked for."""
    for name, value in values.items():
        parts = [str(value or "").strip()]
        if name == "image":
            path = PurePosixPath(parts[0])
            parts += [*path.parts, path.stem, path.name.removesuffix(".gz").removesuffix(".nii")]
        yield from (part.casefold() for part in parts if len(part) >= LEAST_LETTERS)


def _names_one(cell: str, identifiers: set[str]) -> bool:
    text = cell.casefold()
    return len(text) >= LEAST_LETTERS and any(name in text for name in identifiers)


def _notes(dropped: Sequence[str], kept: Sequence[str], needed: set[str]) -> list[str]:
    notes = []
    if dropped:
        notes.append(
            "columns of the labels that name identities were left out: "
            f"{', '.join(map(repr, dropped))}."
        )
    # Ages have a rule of their own.
    others = [name for name in kept if name not in needed and name.lower() != "age"]
    if others:
        notes.append(
            f"further columns of the labels were taken over as they are: "
            f"{', '.join(map(repr, others))}. Look whether they name anybody."
        )
    return notes
