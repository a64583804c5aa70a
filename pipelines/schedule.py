"""The schedule of a training: which parts learn, for how long, in which order.

    features   backbone as a plain classifier (clinical preset: prototypes start on good features)
    twin       a copy of that classifier goes on as long as the prototype network will (optional)
    warm       prototypes and add-on layers; backbone frozen           [1, stage 1]
    joint      backbone, add-on layers and prototypes together         [1, stage 1]
    projection prototypes become patches of training images            [1, stage 2]
    last_layer the convex problem of the last layer, solved            [1, stage 3]

The first three are *segments* trained by gradient, each by its own engine. The last two are
computed. The last layer keeps its initial weights until it is solved.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.2.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from medproto.networks import PlainClassifier, ProtoPNet

from .config import TrainingConfig

__all__ = ["Segment", "SegmentName", "ThreePhaseSchedule"]

SegmentName = Literal["features", "twin", "warm", "joint"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of training by gradient with a fixed set of learning parts.

    Args:
        index: position in the schedule; part of the seed of its shuffles.
        name: ``features``, ``twin``, ``warm`` or ``joint``.
        epochs: number of passes over the training images.
    """

    index: int
    name: SegmentName
    epochs: int

    def parameter_groups(
        self, model: ProtoPNet | PlainClassifier, config: TrainingConfig
    ) -> list[dict[str, Any]]:
        """Return the optimizer's groups; what is not in them is frozen."""
        decay = config.weight_decay
        fast = {"lr": config.learning_rate_head}
        groups: list[dict[str, Any]] = [
            {"params": list(model.add_on.parameters()), "weight_decay": decay, **fast}
        ]
        if isinstance(model, PlainClassifier):
            head = list(model.class_layer.parameters())
            groups.append({"params": head, "weight_decay": decay, **fast})
            rate = config.learning_rate_backbone
        else:
            vectors = [model.prototype_layer.vectors]
            groups.append({"params": vectors, "weight_decay": 0.0, **fast})
            rate = config.learning_rate_joint
        if self.name != "warm":
            backbone = list(model.backbone.parameters())
            groups.append({"params": backbone, "lr": rate, "weight_decay": decay})
        return [group for group in groups if group["params"]]

    def frozen(self, network: ProtoPNet | PlainClassifier) -> list[nn.Module]:
        """Modules that stay in ``eval`` mode: their BatchNorm statistics must not move."""
        return [network.backbone] if self.name == "warm" else []


@dataclass(frozen=True)
class ThreePhaseSchedule:
    """The segments of a run, in order; projection and last layer follow them."""

    segments: tuple[Segment, ...]

    @classmethod
    def from_config(cls, config: TrainingConfig, *, twin: bool) -> ThreePhaseSchedule:
        """Build the schedule; segments of no epochs are left out.

        The twin gets as many epochs in all as the prototype network.
        """
        planned: list[tuple[SegmentName, int]] = [
            ("features", config.features_epochs),
            ("twin", config.warm_epochs + config.joint_epochs if twin else 0),
            ("warm", config.warm_epochs),
            ("joint", config.joint_epochs),
        ]
        kept = [(name, epochs) for name, epochs in planned if epochs]
        return cls(tuple(Segment(i, name, epochs) for i, (name, epochs) in enumerate(kept)))

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)
