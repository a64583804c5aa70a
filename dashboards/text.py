"""Data as text for Streamlit, which reads markdown nearly everywhere."""

from __future__ import annotations

import re

__all__ = ["plain"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&/@])")


def plain(text: str) -> str:
    """Escape a name so that it shows as its letters: no link, no image, no formula, no color."""
    return _SPECIAL.sub(r"\\\1", text)
