"""Copies of images and masks under pseudonymous names, without what names anybody inside.

DICOM see `pseudonymous_copy`, other files `nameless_files`. Pixels stay as they are, burned-in text
among them.
"""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from medproto.data.cohort_columns import MORE_PATHS
from medproto.data.nameless_files import copy_nameless
from medproto.data.pseudonymous_copy import copy_pseudonymously
from medproto.data.pseudonyms import Pseudonymizer
from medproto.data.signature import file_kind
from medproto.data.walk import is_inside
from medproto.errors import CohortError, ImageReadError

__all__ = ["Copied", "copy_images", "without_repeats"]

_ENDINGS = {"DICOM": ".dcm", "PNG": ".png", "JPEG": ".jpg", "NIfTI": ".nii"}


class Copied(NamedTuple):
    """What became of the files.

    Args:
        table: with the paths of the copies.
        failed: files that are missing or could not be read, and have no copy.
    """

    table: pd.DataFrame
    failed: int

    def notes(self) -> list[str]:
        """Say what is in the copies, and how many are missing."""
        notes = [
            "the copies hold what reading them needs, under pseudonyms; text that is burned into "
            "pixels is still there."
        ]
        if self.failed:
            notes.append(
                f"{self.failed} files are missing or cannot be read and were not copied; "
                "`medproto cohort check` names their rows."
            )
        return notes


def copy_images(
    table: pd.DataFrame,
    files: Sequence[Sequence[str]],
    stems: Sequence[str],
    source: Path,
    target: Path,
    pseudonyms: Pseudonymizer,
) -> Copied:
    """Copy the images of a table, their masks and their further channels.

    A file that cannot be read is not copied; the table names the place where it would lie, so that
    the check of the cohort finds it.

    Args:
        table: with ``image`` and perhaps ``mask``, paths relative to ``source``.
        files: of each row, relative to ``source``; of several, slices of a series, the copies are
            ``0000.dcm``, ``0001.dcm``, … in a folder of their own.
        stems: new path of each row, relative to ``target``, without an ending. Of single files of
            one name the later ones get a number.
        target: folder of the copies.

    Raises:
        CohortError: if the folder of a series, or of a mask, is there already; nothing is copied
            then.
    """
    for stem, names in zip(stems, files, strict=True):
        beside = [target / f"{stem}-{suffix}" for _, suffix in _further(table)]
        if (len(names) > 1 and (target / stem).exists()) or any(map(Path.is_dir, beside)):
            raise CohortError(
                "the folder of the copies must not hold a series of this cohort yet, since old "
                "slices would mix with new ones, and it does; remove it or write to another place."
            )
    table, taken, failed = table.copy(), Counter[str](), 0
    for row, (stem, names) in enumerate(zip(stems, files, strict=True)):
        taken[stem] += 1
        name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if len(names) > 1:
            failed += _copy_slices([source / path for path in names], target / name, pseudonyms)
            table.loc[row, "image"] = name
        else:
            ending = _ending(source / names[0])
            failed += _copy(source / names[0], target / f"{name}{ending}", pseudonyms)
            table.loc[row, "image"] = f"{name}{ending}"
        for column, suffix in _further(table):
            cell = str(table[column][row])
            if cell:
                copied, bad = _copy_beside(source, cell, target, f"{name}-{suffix}", pseudonyms)
                table.loc[row, column] = copied
                failed += bad
    return Copied(table, failed)


def _further(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the other columns of paths, and what marks their copies: masks and further channels.

    A number, and not the name of a column: a name may hold anything.
    """
    more = [str(name) for name in table.columns if str(name).startswith(MORE_PATHS)]
    masks = [("mask", "mask")] if "mask" in table else []
    return masks + [(name, f"channel-{number}") for number, name in enumerate(more, start=1)]


def without_repeats(files: Sequence[str], names: Sequence[str], source: Path) -> list[str]:
    """Return the files without those that repeat another one of the same name, byte for byte.

    Args:
        names: of the instances in the files; an empty one is never a repetition.
    """
    kept: list[str] = []
    first: dict[str, str] = {}
    for path, name in zip(files, names, strict=True):
        other = first.setdefault(name, path) if name else path
        if other != path and filecmp.cmp(source / other, source / path, shallow=False):
            continue
        kept.append(path)
    return kept


def _copy_beside(
    source: Path, original: str, target: Path, name: str, pseudonyms: Pseudonymizer
) -> tuple[str, int]:
    """Copy what goes with an image; return the path of the copy and the files that failed.

    Of what is not there the table names the place of the copy, for the check to find: the path of
    the original may identify.
    """
    path = source / original
    if not is_inside(source, path):  # a table may name any file of the machine
        return name, 1
    if path.is_dir():
        slices = [file for file in sorted(path.iterdir()) if file.is_file()]
        slices = [file for file in slices if file_kind(file) == "DICOM"]
        return name, _copy_slices(slices, target / name, pseudonyms)
    if not path.is_file():
        return name, 1
    copied = f"{name}{_ending(path)}"
    return copied, _copy(path, target / copied, pseudonyms)


def _copy_slices(files: Sequence[Path], folder: Path, pseudonyms: Pseudonymizer) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return sum(
        _copy(path, folder / f"{number:04d}.dcm", pseudonyms) for number, path in enumerate(files)
    )


def _copy(path: Path, target: Path, pseudonyms: Pseudonymizer) -> int:
    """Copy one file; return 1 if it cannot be read, and there is no copy."""
    try:
        kind = file_kind(path)
        if kind is None:
            return 1
        if kind == "DICOM":
            copy_pseudonymously(path, target, pseudonyms)
        else:
            copy_nameless(path, target, kind=kind)
    except ImageReadError:
        return 1
    return 0


def _ending(path: Path) -> str:
    """Return an ending by the content: that of the name may be part of an identity."""
    ending = _ENDINGS.get(file_kind(path) or "", "")
    if ending != ".nii":
        return ending
    with path.open("rb") as stream:
        return ".nii.gz" if stream.read(2) == b"\x1f\x8b" else ".nii"
