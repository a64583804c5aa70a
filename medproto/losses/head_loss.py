"""Cross-entropy of each kind of output head.

Symbols: ``B`` images, ``K`` logits, ``y`` the label, ``c`` the class weights. Per image:

- ``"multiclass"``: ``K`` classes, ``-c_y log softmax(logits)_y``.
- ``"binary"``: the same with two classes, whose first logit the network holds at 0.
- ``"multilabel"``: ``K`` findings, labels ``[B, K]`` 1, 0 or NaN; the mean over the *known* labels
  of ``-c_k y log sigmoid(z_k) - (1 - y) log(1 - sigmoid(z_k))``. NaN takes no part.
- ``"ordinal"``: ``K + 1`` grades in order, ``z_k`` the logit of ``y > k``;
  ``c_y`` times the sum over ``k`` of the binary cross-entropy of ``z_k`` against ``y > k`` [1].

The result is the sum over the images divided by ``B``, not by the sum of the weights or the number
of known labels, so the losses of shards, each times its number of images, add up.

References:
    [1] Cao, Mirjalili, Raschka, "Rank consistent ordinal regression for neural networks with
        application to age estimation", Pattern Recognition Letters 2020, section 3.2.
        https://arxiv.org/abs/1901.07884
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..records import HeadKind
from .membership import check_weights, one_hot_membership

__all__ = ["HeadLoss"]


class HeadLoss(nn.Module):
    """Weighted cross-entropy of a head, divided by the number of images.

    Args:
        head: which one, see the module's head.
        class_weights: ``[num_classes]``, finite and >= 0; ``None`` for all 1. They weigh the images
            of a class; for ``"multilabel"`` the presence of a finding against its absence.

    Raises:
        ValueError: if the head is unknown or the weights are unusable.

    Example:
        >>> round(HeadLoss("ordinal")(torch.zeros(1, 3), torch.tensor([2])).item(), 4)  # 3 log 2
        2.0794
    """

    class_weights: Tensor | None

    def __init__(self, head: HeadKind, *, class_weights: Tensor | None = None) -> None:
        super().__init__()
        if head not in get_args(HeadKind):
            raise ValueError(f"head must be one of {get_args(HeadKind)}, got {head!r}.")
        check_weights(class_weights)
        self.head: HeadKind = head
        self.register_buffer("class_weights", class_weights)

    def num_classes(self, logits: Tensor) -> int:
        """Number of classes behind ``logits [B, K]``: ``K``, or ``K + 1`` grades.

        Raises:
            ValueError: if the logits do not fit the head or its class weights.
        """
        if logits.ndim != 2 or (self.head == "binary" and logits.shape[1] != 2):
            width = 2 if self.head == "binary" else "K"
            raise ValueError(
                f"logits of the {self.head} head must be [B, {width}], got {list(logits.shape)}."
            )
        count = logits.shape[1] + (self.head == "ordinal")
        if self.class_weights is not None and len(self.class_weights) != count:
            raise ValueError(
                f"class_weights must be one for each of the {count} classes, "
                f"got {len(self.class_weights)}."
            )
        return count

    def membership(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return ``[B, num_classes]`` as in :mod:`medproto.losses.membership`.

        Args:
            logits: ``[B, K]``.
            targets: ``[B]`` long, or ``[B, K]`` 1, 0 or NaN for ``"multilabel"``.

        Raises:
            ValueError: if the targets do not fit the head.
        """
        count = self.num_classes(logits)
        if len(targets) != len(logits):
            raise ValueError(
                f"targets must be one row an image, {len(logits)}, got {len(targets)}."
            )
        if self.head != "multilabel":
            return one_hot_membership(targets, count)
        if targets.shape != logits.shape or not targets.is_floating_point():
            raise ValueError(
                f"targets of the multilabel head must be {list(logits.shape)} floating, got "
                f"{list(targets.shape)} of {targets.dtype}."
            )
        if not ((targets == 1) | (targets == 0) | targets.isnan()).all():
            raise ValueError("targets of the multilabel head must be 1, 0 or NaN for unknown.")
        return targets

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return a scalar; arguments and errors as of :meth:`membership`."""
        membership = self.membership(logits, targets)
        precise = logits if logits.dtype == torch.float64 else logits.float()
        weights = None if self.class_weights is None else self.class_weights.to(precise.dtype)
        if self.head == "multilabel":
            total = _masked_binary(precise, membership.to(precise.dtype), weights)
        elif self.head == "ordinal":
            total = _cumulative(precise, targets, weights)
        else:
            total = functional.cross_entropy(precise, targets, weight=weights, reduction="sum")
        return total / len(logits)


def _masked_binary(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    known = ~labels.isnan()
    losses = functional.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(0.0), pos_weight=weights, reduction="none"
    )
    per_image = losses.masked_fill(~known, 0.0).sum(dim=1) / known.sum(dim=1).clamp_min(1)
    return per_image.sum()


def _cumulative(logits: Tensor, grades: Tensor, weights: Tensor | None) -> Tensor:
    thresholds = torch.arange(logits.shape[1], device=logits.device)
    above = (grades[:, None] > thresholds).to(logits.dtype)  # [B, K]
    losses = functional.binary_cross_entropy_with_logits(logits, above, reduction="none")
    return losses.sum() if weights is None else (losses.sum(dim=1) * weights[grades]).sum()
