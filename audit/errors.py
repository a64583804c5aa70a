"""Exceptions of the log.

    AuditError                            the log cannot be used: missing, locked, foreign, full
    ├── LogLocationError (ValueError)     the given URL or path cannot name a log
    ├── RequestConflictError (ValueError) a request id came back with other content
    └── VerificationError                 what is stored is not what was written

A caller's mistake (a payload that is not JSON, an empty actor) is a plain ``ValueError``. Whatever
is found while verifying is a :class:`VerificationError`; nothing else leaks.
"""

from __future__ import annotations

__all__ = ["AuditError", "LogLocationError", "RequestConflictError", "VerificationError"]


class AuditError(Exception):
    """Root: the log cannot be created, opened, read or written."""


class LogLocationError(AuditError, ValueError):
    """The given URL or path cannot name a log; on the command line this is wrong usage."""


class RequestConflictError(AuditError, ValueError):
    """A request id is already in the log, with another kind, subject, actor or payload."""


class VerificationError(AuditError):
    """What is stored is not what was written, or cannot be read as a log.

    Args:
        message: what is wrong.
        sequence: number of the record concerned; ``None`` if it is not a single record.
    """

    def __init__(self, message: str, *, sequence: int | None = None) -> None:
        super().__init__(message)
        self.sequence = sequence
