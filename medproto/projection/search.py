"""Search for the nearest own-class patches, one pass, memory independent of the cohort's size.

Symbols: ``B`` batch, ``D`` channels, ``P`` prototypes, ``*G`` feature cells.

Every prototype is to come from another group, so its nearest patch alone does not settle the
choice. But ``P`` distinct groups per prototype always do: whatever the other ``P - 1`` prototypes
take, one of them is left. So ``P`` candidates are kept for each, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..networks import ProtoPNet

__all__ = ["Candidate", "Labels", "NearestPatches", "only", "shows"]

Labels = Sequence[int] | Sequence[Sequence[float]]
"""``[B]`` classes, or ``[B][classes]`` of 1, 0 and NaN."""


def shows(label: int | Sequence[float], class_index: int) -> bool:
    """Tell whether an image of this label shows the class; unknown is no."""
    if isinstance(label, int):
        return label == class_index
    return label[class_index] == 1


def only(distances: Tensor, cells: Tensor | None, rows: Sequence[int]) -> Tensor:
    """Return ``distances [B, P, *G]`` with infinity outside ``cells [N, *G]`` of these rows."""
    if cells is None:
        return distances
    allowed = cells[list(rows)].to(distances.device)[:, None]
    return distances.masked_fill(~allowed, math.inf)


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A patch that a prototype could be projected to; ordered by distance, then row and cell.

    Args:
        distance: in feature units, as given by the prototype layer.
        row: zero-based row of the training image.
        cell: zero-based feature cell.
        group: patient or group of the image.
        correlation: of its scores with the prototype's own, see
            :mod:`medproto.projection.function_preserving`; ``None`` where it was not computed.
    """

    distance: float
    row: int
    cell: tuple[int, ...]
    group: str
    correlation: float | None = field(default=None, compare=False)


class NearestPatches:
    """Collects the candidates of all prototypes over batches of training images.

    Args:
        network: in ``eval`` mode; only read.
        cells: ``[N, *G]`` bool by row, patches to choose from; ``None`` is all.
    """

    def __init__(self, network: ProtoPNet, cells: Tensor | None = None) -> None:
        self._network = network
        self._cells = cells
        self._classes = network.prototype_class.tolist()
        self._best: list[dict[str, Candidate]] = [{} for _ in self._classes]

    @torch.no_grad()
    def add(
        self, images: Tensor, labels: Labels, rows: Sequence[int], groups: Sequence[str]
    ) -> None:
        """Search ``images [B, C, *S]``, which must be preprocessed as for prediction.

        Args:
            labels: ``[B]`` classes, or for each image one value a class, 1 where it shows it. A
                prototype looks at images that show its own class only.
            rows: ``[B]`` zero-based rows, to be returned with the candidates.
            groups: ``[B]`` patients or groups.
        """
        distances = self._network.prototype_layer(self._network.features(images))
        distances = only(distances, self._cells, rows)
        nearest, flat = distances.flatten(2).min(dim=2)  # [B, P]; ties go to the first cell
        cells = torch.stack(torch.unravel_index(flat, distances.shape[2:]), dim=-1).tolist()
        for b, values in enumerate(nearest.tolist()):
            for p, value in enumerate(values):
                if shows(labels[b], self._classes[p]) and math.isfinite(value):
                    self._offer(p, Candidate(value, rows[b], tuple(cells[b][p]), groups[b]))

    def _offer(self, prototype: int, candidate: Candidate) -> None:
        best = self._best[prototype]
        known = best.get(candidate.group)
        if known is None or candidate < known:
            best[candidate.group] = candidate
        if len(best) > len(self._classes):
            del best[max(best.values()).group]

    def candidates(self) -> list[list[Candidate]]:
        """Return, for each prototype, its nearest patches of distinct groups, nearest first."""
        return [sorted(best.values()) for best in self._best]
