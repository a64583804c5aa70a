"""One training at a time in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import IO

from medproto.errors import ModelFileError

__all__ = ["FolderLock"]


class FolderLock:
    """Keeps a folder from being written by two processes; the lock's file stays, and is empty.

    The operating system holds the lock, so that a killed process leaves none behind. Where it has
    no such locks (Windows, some network file systems) nothing is locked.

    Args:
        path: of the lock's file; its folder must be there once the lock is taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def take(self) -> bool:
        """Take the lock, and say whether it is held; it is until the ``with`` block ends.

        Raises:
            ModelFileError: if another process holds it.
        """
        if self._file is not None:
            return True
        try:
            fcntl = importlib.import_module("fcntl")
        except ModuleNotFoundError:
            return False
        file = self._path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ModelFileError(
                "the folder must not be in use, another process is working in it; wait for its "
                "end, or choose another folder."
            ) from error
        except OSError:  # a file system without locks
            file.close()
            return False
        self._file = file
        return True
