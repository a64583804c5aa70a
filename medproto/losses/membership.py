"""Which classes an image shows, for the losses of every head.

Symbols: ``B`` images, ``P`` prototypes. *Membership* is ``[B, num_classes]``: 1 the image shows the
class, 0 it does not, NaN unknown. Single-label heads have one 1 a row, the other entries are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_membership", "check_weights", "one_hot_membership"]


def one_hot_membership(labels: Tensor, num_classes: int) -> Tensor:
    """Return float ``[B, num_classes]`` for ``labels [B]`` long.

    Raises:
        ValueError: if the labels are not one-dimensional, not long, or outside the classes.
    """
    if labels.ndim != 1 or labels.dtype != torch.long:
        raise ValueError(
            f"labels of a single-label head must be [B] long, got {list(labels.shape)} of "
            f"{labels.dtype}."
        )
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, got {labels.min()} to {labels.max()}."
        )
    return torch.nn.functional.one_hot(labels, num_classes).float()


def check_membership(membership: Tensor, prototype_class: Tensor) -> None:
    """Check ``membership [B, num_classes]`` and the classes ``[P]`` of the prototypes.

    Raises:
        ValueError: if a shape is another, an entry is not 1, 0 or NaN, or a prototype belongs to a
            class that has no column.
    """
    if membership.ndim != 2 or prototype_class.ndim != 1:
        raise ValueError(
            "membership must be [B, num_classes] and prototype_class [P], "
            f"got {list(membership.shape)} and {list(prototype_class.shape)}."
        )
    if not ((membership == 1) | (membership == 0) | membership.isnan()).all():
        raise ValueError(
            "membership must hold 1 (shown), 0 (not shown) and NaN (unknown) alone. "
            "Write NaN for other codes of an uncertain label."
        )
    num_classes = membership.shape[1]
    if ((prototype_class < 0) | (prototype_class >= num_classes)).any():
        raise ValueError(
            f"prototype_class must lie in 0..{num_classes - 1}, the columns of membership, "
            f"got {prototype_class.min()} to {prototype_class.max()}."
        )


def check_weights(class_weights: Tensor | None) -> None:
    """Check ``[num_classes]`` weights; ``None`` passes.

    Raises:
        ValueError: if they are not one-dimensional, finite and >= 0.
    """
    if class_weights is None:
        return
    usable = class_weights.isfinite() & (class_weights >= 0)
    if class_weights.ndim != 1 or not usable.all():
        raise ValueError(
            "class_weights must be [num_classes] finite numbers >= 0, "
            f"got {class_weights.tolist()}."
        )
