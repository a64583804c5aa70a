"""The sum of a prediction as a table: similarity x weight = contribution, to be checked by hand.

Computes nothing that is not in the payload of a ``prediction`` record, except the sums and products
that are set beside the recorded figures. Names come from the record and are escaped where they
could steer a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .prediction import LoggedPrediction, read_prediction

__all__ = ["PREDICTION_KEYS", "prediction_lines"]

PREDICTION_KEYS = frozenset(
    {
        "label",
        "classes",
        "probabilities",
        "logits",
        "logit_names",
        "present",
        "shown_logit",
        "bias",
        "evidence",
    }
)
"""Fields of a payload that the table shows."""


def prediction_lines(payload: dict[str, Any], *, of_class: str | None = None) -> list[str]:
    """Return the lines of the tables, or none if the payload is not a prediction with evidence.

    Args:
        of_class: name of the logit whose sum is shown: a class, a finding, or "above" a grade.
            ``None`` for the predicted class, for each finding that is present (the one with the
            largest logit if none is), or for the threshold that decided the grade.

    Raises:
        ValueError: if ``of_class`` is given and the payload has no such logit.
    """
    prediction = read_prediction(payload)
    if prediction is None:
        if of_class is not None:
            raise ValueError("the record is not a prediction with evidence; it has no classes.")
        return []
    shown = prediction.shown
    if of_class is not None:
        if of_class not in prediction.names:
            names = ", ".join(prediction.names)
            raise ValueError(f"{prediction.logit_noun} must be one of {names}, got {of_class!r}.")
        shown = (prediction.names.index(of_class),)
    lines = [f"Prediction: {_clean(prediction.label)}", "", *_logits_table(prediction)]
    if prediction.head == "ordinal":
        lines += ["", *_grades_table(prediction)]
    for k in shown:
        lines += ["", _heading(prediction, k), "", *_sum_table(prediction, k)]
    return lines


def _logits_table(prediction: LoggedPrediction) -> list[str]:
    """One row a logit; with the probability where a logit belongs to one class."""
    last = {"ordinal": ("passed",), "multilabel": ("probability", "present")}
    heads = (prediction.logit_noun, "contributions", "+ bias", "= total", "logit", "difference")
    rows = [(*heads, *last.get(prediction.head, ("probability",)))]
    for k, name in enumerate(prediction.names):
        total = sum(item["contributions"][k] for item in prediction.evidence)
        bias, logit = prediction.bias[k], prediction.logits[k]
        cells = [name, f"{total:.6f}", f"{bias:.6f}", f"{total + bias:.6f}", f"{logit:.6f}"]
        cells.append(f"{abs(total + bias - logit):.1e}")
        ordinal = prediction.head == "ordinal"
        cells.append(_yes(logit > 0) if ordinal else f"{prediction.probabilities[k]:.6f}")
        if prediction.head == "multilabel":
            cells.append(_yes(k in prediction.present))
        rows.append(tuple(cells))
    return _aligned(rows, left=(0,))


def _grades_table(prediction: LoggedPrediction) -> list[str]:
    chances = zip(prediction.classes, prediction.probabilities, strict=True)
    rows = [("grade", "probability"), *((name, f"{value:.6f}") for name, value in chances)]
    return _aligned(rows, left=(0,))


def _heading(prediction: LoggedPrediction, k: int) -> str:
    why = ""
    if prediction.head == "multilabel":
        why = "present" if k in prediction.present else "not present"
        why = f" ({why}; --class NAME shows another finding)"
    elif prediction.head == "ordinal":
        why = " (--class NAME shows another threshold)"
    return (
        f"Sum for {_clean(prediction.names[k])}{why}, largest contribution first "
        "(6 decimals; --json has all digits)"
    )


def _sum_table(prediction: LoggedPrediction, k: int) -> list[str]:
    ranked = sorted(prediction.evidence, key=lambda item: -item["contributions"][k])
    noun = prediction.noun
    rows = [("prototype", noun, "similarity", "", "weight", "", "contribution", "box", "source")]
    error = 0.0
    for item in ranked:
        similarity, weight, part = item["similarity"], item["weights"][k], item["contributions"][k]
        error = max(error, abs(similarity * weight - part))
        name = (str(item.get("prototype", "-")), str(item.get("class", "-")))
        numbers = (f"{similarity:.6f}", "x", f"{weight:.6f}", "=", f"{part:.6f}")
        rows.append((*name, *numbers, _box(item.get("box_px")), _source(item.get("source"))))
    lines = _aligned(rows, left=(1, 7, 8))
    end = lines[0].index("contribution") + len("contribution")
    total = sum(item["contributions"][k] for item in ranked)
    bias, logit = prediction.bias[k], prediction.logits[k]
    sums = (
        ("sum of contributions", total),
        ("+ bias", bias),
        ("= total", total + bias),
        ("recorded logit", logit),
    )
    return [
        *lines,
        "",
        *(f"{label}  {value:>12.6f}".rjust(end) for label, value in sums),
        "",
        f"  Largest difference of similarity x weight and contribution: {error:.1e}",
        f"  Difference of total and logit: {abs(total + bias - logit):.1e}",
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _clean(text: str) -> str:
    """Escape whatever could steer a terminal."""
    return text if text.isprintable() else ascii(text)


def _box(box: Any) -> str:
    return "-" if not isinstance(box, list) else "[" + ", ".join(str(v) for v in box) + "]"


def _source(source: Any) -> str:
    if not isinstance(source, dict):
        return "-"
    named = [f"{key} {source[key]}" for key in ("row", "group") if source.get(key) is not None]
    return ", ".join((*named, f"box {_box(source.get('box_px'))}"))


def _aligned(rows: Sequence[tuple[str, ...]], *, left: tuple[int, ...]) -> list[str]:
    """Return rows with columns of one width, to the right except those in ``left``."""
    clean = [tuple(_clean(cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in clean) for i in range(len(rows[0]))]
    lines = []
    for row in clean:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
