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

    def __call__(
        self, output: ProtoPNetOutput, pooled: Tensor, membership: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the distances ``[B, P]`` that cluster and separation cost count, and the losses.

        The losses in use are scalars by name, and ``loss`` is their weighted sum.

        Args:
            output: of the batch.
            pooled: its distances ``[B, P]`` without masks.
            membership: ``[B, K]``, 1, 0 or NaN.
            mask: ``[B, *S]`` bool; an image whose mask is empty has nothing marked.
        """
        inside = marked_cells(self._grid, mask[:, None])  # [B, *G]
        terms, total = {}, pooled.new_zeros(())
        if self._fine_annotation:
            terms["fine_annotation"] = self._outside(
                output.similarities,
                membership,
                self._classes,
                mask=mask,
                has_mask=mask.flatten(1).any(dim=1),
            )
            total = total + self._fine_annotation * terms["fine_annotation"]
        if self._peak_in_masks:
            peak = self._peak(output.similarities, membership, self._classes, inside)
            terms["peak_in_masks"] = peak
            total = total + self._peak_in_masks * peak
        if self._patches_in_masks:
            nearest = output.distances.masked_fill(~inside[:, None], torch.inf).flatten(2)
            shows = membership[:, self._classes] == 1  # [B, P]
            pooled = torch.where(shows, nearest.amin(dim=2), pooled)
        return pooled, {**terms, "loss": total}
