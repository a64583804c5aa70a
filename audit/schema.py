"""Tables of the log, the statements that create them on SQLite, and the check of a log's own page.

``log_meta`` has one row: the log's description and the genesis digest computed from it. ``records``
has one row a record. ``checkpoints`` is empty in this version; signed checkpoints go there.

Triggers refuse every update and delete, a record that is not the next one, and a second row where
it would replace one (``INSERT OR REPLACE`` deletes without a delete trigger). They guard against
mistakes; against somebody with write access to the file only verification helps.

The statements are written out rather than generated: ``verify`` compares them with what the
database says, and a generator's next version may set its spaces differently.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, column, select, table

from .chain import CHAIN_DOMAIN
from .errors import VerificationError
from .record import SCHEMA_VERSION, LogMeta, StoredRow

__all__ = [
    "LAYOUT_VERSION",
    "SchemaObject",
    "checkpoints",
    "creation_statements",
    "expected_objects",
    "log_meta",
    "read_meta",
    "records",
    "stored_objects",
]

LAYOUT_VERSION = 1
"""Version of tables and triggers (``PRAGMA user_version``); bodies carry their own version."""

log_meta = table(
    "log_meta",
    *(column(n) for n in ("id", "log_id", "schema_version", "created_at", "domain", "genesis")),
)
records = table("records", *(column(name) for name in StoredRow._fields))
checkpoints = table(
    "checkpoints",
    *(column(n) for n in ("id", "records", "head", "merkle_root", "created_at", "note")),
)

_TABLES = {
    "log_meta": """CREATE TABLE log_meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    log_id TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    domain TEXT NOT NULL,
    genesis TEXT NOT NULL
)""",
    "records": """CREATE TABLE records (
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    actor TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    request_id TEXT,
    body BLOB NOT NULL CHECK (typeof(body) = 'blob'),
    previous TEXT NOT NULL CHECK (length(previous) = 71),
    digest TEXT NOT NULL CHECK (length(digest) = 71)
)""",
    "checkpoints": """CREATE TABLE checkpoints (
    id INTEGER PRIMARY KEY,
    records INTEGER NOT NULL,
    head TEXT NOT NULL,
    merkle_root TEXT,
    created_at TEXT NOT NULL,
    note BLOB NOT NULL
)""",
}
_INDEXES = {
    "records_request_id": "CREATE UNIQUE INDEX records_request_id ON records (request_id)",
    "records_kind": "CREATE INDEX records_kind ON records (kind)",
    "records_subject": "CREATE INDEX records_subject ON records (subject)",
}
_ONLY_NEXT = """CREATE TRIGGER records_only_next BEFORE INSERT ON records
WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM records)
    OR NEW.previous IS NOT coalesce(
        (SELECT digest FROM records ORDER BY sequence DESC LIMIT 1),
        (SELECT genesis FROM log_meta))
    OR EXISTS (SELECT 1 FROM records WHERE request_id = NEW.request_id)
BEGIN
    SELECT RAISE(ABORT, 'records takes only the next record of the chain');
END"""


class SchemaObject(NamedTuple):
    """A table, index or trigger as the database lists it."""

    type: str
    name: str
    table: str
    sql: Any


def _triggers() -> dict[str, tuple[str, str]]:
    """Return the table and the statement of each trigger by its name."""
    triggers = {"records_only_next": ("records", _ONLY_NEXT)}
    for name in _TABLES:
        for action in ("update", "delete"):
            triggers[f"{name}_no_{action}"] = (
                name,
                f"CREATE TRIGGER {name}_no_{action} BEFORE {action.upper()} ON {name}\n"
                f"BEGIN\n    SELECT RAISE(ABORT, '{name} is append-only');\nEND",
            )
    for name in ("log_meta", "checkpoints"):
        triggers[f"{name}_no_replace"] = (
            name,
            f"CREATE TRIGGER {name}_no_replace BEFORE INSERT ON {name}\n"
            f"WHEN EXISTS (SELECT 1 FROM {name} WHERE id = NEW.id)\n"
            f"BEGIN\n    SELECT RAISE(ABORT, '{name} is append-only');\nEND",
        )
    return triggers


def expected_objects() -> frozenset[SchemaObject]:
    """Return what a log of this layout consists of."""
    tables = (SchemaObject("table", name, name, sql) for name, sql in _TABLES.items())
    indexes = (SchemaObject("index", name, "records", sql) for name, sql in _INDEXES.items())
    triggers = (SchemaObject("trigger", name, *rest) for name, rest in _triggers().items())
    return frozenset((*tables, *indexes, *triggers))


def creation_statements() -> tuple[str, ...]:
    """Return the statements that create an empty log, in order."""
    triggers = (sql for _, sql in _triggers().values())
    version = f"PRAGMA user_version = {LAYOUT_VERSION}"
    return (*_TABLES.values(), *_INDEXES.values(), *triggers, version)


def stored_objects(connection: Connection) -> frozenset[SchemaObject]:
    """Return what the database consists of, by its own account."""
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master")
    return frozenset(SchemaObject(*row) for row in rows)


def read_meta(connection: Connection) -> tuple[LogMeta, str]:
    """Return the log's description and the genesis digest stored beside it.

    Raises:
        VerificationError: if the database is not a log, or one of another version.
    """
    layout = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    names = {item.name for item in stored_objects(connection)}
    if not {"log_meta", "records"} <= names:
        raise VerificationError(
            "it is not a medproto log: the tables log_meta and records are missing. "
            "`medproto audit init` makes a log, at a path that does not exist yet."
        )
    if layout != LAYOUT_VERSION:
        raise VerificationError(
            f"its layout must be version {LAYOUT_VERSION}, got {layout}. "
            "Use the medproto version that wrote it, or a newer one."
        )
    rows = connection.execute(select(log_meta)).all()
    # SQLite's integrity_check does not hold the row's own number against CHECK (id = 1).
    if [row.id for row in rows] != [1]:
        raise VerificationError(
            f"log_meta must have one row, with id 1, got {[row.id for row in rows]}."
        )
    _, log_id, version, created_at, domain, genesis = rows[0]
    if version != SCHEMA_VERSION or domain != CHAIN_DOMAIN:
        raise VerificationError(
            f"its schema must be {SCHEMA_VERSION} chained by {CHAIN_DOMAIN!r}, got {version!r} by "
            f"{domain!r}: a newer version of medproto wrote it, or it was altered."
        )
    if not all(isinstance(value, str) for value in (log_id, created_at, genesis)):
        raise VerificationError("log_meta holds values of a wrong type: it was altered.")
    return LogMeta(log_id, version, created_at, domain), genesis
