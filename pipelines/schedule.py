"""The schedule of a training: an ordered list of steps, from which both presets are built.

    features   backbone as a plain classifier (clinical preset: prototypes start on good features)
    twin       a copy of that classifier goes on as long as the prototype network will (optional)
    warm       prototypes and add-on layers; backbone frozen           [1, stage 1]
    joint      backbone, add-on layers and prototypes together         [1, stage 1]
    projection prototypes become patches of training images            [1, stage 2]
    last_layer passes over the training images, all else frozen        [1, stage 3]
    choice     keep this projected network if none before was better on the validation images
    solve      the convex problem of the last layer, solved            [1, stage 3]

``single`` (preset clinical): features, twin, warm, joint, projection, solve.
``repeated`` (preset paper): warm, then joint, projection, last_layer and choice again and again.

Steps with epochs are trained by gradient, each by its own engine; the others are computed. In
``repeated`` a phase has one optimizer for the whole run, so its moments go on behind a projection.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.2.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medproto.networks import PlainClassifier, ProtoPNet

from .config import RunConfig
from .config_sections import TrainingConfig

__all__ = ["Step", "StepName", "ThreePhaseSchedule"]

StepName = Literal[
    "features", "twin", "warm", "joint", "projection", "last_layer", "choice", "solve"
]

COMPUTED = ("projection", "choice", "solve")
"""Steps without training by gradient. A resume repeats them, so they must be deterministic."""

DECAY = 0.1
DECAY_EPOCHS = 5
"""Joint rates fall by ``DECAY`` each ``DECAY_EPOCHS`` in ``repeated``, as published."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run; with epochs a stretch of training with a fixed set of learning parts.

    Args:
        index: position in the schedule; part of the seed of its shuffles.
        name: what happens, see the module's head.
        epochs: of training by gradient; 0 for a step that is computed.
        done: epochs of this name (projections for a projection) before this step.
        published: train as the published code: Adam with coupled weight decay, rates in steps,
            all epochs. Otherwise AdamW, a cosine decay over the step, and its best epoch is kept.
    """

    index: int
    name: StepName
    epochs: int = 0
    done: int = 0
    published: bool = False

    @property
    def optimizer(self) -> type[torch.optim.Optimizer]:
        """Class of the optimizer."""
        return torch.optim.Adam if self.published else torch.optim.AdamW

    def rate(self, iteration: int, per_epoch: int) -> float:
        """Return the factor of the learning rates, from the place in the step alone.

        Args:
            iteration: of this step, zero-based.
            per_epoch: iterations of an epoch.
        """
        if not self.published:
            return 0.5 * (1 + math.cos(math.pi * (iteration / (self.epochs * per_epoch))))
        if self.name != "joint":
            return 1.0
        # The published code moves its scheduler on *before* each joint epoch, the first included.
        moved = self.done + iteration // per_epoch + 1
        return DECAY ** (moved // DECAY_EPOCHS)

    def parameter_groups(
        self, model: ProtoPNet | PlainClassifier, config: TrainingConfig
    ) -> list[dict[str, Any]]:
        """Return the optimizer's groups, with names; what is not in them is frozen."""
        decay = config.weight_decay
        if self.name == "last_layer" and isinstance(model, ProtoPNet):
            rate = config.learning_rate_last_layer
            return [_group("last_layer", [model.last_layer.weight], rate, 0.0)]
        fast = config.learning_rate_head
        groups = [_group("add_on", model.add_on.parameters(), fast, decay)]
        if isinstance(model, PlainClassifier):
            groups.append(_group("class_layer", model.class_layer.parameters(), fast, decay))
            slow = config.learning_rate_backbone
        else:
            groups.append(_group("prototypes", [model.prototype_layer.vectors], fast, 0.0))
            slow = config.learning_rate_joint
        if self.name != "warm":
            groups.append(_group("backbone", model.backbone.parameters(), slow, decay))
        return [group for group in groups if group["params"]]

    def frozen(self, network: ProtoPNet | PlainClassifier) -> list[nn.Module]:
        """Modules that stay in ``eval`` mode: their BatchNorm statistics must not move.

        Statistics that came with pretrained weights stay too, outside the published training.
        Batches of a small cohort estimate them badly, and prototypes that learned on features
        normalized by their batch are projected onto, and compared with, others.
        """
        if self.name == "last_layer":
            return [network]
        if self.name == "warm":
            return [network.backbone]
        if self.published or network.backbone.weights_digest is None:
            return []
        return [m for m in network.backbone.modules() if isinstance(m, _BatchNorm)]


def _group(name: str, params: Iterable[Tensor], rate: float, decay: float) -> dict[str, Any]:
    return {"name": name, "params": list(params), "lr": rate, "weight_decay": decay}


@dataclass(frozen=True)
class ThreePhaseSchedule:
    """The steps of a run, in order."""

    steps: tuple[Step, ...]

    @classmethod
    def from_config(cls, config: RunConfig, *, twin: bool) -> ThreePhaseSchedule:
        """Build the schedule; training of no epochs is left out.

        The twin gets as many epochs in all as the prototype network.
        """
        training = config.training
        if training.schedule == "single":
            after = training.warm_epochs + training.joint_epochs
            steps = [
                Step(0, "warm", training.warm_epochs),
                Step(0, "joint", training.joint_epochs),
                Step(0, "projection"),
                Step(0, "solve"),
            ]
        else:
            steps = _cycles(config)
            after = sum(step.epochs for step in steps if step.name != "last_layer")
        first = [
            Step(0, "features", training.features_epochs),
            Step(0, "twin", after if twin else 0),
        ]
        kept = [step for step in first + steps if step.epochs or step.name in COMPUTED]
        return cls(tuple(replace(step, index=i) for i, step in enumerate(kept)))

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def starts_prototypes(self, step: Step) -> bool:
        """Whether the prototypes are first learned in ``step``."""
        return step == next(s for s in self.steps if s.name in ("warm", "joint"))

    def goes_on(self, step: Step) -> bool:
        """Whether a later step goes on with the optimizer of ``step``."""
        return any(s.name == step.name for s in self.steps[step.index + 1 :])


def _cycles(config: RunConfig) -> list[Step]:
    """Warm-up, then a cycle for each projection.

    Epochs behind the last projection are left out: only a projected network can become the run's
    model. With the linear similarity the last layer is not trained, as published.
    """
    training = config.training
    passes = 0 if config.model.similarity == "linear" else training.last_layer_passes
    steps = [Step(0, "warm", training.warm_epochs, published=True)]
    done = 0
    for cycle, epoch in enumerate(training.projection_epochs()):
        until = epoch + 1 - training.warm_epochs
        steps += [
            Step(0, "joint", until - done, done, published=True),
            Step(0, "projection", done=cycle),
            Step(0, "last_layer", passes, cycle * passes, published=True),
            Step(0, "choice"),
        ]
        done = until
    return steps
