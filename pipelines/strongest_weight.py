"""Whether a prototype speaks most for the class it was taken from."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["strongest_elsewhere"]


def strongest_elsewhere(weights: Sequence[float], own: int, num_classes: int) -> int | None:
    """Return the class for which a prototype speaks more than for its own, if there is one.

    Args:
        weights: ``[K]`` weights of the prototype.
        own: class of the prototype, zero-based.
        num_classes: where it is not ``K`` the logits are not one a class, and none is returned.

    Example:
        >>> strongest_elsewhere([0.2, 0.5], 0, 2)
        1
    """
    if len(weights) != num_classes:
        return None
    strongest = max(range(num_classes), key=lambda k: weights[k])
    return strongest if weights[strongest] > weights[own] else None
