"""Train: cohort in, run folder out. Segments by gradient, then projection, then the last layer.

The folder is a finished run only once ``model.json`` stands in it, which is written last.
"""

from __future__ import annotations

import itertools
import logging
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from medproto.data import Cohort
from medproto.errors import ModelFileError
from medproto.last_layer import LastLayerSolution
from medproto.networks import (
    ModelCard,
    PlainClassifier,
    ProtoPNet,
    measure_center_shift,
    save_model,
)
from medproto.networks.efficientnet_lite import LITE0_WEIGHTS_DIGEST
from medproto.networks.model_file import write_atomically
from medproto.projection import project_prototypes
from medproto.records import PrototypeSource

from .checkpoint import Checkpoint
from .config import ConfigError, RunConfig
from .datasets import ImageSet
from .engine import SegmentRun, SegmentState, SegmentTask
from .evaluate import Evaluation, evaluate_model
from .gallery import describe_sources, write_pictures
from .initialization import start_prototypes
from .last_layer_fit import class_weights, fit_last_layer
from .objective import classifier_step, prototype_step
from .report import write_report
from .runs import RunFolder, file_digest, sources_to_table, write_json
from .schedule import Segment, ThreePhaseSchedule
from .trained_modules import TrainedModules
from .training_input import find_device, resolve, snapshot, usable

__all__ = ["train"]

logger = logging.getLogger("medproto.train")


def train(
    cohort: Cohort,
    out: Path,
    config: RunConfig,
    *,
    twin: bool = False,
    resume: bool = False,
    device: str = "cpu",
) -> RunFolder:
    """Run the three phases and leave a finished run folder.

    Args:
        cohort: with a column ``split`` of ``train``, ``val`` and ``test``.
        out: new folder; with ``resume`` the folder of an unfinished run of the same configuration.
        twin: also train the plain classifier, as long in all, for comparison.
        resume: go on from the last finished epoch.
        device: ``cpu`` or ``cuda``, for the segments trained by gradient; everything else runs on
            the CPU, as prediction does.

    Raises:
        CohortError: if the cohort has problems; the first one is named.
        ConfigError: if the settings do not fit together, or there is no such device.
        ModelFileError: if ``out`` is taken, or cannot be resumed.
        TrainingError: if the loss is not finite.
    """
    if (out / "model.json").exists():
        raise ModelFileError("the folder holds a finished run; train into a new one.")
    if out.exists() and any(out.iterdir()) and not resume:
        raise ModelFileError(
            "the folder is not empty; choose a new one, or go on with an unfinished run "
            "by --resume."
        )
    torch.set_float32_matmul_precision("highest")
    place = find_device(device)
    cohort, report = usable(cohort, config)
    config = resolve(config, cohort, report)
    out.mkdir(parents=True, exist_ok=True)
    return _Training(snapshot(cohort, report, out), out, config, twin, place).run()


