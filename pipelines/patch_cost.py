"""Forbid and keep losses of a network on marked patches, computed anew at each training step.

Symbols: ``M`` patches, ``P`` prototypes, ``C`` channels, ``*S`` axes of the network's input, ``*G``
feature cells.

The *whole* image of a patch goes through the network as in a prediction: not augmented, BatchNorm
by its running statistics, no dropout. So the patch has the features that projection and prediction
compare (those of a cut-out alone would be others: a cell sees far beyond the box), one patch is
enough, and no statistics move. The similarity of the patch to a prototype is the largest over the
cells whose centres lie under the box; if there is none, that of the cell nearest to its middle.

A negative similarity to a forbidden patch counts as none, as in the fine-annotation loss: for the
cosine, prototypes opposite to everything would satisfy the loss best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medproto.losses import ForbidLoss, KeepLoss
from medproto.networks import ProtoPNet
from medproto.records import CellGrid

from .annotations import MarkedPatch
from .datasets import ImageSet

__all__ = ["PatchCost", "cells_under"]


class PatchCost:
    """The weighted losses on the marked patches of a set of images.

    Args:
        model: gradients flow into it.
        patches: at least one, of images of the set.
        images: that the patches lie in.
        forbid: coefficient of the forbid loss.
        keep: coefficient of the keep loss.
        at_most: images a step; of more so many are drawn for each step.
    """

    def __init__(
        self,
        model: ProtoPNet,
        patches: Sequence[MarkedPatch],
        images: ImageSet,
        *,
        forbid: float,
        keep: float,
        at_most: int,
    ) -> None:
        self._model = model
        self._at_most = at_most
        self._losses = {"forbid": (forbid, ForbidLoss()), "keep": (keep, KeepLoss())}
        rows = sorted({patch.row for patch in patches})
        self._images = torch.stack([images.image(images.rows.index(row)) for row in rows])
        self._image = torch.tensor([rows.index(patch.row) for patch in patches])  # [M]
        grid = model.grid
        self._cells = torch.stack([cells_under(grid, p.start, p.stop) for p in patches])  # [M, *G]
        self._class = torch.tensor([patch.class_index for patch in patches])
        self._verdict = [patch.verdict for patch in patches]

    def __call__(self) -> dict[str, Tensor]:
        """Return the scalars ``forbid`` and ``keep``, where used, and ``loss``, their weighted sum.

        The draw, if there is one, takes torch's own random numbers.
        """
        drawn = torch.arange(len(self._images))
        if len(drawn) > self._at_most:
            drawn = torch.randperm(len(drawn))[: self._at_most]
        places = {image: place for place, image in enumerate(drawn.tolist())}
        chosen = [m for m, image in enumerate(self._image.tolist()) if image in places]
        owner = torch.tensor([places[int(self._image[m])] for m in chosen])
        device = self._model.prototype_class.device
        with _as_in_prediction(self._model):
            maps = self._model.evidence(self._images[drawn].to(device)).similarities
        under = self._cells[chosen].to(device)[:, None]  # [M, 1, *G]
        similarities = maps[owner.to(device)].masked_fill(~under, -torch.inf)
        pooled = similarities.flatten(2).amax(dim=2)  # [M, P]
        terms: dict[str, Tensor] = {}
        total = pooled.new_zeros(())
        for name, (coefficient, loss) in self._losses.items():
            if coefficient:
                own = [i for i, m in enumerate(chosen) if self._verdict[m] == name]
                classes = self._class[chosen][own].to(device)
                values = pooled[own].clamp_min(0.0) if name == "forbid" else pooled[own]
                terms[name] = loss(values, classes, self._model.prototype_class)
                total = total + coefficient * terms[name]
        return {**terms, "loss": total}


def cells_under(grid: CellGrid, start: Sequence[float], stop: Sequence[float]) -> Tensor:
    """Return ``[*G]`` bool: cells whose centres lie in a box, or the nearest one to its middle.

    Args:
        start: first corner, position in network pixels, per axis.
        stop: last corner.
    """
    under = torch.ones(grid.shape, dtype=torch.bool)
    for axis, (low, high) in enumerate(zip(start, stop, strict=True)):
        steps = torch.arange(grid.shape[axis], dtype=torch.float64)
        centers = grid.first_center[axis] + grid.stride[axis] * steps
        inside = (centers >= low) & (centers <= high)
        if not inside.any():
            inside[(centers - (low + high) / 2).abs().argmin()] = True
        under &= inside.reshape([-1 if a == axis else 1 for a in range(len(grid.shape))])
    return under


@contextmanager
def _as_in_prediction(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients; the modes of all parts come back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
