"""Discrimination by patient and by study, where several images show the same one.

Symbols: ``N`` images, ``K`` logits, ``G`` groups (patients or studies).

The logits of a group are those of :func:`medproto.metrics.aggregate`: the mean over its images, or
for findings the largest. Images of a group may be labeled differently; :data:`RULES` says what the
group's label is then. Intervals are over patients, for studies too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.metrics import (
    aggregate,
    bootstrap,
    probabilities,
)
from medproto.records import HeadKind

from .datasets import ImageSet
from .discrimination import ranking_metric

__all__ = ["RULES", "summarize_groups"]

RULES = {
    "two classes": "positive if any image is",
    "classes": "the class of its images; left out if they have several",
    "multilabel": "present if any image shows it, else unknown if any label is",
    "ordinal": "the highest grade of its images",
}
"""Label of a group."""

STUDY_COLUMN = "study_uid"

Floats = NDArray[np.float64]


def summarize_groups(
    logits: Floats, images: ImageSet, *, head: HeadKind, temperature: float = 1.0, seed: int = 0
) -> dict[str, Any] | None:
    """Return ``{"patient": ..., "study": ...}`` for JSON.

    ``None`` if no patient has more than one image: the figures would be those of the images. So
    for ``study``, also where the cohort has no column ``study_uid``. An image without a study is
    one by itself.

    Each has ``auroc`` (``value``, ``low``, ``high``; as of the images, see the metric of the head),
    ``n`` groups that count, ``patients`` they come from, ``images`` in them, ``logits`` and
    ``label`` (how they come from the images, in words), ``disagreeing`` (groups whose images are
    labeled differently) and ``left_out`` (those of them that do not count).

    Args:
        logits: ``[N, K]`` of ``images``.
        temperature: of the probabilities.
        seed: of the bootstrap.
    """
    labels, patients = np.asarray(images.labels), list(images.groups)
    if len(set(patients)) == len(patients):
        return None

    def summarize(groups: Sequence[Hashable]) -> dict[str, Any]:
        return _summarize(logits, labels, patients, groups, head, temperature, seed)

    studies = _studies(images)
    several = studies is not None and len(set(studies)) < len(studies)
    return {
        "patient": summarize(patients),
        "study": summarize(studies) if studies is not None and several else None,
    }


def _studies(images: ImageSet) -> list[Hashable] | None:
    table = images.cohort.table
    if STUDY_COLUMN not in table.columns:
        return None
    names = table[STUDY_COLUMN].iloc[list(images.rows)].tolist()
    return [
        (patient, name or position)
        for position, (patient, name) in enumerate(zip(images.groups, names, strict=True))
    ]


def _summarize(
    logits: Floats,
    labels: NDArray[Any],
    patients: Sequence[str],
    groups: Sequence[Hashable],
    head: HeadKind,
    temperature: float,
    seed: int,
) -> dict[str, Any]:
    numbers = {name: g for g, name in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[name] for name in groups])  # [N] group of each image
    owners = np.array(patients, dtype=object)[np.unique(index, return_index=True)[1]]
    joint = aggregate(logits, index, head=head)
    targets, several = _group_labels(labels, index, len(numbers))
    kept = np.ones(len(numbers), dtype=np.bool_)
    rule: str = head if head in RULES else "two classes"
    if head == "multiclass" and logits.shape[1] > 2:
        rule, kept = "classes", ~several
    chances = probabilities(joint.logits, head=head, temperature=temperature)
    figure = bootstrap(
        ranking_metric(head), chances[kept], targets[kept], groups=owners[kept], seed=seed
    )
    return {
        "auroc": figure.to_dict(),
        "n": figure.n,
        "patients": figure.groups,
        "images": int(joint.sizes[kept].sum()),
        "logits": "largest of the images" if head == "multilabel" else "mean of the images",
        "label": RULES[rule],
        "disagreeing": int(several.sum()),
        "left_out": int((~kept).sum()),
    }


def _group_labels(
    labels: NDArray[Any], index: NDArray[np.int64], count: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the largest label of each group, ``[G]`` or ``[G, K]``, and whether it has several.

    Unknown (NaN) lies between absent and present, and contradicts neither.
    """
    unknown = np.isnan(labels)
    largest = np.full((count, *labels.shape[1:]), -np.inf)
    highest, lowest = largest.copy(), -largest
    np.maximum.at(largest, index, np.where(unknown, 0.5, labels))
    np.maximum.at(highest, index, np.where(unknown, -np.inf, labels))
    np.minimum.at(lowest, index, np.where(unknown, np.inf, labels))
    several = np.asarray((highest > lowest).reshape(count, -1).any(axis=1))
    if labels.ndim == 1:
        return largest.astype(np.int64), several
    return np.where(largest == 0.5, np.nan, largest), several
