"""Scores of prototypes on the images they were taken from.

Symbols: ``N`` images, ``P`` prototypes. A projected prototype scores the upper bound on its own
source image. No new image reaches it, so a last layer fitted on it trusts the prototype too much;
the fit sees what the prototype scores on the other images of its class instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.last_layer.arguments import class_indices, known_classes, score_matrix

__all__ = ["replace_source_scores"]


def replace_source_scores(
    scores: ArrayLike,
    labels: ArrayLike,
    prototype_class: ArrayLike,
    source_rows: ArrayLike,
) -> NDArray[np.float64]:
    """Replace each prototype's score on its source by its mean over its class's other images.

    Args:
        scores: ``[N, P]`` pooled similarities of the training images; left as they are.
        labels: ``[N]`` classes or grades of the images, zero-based; or, for findings, ``[N, K]``,
            1 shown, 0 not shown, NaN unknown.
        prototype_class: ``[P]`` classes or findings of the prototypes, zero-based.
        source_rows: ``[P]`` rows of ``scores``, zero-based: the image each prototype comes from.

    Returns:
        A new ``[N, P]`` array.

    Raises:
        ValueError: if the shapes disagree, a row is out of range, a source image does not show its
            prototype's class, or a class has no second image.
    """
    replaced = score_matrix(scores).copy()
    images, prototypes = replaced.shape
    shown = known_classes(labels, images) == 1
    owners = class_indices("prototype_class", prototype_class, prototypes, shown.shape[1])
    rows = class_indices("source_rows", source_rows, prototypes, images)
    members = shown[:, owners]  # [N, P]
    foreign = np.flatnonzero(~members[rows, np.arange(prototypes)])
    if foreign.size:
        raise ValueError(
            "source_rows must point to images of the prototype's own class, got another class for "
            f"prototypes {foreign.tolist()}."
        )
    others = members.sum(axis=0) - 1
    if (others < 1).any():
        alone = sorted(set(owners[others < 1].tolist()))
        raise ValueError(
            f"labels must give each prototype's class two images or more, got one for {alone}."
        )
    columns = np.arange(prototypes)
    members[rows, columns] = False
    replaced[rows, columns] = np.where(members, replaced, 0.0).sum(axis=0) / others
    return replaced
