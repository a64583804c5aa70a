"""Cluster and separation cost: pull an image to its own class's prototypes, push it from others.

Symbols: ``B`` images, ``P`` prototypes, ``K`` classes. ``d[b, p]`` is the pooled distance of image
``b`` to prototype ``p``.

    cluster    = mean_b  min over prototypes of the image's class of d[b, p]
    separation = mean_b  min over prototypes of the other classes of d[b, p]

The published code writes the masked minimum as ``M - max((M - d) * mask)`` with ``M`` the largest
possible distance; that form has no gradient once all masked distances exceed ``M``. Here absent
entries are filled with infinity, which is equal wherever the published form is valid.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.2, equation for Clst and Sep.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ClusterLoss", "ProtoPNetLoss", "SeparationLoss"]


def _masked_minimum(distances: Tensor, mask: Tensor) -> Tensor:
    """Mean over the images of the smallest distance among ``mask [B, P]``."""
    if distances.shape != mask.shape:
        raise ValueError(
            "distances must be [B, P] with B labels and P prototype classes, "
            f"got {list(distances.shape)} for a mask of {list(mask.shape)}."
        )
    nearest = distances.masked_fill(~mask, torch.inf).amin(dim=1)  # [B]
    if torch.isinf(nearest).any():
        raise ValueError("every class needs a prototype, and every image one of another class.")
    return nearest.mean()


class ClusterLoss(nn.Module):
    """Mean distance of each image to the nearest prototype of its own class; to be minimized."""

    def forward(self, distances: Tensor, labels: Tensor, prototype_class: Tensor) -> Tensor:
        """Return a scalar for ``distances [B, P]``, ``labels [B]``, ``prototype_class [P]``.

        Raises:
            ValueError: if shapes disagree or a label has no prototype.
        """
        return _masked_minimum(distances, labels[:, None] == prototype_class[None])


class SeparationLoss(nn.Module):
    """Mean distance of each image to the nearest prototype of another class; to be maximized."""

    def forward(self, distances: Tensor, labels: Tensor, prototype_class: Tensor) -> Tensor:
        """Return a scalar for ``distances [B, P]``, ``labels [B]``, ``prototype_class [P]``.

        Raises:
            ValueError: if shapes disagree or all prototypes belong to one class.
        """
        return _masked_minimum(distances, labels[:, None] != prototype_class[None])


class ProtoPNetLoss(nn.Module):
    """Class-weighted cross-entropy + ``cluster`` x cluster cost - ``separation`` x separation cost.

    The published L1 term is absent: in the phases trained by gradient the last layer is fixed, so
    it has no effect there; the last layer's own problem has it.

    Args:
        cluster: coefficient, >= 0; 0.8 in the published settings.
        separation: coefficient, >= 0; 0.08 in the published settings.
        class_weights: ``[K]`` weights of the cross-entropy, ``None`` for equal ones. The weighted
            sum is divided by the number of images, so that the loss of shards adds up.
    """

    class_weights: Tensor | None

    def __init__(
        self, *, cluster: float, separation: float, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        if cluster < 0 or separation < 0:
            raise ValueError(
                f"cluster and separation must be >= 0, got {cluster} and {separation}; "
                "the sign of the separation cost is built in."
            )
        self.cluster = cluster
        self.separation = separation
        self.register_buffer("class_weights", class_weights)
        self.cluster_loss = ClusterLoss()
        self.separation_loss = SeparationLoss()

    def forward(
        self, logits: Tensor, distances: Tensor, labels: Tensor, prototype_class: Tensor
    ) -> dict[str, Tensor]:
        """Return scalars ``loss``, ``cross_entropy``, ``cluster`` and ``separation``.

        Args:
            logits: ``[B, K]``.
            distances: ``[B, P]``, pooled over the cells.
            labels: ``[B]`` long.
            prototype_class: ``[P]`` long.
        """
        cross_entropy = nn.functional.cross_entropy(
            logits.float(), labels, weight=self.class_weights, reduction="sum"
        ) / len(labels)
        cluster = self.cluster_loss(distances, labels, prototype_class)
        separation = self.separation_loss(distances, labels, prototype_class)
        loss = cross_entropy + self.cluster * cluster - self.separation * separation
        return {
            "loss": loss,
            "cross_entropy": cross_entropy,
            "cluster": cluster,
            "separation": separation,
        }
