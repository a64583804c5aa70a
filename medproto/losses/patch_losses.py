"""Forbid and keep losses: a person's verdict on single patches, as part of the training.

Symbols: ``M`` patches, ``P`` prototypes. ``s[m, p]`` is the similarity of patch ``m`` to prototype
``p``, pooled over the patch (its central cell, or its largest one, as in [1])::

    forbid =  (1/M) sum_m  sum over the prototypes of the patch's class of s[m, p]
    keep   = -(1/M) sum_m  the same over patches to be kept

Both are to be minimized. A patch may be given for one class or for all.

References:
    [1] Bontempelli et al., "Concept-level Debugging of Part-prototype Networks" (ProtoPDebug),
        ICLR 2023. https://arxiv.org/abs/2205.15769
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

__all__ = ["ALL_CLASSES", "ForbidLoss", "KeepLoss"]

ALL_CLASSES: Final = -1
"""In ``patch_class``: the verdict holds for the prototypes of every class."""


class ForbidLoss(nn.Module):
    """Mean over forbidden patches of the summed similarity to the prototypes concerned."""

    def forward(self, similarities: Tensor, patch_class: Tensor, prototype_class: Tensor) -> Tensor:
        """Return a scalar; 0 without patches.

        Args:
            similarities: ``[M, P]``.
            patch_class: ``[M]`` long, the class that the verdict is about, or ``ALL_CLASSES``.
            prototype_class: ``[P]`` long.

        Raises:
            ValueError: if the shapes disagree.
        """
        return _mean_similarity(similarities, patch_class, prototype_class)


class KeepLoss(nn.Module):
    """Minus the mean over kept patches of the summed similarity to the prototypes concerned."""

    def forward(self, similarities: Tensor, patch_class: Tensor, prototype_class: Tensor) -> Tensor:
        """Return a scalar; arguments and errors as of :meth:`ForbidLoss.forward`."""
        return -_mean_similarity(similarities, patch_class, prototype_class)


def _mean_similarity(similarities: Tensor, patch_class: Tensor, prototype_class: Tensor) -> Tensor:
    if similarities.ndim != 2 or similarities.shape != patch_class.shape + prototype_class.shape:
        raise ValueError(
            "similarities must be [M, P] with M patch classes and P prototype classes, got "
            f"{list(similarities.shape)}, {list(patch_class.shape)} and "
            f"{list(prototype_class.shape)}."
        )
    concerned = (patch_class[:, None] == prototype_class[None]) | (
        patch_class[:, None] == ALL_CLASSES
    )
    total = torch.where(concerned, similarities, 0.0).sum()
    return total / max(len(similarities), 1)
