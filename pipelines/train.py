"""Train: cohort in, run folder out. The steps of the schedule, then evaluation and report.

The folder is a finished run only once ``model.json`` stands in it, which is written last.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from medproto.data import Cohort
from medproto.errors import ModelFileError
from medproto.last_layer import LastLayerSolution
from medproto.networks import (
    ModelCard,
    PlainClassifier,
    ProtoPNet,
    save_model,
    use_channels_last,
)
from medproto.networks.model_file import write_atomically
from medproto.projection import PrototypeMatch
from medproto.records import PrototypeSource

from .allocator import keep_freed_memory
from .annotations import Annotations, read_annotations
from .checkpoint import Checkpoint
from .config import ConfigError, RunConfig
from .config_sections import DataConfig
from .datasets import ImageSet
from .doubt import fit_doubt
from .evaluate import Evaluation, evaluate_model
from .folder_lock import FolderLock
from .gallery import describe_sources, write_pictures
from .last_layer_fit import keep_scores
from .processes import count, from_main, is_main
from .report import write_report
from .runs import RunFolder, file_digest, sources_to_table, write_json
from .schedule import ThreePhaseSchedule
from .steps import StepRunner
from .trackers import Trackers, require_mlflow
from .trained_modules import TrainedModules
from .training_input import (
    Usable,
    check_groups,
    check_pixels,
    find_device,
    resolve,
    snapshot,
    usable,
    write_left_out,
)

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
    mlflow: str | None = None,
    pixels: Mapping[int, str] = MappingProxyType({}),
) -> RunFolder:
    """Take the steps of the schedule and leave a finished run folder.

    Inside :func:`pipelines.processes.joined` all processes call this alike and train together;
    process 0 returns last, when the run is finished.

    Args:
        cohort: with a column ``split`` of ``train``, ``val`` and ``test``.
        out: new folder; with ``resume`` the folder of an unfinished run of the same configuration.
        twin: also train the plain classifier, as long in all, for comparison.
        resume: go on from the last finished epoch.
        device: ``cpu`` or ``cuda``, for the segments trained by gradient; everything else runs on
            the CPU, as prediction does.
        mlflow: tracking URI that gets the history too, see :class:`.trackers.Trackers`.
        pixels: by row the pixel digests that the images had in earlier folds.

    Raises:
        CohortError: if the cohort has problems; the first one is named.
        ConfigError: if the settings do not fit together, there is no such device, or MLflow does
            not answer.
        ModelFileError: if ``out`` is taken or in use, or cannot be resumed.
        TrainingError: if the loss is not finite.
    """
    with FolderLock(out / "checkpoints" / "lock") as lock:
        from_main(lambda: _check_folder(out, lock, resume=resume))
        if mlflow is not None:
            from_main(lambda: require_mlflow(mlflow))
        keep_freed_memory()
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        place = find_device(device)
        used, config, annotations = from_main(lambda: _prepare(cohort, config, pixels))
        modules = _build(config, twin=twin, device=place)
        taken = from_main(lambda: _begin_folder(used, out, lock, resume=resume))
        return _Training(taken, out, config, twin, place, annotations, modules, mlflow).run()


def _check_folder(out: Path, lock: FolderLock, *, resume: bool) -> None:
    if (out / "model.json").exists():
        raise ModelFileError("the folder holds a finished run; train into a new one.")
    if not (out.exists() and any(out.iterdir())):
        return
    if not (out / "checkpoints").is_dir():
        raise ModelFileError(
            "the folder is not empty, and holds no unfinished run; choose another."
        )
    if not resume:
        raise ModelFileError(
            "the folder holds an unfinished run; go on with it by --resume, or choose another."
        )
    lock.take()


def _prepare(
    cohort: Cohort, config: RunConfig, pixels: Mapping[int, str]
) -> tuple[Usable, RunConfig, Annotations]:
    used = usable(cohort, config)
    check_pixels(used, pixels)
    resolved = resolve(config, used.cohort, used.report)
    return used, *read_annotations(resolved, used.cohort, used.report)


def _begin_folder(used: Usable, out: Path, lock: FolderLock, *, resume: bool) -> Cohort:
    # Again: another training may have begun here while the files were read.
    _check_folder(out, lock, resume=resume)
    # First of all: by this folder a run is known.
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    if lock.take():
        _remove_parts(out)
    cohort = snapshot(used.cohort, used.report, out)
    write_left_out(used.left_out, out)
    return cohort


def _remove_parts(out: Path) -> None:
    """Remove what a killed training had half written; no other writes here any more."""
    for folder in (out, out / "checkpoints"):
        for part in folder.glob(".*.part"):
            part.unlink()


def _build(config: RunConfig, *, twin: bool, device: torch.device) -> TrainedModules:
    torch.manual_seed(config.seed)
    model, data = config.model, config.data
    try:
        network = ProtoPNet(
            len(data.spatial_size),
            1 + len(data.channels),
            len(data.classes or ()) - (model.head == "ordinal"),
            image_size=data.spatial_size,
            **model.model_dump(exclude={"initialization"}),
        )
    except ValueError as error:
        raise ConfigError(f"the settings of the model do not fit together: {error}") from error
    if count() > 1 and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    modules = TrainedModules(network, with_twin=twin).to(device)
    use_channels_last(modules)
    return modules


@dataclass
class _Training:
    cohort: Cohort
    out: Path
    config: RunConfig
    twin: bool
    device: torch.device
    annotations: Annotations
    modules: TrainedModules
    mlflow: str | None

    def run(self) -> RunFolder:
        train, val = self._load("train"), self._load("val")
        if self.config.training.schedule == "single":
            owners = self.modules.network.prototype_class.tolist()
            check_groups(train, owners, self.config.data.classes or ())
        modules = self.modules
        checkpoint = Checkpoint(
            self.out / "checkpoints" / "progress.pt", self.config.digest(), self.cohort.digest
        )
        if checkpoint.load(modules):
            logger.info("resumed after %d finished epochs.", len(checkpoint.history))
        if is_main():
            write_atomically(self.out / "config.yaml", self.config.to_yaml().encode())
        schedule = ThreePhaseSchedule.from_config(self.config, twin=self.twin)
        trackers = None
        if is_main():
            trackers = Trackers(self.out, done=len(checkpoint.history), mlflow=self.mlflow)
        runner = StepRunner(
            self.out,
            self.config,
            schedule,
            modules,
            checkpoint,
            train,
            val,
            self.device,
            self.annotations,
            trackers,
        )
        for step in schedule.steps[checkpoint.step :]:
            runner.take(step)
        if trackers is None:  # evaluation and report are work for the main process
            return RunFolder(self.out)
        trackers.close()
        modules.cpu().float().eval()
        matches, chosen = checkpoint.matches, checkpoint.chosen
        if chosen is not None:
            modules.network.load_state_dict(chosen.tensors)
            matches = chosen.matches
            positions = [match.row for match in matches]
            keep_scores(modules.network, train, val, positions, self.out / "scores.npz")
        return self._finish(modules, matches, runner.solution, train, val)

    def _load(self, split: str) -> ImageSet:
        rows = self.cohort.table.index[self.cohort.table["split"] == split].tolist()
        data = self.config.data
        steps = {**_preprocessing(data), "spatial_size": data.spatial_size}
        logger.info("reading %d images (%s).", len(rows), split)
        return ImageSet.load(self.cohort, rows, data.classes or (), steps)

    def _finish(
        self,
        modules: TrainedModules,
        matches: tuple[PrototypeMatch, ...],
        solution: LastLayerSolution | None,
        train: ImageSet,
        val: ImageSet,
    ) -> RunFolder:
        """Sources, evaluation, report, model file: in memory first, model last."""
        network, classes = modules.network, tuple(self.config.data.classes or ())
        sources = describe_sources(network, matches, train, classes)
        sources_to_table(sources).to_parquet(self.out / "prototypes.parquet", index=False)
        write_pictures(self.out / "prototypes", sources, train)
        twin = modules.twin
        if twin is not None:
            _save_twin(self.out, twin.eval())
        doubt = fit_doubt(network, self.out / "scores.npz", val.groups)
        write_json(self.out / "doubt.json", doubt.to_dict())
        evaluation = evaluate_model(
            network,
            twin,
            classes,
            sources,
            train=train,
            val=val,
            images=self._load("test"),
            split="test",
            doubt=doubt,
        )
        self._write_results(evaluation, solution, network, sources)
        return RunFolder(self.out)

    def _write_results(
        self,
        evaluation: Evaluation,
        solution: LastLayerSolution | None,
        network: ProtoPNet,
        sources: tuple[PrototypeSource, ...],
    ) -> None:
        keys = ("objective", "residual", "iterations", "zeros")
        certificate = None if solution is None else {key: getattr(solution, key) for key in keys}
        metrics = {**evaluation.summary, "last_layer": certificate}
        write_json(self.out / "metrics.json", metrics)
        card = self._card(network)
        write_report(self.out, network, card, sources, metrics, evaluation)
        save_model(self.out, network, card)

    def _card(self, network: ProtoPNet) -> ModelCard:
        data = self.config.data
        return ModelCard(
            classes=tuple(data.classes or ()),
            preprocessing=_preprocessing(data),
            synthetic=bool(self.cohort.table["synthetic"].astype(int).any()),
            config_digest=self.config.digest(),
            cohort_digest=self.cohort.content_digest,
            prototypes_digest=file_digest(self.out / "prototypes.parquet"),
            doubt_digest=file_digest(self.out / "doubt.json"),
            backbone_weights=network.backbone.weights_digest,
            versions={
                **{name: version(name) for name in ("medproto", "torch", "monai")},
                "python": platform.python_version(),
            },
        )


def _save_twin(out: Path, twin: PlainClassifier) -> None:
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous() for k, v in twin.state_dict().items()}
    write_atomically(out / "twin.safetensors", save(tensors))


def _preprocessing(data: DataConfig) -> dict[str, Any]:
    """Return the arguments of :func:`medproto.transforms.preprocessing`, as JSON types."""
    return {
        "spatial_size": list(data.spatial_size),
        "voi": data.voi,
        "mode": data.mode,
        "spacing_mm": data.spacing_mm,
        "crop": data.crop,
        "blacken_outside": data.blacken_outside,
    }
