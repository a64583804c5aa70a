"""Numbers as people read them, the same on every page: true minus signs, intervals, shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .score_sum import ScoreSum

__all__ = [
    "MISSING",
    "bias_remark",
    "doubts",
    "interval",
    "listed",
    "number",
    "percent",
    "recorded_doubts",
    "side",
    "signed",
]

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


def bias_remark(account: ScoreSum) -> str:
    """Say of a sum with ``bias_leads`` what its boxes are worth."""
    return (
        f"Most of this score is bias: {signed(account.bias)}, in a total of "
        f"{signed(account.total)}. The bias is what the network says of every image before any "
        "evidence. The decision rests on what the image lacks, and that has no place: the boxes "
        "shown carry little of it."
    )


def doubts(
    prediction_set: Sequence[str] | None,
    abstained: bool | None,
    out_of_distribution: bool | None,
    undecided: Sequence[str] | None = None,
) -> list[str]:
    """Say in sentences what speaks against relying on a prediction; empty if nothing does.

    What is ``None`` was not judged, which is said too.
    """
    lines = []
    if abstained and undecided:
        lines.append(f"Abstained for {listed(undecided)}: present or not cannot be told here.")
    elif abstained and prediction_set:
        lines.append(f"Abstained: {listed(prediction_set)} cannot be told apart here.")
    elif abstained:
        lines.append("Abstained: no class is as probable as the true one usually is.")
    if out_of_distribution:
        lines.append("Unusual image: its similarities are unlike those of the training images.")
    judged = {
        "what cannot be ruled out": abstained,
        "whether the image is unusual": out_of_distribution,
    }
    missing = [question for question, answer in judged.items() if answer is None]
    if missing:
        lines.append(f"Not judged, for want of validation images: {listed(missing)}.")
    return lines


def recorded_doubts(payload: Mapping[str, Any]) -> list[str]:
    """As :func:`doubts` for the payload of a record; what it lacks or holds amiss is left out."""
    return doubts(
        _names(payload.get("prediction_set")),
        _answer(payload.get("abstained")),
        _answer(payload.get("out_of_distribution")),
        _names(payload.get("undecided")),
    )


def _names(value: Any) -> list[str] | None:
    sound = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return value if sound else None


def _answer(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def side(points: float) -> str:
    """Say for which side a contribution speaks; one of 0 speaks for none."""
    return "adds nothing" if points == 0 else "for" if points > 0 else "against"


def listed(names: Sequence[str]) -> str:
    """Write names as an enumeration.

    Example:
        >>> listed(["none", "mild", "severe"])
        'none, mild and severe'
    """
    return " and ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
