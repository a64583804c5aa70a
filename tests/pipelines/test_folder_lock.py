"""One process at a time in a folder, and what a killed one leaves."""

import fcntl
import subprocess
import sys

import pytest

from medproto.errors import ModelFileError
from pipelines.folder_lock import FolderLock

HOLD = """
import sys
from pathlib import Path
from pipelines.folder_lock import FolderLock
FolderLock.take(kept := FolderLock(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_one_is_refused_until_the_first_has_ended(tmp_path):
    with FolderLock(tmp_path / "lock") as first, FolderLock(tmp_path / "lock") as second:
        assert first.take()
        assert first.take()  # its own does not stand in its way
        with pytest.raises(ModelFileError, match="must not be in use, another process is working"):
            second.take()
    with FolderLock(tmp_path / "lock") as third:
        assert third.take()
    assert (tmp_path / "lock").read_bytes() == b""


def test_a_killed_process_leaves_no_lock(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with FolderLock(path) as own, pytest.raises(ModelFileError, match="must not be in use"):
            own.take()
        other.kill()
        other.wait()
    with FolderLock(path) as own:
        assert own.take()


def test_where_there_are_no_locks_nothing_is_locked(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(38, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with FolderLock(tmp_path / "lock") as lock:
            assert not lock.take()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with FolderLock(tmp_path / "lock") as lock:
        assert not lock.take()
