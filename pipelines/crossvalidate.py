"""Cross-validation: one run a fold, resumable fold by fold, one summary.

Fold ``k`` is the test split of its run. Of the other rows a grouped, seeded sixth validates:
selection, calibration and threshold use that alone. ``summary.json`` is written after each fold.

Symbols: ``N`` test images of a fold, ``K`` classes, ``M`` of them with a mask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from medproto.data import Cohort, split_of_fold
from medproto.data.table import read_table
from medproto.errors import CohortError, ModelFileError
from medproto.metrics import MetricResult, mean_over_folds, pointing_game
from medproto.records import HeadKind

from .config import RunConfig
from .discrimination import ranking_metric
from .evaluate import Evaluation, evaluate_run
from .folder_lock import FolderLock
from .localization import Each
from .provenance import provenance
from .runs import RunFolder, read_json, write_json
from .trackers import require_mlflow
from .train import train
from .training_input import with_classes

__all__ = ["crossvalidate"]

logger = logging.getLogger("medproto.train")

LOCK = "lock"
"""Name of the file that keeps a second cross-validation out of the folder."""

Floats = NDArray[np.float64]


def crossvalidate(
    cohort: Cohort,
    out: Path,
    config: RunConfig,
    *,
    twin: bool = False,
    device: str = "cpu",
    mlflow: str | None = None,
    after_fold: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and test one run a fold, and return what ``summary.json`` holds.

    Called again on the same folder it goes on: finished folds stay, an unfinished one is resumed.

    Args:
        cohort: with a column ``fold``, as ``medproto cohort split --folds`` writes it.
        out: new folder, or that of an unfinished cross-validation of the same cohort and settings.
        mlflow: as of :func:`.train.train`.
        after_fold: receives the row of each fold, finished before or now.

    Raises:
        CohortError: if the cohort has no folds, or a problem, or if an image is no longer what it
            was in an earlier fold.
        ConfigError: if the settings do not fit together, or MLflow does not answer.
        ModelFileError: if ``out`` holds something else, or other settings, or is in use.
    """
    if mlflow is not None:
        require_mlflow(mlflow)
    if "fold" not in cohort.table.columns:
        raise CohortError(
            "cross-validation needs a column `fold`. Write it with "
            "`medproto cohort split COHORT.csv --folds 5 --seed 0 --out COHORT.csv`."
        )
    numbers = sorted(set(cohort.table["fold"].tolist()))
    if len(numbers) < 2:
        raise CohortError(f"cross-validation needs at least two folds, got {len(numbers)}.")
    chosen = with_classes(cohort, config)
    parts = {number: split_of_fold(chosen, number, seed=config.seed) for number in numbers}
    with FolderLock(out / LOCK) as lock:
        _begin(out, lock, cohort, config, twin)

        def take(number: int, folder: Path) -> None:
            logger.info("fold %d of %s.", number, numbers)
            _take(parts[number], number, folder, config, twin, device, mlflow)

        return _all_folds(out, numbers, take, after_fold)


