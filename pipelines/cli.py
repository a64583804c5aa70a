"""The command ``medproto``: parsing, wording of errors, nothing else.

Exit status: 0 done, 1 the check or the data failed, 2 wrong usage. With ``--json`` one document
goes to stdout and nothing else does; everything else goes to stderr. Subcommands import what they
need when they run, so that ``--help`` and ``audit verify`` start without torch.
"""

from __future__ import annotations

import logging
import sys

import typer

from audit.cli import app as audit_app
from audit.errors import AuditError
from audit.text import printable
from medproto.errors import MedProtoError

from . import (
    cli_cohort,
    cli_crossvalidate,
    cli_ensemble,
    cli_model,
    cli_prototypes,
    cli_run,
    cli_use,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="medproto",
    help="Interpretable classification of radiology images, with evidence that can be checked.\n\n"
    "Start with: medproto demo --out runs/demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(cli_use.demo)
app.add_typer(cli_cohort.app, name="cohort")
app.command("train")(cli_run.train)
app.command("crossvalidate")(cli_crossvalidate.crossvalidate)
app.command("evaluate")(cli_run.evaluate)
app.command("predict")(cli_use.predict)
app.command("explain")(cli_use.explain)
app.command("compare")(cli_run.compare)
app.add_typer(cli_prototypes.app, name="prototypes")
app.add_typer(cli_model.app, name="model")
app.add_typer(cli_ensemble.app, name="ensemble")
app.add_typer(audit_app, name="audit")
app.command("dashboard")(cli_use.dashboard)
app.command("doctor")(cli_use.doctor)


INTERRUPTED = 130
"""Exit status of a command that a signal ended."""


def main() -> None:
    """Run the command line; known errors become one line and exit status 1."""
    _log_to_stderr()
    try:
        app()
    except (MedProtoError, AuditError) as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(f"this command needs the package {error.name!r}. See `medproto doctor`.")
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer turns a KeyboardInterrupt into this, without a word
            _fail(
                "interrupted; nothing unfinished was left as a result. A training goes on by "
                "--resume.",
                status=INTERRUPTED,
            )
        raise


def _log_to_stderr() -> None:
    logger = logging.getLogger("medproto")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _fail(message: str, status: int = 1) -> None:
    line = printable(" ".join(message.split()))
    typer.echo(f"medproto: {line}", err=True)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
