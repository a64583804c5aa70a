"""Peak-in-mask loss: a prototype should answer more inside the marked region than anywhere else.

Symbols: ``B`` images, ``P`` prototypes, ``*G`` feature cells, ``s`` similarities ``[B, P, *G]``,
``I_b`` the cells inside the marked region of image ``b``, ``t`` the margin::

    excess[b, p] = max( max over g not in I_b of s_g  -  max over g in I_b of s_g  +  t, 0 )
    loss         = (1/B) sum_b  mean over p of shown classes of excess[b, p]

An image with nothing outside or nothing inside, and one that shows no class with prototypes,
contributes 0.

Why beside the fine-annotation loss: a score is the *largest* similarity, and its place is what is
shown. A mean over the cells outside falls most where many cells answer a little, and leaves the one
that answers most. On breast ultrasound that made the difference, see ``docs/clinical-preset.md``.
It is a hinge of a ranking, as in metric learning; we know of no earlier use with prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .membership import check_membership

__all__ = ["PeakInMaskLoss"]


class PeakInMaskLoss(nn.Module):
    """How far the largest similarity outside exceeds the largest inside, less a margin.

    Args:
        margin: by which the inside is to lead, in units of the similarity.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self, similarities: Tensor, membership: Tensor, prototype_class: Tensor, inside: Tensor
    ) -> Tensor:
        """Return a scalar, >= 0.

        Args:
            similarities: ``[B, P, *G]``.
            membership: ``[B, num_classes]``, 1, 0 or NaN.
            prototype_class: ``[P]`` long.
            inside: ``[B, *G]`` bool, cells in the marked region.

        Raises:
            ValueError: if shapes disagree or an entry is outside its range.
        """
        check_membership(membership, prototype_class)
        expected = (len(membership), len(prototype_class), *inside.shape[1:])
        if tuple(similarities.shape) != expected or len(inside) != len(membership):
            raise ValueError(
                f"similarities must be [B, P, *cells] and inside [B, *cells], got "
                f"{list(similarities.shape)} and {list(inside.shape)} for {len(membership)} images "
                f"and {len(prototype_class)} prototypes."
            )
        excess = _largest(similarities, ~inside) - _largest(similarities, inside) + self.margin
        marked = inside.flatten(1).any(dim=1) & ~inside.flatten(1).all(dim=1)  # [B]
        counts = (membership[:, prototype_class] == 1) & marked[:, None]  # [B, P]
        costs = excess.clamp_min(0.0).masked_fill(~counts, 0.0).sum(dim=1)
        return (costs / counts.sum(dim=1).clamp_min(1)).sum() / len(costs)


def _largest(similarities: Tensor, cells: Tensor) -> Tensor:
    """Largest of ``[B, P, *G]`` over ``cells [B, *G]``, ``[B, P]``; the lowest number if none."""
    lowest = torch.finfo(similarities.dtype).min / 4  # a difference of two stays finite
    return similarities.masked_fill(~cells[:, None], lowest).flatten(2).amax(dim=2)
