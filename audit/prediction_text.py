"""The sum of a prediction as a table: similarity x weight = contribution, to be checked by hand.

Reads the payload of a ``prediction`` record and computes nothing that is not in it, except the sums
and products that are set beside the recorded figures. ``P`` prototypes, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["PREDICTION_KEYS", "prediction_lines"]

PREDICTION_KEYS = frozenset({"label", "classes", "probabilities", "logits", "bias", "evidence"})
"""Fields of a payload that the table shows."""


def prediction_lines(payload: dict[str, Any], *, of_class: str | None = None) -> list[str]:
    """Return the lines of the table, or none if the payload is not a prediction with evidence.

    Args:
        of_class: class whose sum is shown; ``None`` for the predicted one.

    Raises:
        ValueError: if ``of_class`` is given and the payload has no such class.
    """
    if not _is_prediction(payload):
        if of_class is not None:
            raise ValueError("the record is not a prediction with evidence; it has no classes.")
        return []
    classes = payload["classes"]
    name = payload["label"] if of_class is None else of_class
    if name not in classes:
        raise ValueError(f"class must be one of {', '.join(classes)}, got {name!r}.")
    return [
        f"Prediction: {payload['label']}",
        "",
        *_classes_table(payload),
        "",
        f"Sum for {name}, largest contribution first (6 decimals; --json has all digits)",
        "",
        *_sum_table(payload, classes.index(name)),
    ]


def _is_prediction(payload: dict[str, Any]) -> bool:
    """Return whether all that the table needs is there and of one length."""
    try:
        classes, evidence = payload["classes"], payload["evidence"]
        vectors = [payload["logits"], payload["bias"], payload["probabilities"]]
        vectors += [item[key] for item in evidence for key in ("weights", "contributions")]
        numbers = [item["similarity"] for item in evidence]
        numbers += [value for vector in vectors for value in vector]
    except (KeyError, TypeError):
        return False
    return (
        isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
        and payload.get("label") in classes
        and all(isinstance(v, list) and len(v) == len(classes) for v in vectors)
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    )


def _classes_table(payload: dict[str, Any]) -> list[str]:
    rows = [("class", "contributions", "+ bias", "= total", "logit", "difference", "probability")]
    for k, name in enumerate(payload["classes"]):
        total = sum(item["contributions"][k] for item in payload["evidence"])
        bias, logit = payload["bias"][k], payload["logits"][k]
        numbers = (f"{total:.6f}", f"{bias:.6f}", f"{total + bias:.6f}", f"{logit:.6f}")
        difference = f"{abs(total + bias - logit):.1e}"
        rows.append((name, *numbers, difference, f"{payload['probabilities'][k]:.6f}"))
    return _aligned(rows, left=(0,))


def _sum_table(payload: dict[str, Any], k: int) -> list[str]:
    ranked = sorted(payload["evidence"], key=lambda item: -item["contributions"][k])
    rows = [("prototype", "class", "similarity", "", "weight", "", "contribution", "box", "source")]
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
    bias, logit = payload["bias"][k], payload["logits"][k]
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


def _box(box: Any) -> str:
    return "-" if not isinstance(box, list) else "[" + ", ".join(str(v) for v in box) + "]"


def _source(source: Any) -> str:
    if not isinstance(source, dict):
        return "-"
    named = [f"{key} {source[key]}" for key in ("row", "group") if source.get(key) is not None]
    return ", ".join((*named, f"box {_box(source.get('box_px'))}"))


def _aligned(rows: Sequence[tuple[str, ...]], *, left: tuple[int, ...]) -> list[str]:
    """Return rows with columns of one width, to the right except those in ``left``."""
    clean = [tuple(c if c.isprintable() else ascii(c) for c in row) for row in rows]
    widths = [max(len(row[i]) for row in clean) for i in range(len(rows[0]))]
    lines = []
    for row in clean:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
