"""Feature cells inside what people marked, for prototypes that are to be taken from there.

Symbols: ``N`` images, ``*S`` axes of the network's input, ``*G`` feature cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medproto.records import CellGrid

__all__ = ["marked_cells"]


def marked_cells(grid: CellGrid, masks: Tensor) -> Tensor:
    """Return ``[N, *G]`` bool: cells whose centres lie in the mask of their image.

    A region between the centres counts as the cell nearest to its middle. In an image where nothing
    is marked all cells count: it may be one without a finding, or one that nobody looked at.

    Args:
        grid: true place of the cells in the network's input.
        masks: ``[N, 1, *S]`` bool.
    """
    sides = masks.shape[2:]
    centers = [
        first + step * torch.arange(n, dtype=torch.float64)
        for n, first, step in zip(grid.shape, grid.first_center, grid.stride, strict=True)
    ]
    index = [c.floor().long().clamp(0, n - 1) for c, n in zip(centers, sides, strict=True)]
    out = torch.empty(len(masks), *grid.shape, dtype=torch.bool, device=masks.device)
    for i, (mask,) in enumerate(masks):
        out[i] = mask[torch.meshgrid(*index, indexing="ij")]
        if not mask.any():
            out[i] = True
        elif not out[i].any():
            middle = mask.nonzero().double().mean(dim=0).cpu() + 0.5
            nearest = [int((c - m).abs().argmin()) for c, m in zip(centers, middle, strict=True)]
            out[(i, *nearest)] = True
    return out
