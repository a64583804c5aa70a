"""Taking the steps of a schedule: training by gradient, projection, choice, solving.

The checkpoint is written after each epoch and each trained step. Computed steps are not written by
themselves: a resume repeats them, with the same result. Of several processes the main one computes
them, and the others take over what it found.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medproto.explain import measure_shifts
from medproto.last_layer import LastLayerSolution
from medproto.networks import PlainClassifier, ProtoPNet
from medproto.networks.model_file import write_atomically
from medproto.projection import ProjectionResult, project_prototypes

from .annotations import Annotations
from .checkpoint import Checkpoint, ProjectedState
from .config import RunConfig
from .datasets import ImageSet
from .engine import SegmentRun, SegmentState, SegmentTask, validate
from .initialization import center_logits, start_prototypes
from .last_layer_fit import class_weights, fit_last_layer
from .marked_cells import marked_cells
from .mask_cost import MaskCost
from .objective import classifier_step, prototype_step
from .patch_cost import PatchCost
from .processes import from_main, is_main, synchronize
from .schedule import Step, ThreePhaseSchedule
from .trackers import Trackers
from .trained_modules import TrainedModules

__all__ = ["StepRunner"]

logger = logging.getLogger("medproto.train")

MARKED = ("warm", "joint")
"""Steps in which marked regions count."""

MEASURED = {2: 64, 3: 16}
MEASURED_AT_ONCE = {2: 16, 3: 4}
"""Planes and volumes on which the place of the cells is measured, and in one batch."""


@dataclass
class StepRunner:
    """Takes one step after the other and keeps the checkpoint.

    Args:
        out: folder of the run.
        config: resolved.
        schedule: that the steps are of.
        modules: changed in place.
        checkpoint: how far the run has come; changed and written.
        train: images learned from and projected onto.
        val: images that select.
        device: of the steps trained by gradient; the others run on the CPU, as prediction does.
        annotations: of the training images.
        trackers: receive each row of the history; ``None`` in all processes but the main one.
        solution: of the last layer, once it is solved.
    """

    out: Path
    config: RunConfig
    schedule: ThreePhaseSchedule
    modules: TrainedModules
    checkpoint: Checkpoint
    train: ImageSet
    val: ImageSet
    device: torch.device
    annotations: Annotations
    trackers: Trackers | None
    solution: LastLayerSolution | None = None

    def take(self, step: Step) -> None:
        """Take ``step``, or what is left of it after a resume."""
        if step.epochs:
            self._learn(step)
        elif step.name == "projection":
            self._project(step)
        elif step.name == "choice":
            self._choose()
        else:
            self._solve()
        self.checkpoint.step, self.checkpoint.state = step.index + 1, SegmentState()
        if step.epochs:
            self.checkpoint.save(self.modules)

    def _learn(self, step: Step) -> None:
        checkpoint, training = self.checkpoint, self.config.training
        state = checkpoint.state
        if state.epoch == 0:
            self._begin(step)
            state.optimizer = checkpoint.optimizers.pop(step.name, {})
        model = self.modules.learning_in(step.name)
        task = SegmentTask(
            name=step.name,
            number=step.index,
            epochs=step.epochs,
            head=self.modules.network.head,
            network=model,
            step=self._objective(model, step),
            groups=step.parameter_groups(model, training),
            frozen=step.frozen(model),
            optimizer=step.optimizer,
            rate=step.rate,
            patience=None if step.published else training.patience,
            done=step.done,
        )
        checkpoint.step = step.index
        SegmentRun(
            task,
            state,
            self.train,
            self.val,
            batch_size=training.batch_size,
            augment=self.config.data.augment,
            seed=self.config.seed,
            device=self.device,
            after_epoch=self._after_epoch,
            precision=training.precision,
            repeats=self.config.data.repeats,
            steps=training.steps_per_epoch,
            masks=self.annotations.masks if step.name in MARKED else None,
        ).run()
        if self.schedule.goes_on(step):
            checkpoint.optimizers[step.name] = state.optimizer

    def _after_epoch(self, row: dict[str, Any]) -> None:
        self._record(row)
        self.checkpoint.save(self.modules)
        self._track(row)

    def _record(self, row: dict[str, Any]) -> None:
        self.checkpoint.history.append(row)
        if is_main():
            table = pd.DataFrame(self.checkpoint.history).to_csv(index=False)
            write_atomically(self.out / "history.csv", table.encode())

    def _track(self, row: dict[str, Any]) -> None:
        """Tell the trackers; after an epoch is saved, so that none is lost with them."""
        if self.trackers is not None:
            self.trackers.add(row)

    def _begin(self, step: Step) -> None:
        """Deterministic changes before a step; repeated by a resume before its first epoch."""
        modules = self.modules
        if step.name == "twin" and modules.twin is not None:
            modules.twin.load_state_dict(modules.classifier.state_dict())
        if not self.schedule.starts_prototypes(step):
            return
        modules.cpu()
        from_main(self._start_prototypes)
        synchronize(modules)
        modules.to(self.device)

    def _start_prototypes(self) -> None:
        network = self.modules.network
        self._start_from_patches()
        if self.annotations.masks is not None or self.annotations.patches:
            # Which cells lie under a mark depends on where they look.
            self._place_cells(network.eval())
            self._start_from_patches()
        if network.head in ("binary", "multilabel"):
            center_logits(network, self.train)

    def _start_from_patches(self) -> None:
        if self.config.model.initialization == "kmeans":
            start_prototypes(
                self.modules.network,
                self.modules.classifier,
                self.train,
                seed=self.config.seed,
                cells=self._cells(),
            )

    def _objective(
        self, model: ProtoPNet | PlainClassifier, step: Step
    ) -> Callable[..., dict[str, Tensor]]:
        training = self.config.training
        weights = None
        if training.class_weights:
            classes = len(self.config.data.classes or ())
            weights = torch.tensor(class_weights(self.train.labels, classes)).to(self.device)
        if isinstance(model, PlainClassifier):
            return classifier_step(model, self.modules.network.head, weights)
        return prototype_step(
            model,
            cluster=training.cluster,
            separation=training.separation,
            orthogonality=training.orthogonality,
            class_weights=weights,
            l1=self.config.last_layer.l1 if step.published else 0.0,
            marks=self._mask_cost(model) if step.name in MARKED else None,
            patches=self._patch_cost(model) if step.name == "joint" else None,
        )

    def _mask_cost(self, model: ProtoPNet) -> MaskCost | None:
        training = self.config.training
        if self.annotations.masks is None:
            return None
        return MaskCost(
            model,
            fine_annotation=training.fine_annotation,
            peak_in_masks=training.peak_in_masks,
            patches_in_masks=training.patches_in_masks,
        )

    def _patch_cost(self, model: ProtoPNet) -> PatchCost | None:
        training, patches = self.config.training, self.annotations.patches
        if not patches:
            return None
        return PatchCost(
            model,
            patches,
            self.train,
            forbid=training.forbid,
            keep=training.keep,
            at_most=training.batch_size,
        )

    def _project(self, step: Step) -> None:
        network = self.modules.cpu().network.float().eval()
        single = self.config.training.schedule == "single"
        result = from_main(lambda: self._find_patches(network, unique=single))
        if result.dropped and not is_main():
            before = range(len(network.prototype_class))
            network.keep_prototypes([p for p in before if p not in result.dropped])
        synchronize(self.modules)
        if result.dropped:
            logger.warning(
                "%d prototype(s) dropped: their class has fewer groups than prototypes.",
                len(result.dropped),
            )
        self.checkpoint.matches = result.matches
        self.modules.to(self.device)
        if single:
            return
        scores = validate(network, self.val, head=network.head, device=self.device)
        row: dict[str, Any] = {"step": step.index, "segment": step.name, "epoch": step.done + 1}
        row |= {f"val_{name}": value for name, value in scores.items()}
        self._record(row)
        self._track(row)

    def _find_patches(self, network: ProtoPNet, *, unique: bool) -> ProjectionResult:
        if self.config.training.patches_in_masks:  # what lies in a mask depends on the place
            self._place_cells(network)
        return project_prototypes(
            network,
            lambda: self.train.batches(32),
            self.train.image,
            unique=unique,
            choice=self.config.training.projection if unique else "nearest",
            cells=self._cells(),
        )

    def _cells(self) -> Tensor | None:
        """Patches that prototypes are taken from; ``None`` is all."""
        if not self.config.training.patches_in_masks or self.annotations.masks is None:
            return None
        return marked_cells(self.modules.network.grid, self.annotations.masks)

    def _place_cells(self, network: ProtoPNet) -> None:
        shifts = measure_shifts(network, self._with_findings())
        network.center_shift.copy_(shifts.cells)
        network.prototype_shift.copy_(shifts.prototypes)
        logger.info(
            "feature cells look %s pixels beside their theoretical centres; maps are drawn there, "
            "those of a prototype at most %.1f pixels further.",
            " / ".join(f"{value:+.1f}" for value in shifts.cells.tolist()),
            shifts.prototypes.abs().max().item(),
        )

    def _with_findings(self) -> Iterator[Tensor]:
        """Yield some training images of other classes than the reference, or of any finding."""
        labels = self.train.labels.reshape(len(self.train), -1)
        shown = np.flatnonzero((labels >= 1).any(axis=1))
        random = np.random.default_rng(self.config.seed)
        axes = self.modules.network.arguments["spatial_dims"]
        chosen = random.permutation(shown)[: MEASURED[axes]].tolist()
        for start in range(0, len(chosen), MEASURED_AT_ONCE[axes]):
            positions = chosen[start : start + MEASURED_AT_ONCE[axes]]
            yield torch.stack([self.train.image(i) for i in positions])

    def _choose(self) -> None:
        """Keep the projected network if none before was better on the validation images."""
        network, checkpoint = self.modules.cpu().network.eval(), self.checkpoint
        from_main(lambda: self._place_cells(network))
        synchronize(self.modules)
        self.modules.to(self.device)
        scores = validate(network, self.val, head=network.head, device=self.device)
        tensors = {name: value.cpu() for name, value in network.state_dict().items()}
        state = ProjectedState(
            scores["auroc"], scores["loss"], copy.deepcopy(tensors), checkpoint.matches
        )
        if state.is_better_than(checkpoint.chosen):
            checkpoint.chosen = state
            logger.info("this projected network is the best so far on the validation images.")

    def _solve(self) -> None:
        network = self.modules.cpu().network.float().eval()
        self.solution = from_main(lambda: self._fit(network))
        synchronize(self.modules)

    def _fit(self, network: ProtoPNet) -> LastLayerSolution:
        solution = fit_last_layer(
            network,
            self.train,
            self.val,
            [match.row for match in self.checkpoint.matches],
            self.config.last_layer,
            weighted=self.config.training.class_weights,
            scores_path=self.out / "scores.npz",
        )
        # Last, since the weights say which evidence is shown, and its place is what is measured.
        self._place_cells(network)
        return solution