@dataclass
class _Training:
    cohort: Cohort
    out: Path
    config: RunConfig
    twin: bool
    device: torch.device

    def run(self) -> RunFolder:
        train, val = self._load("train"), self._load("val")
        modules = self._modules()
        checkpoint = Checkpoint(
            self.out / "checkpoints" / "progress.pt", self.config.digest(), self.cohort.digest
        )
        if checkpoint.load(modules):
            logger.info("resumed after %d finished epochs.", len(checkpoint.history))
        write_atomically(self.out / "config.yaml", self.config.to_yaml().encode())
        schedule = ThreePhaseSchedule.from_config(self.config.training, twin=self.twin)
        for segment in schedule:
            if segment.index >= checkpoint.segment:
                self._segment(segment, modules, checkpoint, train, val)
        return self._finish(modules, train, val)

    def _load(self, split: str) -> ImageSet:
        rows = self.cohort.table.index[self.cohort.table["split"] == split].tolist()
        size, data = self.config.data.image_size, self.config.data
        steps = {"spatial_size": (size, size), "voi": data.voi, "mode": data.mode}
        logger.info("reading %d images (%s).", len(rows), split)
        return ImageSet.load(self.cohort, rows, data.classes or (), steps)

    def _modules(self) -> TrainedModules:
        torch.manual_seed(self.config.seed)
        model, data = self.config.model, self.config.data
        size = data.image_size or 0
        try:
            network = ProtoPNet(
                2,
                1,
                len(data.classes or ()),
                image_size=(size, size),
                **model.model_dump(exclude={"initialization"}),
            )
        except ValueError as error:
            raise ConfigError(f"the settings of the model do not fit together: {error}") from error
        modules = TrainedModules(network, with_twin=self.twin).to(self.device)
        for parameter in modules.parameters():
            if parameter.ndim == 4:  # a CPU runs depthwise convolutions faster this way
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return modules

    def _segment(
        self,
        segment: Segment,
        modules: TrainedModules,
        checkpoint: Checkpoint,
        train: ImageSet,
        val: ImageSet,
    ) -> None:
        state = checkpoint.state if segment.index == checkpoint.segment else SegmentState()
        if state.epoch == 0:
            self._begin(segment, modules, train)
        model, training = modules.learning_in(segment.name), self.config.training
        task = SegmentTask(
            name=segment.name,
            number=segment.index,
            epochs=segment.epochs,
            network=model,
            step=self._step(model, train),
            groups=segment.parameter_groups(model, training),
            frozen=segment.frozen(model),
            patience=training.patience,
        )
        checkpoint.segment, checkpoint.state = segment.index, state

        def after_epoch(row: dict[str, Any]) -> None:
            checkpoint.history.append(row)
            checkpoint.save(modules)
            table = pd.DataFrame(checkpoint.history).to_csv(index=False)
            write_atomically(self.out / "history.csv", table.encode())

        SegmentRun(
            task,
            state,
            train,
            val,
            batch_size=training.batch_size,
            augment=self.config.data.augment,
            seed=self.config.seed,
            device=self.device,
            after_epoch=after_epoch,
        ).run()
        checkpoint.segment, checkpoint.state = segment.index + 1, SegmentState()
        checkpoint.save(modules)

    def _begin(self, segment: Segment, modules: TrainedModules, train: ImageSet) -> None:
        """Deterministic steps between segments; repeated by a resume before the first epoch."""
        if segment.name == "twin" and modules.twin is not None:
            modules.twin.load_state_dict(modules.classifier.state_dict())
        first_with_prototypes = "warm" if self.config.training.warm_epochs else "joint"
        if segment.name == first_with_prototypes and self.config.model.initialization == "kmeans":
            modules.cpu()
            start_prototypes(modules.network, modules.classifier, train, seed=self.config.seed)
            modules.to(self.device)

    def _step(
        self, model: ProtoPNet | PlainClassifier, train: ImageSet
    ) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        training = self.config.training
        weights = None
        if training.class_weights:
            weights = torch.tensor(class_weights(train.labels, len(self.config.data.classes or ())))
            weights = weights.to(self.device)
        if isinstance(model, PlainClassifier):
            return classifier_step(model, weights)
        return prototype_step(
            model, cluster=training.cluster, separation=training.separation, class_weights=weights
        )

    def _finish(self, modules: TrainedModules, train: ImageSet, val: ImageSet) -> RunFolder:
        """Projection, last layer, evaluation, report, model file: in memory first, model last."""
        network = modules.cpu().network.float().eval()
        self._place_cells(network, train)
        result = project_prototypes(network, train.batches(32), train.image)
        if result.dropped:
            logger.warning(
                "%d prototype(s) dropped: their class has fewer groups than prototypes.",
                len(result.dropped),
            )
        classes = tuple(self.config.data.classes or ())
        sources = describe_sources(network, result, train, classes)
        solution = fit_last_layer(
            network,
            train,
            val,
            [match.row for match in result.matches],
            self.config.last_layer,
            weighted=self.config.training.class_weights,
            scores_path=self.out / "scores.npz",
        )
        sources_to_table(sources).to_parquet(self.out / "prototypes.parquet", index=False)
        write_pictures(self.out / "prototypes", sources, train)
        twin = modules.twin
        if twin is not None:
            _save_twin(self.out, twin.eval())
        test = self._load("test")
        evaluation = evaluate_model(
            network, twin, classes, sources, train=train, val=val, images=test, split="test"
        )
        self._write_results(evaluation, solution, network, sources)
        return RunFolder(self.out)

    def _place_cells(self, network: ProtoPNet, train: ImageSet) -> None:
        batches = itertools.islice((images for images, *_ in train.batches(32)), 4)
        shift = measure_center_shift(network, batches, seed=self.config.seed)
        network.center_shift.copy_(torch.tensor(shift))
        logger.info(
            "feature cells look %s pixels beside their theoretical centres; maps are drawn there.",
            " / ".join(f"{value:+.1f}" for value in shift),
        )

    def _write_results(
        self,
        evaluation: Evaluation,
        solution: LastLayerSolution,
        network: ProtoPNet,
        sources: tuple[PrototypeSource, ...],
    ) -> None:
        certificate = asdict(solution)
        certificate = {k: certificate[k] for k in ("objective", "residual", "iterations", "zeros")}
        metrics = {**evaluation.summary, "last_layer": certificate}
        write_json(self.out / "metrics.json", metrics)
        card = self._card()
        write_report(self.out, network, card, sources, metrics, evaluation)
        save_model(self.out, network, card)

    def _card(self) -> ModelCard:
        data = self.config.data
        pretrained = self.config.model.pretrained
        return ModelCard(
            classes=tuple(data.classes or ()),
            preprocessing={
                "spatial_size": [data.image_size, data.image_size],
                "voi": data.voi,
                "mode": data.mode,
            },
            synthetic=bool(self.cohort.table["synthetic"].astype(int).any()),
            config_digest=self.config.digest(),
            cohort_digest=self.cohort.digest,
            prototypes_digest=file_digest(self.out / "prototypes.parquet"),
            backbone_weights=LITE0_WEIGHTS_DIGEST if pretrained else None,
            versions={
                **{name: version(name) for name in ("medproto", "torch", "monai")},
                "python": platform.python_version(),
            },
        )


def _save_twin(out: Path, twin: PlainClassifier) -> None:
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous() for k, v in twin.state_dict().items()}
    write_atomically(out / "twin.safetensors", save(tensors))
