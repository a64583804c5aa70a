"""What classes, logits and probabilities are called for each head."""

from __future__ import annotations

from dataclasses import dataclass

from medproto.records import HeadKind

__all__ = ["HEAD_WORDS", "HeadWords"]


@dataclass(frozen=True, slots=True)
class HeadWords:
    """Words of one head.

    Args:
        noun: one of the classes.
        nouns: several of them.
        logit_noun: what one of the logits belongs to.
        result: heading of the prediction.
        link: what the plain probabilities are.
    """

    noun: str
    nouns: str
    logit_noun: str
    result: str
    link: str


HEAD_WORDS: dict[HeadKind, HeadWords] = {
    "multiclass": HeadWords(
        "class", "classes", "class", "Predicted class", "softmax of the logits"
    ),
    "binary": HeadWords("class", "classes", "class", "Predicted class", "sigmoid of the logit"),
    "multilabel": HeadWords(
        "finding", "findings", "finding", "Findings present", "sigmoids of the logits"
    ),
    "ordinal": HeadWords(
        "grade", "grades", "threshold", "Predicted grade", "differences of the logits' sigmoids"
    ),
}
