"""The page of the prototypes: what each of them answers to, over all classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medproto.records import HeadKind, PrototypeSource

from ..head_words import HEAD_WORDS
from ..wording import signed
from .case_view import box_text

__all__ = ["NearestPatch", "PrototypeCard", "PrototypePage", "prototype_context"]

MANY = 4
"""With more outputs than these, only the weights that matter are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestPatch:
    """One of the patches nearest to a prototype.

    Args:
        row: zero-based row of the image in the run's cohort.
        group: its patient or group, a pseudonym.
        label: what the image shows, by name.
        agrees: it shows the prototype's class; ``None`` where that is not known.
        distance: in feature units.
        similarity: at the patch.
        itself: the patch the prototype was taken from.
        where: data URI of the image with the patch boxed.
        crop: data URI of the patch.
    """

    row: int
    group: str
    label: str
    agrees: bool | None
    distance: float
    similarity: float
    itself: bool
    where: str
    crop: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PrototypeCard:
    """One prototype with its nearest patches, nearest first.

    Args:
        source: where it came from.
        crop: data URI of its patch.
        picture: data URI of its training image with the patch boxed.
        weights: ``[K]`` of the last layer.
        stray: class it speaks for more than for its own, by name; ``None`` if there is none.
        train: of the training images, at most one patch each; the first should be the prototype.
        test: of the test images, likewise.
    """

    source: PrototypeSource
    crop: str
    picture: str
    weights: tuple[float, ...]
    stray: str | None
    train: Sequence[NearestPatch]
    test: Sequence[NearestPatch]


@dataclass(frozen=True, kw_only=True, eq=False)
class PrototypePage:
    """The global analysis of one or all prototypes of a run.

    Args:
        title: of the page.
        outputs: ``[K]`` names of the last layer's outputs, in the order of the weights.
        prototypes: those shown.
        images: number of images searched, by split.
        tau: a prototype with fewer own-class patches among its nearest training patches is marked.
        model_digest: of the model.
        synthetic: the cohort is not of patients.
        created: UTC time, ISO 8601.
        head: what the outputs mean.
    """

    title: str
    outputs: Sequence[str]
    prototypes: Sequence[PrototypeCard]
    images: dict[str, int]
    tau: int
    model_digest: str
    synthetic: bool
    created: str
    head: HeadKind = "multiclass"


def prototype_context(page: PrototypePage) -> dict[str, Any]:
    """Return the variables of ``prototypes.html``."""
    words = HEAD_WORDS[page.head]
    if page.head == "ordinal":
        columns = ["Weight"]
    elif len(page.outputs) > MANY:
        columns = [f"Weight, own {words.noun}", "Largest other weight"]
    else:
        columns = [f"Weight, {name}" for name in page.outputs]
    cards = [_card(page, card) for card in page.prototypes]
    others = "images without it" if page.head == "multilabel" else f"of other {words.nouns}"
    context = {"page": page, "words": words, "columns": columns, "cards": cards}
    return {**context, "others": others}


def _weights(page: PrototypePage, card: PrototypeCard) -> tuple[list[str], list[tuple[str, float]]]:
    """Return the cells of the table's columns, and the weights named on the card.

    All thresholds between grades share one weight.
    """
    named = list(zip(page.outputs, card.weights, strict=True))
    if page.head == "ordinal":
        return [signed(card.weights[0])], [("all thresholds", card.weights[0])]
    if len(named) <= MANY:
        return [signed(weight) for weight in card.weights], named
    own = named.pop(card.source.class_index)
    named.sort(key=lambda item: -abs(item[1]))
    other = f"{signed(named[0][1])} ({named[0][0]})" if named[0][1] else "none"
    return [signed(own[1]), other], [own, *(item for item in named[: MANY - 1] if item[1])]


def _card(page: PrototypePage, card: PrototypeCard) -> dict[str, Any]:
    own = sum(hit.agrees is True for hit in card.train)
    cells, weights = _weights(page, card)
    return {
        "card": card,
        "source": card.source,
        "box": box_text(card.source.box),
        "cells": cells,
        "weights": weights,
        "unused": not any(card.weights),
        "train": f"{own} of {len(card.train)}",
        "test": f"{sum(hit.agrees is True for hit in card.test)} of {len(card.test)}",
        "impure": own < page.tau,
        "lost": not any(hit.itself for hit in card.train[:1]),
        "groups": (
            ("Nearest training images", card.train),
            ("Nearest test images", card.test),
        ),
    }
