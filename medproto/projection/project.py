"""Projection of the prototypes onto training patches, without duplicates, checked afterwards.

Symbols: ``P`` prototypes, ``D`` channels, ``C`` image channels, ``*S`` image axes.

The published push [1] takes the nearest own-class patch for each prototype by itself, so that many
prototypes may end on the same patch. Here the prototypes share out the *groups* (patients): the
assignment with the smallest sum of distances in which no group serves twice. Or, in the place of
distances, the largest sum of correlations: see :mod:`medproto.projection.function_preserving`.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.2, equation 3.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import ProjectionError
from ..networks import ProtoPNet
from .function_preserving import Batch, correlated_candidates, correlation_cost
from .search import Candidate, NearestPatches

__all__ = ["PatchChoice", "ProjectionResult", "PrototypeMatch", "project_prototypes"]

PatchChoice = Literal["nearest", "function-preserving"]
"""The nearest patch, or the near one whose scores over the training images are most alike."""

TOLERANCE = {"cosine": 1e-4, "focal": 1e-3, "linear": 1e-6, "log": 1e-3}
"""How far below its bound a prototype may score on its source; for cosine before scaling."""


@dataclass(frozen=True, slots=True)
class PrototypeMatch:
    """The patch a prototype was projected to.

    Args:
        prototype: zero-based index *after* projection.
        row: zero-based row of the training image.
        group: its patient or group.
        cell: zero-based feature cell.
        distance: from the prototype to the patch before projection, feature units.
        similarity: at ``cell`` after projection, measured on the image alone; for ``"focal"``
            before the mean is subtracted.
        correlation: of the patch's pooled scores over all training images with the prototype's own
            before projection, -1 to 1; ``None`` if either is constant, or for ``"nearest"``.
    """

    prototype: int
    row: int
    group: str
    cell: tuple[int, ...]
    distance: float
    similarity: float
    correlation: float | None = None


@dataclass(frozen=True, slots=True)
class ProjectionResult:
    """What the projection did.

    Args:
        matches: one for each remaining prototype, in order.
        dropped: indices *before* projection of prototypes for which no group was left.
    """

    matches: tuple[PrototypeMatch, ...]
    dropped: tuple[int, ...]


def project_prototypes(
    network: ProtoPNet,
    batches: Iterable[Batch] | Callable[[], Iterable[Batch]],
    load_image: Callable[[int], Tensor],
    *,
    unique: bool = True,
    choice: PatchChoice = "nearest",
    candidates: int = 400,
    cells: Tensor | None = None,
) -> ProjectionResult:
    """Replace every prototype by its patch, in place, and check that it recognises it.

    Deterministic: equal distances are decided by row and cell. The network's mode is restored.

    Args:
        network: the prototypes and, if some are dropped, the last layer are changed; floors are
            taken away.
        batches: ``(images [B, C, *S], labels, rows, groups)`` of the training images, with the
            preprocessing of prediction and without augmentation, or a function that returns them.
            Gone through once, for ``"function-preserving"`` twice: then a function or a sequence.
        load_image: returns the same image ``[C, *S]`` for a row; called once for each prototype.
        unique: no two prototypes from one group. False is the published push: each prototype takes
            its best patch, whoever else has taken it.
        choice: which patch is best, see :data:`PatchChoice`.
        candidates: for ``"function-preserving"``, how many of the nearest patches are scored for
            each prototype, at least 1.
        cells: ``[N, *G]`` bool by row of the training images, patches to choose from; ``None`` is
            all. An image without any is not chosen from.

    Raises:
        ValueError: if ``choice`` is unknown, ``candidates`` less than 1, or ``batches`` cannot be
            gone through twice where they must.
        ProjectionError: if a class has no training image, a prototype afterwards scores less
            than the bound on its own source, or the second pass is not over as many images.
    """
    passes = _passes(batches, choice, candidates)
    mode = network.training
    network.eval()
    network.floor.fill_(-torch.inf)  # the floors of other vectors
    try:
        found, cost = _candidates(network, passes, choice, candidates, cells)
        if unique:
            chosen = _assign(found, cost, _first_served(network, found, cost))
        else:
            chosen = [own[0] if own else None for own in found]
        dropped = [p for p, candidate in enumerate(chosen) if candidate is None]
        _check_classes(network, dropped)
        if dropped:
            network.keep_prototypes([p for p, c in enumerate(chosen) if c is not None])
        kept = [candidate for candidate in chosen if candidate is not None]
        images = {c.row: load_image(c.row) for c in kept}
        _write_vectors(network, kept, images)
        return ProjectionResult(tuple(_check(network, kept, images)), tuple(dropped))
    finally:
        network.train(mode)


def _passes(
    batches: Iterable[Batch] | Callable[[], Iterable[Batch]], choice: PatchChoice, candidates: int
) -> Callable[[], Iterable[Batch]]:
    """Return a function that starts a pass over the images."""
    if choice not in get_args(PatchChoice):
        raise ValueError(
            f"choice must be one of {', '.join(get_args(PatchChoice))}, got {choice!r}."
        )
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}.")
    if callable(batches):
        return batches
    if choice != "nearest" and isinstance(batches, Iterator):
        raise ValueError(
            f"batches must be a sequence or a function for choice={choice!r}, which goes through "
            f"them twice, got a {type(batches).__name__}. Give a function that returns it."
        )
    return lambda: batches


def _candidates(
    network: ProtoPNet,
    passes: Callable[[], Iterable[Batch]],
    choice: PatchChoice,
    candidates: int,
    cells: Tensor | None,
) -> tuple[list[list[Candidate]], Callable[[Candidate], float]]:
    """Return for each prototype patches of distinct groups, the best first, and their cost."""
    if choice == "nearest":
        search = NearestPatches(network, cells)
        for batch in passes():
            search.add(*batch)
        return search.candidates(), attrgetter("distance")
    found = correlated_candidates(network, passes, candidates=candidates, cells=cells)
    return found, correlation_cost(found)


def _first_served(
    network: ProtoPNet,
    candidates: Sequence[Sequence[Candidate]],
    cost: Callable[[Candidate], float],
) -> set[int]:
    """Return the prototype of each class with the best patch: no class may go without."""
    best: dict[int, tuple[float, int]] = {}
    for p, (k, own) in enumerate(zip(network.prototype_class.tolist(), candidates, strict=True)):
        if own:
            offer = (min(cost(candidate) for candidate in own), p)
            best[k] = min(best.get(k, offer), offer)
    return {p for _, p in best.values()}


def _assign(
    candidates: Sequence[Sequence[Candidate]],
    cost: Callable[[Candidate], float],
    first: Set[int],
) -> list[Candidate | None]:
    """Share the groups out with the smallest sum of costs; ``None`` where none is left.

    Where not all can be served, the prototypes of ``first`` come before the others.
    """
    chosen = _cheapest(candidates, cost, set())
    return _cheapest(candidates, cost, first) if None in chosen else chosen


def _cheapest(
    candidates: Sequence[Sequence[Candidate]],
    cost: Callable[[Candidate], float],
    first: Set[int],
) -> list[Candidate | None]:
    first_row: dict[str, int] = {}
    for candidate in (c for own in candidates for c in own):
        known = first_row.get(candidate.group, candidate.row)
        first_row[candidate.group] = min(known, candidate.row)
    groups = sorted(first_row, key=lambda group: (first_row[group], group))
    if not groups:
        return [None] * len(candidates)
    column = {group: j for j, group in enumerate(groups)}
    largest = max(cost(c) for own in candidates for c in own)
    # More than any complete assignment can cost, so leaving a prototype out is the last resort.
    forbidden = (abs(largest) + 1.0) * (len(candidates) + 1)
    costs = np.full((len(candidates), len(groups)), forbidden)
    table: dict[tuple[int, int], Candidate] = {}
    for p, own in enumerate(candidates):
        served = forbidden if p in first else 0.0
        for candidate in own:
            costs[p, column[candidate.group]] = cost(candidate) - served
            table[p, column[candidate.group]] = candidate
    chosen: list[Candidate | None] = [None] * len(candidates)
    for p, j in zip(*linear_sum_assignment(costs), strict=True):
        chosen[p] = table.get((int(p), int(j)))
    return chosen


def _check_classes(network: ProtoPNet, dropped: Sequence[int]) -> None:
    left = network.prototype_class.clone()
    left[list(dropped)] = -1
    missing = sorted(set(network.prototype_class.tolist()) - set(left.tolist()))
    if missing:
        raise ProjectionError(
            "every class must have a patch of a group (patient) that no other class needs, class "
            f"{missing[0]} (zero-based, in the order of the run's classes) has none. Give it more "
            "patients or take it out of the cohort."
        )


@torch.no_grad()
def _write_vectors(
    network: ProtoPNet, chosen: Sequence[Candidate], images: dict[int, Tensor]
) -> None:
    for p, candidate in enumerate(chosen):
        layer = network.prototype_layer
        features = network.features(images[candidate.row][None])
        patches = layer.patches(features)[0]  # [D * size, *G]
        flat = int(np.ravel_multi_index(candidate.cell, patches.shape[1:]))
        patch = patches.flatten(1)[:, flat]
        layer.vectors[p] = patch.float().reshape(layer.vectors.shape[1:])


@torch.no_grad()
def _check(
    network: ProtoPNet, chosen: Sequence[Candidate], images: dict[int, Tensor]
) -> Iterable[PrototypeMatch]:
    """Measure each prototype on its source, one image at a time as prediction does."""
    layer = network.prototype_layer
    unit = layer.scale if layer.kind == "cosine" else 1.0
    lowest = layer.bound - TOLERANCE[layer.kind] * unit
    for p, candidate in enumerate(chosen):
        distances = network.evidence(images[candidate.row][None]).distances
        similarity = float(layer.similarity_of_patches(distances[(0, p, *candidate.cell)]))
        if not similarity >= lowest:
            raise ProjectionError(
                f"prototype {p} must score at least {lowest:.4f} on its own source (row "
                f"{candidate.row}), got {similarity:.4f}. The backbone's dtype or its "
                "normalisation changes between projection and use."
            )
        yield PrototypeMatch(
            p,
            candidate.row,
            candidate.group,
            candidate.cell,
            candidate.distance,
            similarity,
            candidate.correlation,
        )
