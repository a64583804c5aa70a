"""Quality of a set of prototypes, without any image.

``P`` prototypes. Prototypes from few images, or several from one patient, show less than their
number promises; and one that does not reach the bound on its own source is not that patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medproto.records import PrototypeSource

__all__ = ["PrototypeQuality", "prototype_quality"]


@dataclass(frozen=True, slots=True)
class PrototypeQuality:
    """Counts and the weakest self-similarity of a set of prototypes.

    Args:
        total: prototypes.
        unique_sources: different pairs of image (by its pixels) and cell; higher is better, at
            most ``total``.
        unique_groups: different patients or groups; higher is better, at most ``total``.
        self_similarity_min: smallest similarity of a prototype to its own source patch; higher is
            better.
    """

    total: int
    unique_sources: int
    unique_groups: int
    self_similarity_min: float


def prototype_quality(
    sources: Sequence[PrototypeSource], similarities: ArrayLike
) -> PrototypeQuality:
    """Count unique sources and groups and find the weakest self-similarity.

    Args:
        sources: ``P`` records, at least one.
        similarities: ``[P]`` similarity of each prototype at the recorded cell of its source,
            computed anew in the dtype used for prediction.

    Raises:
        ValueError: if there is no prototype, the numbers differ, or a similarity is not finite.
    """
    values = np.asarray(similarities, dtype=np.float64)
    if not sources or values.shape != (len(sources),):
        raise ValueError(
            f"similarities must have shape [{len(sources)}] and at least one entry, "
            f"got {list(values.shape)}."
        )
    if not np.isfinite(values).all():
        raise ValueError("similarities must be finite, got NaN or infinity.")
    return PrototypeQuality(
        total=len(sources),
        unique_sources=len({(source.pixel_digest, source.cell) for source in sources}),
        unique_groups=len({source.group for source in sources}),
        self_similarity_min=float(values.min()),
    )
