"""Append-only, hash-chained log of what was predicted, shown and decided.

    with AuditLog.open("runs/first/audit.db") as log:
        record = log.append("prediction", subject=digest, actor="station 2", payload={...})

    report = verify("runs/first/audit.db")     # reads only; report.ok, report.first_bad

An append that has returned is on disk; nothing takes it back. The package needs neither the
machine-learning stack nor images: an auditor verifies without them.
"""

from .errors import AuditError, LogLocationError, RequestConflictError, VerificationError
from .record import AuditRecord, LogHead
from .store import AuditLog
from .verify import Problem, VerificationReport, verify

__all__ = [
    "AuditError",
    "AuditLog",
    "AuditRecord",
    "LogHead",
    "LogLocationError",
    "Problem",
    "RequestConflictError",
    "VerificationError",
    "VerificationReport",
    "verify",
]
