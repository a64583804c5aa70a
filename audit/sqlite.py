"""SQLite below the log: connections, how durable they are, and reading without a trace.

Writers use a write-ahead log (WAL) with ``synchronous=FULL``: a commit has reached the disk when it
returns. They take the write lock at ``BEGIN``, because a lock taken later can fail half-way. WAL
needs shared memory between the processes: keep a log on a local disk, not on a network share.

Readers never write to the database. While a writer is at work they join it through its ``-shm``
file; otherwise they open the file as immutable, so that reading leaves no file beside it and works
on a read-only medium.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

__all__ = [
    "DATABASE_ERRORS",
    "READ",
    "file_state",
    "in_use",
    "reader_engine",
    "sync_folder",
    "writer_engine",
]

DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, OSError)
"""What a database that is locked, full, unreadable or damaged may raise."""

READ = {"medproto_begin": "BEGIN"}
"""Execution options of a connection that only reads: it takes no write lock."""

_LOCK_TIMEOUT_S = 30.0
# cell_size_check and trusted_schema: a log may come from a stranger or be damaged.
_COMMON = ("PRAGMA foreign_keys = ON", "PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON")
# fullfsync matters on macOS only, where a plain fsync leaves data in the disk's cache.
_WRITER = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA fullfsync = ON")
_READER = ("PRAGMA query_only = ON",)


def writer_engine(path: Path) -> Engine:
    """Return an engine that appends to an existing file; threads may share it, processes not."""
    return _engine(lambda: _connect(path, "mode=rw", _WRITER), poolclass=QueuePool)


def reader_engine(path: Path) -> Engine:
    """Return an engine that reads; each connection is a new one and sees the newest records."""
    return _engine(lambda: _connect(path, _reading_mode(path), _READER), poolclass=NullPool)


def file_state(path: Path) -> tuple[object, ...]:
    """Return what changes when somebody writes: sizes and times of the file and of its WAL."""
    state: list[object] = []
    for file in (path, _beside(path, "-wal")):
        try:
            status = file.stat()
        except FileNotFoundError:
            state.append(None)
        else:
            state.append((status.st_size, status.st_mtime_ns))
    return tuple(state)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to disk; does nothing where the system has no such call."""
    # A new file survives a power cut only if its folder's entry is on disk too (POSIX).
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def in_use(path: Path) -> bool:
    """Return whether a writer has the log open, or left records in the ``-wal`` file."""
    wal = _beside(path, "-wal")
    return _beside(path, "-shm").exists() or (wal.exists() and wal.stat().st_size > 0)


def _reading_mode(path: Path) -> str:
    return "mode=ro" if in_use(path) else "mode=ro&immutable=1"


def _connect(path: Path, mode: str, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?{mode}",
        uri=True,
        timeout=_LOCK_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    # Damaged text must reach the comparison with the body instead of failing here.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        for pragma in (*_COMMON, *pragmas):
            connection.execute(pragma).close()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _engine(connect: Callable[[], sqlite3.Connection], *, poolclass: Any) -> Engine:
    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=poolclass)

    # The driver's own BEGIN is deferred and comes late; isolation_level=None above turns it off.
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        begin = connection.get_execution_options().get("medproto_begin", "BEGIN IMMEDIATE")
        connection.exec_driver_sql(begin)

    return engine
