"""What a prototype scores where there is nothing for it to find.

Symbols: ``N`` images, ``P`` prototypes. The cosine of two patches of one organ is large whatever
they show, so that the largest contribution may be that of a prototype which scores alike in every
image, and lies anywhere. Counted from a floor, a score says how much *more* an image looks like
the prototype than images without its class do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.last_layer.arguments import class_indices, known_classes, score_matrix

__all__ = ["score_floors"]


def score_floors(
    scores: ArrayLike, labels: ArrayLike, prototype_class: ArrayLike, *, quantile: float
) -> NDArray[np.float64]:
    """Return the quantile of each prototype's scores among the images that lack its class, ``[P]``.

    Args:
        scores: ``[N, P]`` pooled similarities of the training images.
        labels: ``[N]`` classes or grades of the images, zero-based; or, for findings, ``[N, K]``,
            1 shown, 0 not shown, NaN unknown, which is neither.
        prototype_class: ``[P]`` classes or findings of the prototypes, zero-based.
        quantile: 0 to 1, interpolated linearly.

    Returns:
        Minus infinity, that is, no floor, where no image is known to lack the class.

    Raises:
        ValueError: if the shapes disagree or ``quantile`` is out of range.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be 0 to 1, got {quantile}.")
    values = score_matrix(scores)
    images, prototypes = values.shape
    lacking = known_classes(labels, images) == 0
    owners = class_indices("prototype_class", prototype_class, prototypes, lacking.shape[1])
    floors = np.full(prototypes, -np.inf)
    for p, owner in enumerate(owners):
        if lacking[:, owner].any():
            floors[p] = np.quantile(values[lacking[:, owner], p], quantile)
    return floors
