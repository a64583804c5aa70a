"""A recorded prediction in a few lines of text: the result, and the largest parts of its sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit.prediction import LoggedPrediction, read_prediction

from .score_sum import score_sum
from .wording import recorded_doubts

__all__ = ["summary_lines"]

SHOWN = 5


def summary_lines(name: str, payload: Mapping[str, Any], *, record: str) -> list[str]:
    """Return what ``predict`` prints of one image.

    Args:
        name: of the image, as it was asked for.
        payload: of the prediction's record.
        record: number and digest of the record.

    Raises:
        ValueError: if the payload is not that of a prediction.
    """
    prediction = read_prediction(dict(payload))
    if prediction is None:
        raise ValueError("payload must be that of a prediction with evidence.")
    calibrated = "calibrated" if payload.get("calibrated") else "not calibrated"
    lines = [f"{name}: {_result(prediction, calibrated)}"]
    lines += [f"  {line}" for line in recorded_doubts(payload)]
    lines.append(f"  record {record}")
    if prediction.head == "ordinal":
        chances = zip(prediction.classes, prediction.probabilities, strict=True)
        lines.append("  grades: " + ", ".join(f"{grade} {p:.1%}" for grade, p in chances))
    for k in prediction.shown:
        if prediction.head == "multilabel":
            state = "present" if k in prediction.present else "not present, the most likely finding"
            lines.append(f"  {prediction.names[k]}, {state}:")
        lines += _sum(prediction, k)
    if prediction.head == "ordinal":
        lines += _thresholds(prediction)
    return lines


def _result(prediction: LoggedPrediction, calibrated: str) -> str:
    """Write the label with its probability, each present finding with its own."""
    share = prediction.probabilities
    if prediction.head != "multilabel":
        return f"{prediction.label} ({share[prediction.present[0]]:.1%}, {calibrated})"
    if not prediction.present:
        k = prediction.shown[0]
        return f"{prediction.label}; {prediction.classes[k]} at most, {share[k]:.1%} ({calibrated})"
    found = (f"{prediction.classes[k]} {share[k]:.1%}" for k in prediction.present)
    return f"{', '.join(found)} ({calibrated})"


def _sum(prediction: LoggedPrediction, k: int) -> list[str]:
    account = score_sum(
        [float(e["contributions"][k]) for e in prediction.evidence],
        prediction.bias[k],
        prediction.logits[k],
        shown=SHOWN,
    )
    speaking = [prediction.evidence[i] for i in account.shown]
    speaking = [e for e in speaking if e["contributions"][k]]
    lines = []
    for e in speaking:
        lines.append(
            f"  prototype {e['prototype']:>3} ({e['class']}): similarity {e['similarity']:7.3f} x "
            f"weight {e['weights'][k]:+7.3f} = {e['contributions'][k]:+8.3f}   box {e['box_px']}"
        )
    rest = len(prediction.evidence) - len(speaking)
    others = f"  {rest} more prototype{'' if rest == 1 else 's'}"
    return [
        *lines,
        f"{others:<20} {account.others_sum:+33.3f}",
        f"  bias {account.bias:+51.3f}",
        f"  logit of {prediction.names[k]}: {account.logit:+.3f}",
    ]


def _thresholds(prediction: LoggedPrediction) -> list[str]:
    parts = (
        f"{name} {logit:+.3f} ({'passed' if logit > 0 else 'not passed'})"
        for name, logit in zip(prediction.names, prediction.logits, strict=True)
    )
    return ["  all thresholds: " + ", ".join(parts)]
