"""The payload of a ``prediction`` record, read with suspicion: whole, or not at all.

``P`` prototypes, ``K`` logits. What the logits are depends on the head: one a class
(``multiclass``, ``binary``), one a finding (``multilabel``), or one a threshold between grades
(``ordinal``, one less than there are grades).

The oldest records have no ``head`` and are ``multiclass``; what else is missing follows from the
logits. A field that is there but contradicts the others is not explained away: the payload is then
no prediction that can be shown as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["LoggedPrediction", "read_prediction"]

Head = Literal["multiclass", "binary", "multilabel", "ordinal"]

_NOUNS: dict[Head, str] = {
    "multiclass": "class",
    "binary": "class",
    "multilabel": "finding",
    "ordinal": "grade",
}


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """A payload whose parts are all there and of the right length. Made by `read_prediction`.

    Args:
        head: what the logits are.
        label: predicted class or grade, or the present findings in one text.
        classes: names of classes, findings or grades.
        probabilities: one a class.
        names: ``[K]`` of the logits.
        logits: ``[K]``.
        bias: ``[K]``.
        evidence: ``P`` entries with ``similarity``, ``weights`` and ``contributions``.
        present: positions in ``classes`` of the findings that are present, or of the label.
        shown: positions in ``names`` of the logits whose sums are shown unless others are asked
            for: of all present findings, or of the one with the largest logit if none is.
    """

    head: Head
    label: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    names: tuple[str, ...]
    logits: tuple[float, ...]
    bias: tuple[float, ...]
    evidence: tuple[dict[str, Any], ...]
    present: tuple[int, ...]
    shown: tuple[int, ...]

    @property
    def noun(self) -> str:
        """What one of the classes is called."""
        return _NOUNS[self.head]

    @property
    def logit_noun(self) -> str:
        """What one of the logits belongs to."""
        return "threshold" if self.head == "ordinal" else self.noun


def read_prediction(payload: dict[str, Any]) -> LoggedPrediction | None:
    """Return the prediction, ``None`` if the payload is none with evidence, or not a sound one."""
    head: Any = payload.get("head", "multiclass")
    label: Any = payload.get("label")
    classes: Any = payload.get("classes")
    if head not in tuple(_NOUNS) or not isinstance(label, str) or not _are_names(classes):
        return None
    ordinal = [f"above {name}" for name in classes[:-1]]
    names: Any = payload.get("logit_names", ordinal if head == "ordinal" else classes)
    if not _are_names(names) or len(names) != len(classes) - (head == "ordinal"):
        return None
    evidence = payload.get("evidence")
    if not isinstance(evidence, list) or not all(isinstance(item, dict) for item in evidence):
        return None
    vectors = [payload.get("logits"), payload.get("bias")]
    vectors += [item.get(key) for item in evidence for key in ("weights", "contributions")]
    if not (
        all(_are_numbers(vector, len(names)) for vector in vectors)
        and _are_numbers(payload.get("probabilities"), len(classes))
        and _are_numbers([item.get("similarity") for item in evidence], len(evidence))
    ):
        return None
    present = _present(payload, head, label, classes)
    if present is None:
        return None
    shown = payload.get("shown_logit", _shown_logit(head, present, payload["logits"]))
    if type(shown) is not int or not 0 <= shown < len(names):
        return None
    return LoggedPrediction(
        head=head,
        label=label,
        classes=tuple(classes),
        probabilities=tuple(payload["probabilities"]),
        names=tuple(names),
        logits=tuple(payload["logits"]),
        bias=tuple(payload["bias"]),
        evidence=tuple(evidence),
        present=present,
        shown=present if head == "multilabel" and present else (shown,),
    )


def _present(
    payload: dict[str, Any], head: str, label: str, classes: list[str]
) -> tuple[int, ...] | None:
    """Return the positions of what is said to be there; ``None`` if the fields disagree."""
    if head != "multilabel":
        agrees = label in classes and payload.get("present", [label]) == [label]
        return (classes.index(label),) if agrees else None
    found = [classes[k] for k, logit in enumerate(payload["logits"]) if logit > 0]
    if payload.get("present", found) != found:
        return None
    return tuple(classes.index(name) for name in found)


def _shown_logit(head: str, present: tuple[int, ...], logits: list[float]) -> int:
    if head == "multilabel":
        return logits.index(max(logits))
    if head == "ordinal":
        return max(present[0] - 1, 0)
    return 1 if head == "binary" else present[0]


def _are_names(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, str) for v in values)


def _are_numbers(values: Any, length: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == length
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    )
