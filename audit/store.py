"""The log: append and read. An append that has returned is on disk and cannot be taken back.

Several processes and threads may append to one log; the write lock puts them in order. An
:class:`AuditLog` belongs to the process that opened it.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select
from sqlalchemy.exc import OperationalError

from .canonical import canonical_json
from .errors import AuditError, RequestConflictError, VerificationError
from .location import log_path
from .record import (
    SCHEMA_VERSION,
    AuditRecord,
    LogHead,
    LogMeta,
    StoredRow,
    check_kind,
    check_text,
    format_time,
    record_from_row,
)
from .schema import creation_statements, log_meta, read_meta, records
from .sqlite import DATABASE_ERRORS, READ, reader_engine, sync_folder, writer_engine

__all__ = ["AuditLog"]

_PAGE = 256


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


class AuditLog:
    """An append-only, hash-chained log; made by :meth:`create` or :meth:`open`.

    Use it as a context manager, or call :meth:`close`.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> with AuditLog.create(f"{folder.name}/log.db") as log:
        ...     record = log.append("note", subject="readme", actor="me", payload={"text": "hello"})
        ...     record.sequence, len(log), log.head().digest == record.digest
        (1, 1, True)
        >>> folder.cleanup()
    """

    def __init__(
        self, engine: Engine, meta: LogMeta, *, path: Path, clock: Callable[[], datetime]
    ) -> None:
        self.meta = meta
        self.path = path
        self._engine: Engine | None = engine
        self._clock = clock
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @classmethod
    def create(cls, url: str | Path, *, clock: Callable[[], datetime] = utc_now) -> AuditLog:
        """Create an empty log and open it.

        Args:
            url: ``sqlite:///path`` or a path; nothing may exist there.
            clock: gives the times of the records; aware datetimes.

        Raises:
            LogLocationError: if ``url`` cannot name a log.
            AuditError: if something exists there, or the file cannot be written.
        """
        path = log_path(url)
        meta = LogMeta(str(uuid.uuid4()), SCHEMA_VERSION, format_time(clock()))
        try:
            path.open("xb").close()
        except FileExistsError as error:
            raise AuditError(
                f"{url} exists already; a log is never written over. Choose another path."
            ) from error
        except OSError as error:
            raise AuditError(f"cannot create a log at {url}: {error.strerror}.") from error
        engine = writer_engine(path)
        try:
            with engine.begin() as connection:
                for statement in creation_statements():
                    connection.exec_driver_sql(statement)
                values = {
                    "id": 1,
                    "log_id": meta.log_id,
                    "schema_version": meta.schema_version,
                    "created_at": meta.created_at,
                    "domain": meta.domain,
                    "genesis": meta.genesis,
                }
                connection.execute(insert(log_meta).values(values))
            sync_folder(path.parent)
        except DATABASE_ERRORS as error:
            engine.dispose()
            path.unlink(missing_ok=True)
            raise AuditError(f"cannot create a log at {url}: {_cause(error)}.") from error
        return cls(engine, meta, path=path, clock=clock)

    @classmethod
    def open(
        cls,
        url: str | Path,
        *,
        read_only: bool = False,
        clock: Callable[[], datetime] = utc_now,
    ) -> AuditLog:
        """Open an existing log.

        Args:
            url: ``sqlite:///path`` or a path.
            read_only: the file is never changed, and need not be writable.
            clock: gives the times of the records; aware datetimes.

        Raises:
            LogLocationError: if ``url`` cannot name a log.
            AuditError: if there is no log, or it cannot be read.
            VerificationError: if it is not a log, of another version, or altered in ``log_meta``.
        """
        path = log_path(url)
        if not path.is_file():
            raise AuditError(f"there is no log at {url}. Create one: medproto audit init {url}")
        engine = reader_engine(path) if read_only else writer_engine(path)
        try:
            with engine.connect().execution_options(**READ) as connection:
                meta, genesis = read_meta(connection)
        except VerificationError as error:
            engine.dispose()
            raise VerificationError(f"{url}: {error}") from error
        except DATABASE_ERRORS as error:
            engine.dispose()
            raise AuditError(f"cannot open the log {url}: {_cause(error)}.") from error
        if meta.genesis != genesis:
            engine.dispose()
            raise VerificationError(f"{url}: log_meta was altered: it does not give the genesis.")
        return cls(engine, meta, path=path, clock=clock)

    def append(
        self,
        kind: str,
        *,
        subject: str,
        actor: str,
        payload: dict[str, Any],
        request_id: str | None = None,
    ) -> AuditRecord:
        """Append a record; when this returns, it is committed and on disk.

        Args:
            kind: what happened: lower-case words joined by dots.
            subject: what it happened to; a pseudonym or digest, never an identity.
            actor: who or what caused it.
            payload: JSON object: no NaN, no infinity, no integer beyond 2^53 - 1.
            request_id: names the request. If the log has it already with the same kind, subject,
                actor and payload, this is a retry and the existing record is returned.

        Raises:
            ValueError: if an argument cannot be recorded; a place in the payload is named.
            RequestConflictError: if the log has ``request_id`` with other content.
            VerificationError: if the record before it is damaged.
            AuditError: if the log cannot be written; nothing was appended then.
        """
        check_kind(kind)
        check_text(subject, "subject")
        check_text(actor, "actor")
        if request_id is not None:
            check_text(request_id, "request_id")
        if not isinstance(payload, dict):
            raise ValueError(f"payload must be a dict, got {type(payload).__name__}.")
        content = (kind, subject, actor, canonical_json(payload))
        with self._lock, self._connect() as connection:
            if request_id is not None:
                known = _one(connection, records.c.request_id == request_id)
                if known is not None:
                    return _same_request(known, content)
            last = _last(connection)
            record = AuditRecord.compose(
                self.meta,
                self._head(last),
                kind=kind,
                subject=subject,
                actor=actor,
                recorded_at=format_time(self._clock()),
                request_id=request_id,
                payload=payload,
            )
            values = {name: getattr(record, name) for name in StoredRow._fields}
            connection.execute(insert(records).values(values))
        return record

    def records(
        self,
        *,
        start: int = 1,
        stop: int | None = None,
        kind: str | None = None,
        subject: str | None = None,
        newest_first: bool = False,
    ) -> Iterator[AuditRecord]:
        """Iterate over records with ``start <= sequence < stop``, in the order of their numbers.

        Each record's digest and columns are checked against its body; the chain as a whole is
        checked by :func:`audit.verify` only.

        Args:
            stop: ``None`` for no end; records appended meanwhile are seen too.
            kind: of this kind only.
            subject: about this subject only.
            newest_first: in falling order.

        Raises:
            VerificationError: at a record that is not what was written.
            AuditError: if the log cannot be read.
        """
        number = records.c.sequence
        query = select(records).order_by(number.desc() if newest_first else number).limit(_PAGE)
        if kind is not None:
            query = query.where(records.c.kind == kind)
        if subject is not None:
            query = query.where(records.c.subject == subject)
        # Page by page: an abandoned iterator must not keep a transaction open.
        while True:
            page = query.where(number >= start)
            if stop is not None:
                page = page.where(number < stop)
            with self._connect(read=True) as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield record_from_row(StoredRow(*row))
            if len(rows) < _PAGE:
                return
            if newest_first:
                stop = rows[-1].sequence
            else:
                start = rows[-1].sequence + 1

    def get(self, sequence: int) -> AuditRecord:
        """Return one record, checked like those of :meth:`records`.

        Raises:
            AuditError: if there is no such record, or the log cannot be read.
            VerificationError: if it is not what was written.
        """
        with self._connect(read=True) as connection:
            record = _one(connection, records.c.sequence == sequence)
        if record is None:
            raise AuditError(f"there is no record {sequence}; the log has {len(self)} records.")
        return record

    def head(self) -> LogHead:
        """Return the number of records and the digest of the last; note it outside the log."""
        with self._connect(read=True) as connection:
            return self._head(_last(connection))

    def __len__(self) -> int:
        with self._connect(read=True) as connection:
            count: int = connection.execute(select(func.count()).select_from(records)).scalar_one()
        return count

    def close(self) -> None:
        """Close the log; calling it again does nothing."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else "open"
        return f"AuditLog({str(self.path)!r}, {state})"

    def _head(self, last: AuditRecord | None) -> LogHead:
        if last is None:
            return LogHead(0, self.meta.genesis)
        return LogHead(last.sequence, last.digest)

    @contextmanager
    def _connect(self, *, read: bool = False) -> Iterator[Connection]:
        if self._engine is None:
            raise AuditError("the log is closed. Call AuditLog.open(...) again.")
        if os.getpid() != self._pid:
            raise AuditError(
                "the log was opened by another process; SQLite connections do not survive a fork. "
                "Call AuditLog.open(...) in this process."
            )
        try:
            raw = self._engine.connect().execution_options(**(READ if read else {}))
            with raw as connection, connection.begin():
                yield connection
        except DATABASE_ERRORS as error:
            verb = "read" if read else "write to"
            raise AuditError(f"cannot {verb} the log {self.path}: {_cause(error)}.") from error


def _last(connection: Connection) -> AuditRecord | None:
    query = select(records).order_by(records.c.sequence.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else record_from_row(StoredRow(*row))


def _one(connection: Connection, condition: Any) -> AuditRecord | None:
    row = connection.execute(select(records).where(condition)).first()
    return None if row is None else record_from_row(StoredRow(*row))


def _same_request(known: AuditRecord, content: tuple[str, str, str, bytes]) -> AuditRecord:
    if (known.kind, known.subject, known.actor, canonical_json(known.payload)) == content:
        return known
    raise RequestConflictError(
        f"request_id {known.request_id!r} must name one request only, but record {known.sequence} "
        "has it with another kind, subject, actor or payload. Use a new request_id."
    )


def _cause(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    if isinstance(error, OperationalError) and "locked" in str(cause):
        return "another process holds its write lock for too long"
    return str(cause).rstrip(".")
