"""Walk a folder of images: every file once, links only as far as they stay in the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from medproto.errors import CohortError

__all__ = ["Walk", "check_name", "is_inside", "source_folder", "walk_folder"]


class Walk(NamedTuple):
    """The files of a folder and what was not followed.

    Args:
        files: regular files below the folder, in the order of their paths, hidden ones left out.
        leaving: links, to files or folders, whose target lies outside the folder.
        broken: links to nothing.
    """

    files: tuple[Path, ...]
    leaving: int
    broken: int

    @property
    def notes(self) -> list[str]:
        """Say what was not followed, a sentence each."""
        notes = []
        if self.leaving:
            notes.append(
                f"{self.leaving} links lead out of the folder and were not followed; name the "
                "folder that holds the files themselves."
            )
        if self.broken:
            notes.append(f"{self.broken} links lead to nothing and were left out.")
        return notes


def walk_folder(source: Path) -> Walk:
    """Return the regular files under a folder; each folder is entered once, so loops end.

    Raises:
        CohortError: if ``source`` is no folder, or a name in it is not UTF-8 and so fits no table.
    """
    source = source_folder(source)
    root = source.resolve()
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    leaving = broken = 0
    for folder, folders, files in os.walk(source, followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if _stays(root, Path(folder, name))]
        leaving += len(shown) - len(folders)
        for path in (Path(folder, name) for name in sorted(files) if not name.startswith(".")):
            if not path.is_file():
                broken += path.is_symlink()
            elif not _stays(root, path):
                leaving += 1
            else:
                check_name(path)
                found.append(path)
    return Walk(tuple(found), leaving, broken)


def is_inside(source: Path, path: Path) -> bool:
    """Return whether a path, all links followed, lies in a folder; the path need not exist."""
    try:
        return path.resolve().is_relative_to(source.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL in a name
        return False


def source_folder(source: Path) -> Path:
    """Return the path of a folder.

    Raises:
        CohortError: if it is none.
    """
    source = Path(source)
    if not source.is_dir():
        raise CohortError("the source must be a folder that exists.")
    return source


def check_name(path: Path) -> None:
    """Refuse a name that fits no table.

    Raises:
        CohortError: if a name is not UTF-8.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        raise CohortError("file names must be UTF-8, and one is not; rename it.")


def _stays(root: Path, path: Path) -> bool:
    """Return whether a file or folder met on the way is no link, or one that stays inside."""
    return not path.is_symlink() or is_inside(root, path)
