"""The objective of a prototype network: cross-entropy, cluster cost, separation cost; the L1 term.

Symbols: ``B`` images, ``P`` prototypes, ``K`` logits, ``w`` the ``[K, P]`` last-layer weights.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, sections 2.2 and 2.3.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..records import HeadKind
from .head_loss import HeadLoss
from .prototype_costs import ClusterLoss, SeparationLoss

__all__ = ["ProtoPNetLoss", "l1_of_other_classes"]


class ProtoPNetLoss(nn.Module):
    """Class-weighted cross-entropy + ``cluster`` x cluster cost - ``separation`` x separation cost.

    The published L1 term is absent: in the phases trained by gradient the last layer is fixed, so
    it has no effect there; the last layer's own problem has it. See :func:`l1_of_other_classes`.

    Args:
        cluster: coefficient, >= 0; 0.8 in the published settings.
        separation: coefficient, >= 0; 0.08 in the published settings.
        head: kind of the output, see :class:`HeadLoss`.
        class_weights: ``[num_classes]`` weights, finite and >= 0, of the cross-entropy; ``None``
            for equal ones. The weighted sum is divided by the number of images, so that the loss
            of shards adds up.
        weighted_costs: whether the weights act on the cluster and separation cost, too.

    Raises:
        ValueError: if an argument is outside the range given above.
    """

    def __init__(
        self,
        *,
        cluster: float,
        separation: float,
        head: HeadKind = "multiclass",
        class_weights: Tensor | None = None,
        weighted_costs: bool = False,
    ) -> None:
        super().__init__()
        if not (cluster >= 0 and separation >= 0):
            raise ValueError(
                f"cluster and separation must be >= 0, got {cluster} and {separation}; "
                "the sign of the separation cost is built in."
            )
        self.cluster = cluster
        self.separation = separation
        self.head_loss = HeadLoss(head, class_weights=class_weights)
        cost_weights = class_weights if weighted_costs else None
        self.cluster_loss = ClusterLoss(class_weights=cost_weights)
        self.separation_loss = SeparationLoss(class_weights=cost_weights)

    def forward(
        self, logits: Tensor, distances: Tensor, targets: Tensor, prototype_class: Tensor
    ) -> dict[str, Tensor]:
        """Return scalars ``loss``, ``cross_entropy``, ``cluster`` and ``separation``.

        Args:
            logits: ``[B, K]``.
            distances: ``[B, P]``, pooled over the cells.
            targets: ``[B]`` long; ``[B, K]`` 1, 0 or NaN for unknown with the multilabel head.
            prototype_class: ``[P]`` long.

        Raises:
            ValueError: if shapes disagree or an entry is outside its range.
        """
        membership = self.head_loss.membership(logits, targets)
        cross_entropy = self.head_loss(logits, targets)
        cluster = self.cluster_loss(distances, membership, prototype_class)
        separation = self.separation_loss(distances, membership, prototype_class)
        loss = cross_entropy + self.cluster * cluster - self.separation * separation
        return {
            "loss": loss,
            "cross_entropy": cross_entropy,
            "cluster": cluster,
            "separation": separation,
        }


def l1_of_other_classes(weight: Tensor, prototype_class: Tensor) -> Tensor:
    """Sum of ``|w_kp|`` over ``k`` other than the prototype's own class, as published [1].

    Args:
        weight: ``[K, P]``, one row a class. Ordinal heads have no such rows: their thresholds share
            one weight a prototype.
        prototype_class: ``[P]`` long.

    Raises:
        ValueError: if the shapes disagree or a prototype's class has no row.
    """
    if weight.ndim != 2 or weight.shape[1:] != prototype_class.shape:
        raise ValueError(
            "weight must be [K, P] with P prototype classes, "
            f"got {list(weight.shape)} and {list(prototype_class.shape)}."
        )
    rows = torch.arange(len(weight), device=weight.device)
    own = rows[:, None] == prototype_class[None]  # [K, P]
    if not own.any(dim=0).all():
        raise ValueError(
            f"prototype_class must lie in 0..{len(weight) - 1}, one row of weight a class, got "
            f"{prototype_class.min()} to {prototype_class.max()}; ordinal heads have no L1 term."
        )
    return weight.masked_fill(own, 0.0).abs().sum()
