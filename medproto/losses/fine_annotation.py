"""Fine-annotation loss: prototypes should answer inside the marked region, and nowhere else.

Symbols: ``B`` images, ``P`` prototypes, ``*G`` feature cells, ``*S`` network pixels, ``N`` of them,
``s`` similarities ``[B, P, *G]``. A heat map is ``sum_g h_g(x) s_g`` at pixel ``x``, where ``h_g``
is the hat function round the true centre of cell ``g`` (:class:`medproto.records.CellGrid`); the
hats of all cells sum to 1 at every pixel. With ``o`` 1 outside the marked region and 0 in it::

    own[b, p]   = sqrt( sum_g  max(s_g, 0)^2  (1/N) sum_x o(x) h_g(x) )
    other[b, p] = sqrt( sum_g  max(s_g, 0)^2  (1/N) sum_x h_g(x) )
    loss        = (1/B) sum_b ( sum over p of shown classes of own
                                + sum over p of not shown classes of other )

An image without a mask has no own-class part, as published; prototypes of unknown classes have
none at all.

That takes 0 for "no answer". The cosine of two patches of one organ is large whatever they show, so
there most of the squares would be that constant, and the cheapest way to make them small is to let
all similarities go. With ``centered`` an answer is what is above the mean of its map,
``s_g - mean over g of s_g`` in place of ``s_g``.

Why the mask goes to the cells: stretching the maps over the image puts them half a stride off for
many backbones, and drawing each map in pixels costs ``P * N`` numbers an image. The share
``(1/N) sum_x o(x) h_g(x)`` is how much of the drawing of cell ``g`` lies outside. As squares are
convex, the sum is never below the mean square of the *drawn* map outside the region; both are 0
together, and equal for a constant map.

Differences from [1]: mean over the images where the published program sums over the batch; the
prototypes of a class are found by ``prototype_class`` and each has its own norm, as in the article,
where the program takes one norm a group of neighboring indices; the norm is a root *mean* square,
so that the coefficient does not depend on the size of the image (the published 0.001 is 0.224 ``B``
here at 224 pixels, if each group had one prototype); negative similarities, which [1] has not,
count as no answer.

References:
    [1] Barnett et al., "A case-based interpretable deep learning model for classification of mass
        lesions in digital mammography" (IAIA-BL), Nature Machine Intelligence 2021.
        https://arxiv.org/abs/2103.12308
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..records import CellGrid
from .membership import check_membership

__all__ = ["FineAnnotationLoss"]


class FineAnnotationLoss(nn.Module):
    """Similarity of shown classes outside the marked region and of all others everywhere.

    Args:
        grid: true place of the cells in the network's input.
        centered: count answers from the mean of their map, for similarities without a natural zero.
    """

    def __init__(self, grid: CellGrid, *, centered: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.centered = centered

    def forward(
        self,
        similarities: Tensor,
        membership: Tensor,
        prototype_class: Tensor,
        *,
        mask: Tensor,
        has_mask: Tensor,
    ) -> Tensor:
        """Return a scalar, >= 0.

        Args:
            similarities: ``[B, P, *G]``.
            membership: ``[B, num_classes]``, 1, 0 or NaN.
            prototype_class: ``[P]`` long.
            mask: ``[B, *S]`` at the size of the network's input, 1 in the marked region and 0
                outside (numbers between are shares of a pixel); transformed like the image. The
                values of images without a mask are not used.
            has_mask: ``[B]`` bool.

        Raises:
            ValueError: if shapes disagree or an entry is outside its range.
        """
        check_membership(membership, prototype_class)
        self._check_shapes(similarities, membership, prototype_class, mask, has_mask)
        answers = similarities.flatten(2)  # [B, P, G]
        if self.centered:
            answers = answers - answers.mean(dim=2, keepdim=True)
        answers = answers.clamp_min(0.0)
        marked = has_mask.reshape(-1, *[1] * (mask.ndim - 1))
        outside = torch.where(marked, 1 - mask.to(answers.dtype), 0.0)  # [B, *S]
        own = _root_mean_square(answers, self._shares(outside))  # [B, P]
        other = _root_mean_square(answers, self._shares(torch.ones_like(outside[:1])))
        shows = membership[:, prototype_class]  # [B, P]
        penalty = own.masked_fill(shows != 1, 0.0) + other.masked_fill(shows != 0, 0.0)
        return penalty.sum() / len(penalty)

    def _shares(self, pixels: Tensor) -> Tensor:
        """Return ``[B, G]``, the mean over the pixels ``[B, *S]`` of pixel times hat."""
        shares = pixels
        with torch.autocast(pixels.device.type, enabled=False):
            for axis, size in enumerate(pixels.shape[1:]):
                hats = self._hats(axis, size).to(pixels)  # [S, G]
                # The axis in front is used up and its cells are put last, so the order stays.
                shares = torch.tensordot(shares, hats / size, dims=([1], [0]))
        return shares.flatten(1)

    def _hats(self, axis: int, size: int) -> Tensor:
        """Return ``[S, G]``, the hats of one axis at the pixel centers; border values go on."""
        count = self.grid.shape[axis]
        centers = torch.arange(size, dtype=torch.float64) + 0.5
        cells = (centers - self.grid.first_center[axis]) / self.grid.stride[axis]
        distance = cells.clamp(0, count - 1)[:, None] - torch.arange(count)
        return (1 - distance.abs()).clamp_min(0.0)

    def _check_shapes(
        self,
        similarities: Tensor,
        membership: Tensor,
        prototype_class: Tensor,
        mask: Tensor,
        has_mask: Tensor,
    ) -> None:
        expected = (len(membership), len(prototype_class), *self.grid.shape)
        if tuple(similarities.shape) != expected:
            raise ValueError(
                f"similarities must be [B, P, *cells], here {list(expected)}, "
                f"got {list(similarities.shape)}."
            )
        axes = len(self.grid.shape)
        if mask.ndim != axes + 1 or len(mask) != len(membership):
            raise ValueError(
                f"mask must be [{len(membership)}, *S] with {axes} image axes, "
                f"got {list(mask.shape)}."
            )
        if has_mask.shape != membership.shape[:1] or has_mask.dtype != torch.bool:
            raise ValueError(
                f"has_mask must be [{len(membership)}] bool, got {list(has_mask.shape)} of "
                f"{has_mask.dtype}."
            )


def _root_mean_square(values: Tensor, shares: Tensor) -> Tensor:
    """Return ``[B, P]`` for ``values [B, P, G]`` and ``shares [B, G]``; gradient 0 at 0."""
    return torch.linalg.vector_norm(values * shares.sqrt()[:, None], dim=2)
