"""Heads: what the logits of a network mean, and the last layer each of them starts with.

Symbols: ``B`` images, ``P`` prototypes, ``K`` logits.

    multiclass  one of K classes; softmax. Every class has prototypes.
    binary      class 1 or not; K = 2, the logit of class 0 is fixed at 0 [1]. Absence has no parts,
                so only class 1 has prototypes.
    multilabel  K findings, each present or not; sigmoids. A column without prototypes ("no
                finding") is scored by the absence of the others.
    ordinal     K + 1 grades in order; logit k is of "above grade k" [2]. One weight a prototype
                serves all thresholds, so that the probabilities cannot cross.

References:
    [1] Barnett et al., "IAIA-BL", Nature Machine Intelligence 2021. https://arxiv.org/abs/2103.12308
    [2] Cao, Mirjalili, Raschka, "Rank consistent ordinal regression for neural networks", Pattern
        Recognition Letters 2020. https://arxiv.org/abs/1901.07884
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from ..records import HeadKind

__all__ = ["HeadKind", "class_count", "initial_last_layer", "prototype_counts"]

OWN_CLASS_WEIGHT = 1.0
OTHER_CLASS_WEIGHT = -0.5
"""Initial last-layer weights of the published code; the paper fixes only their signs' meaning."""


def class_count(head: HeadKind, out_channels: int) -> int:
    """Return the number of classes, grades or findings behind ``K`` logits.

    Raises:
        ValueError: if there is no such head, or it cannot have that many logits.
    """
    if head not in get_args(HeadKind):
        raise ValueError(f"head must be one of {', '.join(get_args(HeadKind))}, got {head!r}.")
    least = {"multiclass": 2, "binary": 2, "multilabel": 1, "ordinal": 1}[head]
    if out_channels < least or (head == "binary" and out_channels != 2):
        wanted = "2" if head == "binary" else f">= {least}"
        raise ValueError(f"out_channels must be {wanted} for head {head!r}, got {out_channels}.")
    return out_channels + (head == "ordinal")


def prototype_counts(
    head: HeadKind, prototypes_per_class: int | Sequence[int], classes: int
) -> list[int]:
    """Return one number of prototypes a class; one number for all skips class 0 of ``binary``.

    Raises:
        ValueError: if there is not one count a class, or a class that needs prototypes has none.
    """
    if isinstance(prototypes_per_class, int):
        counts = [prototypes_per_class] * classes
        if head == "binary":
            counts[0] = 0
    else:
        counts = list(prototypes_per_class)
    least = [0 if head == "multilabel" or (head == "binary" and k == 0) else 1 for k in range(2)]
    least += least[1:] * (classes - 2)
    wrong = len(counts) != classes or any(n < m for n, m in zip(counts, least))
    if wrong or sum(counts) < 1 or (head == "binary" and counts[0]):
        raise ValueError(
            f"prototypes_per_class must be {classes} counts, one a class, for head {head!r}: "
            f"{_COUNTS[head]}; got {counts}."
        )
    return counts


_COUNTS = {
    "multiclass": "each >= 1",
    "binary": "0 for the first class and >= 1 for the second",
    "multilabel": "0 for columns such as 'no finding', >= 1 for at least one",
    "ordinal": "each >= 1",
}


def initial_last_layer(
    head: HeadKind, prototype_class: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Return the weights ``[K, P]`` and biases ``[K]`` that training starts with.

    ``multiclass`` as published: +1 for the own class, -0.5 for the others. ``binary``: +1 in the
    row of class 1, nothing in that of class 0. ``multilabel``: +1 for the own finding, 0 for the
    others, which may occur together, and -0.5 for columns without prototypes. ``ordinal``: from -1
    for the lowest grade to +1 for the highest, with thresholds halfway between the grades.

    Args:
        head: which one.
        prototype_class: ``[P]`` long.
        classes: as of :func:`class_count`.
    """
    own = functional.one_hot(prototype_class, classes).T.float()  # [classes, P]
    if head == "ordinal":
        position = 2 * prototype_class / (classes - 1) - 1
        thresholds = torch.arange(classes - 1, device=own.device)
        bias = 1 - (2 * thresholds + 1) / (classes - 1)
        return position.float().expand(classes - 1, -1).clone(), bias.float()
    bias = torch.zeros(classes, device=own.device)
    if head == "multiclass":
        return own * (OWN_CLASS_WEIGHT - OTHER_CLASS_WEIGHT) + OTHER_CLASS_WEIGHT, bias
    if head == "multilabel":
        own[own.sum(dim=1) == 0] = OTHER_CLASS_WEIGHT
    return own, bias
