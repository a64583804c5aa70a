"""The dashboard's router. Started by :mod:`dashboards.launch`; knows pages, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from dashboards.answers import Source
from dashboards.caching import Rebuild
from dashboards.figures import RebuiltCase
from dashboards.launch import read_source
from dashboards.views import case_view, model_view

__all__ = ["main"]


def main(source: Source, rebuild: Rebuild) -> None:
    """Draw the chosen page.

    Args:
        rebuild: computes a recorded case again.
    """
    # No icons of pages: as tab icons, Material symbols are fetched from a server on the internet.
    st.set_page_config(page_title="medproto", layout="wide")

    def cases() -> None:
        case_view.render(source, rebuild)

    def model() -> None:
        model_view.render(source)

    pages = [
        st.Page(cases, title="Cases", url_path="cases", default=True),
        st.Page(model, title="Model", url_path="model"),
    ]
    chosen = st.navigation(pages)
    st.sidebar.caption("Read-only. Research use only, not a medical device.")
    chosen.run()


def rebuild_from_run(folder: Path, payload: Mapping[str, Any], row: int, logit: int) -> RebuiltCase:
    """Compute a recorded case again; loads the network on first use."""
    from pipelines.cases import rebuild_case

    return rebuild_case(folder, dict(payload), row, logit)


if __name__ == "__main__":
    main(read_source(sys.argv[1:]), rebuild_from_run)
