"""Figures of a classifier on a set of images, by head: which metrics, and what they are made of.

Symbols: ``N`` images, ``K`` logits, ``C`` classes, grades or findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.metrics import (
    Metric,
    auroc,
    bootstrap,
    multilabel_auroc,
    operating_point,
    ordinal_auroc,
    sensitivity,
    specificity,
    summarize_classification,
    summarize_multilabel,
    summarize_ordinal,
    summarize_subgroups,
)
from medproto.records import HeadKind

from .datasets import ImageSet

__all__ = ["ranking_metric", "summarize"]

SUBGROUP_COLUMNS = ("sex", "site", "scanner", "view", "modality")

NOT_DEFINED = ("balanced_accuracy", "average_precision", "operating_point", "confusion")
"""Keys of every summary; ``None`` where the head has no such figure."""

Floats = NDArray[np.float64]


def ranking_metric(head: HeadKind) -> Metric:
    """Return the area under the ROC curve as it is meant for a head."""
    return {"multilabel": multilabel_auroc, "ordinal": ordinal_auroc}.get(head, auroc)


def summarize(
    head: HeadKind,
    classes: Sequence[str],
    chances: Floats,
    images: ImageSet,
    *,
    chosen_on: tuple[Floats, NDArray[Any]] | None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return discrimination, calibration, operating points and subgroups.

    Args:
        chances: probabilities ``[N, C]`` of ``images``.
        chosen_on: probabilities and labels of the validation images, which alone choose the
            operating points; ``None`` chooses none.
        seed: of the bootstrap.
    """
    groups, labels = list(images.groups), images.labels
    table = images.cohort.table.iloc[list(images.rows)]
    columns = {
        name: table[name].astype(str).tolist() for name in SUBGROUP_COLUMNS if name in table.columns
    }
    if head in ("multiclass", "binary"):
        threshold = None
        if chosen_on is not None and len(classes) == 2:
            threshold = operating_point(chosen_on[0][:, 1], chosen_on[1])
        return summarize_classification(
            chances, labels, groups, classes, threshold=threshold, columns=columns, seed=seed
        )
    if head == "ordinal":
        figures = summarize_ordinal(chances, labels, groups, classes, seed=seed)
    else:
        figures = summarize_multilabel(chances, labels, groups, classes, seed=seed)
        for k, name in enumerate(classes):
            column = None if chosen_on is None else (chosen_on[0][:, k], chosen_on[1][:, k])
            point = _point(chances[:, k], labels[:, k], groups, column, seed)
            figures["findings"][name]["operating_point"] = point
    subgroups = partial(summarize_subgroups, chances, labels, groups, seed=seed)
    return {
        **dict.fromkeys(NOT_DEFINED),
        "classes": list(classes),
        **figures,
        "subgroups": subgroups(columns, measure=ranking_metric(head)),
    }


def _point(
    chances: Floats,
    labels: Floats,
    groups: list[str],
    chosen_on: tuple[Floats, Floats] | None,
    seed: int,
) -> dict[str, Any] | None:
    """Return the operating point of one finding; ``None`` where validation cannot choose it."""
    if chosen_on is None:
        return None
    known = ~np.isnan(chosen_on[1])
    threshold = operating_point(chosen_on[0][known], chosen_on[1][known].astype(np.int64))
    if threshold is None:
        return None
    rows = np.flatnonzero(~np.isnan(labels))
    arrays = (chances[rows], labels[rows].astype(np.int64))
    patients = [groups[row] for row in rows.tolist()]

    def measured(measure: Metric) -> dict[str, Any]:
        result = bootstrap(measure, *arrays, groups=patients, seed=seed, threshold=threshold)
        return result.to_dict()

    return {
        "threshold": threshold,
        "sensitivity": measured(sensitivity),
        "specificity": measured(specificity),
    }