def _all_folds(
    out: Path,
    numbers: list[int],
    take: Callable[[int, Path], None],
    after_fold: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Take the folds that are not finished, and write the summary after each."""
    rows: list[dict[str, Any]] = []
    cases: list[_Cases] = []
    for number in numbers:
        folder = out / f"fold-{number}"
        if not (folder / "cases.npz").exists():
            take(number, folder)
        cases.append(_Cases.read(folder / "cases.npz"))
        row = read_json(folder / "fold.json")
        rows.append(row)
        if after_fold is not None:
            after_fold(row)
        summary = {
            **read_json(out / "crossvalidation.json"),
            "folds_done": len(rows),
            "folds": rows,
            "mean": _means(cases),
        }
        write_json(out / "summary.json", summary)
    return summary


@dataclass(frozen=True, eq=False)
class _Cases:
    """What the means over folds are computed from.

    Args:
        head: what the probabilities mean.
        probabilities: ``[N, K]``.
        twin: ``[N, K]``, or ``[0]`` without a twin.
        labels: ``[N]``, or ``[N, K]`` for findings.
        groups: ``[N]``.
        hits: ``[M]``, the main evidence lies on the finding.
        constant: ``[M]``, the best constant location does.
        mask_groups: ``[M]``.
    """

    head: HeadKind
    probabilities: Floats
    twin: Floats
    labels: NDArray[Any]
    groups: NDArray[np.str_]
    hits: Floats
    constant: Floats
    mask_groups: NDArray[np.str_]

    @classmethod
    def of(cls, run: RunFolder, evaluation: Evaluation) -> _Cases:
        groups = np.asarray(evaluation.images.groups, dtype=np.str_)
        located, place = evaluation.located, evaluation.summary["localization"]
        hits = constant = np.zeros(0)
        if place is not None:
            masks = Each(located, "mask")
            hits = pointing_game([case.center for case in located], masks)
            position = tuple(place["constant_location"]["position"])
            standing = Each(located, "upright")
            constant = pointing_game([position] * len(masks), standing, relative=True)
        positions = [case.position for case in located] if place is not None else []
        twin = evaluation.twin_probabilities
        return cls(
            head=run.network.head,
            probabilities=evaluation.probabilities,
            twin=np.zeros(0) if twin is None else twin,
            labels=evaluation.images.labels,
            groups=groups,
            hits=np.asarray(hits, dtype=np.float64),
            constant=np.asarray(constant, dtype=np.float64),
            mask_groups=groups[positions],
        )

    def write(self, path: Path) -> None:
        partial_path = path.with_name(f".{path.name}")
        np.savez(partial_path, **{name: getattr(self, name) for name in self.__annotations__})
        partial_path.replace(path)

    @classmethod
    def read(cls, path: Path) -> _Cases:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                fields = {name: stored[name] for name in cls.__annotations__}
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise ModelFileError(
                f"{path.parent.name}/{path.name} is damaged; delete it, and the fold is "
                "evaluated again."
            ) from error
        return cls(**fields | {"head": str(fields.pop("head"))})


def _begin(out: Path, lock: FolderLock, cohort: Cohort, config: RunConfig, twin: bool) -> None:
    """Write what the cross-validation is about, or check that the folder is about the same."""
    about = {
        "cohort_digest": cohort.digest,
        "config_digest": config.digest(),
        "group_column": cohort.group_column,
        "twin": twin,
    }
    path = out / "crossvalidation.json"
    if path.exists() and any(out.glob("fold-*")):
        known = read_json(path)
        different = [
            name.removesuffix("_digest").replace("_", " ")
            for name, value in about.items()
            if known.get(name) != value
        ]
        if different:
            raise ModelFileError(
                "the folder holds a cross-validation with another "
                f"{' and '.join(different)}; choose a new one with --out."
            )
        lock.take()
        return
    if out.exists() and any(item not in (path, out / LOCK) for item in out.iterdir()):
        raise ModelFileError("the folder is not empty; choose a new one with --out.")
    out.mkdir(parents=True, exist_ok=True)
    lock.take()
    write_json(path, {**about, "config": config.model_dump(mode="json")})


def _take(
    cohort: Cohort,
    number: int,
    folder: Path,
    config: RunConfig,
    twin: bool,
    device: str,
    mlflow: str | None,
) -> None:
    """Train, or go on training, the run of one fold, and keep what the means need.

    Args:
        cohort: with the column ``split`` of this fold.
    """
    if not (folder / "model.json").exists():
        unfinished = folder.exists()
        train(
            cohort,
            folder,
            config,
            twin=twin,
            resume=unfinished,
            device=device,
            mlflow=mlflow,
            pixels=_pixels(folder.parent),
        )
        write_json(folder / "trained.json", provenance())
    run = RunFolder(folder)
    evaluation = evaluate_run(run)
    summary = evaluation.summary
    row = {
        "fold": number,
        "n": summary["n"],
        "groups": summary["groups"],
        "auroc": summary["auroc"],
        "twin": None if summary["twin"] is None else summary["twin"]["auroc"],
        "difference": None if summary["twin"] is None else summary["twin"]["difference"],
        "localization": summary["localization"],
        "prototypes": summary["prototypes"],
        "config_digest": run.card.config_digest,
        "trained": read_json(trained) if (trained := folder / "trained.json").exists() else None,
        **provenance(),
    }
    write_json(folder / "fold.json", row)
    # Last, since its presence says that the fold is done.
    _Cases.of(run, evaluation).write(folder / "cases.npz")


def _pixels(out: Path) -> dict[int, str]:
    """Return the pixel digests that the images had in the trained folds, by row of the table."""
    known: dict[int, str] = {}
    for path in sorted(out.glob("fold-*/model.json")):
        table = read_table(path.with_name("cohort.csv"))
        known |= dict(zip(map(int, table["row"]), table["pixel_digest"], strict=True))
    return known


def _means(cases: list[_Cases]) -> dict[str, Any]:
    """Return the figures averaged over the folds, each with its interval."""
    measure = ranking_metric(cases[0].head)
    groups = [fold.groups.tolist() for fold in cases]

    def difference(own: Floats, other: Floats, labels: NDArray[Any]) -> float | None:
        left, right = measure(own, labels), measure(other, labels)
        return None if left is None or right is None else left - right

    means: dict[str, Any] = {
        "auroc": _mean(measure, [[f.probabilities, f.labels] for f in cases], groups, "auroc"),
        "twin": None,
        "difference": None,
        "localization": None,
    }
    if all(fold.twin.size for fold in cases):
        means["twin"] = _mean(measure, [[f.twin, f.labels] for f in cases], groups, "twin")
        both = [[f.probabilities, f.twin, f.labels] for f in cases]
        means["difference"] = _mean(difference, both, groups, "difference")
    if all(fold.hits.size for fold in cases):
        means["localization"] = _localization(cases)
    return means


def _localization(cases: list[_Cases]) -> dict[str, Any]:
    """Hit rate over all images with a mask, errors included, and that minus the best constant."""
    groups = [fold.mask_groups.tolist() for fold in cases]
    figures = {
        "pointing_game": [[fold.hits] for fold in cases],
        "constant_location": [[fold.constant] for fold in cases],
        "difference": [[fold.hits - fold.constant] for fold in cases],
    }
    return {name: _mean(_average, values, groups, name) for name, values in figures.items()}


def _average(values: Floats) -> float:
    return float(values.mean())


def _mean(
    compute: Callable[..., float | None], folds: list[Any], groups: list[Any], name: str
) -> dict[str, Any]:
    result: MetricResult = mean_over_folds(compute, folds, groups=groups, name=name)
    return {**result.to_dict(), "n": result.n, "groups": result.groups}
