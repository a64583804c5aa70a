"""Nearest patches of each prototype over all classes, one pass, memory of prototypes times ``k``.

Symbols: ``B`` batch, ``C`` image channels, ``P`` prototypes, ``*S`` image axes, ``*G`` feature
cells.

Unlike the search behind the projection, which looks at a prototype's own class alone, this one
shows what a prototype really answers to. Pruning and the global analysis [1] are read from it.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.2 and supplement on pruning.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..networks import ProtoPNet

__all__ = ["PatchHit", "nearest_patches"]


@dataclass(frozen=True, slots=True, order=True)
class PatchHit:
    """The patch of one image that is nearest to a prototype; ordered by distance, row, cell.

    Args:
        distance: >= 0, in feature units, as given by the prototype layer.
        row: of the image, as the batches named it.
        cell: zero-based feature cell.
        group: patient or group of the image.
        label: of the image, as the batches named it.
        similarity: at ``cell``.
    """

    distance: float
    row: int
    cell: tuple[int, ...]
    group: str = field(compare=False)
    label: Any = field(compare=False)
    similarity: float = field(compare=False)


@torch.no_grad()
def nearest_patches(
    network: ProtoPNet,
    batches: Iterable[tuple[Tensor, Sequence[Any], Sequence[int], Sequence[str]]],
    *,
    k: int,
) -> list[list[PatchHit]]:
    """Return, for each prototype, its ``k`` nearest patches, at most one of an image.

    Deterministic: equal distances are decided by row, then by cell. The network's mode is restored.

    Args:
        network: projected; only read.
        batches: ``(images [B, C, *S], labels, rows, groups)`` with the preprocessing of prediction
            and without augmentation; gone through once.
        k: number of patches, at least 1; fewer come back where there are fewer images.

    Returns:
        ``P`` lists, nearest first. On training images the first is the prototype's own source, at a
        distance of zero but for rounding.

    Raises:
        ValueError: if ``k`` is less than 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    mode = network.training
    network.eval()
    best: list[list[PatchHit]] = [[] for _ in range(len(network.prototype_class))]
    try:
        for images, labels, rows, groups in batches:
            output = network.evidence(images)
            found = _nearest_cells(output.distances, output.similarities)
            for b, hits in enumerate(found):
                for own, (distance, similarity, cell) in zip(best, hits, strict=True):
                    if len(own) < k or distance <= own[-1].distance:
                        insort(
                            own, PatchHit(distance, rows[b], cell, groups[b], labels[b], similarity)
                        )
                        del own[k:]
    finally:
        network.train(mode)
    return best


def _nearest_cells(
    distances: Tensor, similarities: Tensor
) -> list[list[tuple[float, float, tuple[int, ...]]]]:
    """Return distance, similarity and cell of the nearest patch, by image and prototype."""
    nearest, flat = distances.flatten(2).min(dim=2)  # [B, P]; ties go to the first cell
    there = similarities.flatten(2).gather(2, flat[..., None])[..., 0]
    cells = torch.stack(torch.unravel_index(flat, distances.shape[2:]), dim=-1).tolist()
    return [
        [(d, s, tuple(cell)) for d, s, cell in zip(*row, strict=True)]
        for row in zip(nearest.tolist(), there.tolist(), cells, strict=True)
    ]
