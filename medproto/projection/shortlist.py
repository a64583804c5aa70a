"""Shortlists of the nearest own-class patches, with their features, in one pass.

Symbols: ``B`` batch, ``D`` channels, ``P`` prototypes, ``N`` patches of an image, ``*G`` its cells,
``n`` length of a list.

Memory: ``P`` lists of ``candidates + P`` patches of ``D * size`` float32 at most, and one batch,
whatever the size of the cohort. At 20 prototypes, 400 candidates and 112 channels: 4 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..networks import ProtoPNet
from .search import Candidate, Labels, only, shows

__all__ = ["PatchList", "Shortlists"]

PER_IMAGE = 8
"""Patches that one image may put on the list of a prototype: its own best places, not all of it."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchList:
    """Patches in order of distance, row, cell.

    Args:
        distances: ``[n]`` float32, feature units.
        rows: ``[n]`` of the training images.
        cells: ``[n]`` zero-based, counted over the flattened grid.
        groups: ``[n]`` numbers of the groups.
        vectors: ``[n, D * size]`` float32 features.
    """

    distances: NDArray[np.float32]
    rows: NDArray[np.int64]
    cells: NDArray[np.int64]
    groups: NDArray[np.int64]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def merged(self, other: PatchList) -> PatchList:
        """Return the patches of both, in order."""
        names = ("distances", "rows", "cells", "groups", "vectors")
        both = PatchList(*(np.concatenate([getattr(s, n) for s in (self, other)]) for n in names))
        return both.take(np.lexsort((both.cells, both.rows, both.distances)))

    def take(self, index: NDArray[np.intp]) -> PatchList:
        """Return the patches at these places of the list."""
        return PatchList(
            self.distances[index],
            self.rows[index],
            self.cells[index],
            self.groups[index],
            self.vectors[index],
        )

    def first_of_groups(self) -> NDArray[np.intp]:
        """Return the place of each group's nearest patch, nearest first."""
        return np.sort(np.unique(self.groups, return_index=True)[1])


class Shortlists:
    """Collects for each prototype its nearest own-class patches over batches of training images.

    At most :data:`PER_IMAGE` patches of one image stand on a list. The nearest patches of ``P``
    groups are on it in any case, so that groups can be shared out as among the nearest patches.

    Args:
        network: in ``eval`` mode; only read.
        candidates: patches on a list, at least 1.
        cells: ``[N, *G]`` bool by row, patches to choose from; ``None`` is all.

    Attributes:
        lists: of each prototype.
        images: number of images seen.
    """

    def __init__(self, network: ProtoPNet, candidates: int, cells: Tensor | None = None) -> None:
        self._network = network
        self._cells = cells
        self._classes: list[int] = network.prototype_class.tolist()
        self._candidates = candidates
        self._groups: dict[str, int] = {}
        self._grid: tuple[int, ...] = ()
        empty, places = np.empty(0, np.float32), np.empty(0, np.int64)
        vectors = np.empty((0, network.prototype_layer.vectors[0].numel()), np.float32)
        self.lists = [PatchList(empty, places, places, places, vectors) for _ in self._classes]
        self.images = 0

    @torch.no_grad()
    def add(
        self, images: Tensor, labels: Labels, rows: Sequence[int], groups: Sequence[str]
    ) -> None:
        """Search ``images [B, C, *S]``; the arguments are those of :class:`NearestPatches`."""
        self.images += len(images)
        layer = self._network.prototype_layer
        features = self._network.features(images)
        distances = only(layer(features), self._cells, rows)
        self._grid = tuple(distances.shape[2:])
        near, cells = _smallest(distances.flatten(2))
        patches = layer.patches(features).flatten(2)  # [B, D * size, N]
        numbers = [self._groups.setdefault(group, len(self._groups)) for group in groups]
        row, group = np.asarray(rows, dtype=np.int64), np.asarray(numbers, dtype=np.int64)
        own = {
            k: np.asarray([shows(label, k) for label in labels], dtype=bool)
            for k in set(self._classes)
        }
        for p, k in enumerate(self._classes):
            close = np.isfinite(near[:, p]) & (near[:, p] <= self._limit(p))
            b, j = np.nonzero(own[k][:, None] & close)
            if not len(b):
                continue
            flat = cells[b, p, j]
            vectors = patches[torch.from_numpy(b), :, torch.from_numpy(flat)].float().cpu().numpy()
            found = PatchList(near[b, p, j], row[b], flat, group[b], vectors)
            self.lists[p] = self._shortened(self.lists[p].merged(found))

    def _limit(self, prototype: int) -> float:
        """Distance beyond which a patch has no place on the list."""
        known = self.lists[prototype]
        firsts = known.first_of_groups()
        if len(known) < self._candidates or len(firsts) < len(self._classes):
            return float("inf")
        last = max(self._candidates - 1, int(firsts[len(self._classes) - 1]))
        return float(known.distances[last])

    def _shortened(self, patches: PatchList) -> PatchList:
        firsts = patches.first_of_groups()[: len(self._classes)]
        nearest = np.arange(min(self._candidates, len(patches)))
        return patches.take(np.union1d(nearest, firsts))

    def candidates(self) -> list[list[Candidate]]:
        """Return the patches of each list as records, in its order."""
        names = list(self._groups)
        result = []
        for patches in self.lists:
            cells = np.stack(np.unravel_index(patches.cells, self._grid or (1,)), axis=1)
            columns = (patches.distances, patches.rows, cells, patches.groups)
            result.append(
                [
                    Candidate(distance, row, tuple(cell), names[group])
                    for distance, row, cell, group in zip(*(c.tolist() for c in columns))
                ]
            )
        return result


def _smallest(distances: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the smallest of ``[B, P, N]`` and their cells, ``[B, P, m]`` each, nearest first."""
    left = distances.float().clone()
    values, cells = [], []
    for _ in range(min(PER_IMAGE, left.shape[2])):
        value, cell = left.min(dim=2, keepdim=True)  # ties go to the first cell, unlike in topk
        left.scatter_(2, cell, float("inf"))
        values.append(value)
        cells.append(cell)
    return torch.cat(values, dim=2).cpu().numpy(), torch.cat(cells, dim=2).cpu().numpy()
