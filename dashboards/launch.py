"""Start the dashboard: ``python -m dashboards.launch --run RUN --audit LOG [--port N]``.

Streamlit runs on 127.0.0.1 with settings fit for patient data; command-line options outrank any
configuration file and environment variable, so nothing on the machine can loosen them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .answers import Source

__all__ = ["APP", "OPTIONS", "command", "main", "read_source"]

APP = Path(__file__).with_name("app.py")

ADDRESS = "127.0.0.1"

OPTIONS = (
    ("server.address", ADDRESS),
    ("server.headless", "true"),
    ("server.enableXsrfProtection", "true"),
    ("server.enableCORS", "true"),
    ("server.allowedHosts", ADDRESS),
    ("server.allowedHosts", "localhost"),
    ("server.enableStaticServing", "false"),
    ("server.enableAgentApi", "false"),
    ("server.fileWatcherType", "none"),
    ("server.maxUploadSize", "1"),
    ("server.showEmailPrompt", "false"),
    ("browser.gatherUsageStats", "false"),
    ("browser.serverAddress", ADDRESS),
    ("client.showErrorDetails", "none"),
    ("client.toolbarMode", "viewer"),
    ("client.disableDataExport", "true"),
    ("theme.base", "light"),
    ("theme.primaryColor", "#0b5394"),
)
"""Streamlit's options: no usage statistics, no error details, no export, no uploads worth naming,
no file serving, this machine only."""


def command(source: Source, port: int, *, app: Path = APP) -> list[str]:
    """Return the command line that serves a dashboard."""
    options = [f"--{name}={value}" for name, value in OPTIONS]
    served = ["--run", str(source.run), "--audit", source.audit]
    head = [sys.executable, "-m", "streamlit", "run", str(app)]
    return [*head, *options, f"--server.port={port}", "--", *served]


def read_source(arguments: Sequence[str]) -> Source:
    """Read ``--run`` and ``--audit`` as the app gets them."""
    values = _parser().parse_args(list(arguments))
    return Source(Path(values.run), values.audit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Say the address and become the server; return 1 if there is nothing to show."""
    values = _parser().parse_args(None if arguments is None else list(arguments))
    source = Source(Path(values.run).absolute(), values.audit)
    if (source.run / "model.json").is_file():
        sys.stdout.write(f"Dashboard: http://{ADDRESS}:{values.port}  (stop it with Ctrl+C)\n")
        sys.stdout.flush()
        words = command(source, values.port)
        os.execv(words[0], words)  # the server takes this process over: one process to stop
    sys.stderr.write(
        f"medproto: {values.run} must be the folder of a finished training; it has no model.json.\n"
    )
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dashboards.launch", description=__doc__)
    parser.add_argument("--run", required=True, help="folder of a finished training")
    parser.add_argument("--audit", required=True, help="log, as a path or sqlite:///path")
    parser.add_argument("--port", type=int, default=8501, help="port on 127.0.0.1")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
