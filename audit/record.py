"""Records and the log's description: frozen, and valid once built.

A record's *body* holds everything that was said: schema version, log id, sequence, kind, subject,
actor, time, request id and payload, as canonical JSON. The columns beside it in the database serve
searching only and must agree with it; ``previous`` and ``digest`` link it into the chain.

Times are UTC, ISO 8601 with microseconds: ``2026-03-01T09:30:00.000000Z``. Sequence numbers start
at 1 and have no gaps. The order of the records is that of their numbers; the time is what the
writing machine's clock said and may go backwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .canonical import canonical_json, parse_canonical
from .chain import CHAIN_DOMAIN, check_digest, genesis_digest, record_digest
from .errors import VerificationError

__all__ = [
    "AuditRecord",
    "LogHead",
    "LogMeta",
    "SCHEMA_VERSION",
    "StoredRow",
    "check_kind",
    "check_text",
    "format_time",
    "record_from_row",
]

SCHEMA_VERSION = 1
"""Version of the body's format. Old bodies are never rewritten: a later version reads both."""

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
_MAX_TEXT = 512
_BODY_TYPES: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "log": (str,),
    "sequence": (int,),
    "kind": (str,),
    "subject": (str,),
    "actor": (str,),
    "recorded_at": (str,),
    "request_id": (str, type(None)),
    "payload": (dict,),
}


@dataclass(frozen=True, slots=True)
class LogHead:
    """The end of a log: keep it outside, and a later cut or rewrite cannot go unnoticed.

    Args:
        records: number of records, 0 or more.
        digest: of the last one; of the genesis if there is none.

    Raises:
        ValueError: if the number is negative or the digest is not one.
    """

    records: int
    digest: str

    def __post_init__(self) -> None:
        if self.records < 0:
            raise ValueError(f"records must be >= 0, got {self.records}.")
        check_digest(self.digest)


@dataclass(frozen=True, slots=True)
class LogMeta:
    """Description of a log, fixed at its creation; the first record's ``previous`` covers it.

    Args:
        log_id: a random UUID.
        schema_version: of the bodies at creation.
        created_at: UTC, as in records.
        domain: name of the chaining rule, see :mod:`audit.chain`.
    """

    log_id: str
    schema_version: int
    created_at: str
    domain: str = CHAIN_DOMAIN

    @property
    def genesis(self) -> str:
        """Digest that the first record follows."""
        description = {
            "log": self.log_id,
            "schema": self.schema_version,
            "created_at": self.created_at,
            "domain": self.domain,
        }
        return genesis_digest(canonical_json(description, name="log_meta"))


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One entry of the log.

    Args:
        sequence: from 1, without gaps.
        kind: what happened, e.g. ``"prediction"`` or ``"model.registered"``.
        subject: what it happened to; a pseudonym or digest, never an identity.
        actor: who or what caused it.
        recorded_at: UTC time of the append, as text.
        request_id: of the request; a retry with the same id is not recorded twice. ``None`` if
            the caller named none.
        payload: JSON object as it was recorded; numbers as canonical JSON reads back, so ``1.0``
            is the integer 1. Changing it changes neither ``body`` nor the log.
        previous: digest of the record before, or the genesis.
        digest: of this record.
        log_id: of the log it belongs to.
        schema_version: of the body's format.
        body: the canonical bytes that the digest covers.
    """

    sequence: int
    kind: str
    subject: str
    actor: str
    recorded_at: str
    request_id: str | None
    payload: dict[str, Any] = field(hash=False)
    previous: str
    digest: str
    log_id: str
    schema_version: int
    body: bytes = field(repr=False)

    @classmethod
    def compose(
        cls,
        meta: LogMeta,
        after: LogHead,
        *,
        kind: str,
        subject: str,
        actor: str,
        recorded_at: str,
        request_id: str | None,
        payload: dict[str, Any],
    ) -> AuditRecord:
        """Return the record that follows ``after`` in the log ``meta``.

        Raises:
            ValueError: if a part cannot be canonical JSON.
        """
        body = {
            "schema": SCHEMA_VERSION,
            "log": meta.log_id,
            "sequence": after.records + 1,
            "kind": kind,
            "subject": subject,
            "actor": actor,
            "recorded_at": recorded_at,
            "request_id": request_id,
            "payload": payload,
        }
        return cls.from_body(canonical_json(body, name="record"), previous=after.digest)

    @classmethod
    def from_body(cls, body: bytes, *, previous: str) -> AuditRecord:
        """Read a body and compute its digest.

        Raises:
            ValueError: if the body is not one of this schema version, or ``previous`` no digest.
        """
        values = parse_canonical(body)
        if not isinstance(values, dict) or values.get("schema") != SCHEMA_VERSION:
            found = values.get("schema") if isinstance(values, dict) else None
            raise ValueError(f"its schema version must be {SCHEMA_VERSION}, got {found!r}.")
        wrong = values.keys() ^ _BODY_TYPES.keys() or {
            key for key, types in _BODY_TYPES.items() if type(values[key]) not in types
        }
        if wrong:
            raise ValueError(f"its fields are missing, unknown or of a wrong type: {sorted(wrong)}")
        return cls(
            digest=record_digest(previous, body),
            previous=previous,
            body=body,
            log_id=values.pop("log"),
            schema_version=values.pop("schema"),
            **values,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types: the body's fields, ``previous`` and ``digest``."""
        return {
            "log": self.log_id,
            "schema": self.schema_version,
            "sequence": self.sequence,
            "kind": self.kind,
            "subject": self.subject,
            "actor": self.actor,
            "recorded_at": self.recorded_at,
            "request_id": self.request_id,
            "payload": self.payload,
            "previous": self.previous,
            "digest": self.digest,
        }


