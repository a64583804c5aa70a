"""The only module that caches. Everything about patients is kept per session, never shared.

Streamlit's default scope is shared by all users of the server; each function here names
``scope="session"``. Cached functions read their arguments only; one with a leading underscore is
not part of the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from . import queries
from .answers import CaseView, ChainState, RunView
from .figures import RebuiltCase

__all__ = ["Rebuild", "chain_state", "rebuilt_case", "run_view"]

Rebuild = Callable[[Path, Mapping[str, Any], int, int], RebuiltCase]
"""Computes a recorded case again: run folder, payload of the record, row in the run's cohort,
position of the logit whose maps are drawn."""

CASES = 8
"""Rebuilt cases kept in a session; each holds an image and its maps."""

VERIFY_SECONDS = 30
"""How long a verification stands before the log is read anew."""


def run_view(folder: Path) -> RunView:
    """Return the run, read again whenever its model file changes.

    Raises:
        QueryError: if it cannot be read.
    """
    try:
        version = (folder / "model.json").stat().st_mtime_ns
    except OSError:
        version = 0
    return _run_view(str(folder), version)


@st.cache_resource(scope="session", max_entries=2, show_spinner=False)
def _run_view(folder: str, version: int) -> RunView:
    return queries.read_run(Path(folder))


@st.cache_resource(scope="session", ttl=VERIFY_SECONDS, max_entries=CASES, show_spinner=False)
def chain_state(audit: str, sequence: int) -> ChainState:
    """Return the state of the log up to a record."""
    return queries.chain_state(audit, sequence)


def rebuilt_case(folder: Path, case: CaseView, row: int, rebuild: Rebuild) -> RebuiltCase:
    """Return the case computed again from model and image; slow the first time for each logit."""
    payload = json.dumps(case.payload)
    return _rebuilt(str(folder), case.digest, row, case.logit, payload, rebuild)


@st.cache_resource(
    scope="session", max_entries=CASES, show_spinner="Computing the evidence again from the image"
)
def _rebuilt(
    folder: str, digest: str, row: int, logit: int, _payload: str, _rebuild: Rebuild
) -> RebuiltCase:
    return _rebuild(Path(folder), json.loads(_payload), row, logit)
