"""Where the similarities of a prototype are drawn: cells and boxes, moved by what was measured.

Symbols: ``M`` maps, ``P`` prototypes, ``n`` spatial axes, ``*G`` of the feature cells, ``*S`` of
the network's input. Positions in network pixels, from the outer corner of the first pixel.

The displacement is that of a box from what its similarity rests on (:mod:`.effective_center`), so
it is the box, drawn on the theoretical centres, that is moved by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..networks import ProtoPNet
from ..records import CellGrid
from .boxes import Box, peak_boxes
from .geometry import Array

__all__ = ["prototype_boxes", "prototype_grid", "unshifted_grid"]


def unshifted_grid(network: ProtoPNet) -> CellGrid:
    """Theoretical place of the compared patches, without what was measured."""
    return _moved(network.grid, [-shift for shift in network.center_shift.tolist()])


def prototype_grid(network: ProtoPNet, prototype: int) -> CellGrid:
    """Where the similarity map of one prototype is drawn."""
    return _moved(network.grid, network.prototype_shift[prototype].tolist())


def _moved(grid: CellGrid, shift: Sequence[float]) -> CellGrid:
    places = zip(grid.first_center, shift, strict=True)
    return replace(grid, first_center=tuple(center + s for center, s in places))


def prototype_boxes(
    network: ProtoPNet,
    values: Array,
    prototypes: Sequence[int],
    cells: Sequence[Sequence[int]],
    network_shape: Sequence[int],
) -> list[Box]:
    """Box of each map round one of its cells, moved by its prototype's displacement.

    It is moved as far as the image goes and keeps its size: what a similarity rests on lies within
    the image, whatever is usual for the prototype.

    Args:
        network: its shifts count.
        values: ``[M, *G]`` similarities.
        prototypes: ``[M]`` whose they are, zero-based.
        cells: ``[M, n]``, zero-based; of each map as a rule its largest.
        network_shape: ``*S``.
    """
    boxes = np.array(peak_boxes(values, unshifted_grid(network), network_shape, cells))
    start, stop = boxes[:, 0], boxes[:, 1]  # [M, n]
    shift = (network.center_shift + network.prototype_shift)[list(prototypes)].cpu().numpy()
    own = np.clip(shift, -start, np.asarray(network_shape) - stop)
    pairs = zip((start + own).tolist(), (stop + own).tolist(), strict=True)
    return [(tuple(a), tuple(b)) for a, b in pairs]
