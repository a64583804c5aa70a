"""What marked regions change in a training step: two losses, and where the cluster cost looks.

Symbols: ``B`` batch, ``P`` prototypes, ``K`` classes, ``*S`` axes of the network's input, ``*G``
feature cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medproto.losses import FineAnnotationLoss, PeakInMaskLoss
from medproto.networks import ProtoPNet, ProtoPNetOutput

from .marked_cells import marked_cells

__all__ = ["MaskCost"]


class MaskCost:
    """The weighted losses on the marked regions of a batch.

    Args:
        model: gives the place of its cells, as it is now.
        fine_annotation: coefficient of the similarity outside the masks.
        peak_in_masks: coefficient of the lead that the largest similarity outside has.
        patches_in_masks: whether the cluster cost takes the nearest patch inside.
    """

    def __init__(
        self,
        model: ProtoPNet,
        *,
        fine_annotation: float = 0.0,
        peak_in_masks: float = 0.0,
        patches_in_masks: bool = False,
    ) -> None:
        self._grid = model.grid
        self._classes = model.prototype_class
        # Only the log similarity is 0 where nothing is alike.
        centered = model.prototype_layer.kind != "log"
        self._outside = FineAnnotationLoss(self._grid, centered=centered)
        self._peak = PeakInMaskLoss()
        self._fine_annotation, self._peak_in_masks = fine_annotation, peak_in_masks
        self._patches_in_masks = patches_in_masks

    def distances(
        self, output: ProtoPNetOutput, pooled: Tensor, membership: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the distances ``[B, P]`` that cluster and separation cost count.

        Args:
            output: of the batch.
            pooled: its distances ``[B, P]`` without masks.
            membership: ``[B, K]``, 1, 0 or NaN.
            mask: ``[B, *S]`` bool; an image whose mask is empty has nothing marked.
        """
        if not self._patches_in_masks:
            return pooled
        shows = membership[:, self._classes] == 1  # [B, P]
        outside = ~marked_cells(self._grid, mask[:, None])[:, None]  # [B, 1, *G]
        nearest = output.distances.masked_fill(outside, torch.inf).flatten(2).amin(dim=2)
        return torch.where(shows, nearest, pooled)

    def __call__(self, similarities: Tensor, membership: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the scalars of the losses in use, and ``loss``, their weighted sum.

        Args:
            similarities: ``[B, P, *G]``.
            membership: ``[B, K]``, 1, 0 or NaN.
            mask: ``[B, *S]`` bool.
        """
        terms, total = {}, similarities.new_zeros(())
        if self._fine_annotation:
            has_mask = mask.flatten(1).any(dim=1)
            terms["fine_annotation"] = self._outside(
                similarities, membership, self._classes, mask=mask, has_mask=has_mask
            )
            total = total + self._fine_annotation * terms["fine_annotation"]
        if self._peak_in_masks:
            inside = marked_cells(self._grid, mask[:, None])
            terms["peak_in_masks"] = self._peak(similarities, membership, self._classes, inside)
            total = total + self._peak_in_masks * terms["peak_in_masks"]
        return {**terms, "loss": total}
