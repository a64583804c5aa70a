"""One row a study or patient from the rows of its images.

Symbols: ``N`` images, ``G`` groups (studies or patients), ``K`` logits.

- ``"mean"``, for classes and grades: every view shows the same patient, so evidence adds up. The
  mean of the logits is the mean of the images' evidence, prototype by prototype: what explains the
  images explains the study. (A mean of probabilities has no such sum, and a softmax's logits are
  comparable between images only in their differences, so their maximum means nothing.)
- ``"max"``, for findings: a nodule seen in one view is there, though the other view hides it. The
  evidence is that of the image with the largest logit. The maximum of more images is larger by
  chance alone, so fit temperature and conformal sets on rows aggregated in the same way.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.metrics.calibration import check_head, checked_labels
from medproto.records import HeadKind

__all__ = ["Aggregate", "aggregate"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """Rows of groups, in the order in which the groups first occur.

    Args:
        logits: ``[G, K]``.
        labels: ``[G]`` int64, or ``[G, K]`` 1, 0 or NaN for findings; ``None`` if none were given.
        groups: ``G`` names.
        sizes: ``[G]`` images.
    """

    logits: Floats
    labels: NDArray[Any] | None
    groups: tuple[Hashable, ...]
    sizes: NDArray[np.int64]


def aggregate(
    logits: ArrayLike,
    groups: Sequence[Hashable] | NDArray[Any],
    *,
    head: HeadKind,
    labels: ArrayLike | None = None,
    how: Literal["mean", "max"] | None = None,
) -> Aggregate:
    """Combine the images of each group.

    Labels: a finding is present in the group if an image has it, else unknown if an image's label
    is unknown, else absent. A class or grade must be the same in all images of a group: that two
    disagree is a mistake in the table or two studies in one group, and to choose would hide it.
    Under ``"max"`` it is the largest, as the worst view decides.

    Args:
        logits: ``[N, K]``.
        groups: ``[N]`` study or patient of each image.
        labels: ``[N]``, or ``[N, K]`` for the multilabel head.
        how: ``None`` takes ``"max"`` for the multilabel head and ``"mean"`` for the others.

    Raises:
        ValueError: if the shapes disagree, a logit is not finite, ``how`` does not fit the head, or
            labels of a group disagree.
    """
    check_head(head)
    chosen = how or ("max" if head == "multilabel" else "mean")
    if chosen not in ("mean", "max"):
        raise ValueError(f"how must be mean or max, got {chosen!r}.")
    if chosen == "max" and head == "multiclass":
        raise ValueError(
            "how must be mean for the multiclass head, got max: logits of a softmax are comparable "
            "between images only in their differences."
        )
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(groups) or not np.isfinite(values).all():
        raise ValueError(
            f"logits must be finite and [{len(groups)}, logits], one row an entry of groups, "
            f"got shape {list(values.shape)}."
        )
    names: dict[Hashable, int] = {}
    index = np.array([names.setdefault(g, len(names)) for g in groups], dtype=np.int64)
    sizes = np.bincount(index, minlength=len(names))
    if chosen == "mean":
        rows = np.zeros((len(names), values.shape[1]))
        np.add.at(rows, index, values)
        rows /= sizes[:, None]
    else:
        rows = _largest(values, index, len(names))
    targets = None
    if labels is not None:
        columns = values.shape[1] + (head == "ordinal")
        known = checked_labels(labels, cases=len(values), columns=columns, head=head)
        targets = _labels(known, index, len(names), head=head, largest=chosen == "max")
    return Aggregate(rows, targets, tuple(names), sizes)


def _largest(values: Floats, index: NDArray[np.int64], count: int) -> Floats:
    rows = np.full((count, *values.shape[1:]), -np.inf)
    np.maximum.at(rows, index, values)
    return rows


def _labels(
    targets: Floats, index: NDArray[np.int64], count: int, *, head: HeadKind, largest: bool
) -> NDArray[Any]:
    if head == "multilabel":
        # Present 1, unknown 0.5, absent 0: the largest is the rule in the docstring.
        ranked = _largest(np.where(np.isnan(targets), 0.5, targets), index, count)
        return np.where(ranked == 0.5, np.nan, ranked)
    high = _largest(targets, index, count)
    conflicts = int((high != -_largest(-targets, index, count)).sum())
    if conflicts and not largest:
        raise ValueError(
            f"labels must be the same for all images of a group, got {conflicts} of {count} groups "
            "with several. Group by study, or correct the table."
        )
    return high.astype(np.int64)
