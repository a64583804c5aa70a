"""Choices that the data settles when the configuration leaves them open."""

from __future__ import annotations

from collections.abc import Sequence

from medproto.errors import CohortError

__all__ = ["choose_classes", "choose_image_size", "choose_stage", "choose_volume_stage"]

ABSENCE = ("normal", "negative", "no finding", "no_finding", "none", "healthy", "control", "benign")
"""Names of reference classes, which come first so that the others count as positive."""

DEFAULT_SIZE = 192
DEFAULT_VOLUME_SIDE = 64
STRIDES = {5: 16, 3: 8, 2: 4}
"""Of the stages of EfficientNet-Lite0 that a network may end with."""

VOLUME_STRIDES = {4: 32, 3: 16, 2: 8, 1: 4}
"""Of the stages of a ResNet."""

MINIMUM_CELLS = 7


def choose_classes(
    found: Sequence[str], configured: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the class names in the order of the logits; the first is the reference class.

    Raises:
        CohortError: if there are fewer than two, or a configured one is not in the cohort.
    """
    chosen = configured is not None
    if configured is None:
        rank = {name: i for i, name in enumerate(ABSENCE)}
        configured = sorted(found, key=lambda name: (rank.get(name.lower(), len(rank)), name))
    missing = [name for name in configured if name not in found]
    if missing:
        raise CohortError(
            f"data.classes must name labels of the cohort ({', '.join(found)}), got {missing[0]!r}."
        )
    if len(set(configured)) < 2 and chosen:
        raise CohortError(
            f"data.classes must name at least two classes, got {len(set(configured))} "
            f"({', '.join(configured) or 'none'}). Those of the cohort are {', '.join(found)}."
        )
    if len(configured) < 2:
        raise CohortError(
            f"classification needs at least two classes, got {len(configured)} "
            f"({', '.join(configured) or 'none'}). Check the column `label`."
        )
    return tuple(configured)


def choose_image_size(longest: int, *, axes: int = 2) -> int:
    """Return the side of the network's input for the longest stored side of the cohort."""
    most = DEFAULT_SIZE if axes == 2 else DEFAULT_VOLUME_SIDE
    return min(most, max(16, -4 * (-longest // 4)))


def choose_stage(image_size: int) -> int:
    """Return the deepest backbone stage that leaves at least 7 cells along an axis, else 2."""
    for stage, stride in STRIDES.items():
        if image_size // stride >= MINIMUM_CELLS:
            return stage
    return min(STRIDES)


def choose_volume_stage(sides: Sequence[int]) -> int:
    """Return the deepest stage of a ResNet that leaves at least 7 cells along each axis, else 1."""
    for stage, stride in VOLUME_STRIDES.items():
        if min(sides) // stride >= MINIMUM_CELLS:
            return stage
    return min(VOLUME_STRIDES)
