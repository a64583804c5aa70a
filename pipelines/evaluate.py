"""Evaluate a run on a split or on another cohort: figures with intervals, controls and the twin.

Symbols: ``N`` images, ``K`` classes, ``P`` prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.data import Cohort, check_cohort
from medproto.errors import CohortError, ModelFileError
from medproto.metrics import paired_difference, probabilities, prototype_quality
from medproto.networks import PlainClassifier, ProtoPNet
from medproto.records import HeadKind, PrototypeSource

from .aggregated import summarize_groups
from .datasets import ImageSet
from .discrimination import ranking_metric, summarize
from .doubt import Doubt
from .inference import infer_logits, infer_similarities
from .localization import LocatedCase, locate_evidence, summarize_localization
from .runs import RunFolder
from .training_input import OF_FILES, refuse, resampling_problems

__all__ = [
    "Evaluation",
    "evaluate_model",
    "evaluate_run",
    "known_images",
    "load_split",
    "load_twin",
    "other_cohort",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Figures of one set of images and what they were computed from.

    Args:
        summary: the document of ``evaluate --json``.
        probabilities: ``[N, C]`` of the classes, grades or findings.
        twin_probabilities: of the twin, not calibrated; ``None`` without one.
        images: the set.
        located: the place of the main evidence in the images with a mask.
    """

    summary: dict[str, Any]
    probabilities: Floats
    twin_probabilities: Floats | None
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
    head = network.head
    temperature = 1.0 if doubt is None else doubt.temperature.value
    logits = infer_logits(network, images)
    chances, val_chances = (
        probabilities(values, head=head, temperature=temperature)
        for values in (logits, infer_logits(network, val))
    )
    summary: dict[str, Any] = {"split": split, "doubt": None}
    summary["calibrated"] = doubt is not None and doubt.calibrated
    chosen_on = (val_chances, val.labels)
    summary |= summarize(head, classes, chances, images, chosen_on=chosen_on, seed=seed)
    if doubt is not None:
        similar = infer_similarities(network, images)
        summary["doubt"] = doubt.summary(logits, similar, images.labels, images.groups)
    summary["aggregated"] = summarize_groups(
        logits, images, head=head, temperature=temperature, seed=seed
    )
    located = locate_evidence(network, images)
    summary["twin"], twin_chances = None, None
    if twin is not None:
        twin_chances = probabilities(infer_logits(twin, images), head=head)
        summary["twin"] = _twin(twin, twin_chances, head, classes, val, images, chances, seed)
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
    return Evaluation(summary, chances, twin_chances, images, tuple(located))


def _twin(
    twin: PlainClassifier,
    twin_chances: Floats,
    head: HeadKind,
    classes: Sequence[str],
    val: ImageSet,
    images: ImageSet,
    chances: Floats,
    seed: int,
) -> dict[str, Any]:
    val_chances = probabilities(infer_logits(twin, val), head=head)
    chosen_on = (val_chances, val.labels)
    summary = summarize(head, classes, twin_chances, images, chosen_on=chosen_on, seed=seed)
    difference = paired_difference(
        ranking_metric(head),
        chances,
        twin_chances,
        images.labels,
        groups=list(images.groups),
        seed=seed,
    )
    return {**summary, "difference": difference.to_dict()}


def load_split(run: RunFolder, cohort: Cohort, rows: Sequence[int]) -> ImageSet:
    """Read rows of a cohort with the run's own preprocessing.

    Raises:
        CohortError: if the pixels are not those of the column ``pixel_digest``, which the cohort of
            a run has: figures of replaced files would not be those of the run.
    """
    steps = dict(run.card.preprocessing)
    steps["spatial_size"] = tuple(steps["spatial_size"])
    images = ImageSet.load(cohort, rows, run.card.classes, steps)
    for row, reference in zip(images.rows, images.references, strict=True):
        known = cohort.cell(row, "pixel_digest")
        if known and known != reference.pixel_digest:
            number = cohort.cell(row, "row") or row
            raise CohortError(
                f"row {number}: the image's pixels must be those of the training (column "
                "pixel_digest), and are others. Restore the file, or train again."
            )
    return images


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


