"""Prototypes that the last layer does not use.

Symbols: ``P`` prototypes, ``K`` logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["zero_weight_prototypes"]


def zero_weight_prototypes(weights: ArrayLike, *, threshold: float = 0.0) -> NDArray[np.int64]:
    """Find the prototypes whose weights are zero in every logit: no logit changes without them.

    Args:
        weights: ``[K, P]``, finite.
        threshold: 0 or more; a weight counts as zero if its size is not above it. Above 0 the
            logits do change, so solve again afterwards.

    Returns:
        Indices of the prototypes, zero-based, rising.

    Raises:
        ValueError: if the weights are not ``[K, P]`` and finite, or the threshold is negative.
    """
    matrix = np.asarray(weights, dtype=np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ValueError(
            f"weights must be finite, of shape [logits, prototypes], got shape "
            f"{list(matrix.shape)} with {int((~np.isfinite(matrix)).sum())} other values."
        )
    if not (np.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold must be a finite number >= 0, got {threshold}.")
    return np.flatnonzero((np.abs(matrix) <= threshold).all(axis=0))
