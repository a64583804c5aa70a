"""The viewer component: a canvas with window and level, zoom, pan, heat maps, boxes and evidence.

All drawing happens in the browser. Pixels come as the component's data, over the session's own
connection, so they have no address that could be shared or cached.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

__all__ = ["show_viewer"]


@cache
def _component() -> Callable[..., Any]:
    folder = files("dashboards")
    return st.components.v2.component(
        "medproto_viewer",
        html='<div class="root"></div>',
        css=(folder / "viewer.css").read_text(encoding="utf-8"),
        js=(folder / "viewer.js").read_text(encoding="utf-8"),
    )


def show_viewer(data: dict[str, Any], *, key: str) -> None:
    """Show a case or a gallery.

    Args:
        data: from :mod:`dashboards.figures`.
        key: of the element in the page; the view starts anew when ``data["key"]`` changes.
    """
    _component()(data=data, key=key)