def other_cohort(run: RunFolder, cohort: Cohort) -> Cohort:
    """Return the rows of another cohort with labels of the run, or all rows of a run of findings.

    Raises:
        CohortError: if it has none of the classes, or not all of the findings; or if a file cannot
            be used: all are read first, in processes of their own.
    """
    channels = run.config.data.channels
    chosen = _with_labels_of(run, replace(cohort, channels=channels))
    steps = run.card.preprocessing
    report = check_cohort(chosen, voi=steps["voi"])
    problems = [problem for problem in report.problems if problem.stage in OF_FILES]
    problems += resampling_problems(report, steps.get("mode", "letterbox"), steps.get("spacing_mm"))
    if problems:
        refuse(chosen, problems, voi=steps["voi"])
    return chosen


def _with_labels_of(run: RunFolder, cohort: Cohort) -> Cohort:
    classes, found = run.card.classes, cohort.classes
    if run.network.head == "multilabel":
        if not set(classes) <= set(cohort.label_columns):
            raise CohortError(
                f"another cohort must have a label column for each finding of the run "
                f"({', '.join(classes)}), it has {', '.join(cohort.label_columns) or 'none'}. "
                "A column of -1 says that a finding is not known."
            )
        return cohort.select(classes)
    shared = [name for name in classes if name in found]
    if not shared or cohort.label_columns:
        raise CohortError(
            f"another cohort must have labels of the run ({', '.join(classes)}), "
            f"it has {', '.join(found) or 'none'}."
        )
    return cohort.select(shared)


def other_labels(run: RunFolder, cohort: Cohort) -> dict[str, int]:
    """Return how many rows of another cohort have each label that the run does not know.

    These rows are not evaluated. Empty for a run of findings, which takes all rows.
    """
    if cohort.label_columns:
        return {}
    counts = cohort.table["label"].value_counts()
    return {name: int(counts[name]) for name in cohort.classes if name not in run.card.classes}


def known_images(run: RunFolder, images: ImageSet) -> dict[str, int]:
    """Return how many images of another cohort are in each split of the run, pixel for pixel."""
    own = run.cohort.table
    splits = dict(zip(own["pixel_digest"], own["split"], strict=True))
    found = [splits.get(images.reference(i).pixel_digest) for i in range(len(images))]
    return {split: found.count(split) for split in ("train", "val", "test")}


def evaluate_run(
    run: RunFolder, *, split: str = "test", cohort: Cohort | None = None
) -> Evaluation:
    """Evaluate a finished run on one of its splits, or on the whole of another cohort.

    The summary says under ``known_images`` how many images of another cohort are the run's own, and
    under ``other_labels`` how many were left out since the run does not know their label.

    Raises:
        CohortError: if the split is empty, or as of :func:`other_cohort`.
    """
    own = run.cohort
    rows = {name: own.table.index[own.table["split"] == name].tolist() for name in ("train", "val")}
    if cohort is None:
        target, chosen = own, own.table.index[own.table["split"] == split].tolist()
    else:
        target, split = other_cohort(run, cohort), "external"
        chosen = target.table.index.tolist()
    if not chosen:
        raise CohortError(
            f"there must be images to evaluate; the split {split!r} has none. "
            "Splits are train, val and test."
        )
    images = load_split(run, target, chosen)
    evaluation = evaluate_model(
        run.network,
        load_twin(run),
        run.card.classes,
        run.sources,
        train=load_split(run, own, rows["train"]),
        val=load_split(run, own, rows["val"]),
        images=images,
        split=split,
        doubt=run.doubt,
    )
    if cohort is None:
        return evaluation
    known = {"known_images": known_images(run, images), "other_labels": other_labels(run, cohort)}
    return replace(evaluation, summary=evaluation.summary | known)
