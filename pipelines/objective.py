"""The training step of each kind of segment: images and labels to the terms of the loss.

Symbols: ``B`` batch, ``K`` classes, ``*S`` axes of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from medproto.losses import ProtoPNetLoss
from medproto.networks import ProtoPNet

__all__ = ["classifier_step", "prototype_step"]

Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


def classifier_step(model: nn.Module, class_weights: Tensor | None) -> Step:
    """Class-weighted cross-entropy of a plain classifier, divided by the number of images."""

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = model(images).float()
        loss = nn.functional.cross_entropy(logits, labels, weight=class_weights, reduction="sum")
        return {"loss": loss / len(labels), "cross_entropy": loss.detach() / len(labels)}

    return step


def prototype_step(
    model: ProtoPNet, *, cluster: float, separation: float, class_weights: Tensor | None
) -> Step:
    """Cross-entropy, cluster and separation cost of a prototype network."""
    objective = ProtoPNetLoss(cluster=cluster, separation=separation, class_weights=class_weights)

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        output = model.evidence(images)
        distances = model.pool_distances(output.distances)
        return objective(output.logits, distances, labels, model.prototype_class)

    return step
