"""Records and reports as text for people. Returns strings; printing is the command line's part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .prediction_text import PREDICTION_KEYS, prediction_lines
from .record import AuditRecord, LogHead
from .verify import VerificationReport

__all__ = ["listing_text", "printable", "record_text", "report_text"]

_INLINE_WIDTH = 88


def record_text(record: AuditRecord, *, of_class: str | None = None) -> str:
    """Return a record in full: header, the sum of a prediction, the rest of the payload.

    Args:
        of_class: logit whose sum is shown for a prediction, see :func:`prediction_lines`.

    Raises:
        ValueError: if ``of_class`` is given and the record has no such class.
    """
    header = {
        "kind": record.kind,
        "subject": record.subject,
        "actor": record.actor,
        "recorded at": record.recorded_at,
        "request id": record.request_id,
        "log": record.log_id,
        "previous": record.previous,
        "digest": record.digest,
    }
    lines = [f"Record {record.sequence}", "", *_fields(header, indent=2)]
    rest = dict(record.payload)
    sums = prediction_lines(record.payload, of_class=of_class)
    if sums:
        lines += ["", *sums]
        rest = {key: value for key, value in rest.items() if key not in PREDICTION_KEYS}
    if rest:
        lines += ["", "Payload" + (", other fields" if sums else ""), "", *_fields(rest, indent=2)]
    return "\n".join(lines)


def listing_text(records: Sequence[AuditRecord], *, total: int) -> str:
    """Return one line a record, under a heading.

    Args:
        records: those shown, in the order of their numbers.
        total: number of records in the log.
    """
    if not records:
        return f"No record to show; the log has {total}."
    rows = [("record", "recorded at", "kind", "subject", "actor")]
    rows += [
        (str(r.sequence), r.recorded_at[:19] + "Z", r.kind, _short(r.subject), _short(r.actor))
        for r in records
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for number, *cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join((number.rjust(widths[0]), *padded)).rstrip())
    return "\n".join((*lines, "", f"{len(records)} of {total} records."))


def report_text(report: VerificationReport, url: str, *, noted: LogHead | None = None) -> str:
    """Return the outcome of a verification and, if it is good, what to keep for the next one.

    Args:
        noted: the head that the log was compared with, ``None`` for none.
    """
    if report.ok:
        plural = "" if report.records == 1 else "s"
        lines = [f"OK: {report.records} record{plural}, unaltered and in order."]
        if noted is not None:
            lines.append(f"The head noted at record {noted.records} is still there.")
        lines += [
            f"  log   {report.log_id}",
            f"  head  {report.head}",
            "",
            "A chain cannot show that its newest records were cut off, or that all of it was",
            "written anew. Keep this line outside the log, to compare with later:",
            f"  medproto audit verify {url} --records {report.records} --head {report.head}",
        ]
        return "\n".join(lines)
    first = "" if report.first_bad is None else f" The first bad record is {report.first_bad}."
    lines = [f"NOT OK.{first} {report.records} records were read."]
    for problem in report.problems:
        place = "log" if problem.sequence is None else f"record {problem.sequence}"
        lines.append(f"  {place:<12} {printable(problem.reason)}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Return ``text``, quoted and escaped if it holds anything that could steer a terminal."""
    return text if text.isprintable() else json.dumps(text)


def _fields(values: dict[str, Any], *, indent: int) -> Iterator[str]:
    width = max((len(printable(key)) for key in values), default=0)
    for key, value in values.items():
        label = " " * indent + printable(key).ljust(width)
        inline = _inline(value)
        if inline is not None:
            yield f"{label}  {inline}".rstrip()
            continue
        yield label.rstrip()
        if isinstance(value, dict):
            yield from _fields(value, indent=indent + 2)
        else:
            yield from _items(value, indent=indent + 2)


def _items(values: Iterable[Any], *, indent: int) -> Iterator[str]:
    for index, value in enumerate(values):
        yield from _fields({f"[{index}]": value}, indent=indent)


def _inline(value: Any) -> str | None:
    """Return a value that fits behind its key, else ``None``."""
    if isinstance(value, str):
        return printable(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list | dict):
        return json.dumps(value)
    if not value:
        return "none"
    nested = any(isinstance(item, list | dict) for item in value)
    if isinstance(value, dict) or nested:
        return None
    text = "[" + ", ".join(str(_inline(item)) for item in value) + "]"
    return text if len(text) <= _INLINE_WIDTH else None


def _short(text: str, width: int = 32) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
