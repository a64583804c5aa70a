"""Which prototypes to prune: those whose nearest training patches are mostly of other classes.

Symbols: ``P`` prototypes, ``k`` nearest patches, ``K`` outputs of the last layer, ``M`` classes.

A prototype whose neighbourhood holds few patches of its own class stands for something that is not
of the class: background, a marker, an edge. The published rule prunes it if fewer than 3 of its 6
nearest training patches, its own source among them, come from its class [1]. The published code
prunes a class's last prototype without a word; here the purest one stays.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, supplement on pruning.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PruningDecision", "pruning_decision"]


@dataclass(frozen=True, slots=True)
class PruningDecision:
    """What to prune and why; indices are of the prototypes before pruning, zero-based.

    Args:
        own: ``[P]`` number of nearest patches of the prototype's own class.
        impure: fewer than ``tau`` of them are.
        unused: all weights of the last layer are zero.
        spared: would fall under a rule, but are the purest of a class that would be left without.
        pruned: the rest of ``impure`` and ``unused``.
    """

    own: tuple[int, ...]
    impure: tuple[int, ...]
    unused: tuple[int, ...]
    spared: tuple[int, ...]
    pruned: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """All others, in order."""
        return tuple(p for p in range(len(self.own)) if p not in set(self.pruned))


def pruning_decision(
    labels: ArrayLike,
    prototype_class: ArrayLike,
    *,
    tau: int = 3,
    weights: ArrayLike | None = None,
) -> PruningDecision:
    """Decide which prototypes go.

    Args:
        labels: of the nearest training patches, nearest first: ``[P, k]`` classes, or
            ``[P, k, M]`` memberships where an image may show several findings: 1 it shows the
            class, 0 it does not, NaN unknown. Unknown counts as another class.
        prototype_class: ``[P]`` classes, zero-based.
        tau: prune if fewer come from the own class; 0 to ``k``, 0 prunes none for that.
        weights: ``[K, P]`` of the last layer: prune where all are zero; ``None`` does not look.

    Raises:
        ValueError: if the shapes disagree or ``tau`` is out of range.

    Example:
        >>> pruning_decision([[0, 0, 1], [1, 1, 0], [0, 0, 0]], [0, 1, 1], tau=2).pruned
        (2,)
    """
    classes = np.asarray(prototype_class)
    matches = _matches(np.asarray(labels), classes)  # [P, k]
    if not 0 <= tau <= matches.shape[1]:
        raise ValueError(
            f"tau must be 0 to {matches.shape[1]} (the nearest patches looked at), got {tau}."
        )
    own = matches.sum(axis=1)
    impure = own < tau
    unused = np.zeros(len(classes), dtype=bool)
    if weights is not None:
        unused = _unused(np.asarray(weights), len(classes))
    doomed = impure | unused
    spared = []
    for k in np.unique(classes):
        members = np.flatnonzero(classes == k)
        if doomed[members].all():
            spared.append(int(members[own[members].argmax()]))  # ties go to the first
    doomed[spared] = False
    return PruningDecision(
        own=tuple(own.tolist()),
        impure=_indices(impure),
        unused=_indices(unused),
        spared=tuple(spared),
        pruned=_indices(doomed),
    )


def _matches(labels: NDArray[np.generic], classes: NDArray[np.generic]) -> NDArray[np.bool_]:
    if classes.ndim != 1 or labels.ndim not in (2, 3) or len(labels) != len(classes):
        raise ValueError(
            "labels must be [P, k] classes or [P, k, M] memberships of the patches nearest to P "
            f"prototypes, got {list(labels.shape)} for {list(classes.shape)} prototype classes."
        )
    if labels.ndim == 2:
        return np.asarray(labels == classes[:, None])
    own = np.take_along_axis(labels, classes.astype(np.intp)[:, None, None], axis=2)
    return np.asarray(own[..., 0] == 1)


def _unused(weights: NDArray[np.floating], prototypes: int) -> NDArray[np.bool_]:
    if weights.ndim != 2 or weights.shape[1] != prototypes:
        raise ValueError(
            f"weights must be [K, {prototypes}], one column a prototype, got {list(weights.shape)}."
        )
    return np.asarray((weights == 0).all(axis=0))


def _indices(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())
