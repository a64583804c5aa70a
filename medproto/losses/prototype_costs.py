"""Cluster and separation cost: pull an image to the prototypes it shows, push it from the others.

Symbols: ``B`` images, ``P`` prototypes. ``d[b, p]`` is the pooled distance of image ``b`` to
prototype ``p``; ``m[b, k]`` the smallest of these over the prototypes of class ``k``; membership as
in :mod:`medproto.losses.membership`::

    cluster    = (1/B) sum_b c_b  mean over shown classes k of m[b, k]
    separation = (1/B) sum_b c_b  min over not shown classes k of m[b, k]

Unknown classes and classes without prototypes take no part; an image that has no class left
contributes 0. ``c_b`` is 1, or the mean of the class weights over the classes that image ``b``
shows (1 where it shows none). The divisor is the number of images, not the sum of the weights, so
the costs of shards, each times its number of images, add up.

For one label an image and ``c_b = 1`` these are the costs of [1]. The published code writes the
masked minimum as ``M - max((M - d) * mask)`` with ``M`` the largest possible distance; that form
has no gradient once all masked distances exceed ``M``. Here absent entries are infinite, which is
equal wherever the published form is valid. Weighing the costs by class is done in [2].

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.2, equation for Clst and Sep.
        https://arxiv.org/abs/1806.10574
    [2] Wei, Tam, Tang, "MProtoNet", MIDL 2023. https://arxiv.org/abs/2304.06258
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .membership import check_membership, check_weights

__all__ = ["ClusterLoss", "SeparationLoss"]


class _PrototypeCost(nn.Module):
    """What the two costs share: the class weights and the minimum per class."""

    class_weights: Tensor | None

    def __init__(self, *, class_weights: Tensor | None = None) -> None:
        super().__init__()
        check_weights(class_weights)
        self.register_buffer("class_weights", class_weights)

    def _mean(self, cost: Tensor, membership: Tensor) -> Tensor:
        """Weigh ``cost [B]`` by the classes each image shows and divide by ``B``."""
        if self.class_weights is not None:
            shown = (membership == 1).to(cost.dtype)  # [B, num_classes]
            count = shown.sum(dim=1)  # [B]
            total = (shown * self.class_weights.to(cost.dtype)).sum(dim=1)
            cost = cost * torch.where(count > 0, total / count.clamp_min(1), 1.0)
        return cost.sum() / len(cost)


class ClusterLoss(_PrototypeCost):
    """Mean distance of each image to the nearest prototype of a class it shows; to be minimized.

    Args:
        class_weights: ``[num_classes]``, finite and >= 0; ``None`` weighs all images by 1.
    """

    def forward(self, distances: Tensor, membership: Tensor, prototype_class: Tensor) -> Tensor:
        """Return a scalar.

        Args:
            distances: ``[B, P]``, pooled over the cells.
            membership: ``[B, num_classes]``, 1, 0 or NaN.
            prototype_class: ``[P]`` long.

        Raises:
            ValueError: if shapes disagree or an entry is outside its range.
        """
        nearest, present = _nearest(distances, membership, prototype_class)
        taking_part = (membership == 1) & present
        total = nearest.masked_fill(~taking_part, 0.0).sum(dim=1)  # [B]
        return self._mean(total / taking_part.sum(dim=1).clamp_min(1), membership)


class SeparationLoss(_PrototypeCost):
    """Mean distance of each image to the nearest prototype it does not show; to be maximized.

    Args:
        class_weights: ``[num_classes]``, finite and >= 0; ``None`` weighs all images by 1.
    """

    def forward(self, distances: Tensor, membership: Tensor, prototype_class: Tensor) -> Tensor:
        """Return a scalar; arguments and errors as of :meth:`ClusterLoss.forward`."""
        nearest, present = _nearest(distances, membership, prototype_class)
        taking_part = (membership == 0) & present
        smallest = nearest.masked_fill(~taking_part, torch.inf).amin(dim=1)  # [B]
        return self._mean(smallest.masked_fill(~taking_part.any(dim=1), 0.0), membership)


def _nearest(
    distances: Tensor, membership: Tensor, prototype_class: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ``m [B, num_classes]`` and which classes have prototypes, ``[num_classes]`` bool."""
    check_membership(membership, prototype_class)
    expected = (len(membership), len(prototype_class))
    if tuple(distances.shape) != expected:
        raise ValueError(
            "distances must be [B, P] with B rows of membership and P prototype classes, "
            f"here {list(expected)}, got {list(distances.shape)}."
        )
    nearest = distances.new_full(tuple(membership.shape), torch.inf)
    index = prototype_class.expand(expected)  # [B, P]
    nearest = nearest.scatter_reduce(1, index, distances, reduce="amin")
    present = torch.bincount(prototype_class, minlength=membership.shape[1]) > 0
    return nearest, present
