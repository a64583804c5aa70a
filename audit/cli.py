"""Command line of the log: ``medproto audit``, or ``python -m audit`` without the rest.

Exit status: 0 done, 1 the log is bad, missing or cannot be written, 2 wrong usage. With ``--json``
one document goes to stdout and nothing else does; messages go to stderr.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from .errors import AuditError, LogLocationError, VerificationError
from .record import LogHead
from .store import AuditLog
from .text import listing_text, printable, record_text, report_text
from .verify import verify

__all__ = ["app"]

app = typer.Typer(
    name="audit",
    help="The log of predictions and decisions: create, verify, read.\n\n"
    "Example: medproto audit verify runs/first/audit.db",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Url = Annotated[str, typer.Argument(metavar="URL", help="sqlite:///path or a path.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.callback()
def _root() -> None:
    """The log of predictions and decisions: create, verify, read.

    Example: medproto audit verify runs/first/audit.db
    """


@app.command("init")
def init(url: Url) -> None:
    """Create an empty log.

    Example: medproto audit init runs/first/audit.db
    """
    with _errors_to_status(), AuditLog.create(url) as log:
        typer.echo(f"Created an empty log at {printable(url)}.")
        typer.echo(f"  log   {log.meta.log_id}")
        typer.echo(f"  head  {log.head().digest}")


@app.command("verify")
def verify_command(
    url: Url,
    as_json: Json = False,
    head: Annotated[
        str | None, typer.Option(help="Digest noted earlier; goes with --records.")
    ] = None,
    records: Annotated[
        int | None, typer.Option(min=0, help="Number of records noted with --head.")
    ] = None,
) -> None:
    """Check that no record was altered, removed or inserted.

    The log is not changed. Exit status 1 if anything is wrong, with the first bad record named.

    The newest records may have been cut off without a trace in the log. Note the head that this
    command prints outside the log, and give it the next time with --records and --head.

    Example: medproto audit verify runs/first/audit.db --records 12 --head sha256:9c1e...
    """
    expected = _noted_head(head, records)
    with _errors_to_status():
        try:
            report = verify(url, expected=expected)
        except VerificationError as error:
            if as_json:
                _print_json(_unreadable(error))
            raise
    if as_json:
        _print_json(report.to_json())
    else:
        typer.echo(report_text(report, printable(url), noted=expected))
    if not report.ok:
        raise typer.Exit(1)


@app.command("show")
def show(
    url: Url,
    sequence: Annotated[
        int | None, typer.Argument(metavar="SEQ", min=1, help="Number of one record.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only records of this kind.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 20,
    of_class: Annotated[
        str | None,
        typer.Option("--class", help="Class, finding or threshold ('above GRADE') to sum up."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the newest records, or show one in full.

    A prediction is shown with the sum of its evidence: similarity x weight = contribution. It is
    the sum for the predicted class, for each finding that is present, or for a threshold between
    grades; --class names another one.

    Example: medproto audit show runs/first/audit.db --kind prediction

    Example: medproto audit show runs/first/audit.db 12
    """
    with _errors_to_status(), AuditLog.open(url, read_only=True) as log:
        if sequence is not None:
            record = log.get(sequence)
            if as_json:
                _print_json(record.to_json())
                return
            try:
                text = record_text(record, of_class=of_class)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="--class") from error
            typer.echo(text)
            return
        found = [r for _, r in zip(range(limit), log.records(kind=kind, newest_first=True))]
        found.reverse()
        if as_json:
            shown = [record.to_json() for record in found]
            _print_json({"log": log.meta.log_id, "total": len(log), "records": shown})
        else:
            typer.echo(listing_text(found, total=len(log)))


def _noted_head(head: str | None, records: int | None) -> LogHead | None:
    if head is None and records is None:
        return None
    if head is None or records is None:
        raise typer.BadParameter("--head and --records must be given together.")
    try:
        return LogHead(records, head)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--head") from error


def _unreadable(error: VerificationError) -> dict[str, Any]:
    return {
        "ok": False,
        "log": None,
        "records": None,
        "head": None,
        "first_bad": error.sequence,
        "problems": [{"sequence": error.sequence, "reason": str(error)}],
    }


@contextmanager
def _errors_to_status() -> Iterator[None]:
    try:
        yield
    except LogLocationError as error:
        _fail(error, status=2)
    except AuditError as error:
        _fail(error, status=1)


def _fail(error: Exception, *, status: int) -> NoReturn:
    typer.echo(f"medproto audit: {printable(str(error))}", err=True)
    raise typer.Exit(status)


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
