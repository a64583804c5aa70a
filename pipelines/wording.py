"""Numbers as people read them, the same on every page: true minus signs, intervals, shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MISSING", "doubts", "interval", "number", "percent", "signed"]

MISSING = "not computed"
"""Stands where a figure is null, which is not the same as zero."""


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with ``digits`` decimals.

    Example:
        >>> number(0.25, 2)
        '0.25'
    """
    return MISSING if value is None else _minus(f"{value:.{digits}f}")


def signed(value: float | None, digits: int = 3) -> str:
    """As :func:`number`, with a sign always."""
    return MISSING if value is None else _minus(f"{value:+.{digits}f}")


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as a percentage."""
    return MISSING if value is None else f"{100 * value:.{digits}f}\N{NARROW NO-BREAK SPACE}%"


def interval(entry: Mapping[str, Any] | None, sign: bool = False) -> str:
    """Write ``{"value", "low", "high"}`` as ``0.912 (0.874 to 0.941)``."""
    if entry is None or entry.get("value") is None:
        return MISSING
    write = signed if sign else number
    if entry.get("low") is None or entry.get("high") is None:
        return write(entry["value"])
    return f"{write(entry['value'])} ({write(entry['low'])} to {write(entry['high'])})"


def doubts(
    prediction_set: Sequence[str] | None, abstained: bool | None, out_of_distribution: bool | None
) -> list[str]:
    """Say in sentences what speaks against relying on a prediction; empty if nothing does."""
    lines = []
    if abstained and prediction_set:
        lines.append(f"Abstained: {' and '.join(prediction_set)} cannot be told apart here.")
    elif abstained:
        lines.append("Abstained: no class is as probable as the true one usually is.")
    if out_of_distribution:
        lines.append("Unusual image: its similarities are unlike those of the training images.")
    return lines


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
