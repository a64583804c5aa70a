"""The training step of each kind of segment: images and labels to the terms of the loss.

Symbols: ``B`` batch, ``K`` classes, ``*S`` axes of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from medproto.losses import (
    HeadLoss,
    OrthogonalityLoss,
    ProtoPNetLoss,
    l1_of_other_classes,
)
from medproto.networks import ProtoPNet
from medproto.records import HeadKind

from .mask_cost import MaskCost
from .patch_cost import PatchCost

__all__ = ["classifier_step", "prototype_step"]

Step = Callable[..., dict[str, Tensor]]


def classifier_step(model: nn.Module, head: HeadKind, class_weights: Tensor | None) -> Step:
    """Class-weighted cross-entropy of a plain classifier, divided by the number of images."""
    objective = HeadLoss(head, class_weights=class_weights)

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = objective(model(images).float(), labels)
        return {"loss": loss, "cross_entropy": loss.detach()}

    return step


def prototype_step(
    model: ProtoPNet,
    *,
    cluster: float,
    separation: float,
    class_weights: Tensor | None,
    orthogonality: float = 0.0,
    l1: float = 0.0,
    marks: MaskCost | None = None,
    patches: PatchCost | None = None,
) -> Step:
    """Cross-entropy, cluster and separation cost of a prototype network.

    With ``orthogonality`` the likeness of prototypes of one class costs too. With ``l1`` the loss
    has the published term on last-layer weights to other classes, which has a gradient only where
    the last layer learns. With ``marks`` the step takes masks ``[B, *S]`` as its third argument.
    ``marks`` and ``patches`` add their own terms.
    """
    objective = ProtoPNetLoss(
        cluster=cluster, separation=separation, head=model.head, class_weights=class_weights
    )
    likeness = OrthogonalityLoss()

    def step(images: Tensor, labels: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        output = model.evidence(images)
        distances = model.pool_distances(output.distances)
        added = []
        if marks is not None and mask is not None:
            membership = objective.head_loss.membership(output.logits, labels)
            distances, more = marks(output, distances, membership, mask)
            added.append(more)
        if patches is not None:
            added.append(patches())
        terms = objective(output.logits, distances, labels, model.prototype_class)
        if orthogonality:
            cost = likeness(model.prototype_layer.vectors, model.prototype_class)
            terms = {**terms, "loss": terms["loss"] + orthogonality * cost, "orthogonality": cost}
        if l1:
            size = l1_of_other_classes(model.last_layer.weight, model.prototype_class)
            terms = {**terms, "loss": terms["loss"] + l1 * size, "l1": size}
        for more in added:
            terms = {**terms, **more, "loss": terms["loss"] + more["loss"]}
        return terms

    return step
