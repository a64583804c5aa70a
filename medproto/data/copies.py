"""Copies of images and masks under pseudonymous names; what is inside the files stays as it is."""

from __future__ import annotations

import filecmp
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medproto.data.signature import file_kind
from medproto.data.table import relative_path
from medproto.errors import CohortError

__all__ = ["copy_images", "without_repeats"]

_ENDINGS = {"DICOM": ".dcm", "PNG": ".png", "JPEG": ".jpg", "NIfTI": ".nii"}


def copy_images(
    table: pd.DataFrame,
    files: Sequence[Sequence[str]],
    stems: Sequence[str],
    source: Path,
    target: Path,
) -> pd.DataFrame:
    """Copy the images and masks of a table and return the table with their new paths.

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
        if (len(names) > 1 and (target / stem).exists()) or (target / f"{stem}-mask").is_dir():
            raise CohortError(
                "the folder of the copies must not hold a series of this cohort yet, since old "
                "slices would mix with new ones, and it does; remove it or write to another place."
            )
    table, taken = table.copy(), Counter[str]()
    for row, (stem, names) in enumerate(zip(stems, files, strict=True)):
        taken[stem] += 1
        name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if len(names) > 1:
            _copy_slices([source / path for path in names], target / name)
            table.loc[row, "image"] = name
        else:
            ending = _ending(source / names[0])
            shutil.copyfile(source / names[0], target / f"{name}{ending}")
            table.loc[row, "image"] = f"{name}{ending}"
        mask = str(table["mask"][row]) if "mask" in table else ""
        if mask:
            table.loc[row, "mask"] = _copy_mask(source, mask, target, name)
    return table


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


def _copy_mask(source: Path, mask: str, target: Path, name: str) -> str:
    """Copy a mask beside its image; one that is not there keeps its path, for the check to find."""
    path = source / mask
    if path.is_dir():
        slices = [file for file in sorted(path.iterdir()) if file.is_file()]
        slices = [file for file in slices if file_kind(file) == "DICOM"]
        _copy_slices(slices, target / f"{name}-mask")
        return f"{name}-mask"
    if not path.is_file():
        return relative_path(source, mask, target)
    copied = f"{name}-mask{_ending(path)}"
    shutil.copyfile(path, target / copied)
    return copied


def _copy_slices(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(files):
        shutil.copyfile(path, folder / f"{number:04d}.dcm")


def _ending(path: Path) -> str:
    """Return an ending by the content: that of the name may be part of an identity."""
    ending = _ENDINGS.get(file_kind(path) or "", "")
    if ending != ".nii":
        return ending
    with path.open("rb") as stream:
        return ".nii.gz" if stream.read(2) == b"\x1f\x8b" else ".nii"
