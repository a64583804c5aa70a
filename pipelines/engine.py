"""One segment of the schedule on MONAI's engines: train, validate, keep the best, leave a checkpoint.

Symbols: ``B`` batch, ``K`` classes, ``*S`` axes of the network's input.

Selection looks at the validation split alone: the area under the ROC curve, ties decided by the
cross-entropy. After each epoch the state of everything is written, so that a killed training goes
on from there; shuffles, augmentation and dropout depend on seed and epoch only.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from ignite.metrics import Loss
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ROCAUC
from torch import Tensor, nn

from .datasets import ImageSet, loader

__all__ = ["SegmentState", "SegmentTask", "run_segment", "validate"]

logger = logging.getLogger("medproto.train")

Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class SegmentTask:
    """What a segment trains, and how.

    Args:
        name: for the history and the log lines.
        number: part of the seed, different for each segment of a run.
        epochs: passes over the training images.
        network: gives logits ``[B, K]``; validated, and restored to its best epoch at the end.
        step: maps images ``[B, 1, *S]`` and labels ``[B]`` to scalars, ``loss`` among them.
        groups: parameter groups of the optimizer; everything else is frozen.
        frozen: modules kept in ``eval`` mode.
        patience: epochs without a better score after which the segment stops.
    """

    name: str
    number: int
    epochs: int
    network: nn.Module
    step: Step
    groups: list[dict[str, Any]]
    frozen: Sequence[nn.Module]
    patience: int


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


def validate(network: nn.Module, images: ImageSet, *, device: torch.device) -> dict[str, float]:
    """Return ``auroc`` and ``loss`` of a network on a set, by MONAI's evaluator."""

    def forward(engine: Engine, batch: Any) -> tuple[Tensor, Tensor]:
        network.eval()
        with torch.no_grad():
            return network(batch[0].to(device)).float().cpu(), torch.tensor(batch[1])

    def one_hot(output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        logits, labels = output
        return logits.softmax(dim=1), nn.functional.one_hot(labels, logits.shape[1])

    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=list(images.batches(32)),
        network=network,
        iteration_update=forward,
        key_val_metric={"auroc": ROCAUC(output_transform=one_hot)},
        additional_metrics={"loss": Loss(nn.functional.cross_entropy)},
        decollate=False,
    )
    _quiet(evaluator)
    evaluator.run()
    return {key: float(evaluator.state.metrics[key]) for key in ("auroc", "loss")}


def run_segment(
    task: SegmentTask,
    state: SegmentState,
    train: ImageSet,
    val: ImageSet,
    *,
    batch_size: int,
    augment: bool,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[dict[str, Any]], None],
) -> None:
    """Train one segment from ``state`` on, and leave the network at its best epoch.

    Args:
        after_epoch: receives the row of the history; writes history and checkpoint.
    """
    parameters = [p for group in task.groups for p in group["params"]]
    optimizer = torch.optim.AdamW(task.groups)
    if state.optimizer:
        optimizer.load_state_dict(state.optimizer)
    batches, sampler, random_part = loader(
        train, batch_size=batch_size, augment=augment, seed=seed + 1000 * (task.number + 1)
    )
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=task.epochs,
        train_data_loader=batches,
        network=task.network,
        optimizer=optimizer,
        loss_function=task.step,
        iteration_update=_Update(task, optimizer, parameters, device),
        decollate=False,
    )
    _quiet(trainer)
    trainer.state.epoch = state.epoch
    trainer.state.iteration = state.epoch * len(batches)
    base_rates = [group["lr"] for group in task.groups]
    totals: dict[str, float] = {}
    started = time.perf_counter()

    def begin_epoch(engine: Engine) -> None:
        nonlocal started
        started = time.perf_counter()
        totals.clear()
        sampler.epoch = engine.state.epoch
        torch.manual_seed(seed * 7919 + task.number * 1009 + engine.state.epoch)
        random_part.set_random_state(seed * 7919 + task.number * 1009 + engine.state.epoch)

    def set_rates(engine: Engine) -> None:
        done = (engine.state.iteration - 1) / (task.epochs * len(batches))
        for group, base in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = base * 0.5 * (1 + math.cos(math.pi * done))

    def add_up(engine: Engine) -> None:
        for key, value in engine.state.output.items():
            totals[key] = totals.get(key, 0.0) + value / len(batches)

    def end_epoch(engine: Engine) -> None:
        scores = validate(task.network, val, device=device)
        state.epoch = engine.state.epoch
        score = scores["auroc"] - 1e-3 * min(scores["loss"], 10.0)
        if score > state.best_score:
            state.best_score, state.best_epoch = score, state.epoch
            state.best = copy.deepcopy(task.network.state_dict())
        state.optimizer = optimizer.state_dict()
        row = {"segment": task.name, "epoch": state.epoch, **totals}
        row |= {"val_auroc": scores["auroc"], "val_loss": scores["loss"]}
        row["seconds"] = time.perf_counter() - started
        _say(row, task.epochs)
        after_epoch(row)
        if state.stale >= task.patience:
            logger.info("%s: no better epoch for %d; stopped.", task.name, task.patience)
            engine.terminate()

    trainer.add_event_handler(Events.EPOCH_STARTED, begin_epoch)
    trainer.add_event_handler(Events.ITERATION_STARTED, set_rates)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, add_up)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, end_epoch)
    if sys.stderr.isatty():
        ProgressBar(desc=task.name).attach(trainer)
    if state.epoch < task.epochs and state.stale < task.patience:
        trainer.run()
    task.network.load_state_dict(state.best)


class _Update:
    """The iteration of the trainer: forward, loss, backward, step."""

    def __init__(
        self,
        task: SegmentTask,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        device: torch.device,
    ) -> None:
        self._task = task
        self._optimizer = optimizer
        self._device = device
        learning = {id(p) for p in parameters}
        for parameter in task.network.parameters():
            parameter.requires_grad_(id(parameter) in learning)

    def __call__(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, float]:
        self._task.network.train()
        for module in self._task.frozen:
            module.eval()
        self._optimizer.zero_grad(set_to_none=True)
        images, labels = (batch[key].to(self._device) for key in ("image", "label"))
        terms = self._task.step(images, labels)
        terms["loss"].backward()
        self._optimizer.step()
        return {key: float(value.detach()) for key, value in terms.items()}


def _quiet(engine: Engine) -> None:
    """Ignite logs each start and end; the project's own lines say more."""
    engine.logger = logging.getLogger("medproto.ignite")
    engine.logger.setLevel(logging.ERROR)


def _say(row: dict[str, Any], epochs: int) -> None:
    logger.info(
        "%-8s epoch %2d/%d  loss %.3f  validation AUROC %.3f  loss %.3f  %.1f s",
        row["segment"],
        row["epoch"],
        epochs,
        row["loss"],
        row["val_auroc"],
        row["val_loss"],
        row["seconds"],
    )
