"""Verification: is every record what was written, in the order it was written?

Reads only, and never changes the database. Checked are: the file's own structure (SQLite's
``integrity_check``), tables and triggers as created, the log's description, and for each record its
number, its columns against its body, its digest, and its link to the record before.

A chain alone cannot show that the newest records were cut off, or that somebody wrote all of it
anew. Compare with a head noted outside the log: ``verify(url, expected=LogHead(records, digest))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from .errors import VerificationError
from .location import log_path
from .record import LogHead
from .schema import checkpoints, expected_objects, read_meta, records, stored_objects
from .sqlite import DATABASE_ERRORS, READ, file_state, in_use, reader_engine
from .walk import ChainWalk, Problem

__all__ = ["Problem", "VerificationReport", "verify"]

_UNREADABLE = (*DATABASE_ERRORS, ValueError, MemoryError, RecursionError)
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """Outcome of a verification.

    Args:
        ok: no problem was found.
        records: number of records read.
        head: digest of the last record (the genesis if there is none); ``None`` unless ``ok``.
        first_bad: smallest record number with a problem, ``None`` if no record is concerned.
        problems: in the order found; about 100 at most.
        log_id: as the log says.
    """

    ok: bool
    records: int
    head: str | None
    first_bad: int | None
    problems: tuple[Problem, ...]
    log_id: str

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "ok": self.ok,
            "log": self.log_id,
            "records": self.records,
            "head": self.head,
            "first_bad": self.first_bad,
            "problems": [{"sequence": p.sequence, "reason": p.reason} for p in self.problems],
        }


def verify(url: str | Path, *, expected: LogHead | None = None) -> VerificationReport:
    """Verify a log from its first record to its last, without changing it.

    Args:
        url: ``sqlite:///path`` or a path; the file need not be writable.
        expected: a head noted earlier. The log must have at least so many records, and that one's
            digest must be the noted one; it may have grown since.

    Raises:
        LogLocationError: if ``url`` cannot name a log.
        VerificationError: if there is no log, or what is there cannot be read as one.
    """
    path = log_path(url)
    if not path.is_file():
        raise VerificationError(f"there is no log at {url}.")
    # An idle log is read without locks. If a writer came meanwhile, what was read may be a mixture
    # of before and after, good or bad: read again, now beside the writer.
    for _ in range(_ATTEMPTS):
        beside_writer, before = in_use(path), file_state(path)
        outcome = _attempt(path, expected)
        if beside_writer or file_state(path) == before:
            break
    if isinstance(outcome, VerificationError):
        raise VerificationError(f"{url}: {outcome}", sequence=outcome.sequence) from outcome
    return outcome


def _attempt(path: Path, expected: LogHead | None) -> VerificationReport | VerificationError:
    engine = reader_engine(path)
    try:
        with engine.connect().execution_options(**READ) as connection, connection.begin():
            return _verify_log(connection, expected)
    except VerificationError as error:
        return error
    except _UNREADABLE as error:
        cause = getattr(error, "orig", None) or error
        return VerificationError(f"it cannot be read as a log: {cause}.")
    finally:
        engine.dispose()


def _verify_log(connection: Connection, expected: LogHead | None) -> VerificationReport:
    meta, genesis = read_meta(connection)
    problems, readable = _schema_problems(connection)
    trusted = meta.genesis == genesis
    if not trusted:
        problems.append(Problem(None, "log_meta was altered: it does not give the genesis digest"))
    walk = ChainWalk(
        genesis=frozenset((meta.genesis, genesis)),
        log_id=meta.log_id if trusted else None,
        expected=expected,
    )
    if readable:
        problems += _file_problems(connection)
        query = select(records).order_by(records.c.sequence)
        walk.run(connection.execution_options(yield_per=256).execute(query))
        problems += walk.problems
    numbers = [p.sequence for p in problems if p.sequence is not None]
    ok = not problems
    return VerificationReport(
        ok=ok,
        records=walk.count,
        head=walk.last if ok else None,
        first_bad=min(numbers, default=None),
        problems=tuple(problems),
        log_id=meta.log_id,
    )


def _schema_problems(connection: Connection) -> tuple[list[Problem], bool]:
    """Return what is wrong with the schema, and whether all tables are as created.

    Only tables as created are read further: in place of one there may be a view of other data.
    """
    expected, stored = expected_objects(), stored_objects(connection)
    problems = []
    for missing in sorted(expected - stored):
        changed = any(missing[:2] == item[:2] for item in stored)
        state = "is not as created" if changed else "is missing"
        problems.append(Problem(None, f"the {missing.type} {missing.name} {state}"))
    known = {item.name for item in expected}
    foreign = {f"{item.type} {item.name}" for item in stored if item.name not in known}
    problems += [Problem(None, f"the {name} does not belong to a log") for name in sorted(foreign)]
    tables = {item for item in expected if item.type == "table"}
    return problems, tables <= stored


def _file_problems(connection: Connection) -> list[Problem]:
    messages = connection.exec_driver_sql("PRAGMA integrity_check(20)").scalars().all()
    found = " ".join(str(message) for message in messages if message != "ok")
    problems = [Problem(None, f"SQLite reports: {' '.join(found.split())}")] if found else []
    signed = connection.execute(select(func.count()).select_from(checkpoints)).scalar_one()
    if signed:
        reason = f"it has {signed} checkpoints, which this version of medproto cannot verify"
        problems.append(Problem(None, reason))
    return problems