class StoredRow(NamedTuple):
    """A row of the table ``records``, not trusted: any value may be of any type."""

    sequence: Any
    kind: Any
    subject: Any
    actor: Any
    recorded_at: Any
    request_id: Any
    body: Any
    previous: Any
    digest: Any


def record_from_row(row: StoredRow) -> AuditRecord:
    """Return the record of a row after checking its columns and digest against its body.

    Raises:
        VerificationError: if they disagree; its ``sequence`` names the row.
    """
    number = row.sequence if type(row.sequence) is int else None
    try:
        body = row.body if isinstance(row.body, bytes) else b""
        if record_digest(row.previous, body) != row.digest:
            raise ValueError("body, previous and digest do not belong together")
        record = AuditRecord.from_body(body, previous=row.previous)
    except ValueError as error:
        raise VerificationError(f"record {number}: {error}", sequence=number) from error
    for name in ("sequence", "kind", "subject", "actor", "recorded_at", "request_id"):
        stored, said = getattr(row, name), getattr(record, name)
        if type(stored) is not type(said) or stored != said:
            raise VerificationError(
                f"record {number}: column {name} is {stored!r}, its body says {said!r}",
                sequence=number,
            )
    return record


def format_time(moment: datetime) -> str:
    """Return an aware time as recorded: UTC, microseconds, ``Z``.

    Raises:
        ValueError: if ``moment`` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("the clock must return an aware datetime, got one without a time zone.")
    return moment.astimezone(UTC).strftime(_TIME)


def check_kind(kind: str) -> None:
    """Check the name of an event: lower-case words joined by dots.

    Raises:
        ValueError: if it is not such a name.
    """
    if not isinstance(kind, str) or not _KIND.fullmatch(kind) or len(kind) > _MAX_TEXT:
        raise ValueError(
            f"kind must be lower-case words joined by dots, like 'model.registered', got {kind!r}."
        )


def check_text(value: str, name: str) -> None:
    """Check a name that is searched for and shown in one line.

    Raises:
        ValueError: if it is empty, too long, not printable or not text.
    """
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or not value.isprintable():
        shown = repr(value) if isinstance(value, str) else type(value).__name__
        raise ValueError(f"{name} must be 1 to {_MAX_TEXT} printable characters, got {shown[:80]}.")
