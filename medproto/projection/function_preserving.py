"""Candidates for a projection that keeps what a prototype says of the training images.

Symbols: ``B`` batch, ``D`` channels, ``P`` prototypes.

The nearest patch [1] is nearest in features; what the last layer sees of a prototype are its pooled
scores. A trained prototype lies between patches, and the nearest one may rank the images in another
way. Among the nearest own-class patches this takes the one whose scores over all training images
correlate best (Pearson) with the prototype's own: the last layer undoes any change of scale and
offset, and of nothing else. The prototype is still one patch of one image.

Two passes over the images: the first finds the patches and keeps their features, the second scores
them. Memory: that of :class:`Shortlists`, the moments of ``P * candidates`` pairs and 2 MB of
distances; scores are not kept, so nothing grows with the cohort.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.2, equation 3.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ProjectionError
from ..networks import ProtoPNet
from .pair_correlation import PairCorrelation
from .patch_scores import PatchScorer
from .search import Candidate, Labels
from .shortlist import Shortlists

__all__ = ["correlated_candidates", "correlation_cost"]

Batch = tuple[Tensor, Labels, Sequence[int], Sequence[str]]

DIGITS = 6
"""Correlations that agree in so many decimals are equal, and the nearer patch is taken."""


def correlated_candidates(
    network: ProtoPNet,
    passes: Callable[[], Iterable[Batch]],
    *,
    candidates: int,
    cells: Tensor | None = None,
) -> list[list[Candidate]]:
    """Return, for each prototype, one patch a group, the best correlated first.

    Args:
        network: in ``eval`` mode; only read.
        passes: returns the batches of training images; called twice.
        candidates: nearest patches that are scored for each prototype.
        cells: ``[N, *G]`` bool by row, patches to choose from; ``None`` is all.

    Raises:
        ProjectionError: if the two passes are not over the same number of images.
    """
    shortlists = Shortlists(network, candidates, cells)
    for batch in passes():
        shortlists.add(*batch)
    found = shortlists.candidates()
    left, right, vectors = _pairs(shortlists)
    pairs = PairCorrelation(left, right)
    scorer = PatchScorer(network, torch.from_numpy(vectors))
    for images, *_ in passes():
        _score(network, images, scorer, pairs)
    if pairs.count != shortlists.images:
        raise ProjectionError(
            "both passes must be over the same training images, got "
            f"{shortlists.images} and then {pairs.count}. Give a function that starts anew."
        )
    values = iter(pairs.values().tolist())
    result = []
    for own in found:
        scored = [replace(c, correlation=_or_none(next(values))) for c in own]
        result.append(_best_of_groups(scored))
    return result


@torch.no_grad()
def _score(network: ProtoPNet, images: Tensor, scorer: PatchScorer, pairs: PairCorrelation) -> None:
    features = network.features(images)
    own = network.scores_from_features(features).cpu().numpy()  # [B, P]
    of_patches = scorer.scores(features).cpu().numpy()  # [B, patches]
    for left, right in zip(own, of_patches, strict=True):
        pairs.add(left, right)


def correlation_cost(candidates: Sequence[Sequence[Candidate]]) -> Callable[[Candidate], float]:
    """Return the cost of a candidate: 1 - correlation, then the distance.

    The distance decides between equal correlations alone. Where there is no correlation, since the
    prototype or the patch scores the same on all images, that is between all of them.
    """
    largest = max((c.distance for own in candidates for c in own), default=0.0)

    def cost(candidate: Candidate) -> float:
        lack = round(1.0 - (candidate.correlation or 0.0), DIGITS)
        return lack + 10**-DIGITS * candidate.distance / (largest + 1.0)

    return cost


def _pairs(shortlists: Shortlists) -> tuple[list[int], list[int], NDArray[np.float32]]:
    """Return prototype and patch of each pair, and the features of the patches, each once."""
    known: dict[tuple[int, int], int] = {}
    left, right, vectors = [], [], []
    for p, patches in enumerate(shortlists.lists):
        for i, place in enumerate(zip(patches.rows.tolist(), patches.cells.tolist(), strict=True)):
            if place not in known:
                known[place] = len(known)
                vectors.append(patches.vectors[i])
            left.append(p)
            right.append(known[place])
    empty = shortlists.lists[0].vectors[:0]
    return left, right, np.stack(vectors) if vectors else empty


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _best_of_groups(scored: Sequence[Candidate]) -> list[Candidate]:
    cost = correlation_cost([scored])
    best: dict[str, Candidate] = {}
    for candidate in sorted(scored, key=lambda c: (cost(c), c)):
        best.setdefault(candidate.group, candidate)
    return list(best.values())
