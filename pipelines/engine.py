"""One segment of the schedule on MONAI's engines: train, validate, keep the best epoch.

Symbols: ``B`` batch, ``K`` classes, ``*S`` axes of the network's input.

Selection of an epoch looks at the validation split alone: the area under the ROC curve, ties
decided by the cross-entropy. After each epoch the state of everything is written, so that a killed
training goes on from there; shuffles, augmentation and dropout depend on seed and epoch only.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import SupervisedTrainer
from monai.metrics import compute_roc_auc
from torch import Tensor, nn

from medproto.errors import MedProtoError
from medproto.losses import HeadLoss
from medproto.metrics import multilabel_auroc
from medproto.records import HeadKind

from .data_parallel import data_parallel
from .datasets import ImageSet
from .loader import loader, on_device
from .processes import average, from_main, is_main, rank, spread, synchronize

__all__ = ["SegmentRun", "SegmentState", "SegmentTask", "TrainingError", "validate"]

logger = logging.getLogger("medproto.train")

Step = Callable[..., dict[str, Tensor]]


class TrainingError(MedProtoError, RuntimeError):
    """The training diverged: a loss is not finite."""


@dataclass(frozen=True)
class SegmentTask:
    """What a segment trains, and how.

    Args:
        name: for the history and the log lines.
        number: part of the seed, different for each segment of a run.
        epochs: passes over the training images.
        head: what its logits mean.
        network: gives logits ``[B, K]``; validated after each epoch.
        step: maps images ``[B, 1, *S]``, labels ``[B]`` and, where there are any, masks
            ``[B, *S]`` to scalars, ``loss`` among them.
        groups: parameter groups of the optimizer, with a ``name``; everything else is frozen.
        frozen: modules kept in ``eval`` mode.
        optimizer: makes the optimizer of ``groups``.
        rate: factor of the learning rates for a zero-based iteration and the iterations an epoch.
        patience: epochs without a better score after which the segment stops; the network is left
            at its best epoch. ``None`` trains all epochs and leaves it at the last one.
        done: epochs of this name before this segment, for the numbers in the history.
    """

    name: str
    number: int
    epochs: int
    head: HeadKind
    network: nn.Module
    step: Step
    groups: list[dict[str, Any]]
    frozen: Sequence[nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer]
    rate: Callable[[int, int], float]
    patience: int | None
    done: int = 0


@dataclass
class SegmentState:
    """How far a segment has come; all of it goes into the checkpoint."""

    epoch: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)

    @property
    def stale(self) -> int:
        """Epochs since the best one."""
        return self.epoch - self.best_epoch


def validate(
    network: nn.Module, images: ImageSet, *, head: HeadKind, device: torch.device
) -> dict[str, float]:
    """Return ``auroc`` and ``loss`` of a network on a set, the same in all processes.

    Args:
        head: what the network's logits mean; the area of an ordinal one is the mean over its
            thresholds, that of findings the mean over those with and without certain cases.
    """
    network.eval()

    @torch.no_grad()
    def forward(batch: Any) -> tuple[Tensor, Tensor]:
        return network(batch[0].to(device)).float().cpu(), torch.tensor(batch[1])

    outputs = spread(forward, images.batches(32))
    return from_main(lambda: _scores(outputs, head))


def _scores(outputs: Sequence[tuple[Tensor, Tensor]], head: HeadKind) -> dict[str, float]:
    objective = HeadLoss(head)
    total = torch.zeros(())
    for part in outputs:
        total += objective(*part) * len(part[1])
    logits, labels = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return {"auroc": _area(logits, labels, head), "loss": total.item() / len(labels)}


def _area(logits: Tensor, labels: Tensor, head: HeadKind) -> float:
    if head == "multilabel":  # MONAI's area knows no uncertain labels
        figure = multilabel_auroc(logits.sigmoid().double().numpy(), labels.double().numpy())
        return 0.5 if figure is None else figure
    if head == "ordinal":
        above = labels[:, None] > torch.arange(logits.shape[1])
        return float(compute_roc_auc(logits, above.long()))
    truth = nn.functional.one_hot(labels, logits.shape[1])
    return float(compute_roc_auc(logits.softmax(dim=1), truth))


@dataclass
class SegmentRun:
    """One segment in progress: the handlers of its trainer, in the order of their events.

    Args:
        task: what is trained.
        state: from which it goes on.
        train: images learned from.
        val: images that select the best epoch.
        batch_size: of the training steps.
        augment: random changes of the training images.
        precision: of the steps; ``bfloat16`` runs them under autocast.
        repeats: passes over the training images an epoch.
        steps: iterations an epoch, instead of what ``repeats`` gives.
        masks: ``[N, 1, *S]`` bool of the training images, for a step that takes them.
        seed: of shuffles, augmentation and dropout.
        device: to train on.
        after_epoch: receives the row of the history; writes history and checkpoint.
    """

    task: SegmentTask
    state: SegmentState
    train: ImageSet
    val: ImageSet
    batch_size: int
    augment: bool
    seed: int
    device: torch.device
    after_epoch: Callable[[dict[str, Any]], None]
    precision: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 1
    steps: int | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        task = self.task
        self._optimizer = task.optimizer(task.groups)
        self._rates = [group["lr"] for group in task.groups]
        if self.state.optimizer:
            self._optimizer.load_state_dict(self.state.optimizer)
        learning = {id(p) for group in task.groups for p in group["params"]}
        for parameter in task.network.parameters():
            parameter.requires_grad_(id(parameter) in learning)
        self._batches, self._sampler, self._random_part = loader(
            self.train,
            batch_size=self.batch_size,
            augment=self.augment,
            seed=self.seed + 1000 * (task.number + 1),
            repeats=self.repeats,
            steps=self.steps,
            masks=self.masks,
        )
        self._step = data_parallel(task.network, task.step)
        self._totals: dict[str, float] = {}
        self._rates_shown: dict[str, float] = {}
        self._started = time.perf_counter()

    def run(self) -> None:
        """Train the remaining epochs and leave the network at the best one, or at the last."""
        task, state = self.task, self.state
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=task.epochs,
            train_data_loader=self._batches,
            network=task.network,
            optimizer=self._optimizer,
            loss_function=task.step,
            iteration_update=self._update,
            decollate=False,
        )
        _quiet(trainer)
        trainer.state.epoch = state.epoch
        trainer.state.iteration = state.epoch * len(self._batches)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._set_rates)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._add_up)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        if sys.stderr.isatty() and is_main():
            ProgressBar(desc=task.name).attach(trainer)
        if state.epoch < task.epochs and not self._is_stale():
            trainer.run()
        if task.patience is not None:
            task.network.load_state_dict(state.best)

    def _is_stale(self) -> bool:
        return self.task.patience is not None and self.state.stale >= self.task.patience

    def _update(self, engine: Engine, batch: dict[str, Any]) -> dict[str, float]:
        self.task.network.train()
        for module in self.task.frozen:
            module.eval()
        self._optimizer.zero_grad(set_to_none=True)
        given = on_device(batch, self.device)
        reduced = self.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced):
            terms = self._step(*given)
        weight = self._batches.batch_sampler.weight(
            (engine.state.iteration - 1) % len(self._batches)
        )
        shown = average(terms, weight)
        _check_finite(shown["loss"], self.task.name)
        (terms["loss"] * weight).backward()
        self._optimizer.step()
        return shown

    def _begin_epoch(self, engine: Engine) -> None:
        self._started = time.perf_counter()
        self._totals.clear()
        epoch = engine.state.epoch
        self._sampler.epoch = epoch
        seed = self.seed * 7919 + self.task.number * 1009 + epoch + rank() * 104_729
        torch.manual_seed(seed)
        self._random_part.set_random_state(seed)

    def _set_rates(self, engine: Engine) -> None:
        """Set the learning rates from the iteration alone, so that a resume agrees."""
        iteration, per_epoch = engine.state.iteration - 1, len(self._batches)
        factor = self.task.rate(iteration, per_epoch)
        for group, base in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * factor
            if iteration % per_epoch == 0:
                self._rates_shown[f"rate_{group['name']}"] = group["lr"]

    def _add_up(self, engine: Engine) -> None:
        for key, value in engine.state.output.items():
            self._totals[key] = self._totals.get(key, 0.0) + value / len(self._batches)

    def _end_epoch(self, engine: Engine) -> None:
        task, state = self.task, self.state
        synchronize(task.network)  # statistics of BatchNorm are those of process 0
        scores = validate(task.network, self.val, head=task.head, device=self.device)
        _check_finite(scores["loss"], task.name)
        state.epoch = engine.state.epoch
        if task.patience is not None:
            self._keep_best(scores)
        state.optimizer = self._optimizer.state_dict()
        row = {"step": task.number, "segment": task.name, "epoch": task.done + state.epoch}
        row |= self._totals | {"val_auroc": scores["auroc"], "val_loss": scores["loss"]}
        row |= self._rates_shown | {"seconds": time.perf_counter() - self._started}
        _say(row, task.done + task.epochs)
        self.after_epoch(row)
        if self._is_stale():
            logger.info("%s: no better epoch for %d; stopped.", task.name, task.patience)
            engine.terminate()

    def _keep_best(self, scores: dict[str, float]) -> None:
        state = self.state
        score = scores["auroc"] - 1e-3 * min(scores["loss"], 10.0)
        if score > state.best_score:
            state.best_score, state.best_epoch = score, state.epoch
            state.best = copy.deepcopy(self.task.network.state_dict())


def _check_finite(loss: float, segment: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss must be finite, in the segment {segment!r} it is {loss}. Lower "
            "training.learning_rate_head, _backbone or _joint."
        )


def _quiet(engine: Engine) -> None:
    """Ignite logs each start, end and exception; the project's own lines say more."""
    engine.logger = logging.getLogger("medproto.ignite")
    engine.logger.setLevel(logging.CRITICAL)


def _say(row: dict[str, Any], epochs: int) -> None:
    logger.info(
        "%-10s epoch %2d/%d  loss %.3f  validation AUROC %.3f  loss %.3f  %.1f s",
        row["segment"],
        row["epoch"],
        epochs,
        row["loss"],
        row["val_auroc"],
        row["val_loss"],
        row["seconds"],
    )
