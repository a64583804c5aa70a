"""Evaluate a run on a split or on another cohort: figures with intervals, controls and the twin.

Symbols: ``N`` images, ``K`` classes, ``P`` prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from medproto.data import Cohort
from medproto.errors import CohortError, ModelFileError
from medproto.metrics import auroc as auroc_metric
from medproto.metrics import (
    operating_point,
    paired_difference,
    prototype_quality,
    summarize_classification,
)
from medproto.networks import PlainClassifier, ProtoPNet
from medproto.records import PrototypeSource

from .datasets import ImageSet
from .doubt import Doubt
from .inference import infer_logits, infer_scores
from .localization import LocatedCase, locate_evidence, summarize_localization
from .runs import RunFolder

__all__ = ["Evaluation", "evaluate_model", "evaluate_run", "load_split", "load_twin"]

SUBGROUP_COLUMNS = ("sex", "site", "scanner", "view", "modality")


@dataclass(frozen=True)
class Evaluation:
    """Figures of one set of images and what they were computed from.

    Args:
        summary: the document of ``evaluate --json``.
        probabilities: ``[N, K]``.
        labels: ``[N]``.
        images: the set.
        located: the place of the main evidence in the images with a mask.
    """

    summary: dict[str, Any]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    images: ImageSet
    located: tuple[LocatedCase, ...]


def evaluate_model(
    network: ProtoPNet,
    twin: PlainClassifier | None,
    classes: Sequence[str],
    sources: Sequence[PrototypeSource],
    *,
    train: ImageSet,
    val: ImageSet,
    images: ImageSet,
    split: str,
    doubt: Doubt | None,
    seed: int = 0,
) -> Evaluation:
    """Compute all figures of ``images``; the operating point comes from ``val`` alone.

    Args:
        doubt: of the run; ``None`` leaves the probabilities uncalibrated.
        train: its masks fit the constant location that localisation is judged against.
    """
    labels = np.asarray(images.labels)
    temperature = 1.0 if doubt is None else doubt.temperature.value
    logits = infer_logits(network, images)
    probabilities = softmax(logits / temperature, axis=1)
    summary: dict[str, Any] = {"split": split, "doubt": None}
    summary["calibrated"] = doubt is not None and doubt.calibrated
    summary |= _classification(network, classes, val, images, probabilities, seed, temperature)
    if doubt is not None:
        scores = infer_scores(network, images)
        summary["doubt"] = doubt.summary(logits, scores, images.labels, images.groups)
    located = locate_evidence(network, images)
    summary["twin"] = None
    if twin is not None:
        summary["twin"] = _twin(twin, classes, val, images, probabilities, seed)
    grid = network.grid
    summary["cells"] = {
        "shape": list(grid.shape),
        "stride": list(grid.stride),
        "first_center": list(grid.first_center),
        "receptive_field": list(grid.receptive_field),
        "whole_image": network.backbone.whole_image,
    }
    quality = prototype_quality(sources, [source.similarity for source in sources])
    summary["prototypes"] = asdict(quality)
    summary["localization"] = summarize_localization(located, images, train, seed=seed)
    return Evaluation(summary, probabilities, labels, images, tuple(located))


def _classification(
    network: ProtoPNet | PlainClassifier,
    classes: Sequence[str],
    val: ImageSet,
    images: ImageSet,
    probabilities: NDArray[np.float64],
    seed: int,
    temperature: float = 1.0,
) -> dict[str, Any]:
    threshold = None
    if len(classes) == 2:
        on_val = softmax(infer_logits(network, val) / temperature, axis=1)[:, 1]
        threshold = operating_point(on_val, np.asarray(val.labels))
    table = images.cohort.table.iloc[list(images.rows)]
    columns = {
        name: table[name].astype(str).tolist() for name in SUBGROUP_COLUMNS if name in table.columns
    }
    return summarize_classification(
        probabilities,
        np.asarray(images.labels),
        list(images.groups),
        list(classes),
        threshold=threshold,
        columns=columns,
        seed=seed,
    )


def _twin(
    twin: PlainClassifier,
    classes: Sequence[str],
    val: ImageSet,
    images: ImageSet,
    probabilities: NDArray[np.float64],
    seed: int,
) -> dict[str, Any]:
    own = softmax(infer_logits(twin, images), axis=1)
    summary = _classification(twin, classes, val, images, own, seed)
    difference = paired_difference(
        auroc_metric,
        probabilities,
        own,
        np.asarray(images.labels),
        groups=list(images.groups),
        seed=seed,
    )
    return {**summary, "difference": difference.to_dict()}


def load_split(run: RunFolder, cohort: Cohort, rows: Sequence[int]) -> ImageSet:
    """Read rows of a cohort with the run's own preprocessing."""
    steps = dict(run.card.preprocessing)
    steps["spatial_size"] = tuple(steps["spatial_size"])
    return ImageSet.load(cohort, rows, run.card.classes, steps)


def load_twin(run: RunFolder) -> PlainClassifier | None:
    """Read the run's plain classifier; ``None`` if it was trained without ``--twin``.

    Raises:
        ModelFileError: if its file is unreadable.
    """
    from copy import deepcopy

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = run.path / "twin.safetensors"
    if not path.exists():
        return None
    twin = PlainClassifier(deepcopy(run.network))
    try:
        twin.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelFileError("twin.safetensors cannot be read; it was altered.") from error
    return twin.eval()


def evaluate_run(
    run: RunFolder, *, split: str = "test", cohort: Cohort | None = None
) -> Evaluation:
    """Evaluate a finished run on one of its splits, or on the whole of another cohort.

    Raises:
        CohortError: if the split is empty, or the other cohort has none of the run's classes.
    """
    own = run.cohort
    rows = {name: own.table.index[own.table["split"] == name].tolist() for name in ("train", "val")}
    if cohort is None:
        target, chosen = own, own.table.index[own.table["split"] == split].tolist()
    else:
        shared = [name for name in run.card.classes if name in cohort.classes]
        if not shared:
            raise CohortError(
                f"another cohort must have labels of the run ({', '.join(run.card.classes)}), "
                f"it has {', '.join(cohort.classes) or 'none'}."
            )
        target = cohort.select(shared)
        chosen, split = target.table.index.tolist(), "external"
    if not chosen:
        raise CohortError(
            f"there must be images to evaluate; the split {split!r} has none. "
            "Splits are train, val and test."
        )
    return evaluate_model(
        run.network,
        load_twin(run),
        run.card.classes,
        run.sources,
        train=load_split(run, own, rows["train"]),
        val=load_split(run, own, rows["val"]),
        images=load_split(run, target, chosen),
        split=split,
        doubt=run.doubt,
    )
