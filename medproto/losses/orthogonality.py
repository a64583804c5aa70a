"""Within-class orthogonality: prototypes of one class should not all be the same.

Symbols: ``P`` prototypes, ``D`` channels, ``n_k`` prototypes of class ``k``, ``U_k`` their vectors,
flattened and of length 1, as rows ``[n_k, D * size]``::

    loss = sum_k || U_k U_k^T - 1 ||_F^2  =  sum over ordered pairs of one class of cos^2

It is 0 for orthogonal vectors and ``sum_k n_k (n_k - 1)`` for identical ones. The idea is that of
[1]; the published programs differ. That of [1] takes the entrywise L1 norm of vectors that the loss
does not normalize; that of [2] the root of the sum of squares, each cell of a prototype a vector;
that of [3] the sum of the signed cosines over unordered pairs, for which opposite vectors are best.
All three reshape the prototypes to groups of one size; where order or counts are not those
expected, that mixes the classes. Here ``prototype_class`` alone decides.

References:
    [1] Wang et al., "Interpretable Image Recognition by Constructing Transparent Embedding Space",
        ICCV 2021.
    [2] Donnelly et al., "Deformable ProtoPNet", CVPR 2022. https://arxiv.org/abs/2111.15000
    [3] Vaseli et al., "ProtoASNet", MICCAI 2023. https://arxiv.org/abs/2307.14433
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["OrthogonalityLoss"]


class OrthogonalityLoss(nn.Module):
    """Sum of squared cosines over the ordered pairs of prototypes of one class; to be minimized."""

    def forward(self, vectors: Tensor, prototype_class: Tensor) -> Tensor:
        """Return a scalar in ``[0, sum_k n_k (n_k - 1)]``; classes of one prototype add 0.

        Args:
            vectors: ``[P, D]`` or ``[P, D, *size]``.
            prototype_class: ``[P]`` long, in any order.

        Raises:
            ValueError: if the shapes disagree.
        """
        if vectors.ndim < 2 or vectors.shape[:1] != prototype_class.shape:
            raise ValueError(
                "vectors must be [P, D, *size] with P prototype classes, "
                f"got {list(vectors.shape)} and {list(prototype_class.shape)}."
            )
        with torch.autocast(vectors.device.type, enabled=False):
            precise = vectors if vectors.dtype == torch.float64 else vectors.float()
            unit = nn.functional.normalize(precise.flatten(1), dim=1)  # [P, D * size]
            cosines = unit @ unit.T  # [P, P]
        other = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        pairs = (prototype_class[:, None] == prototype_class[None]) & other
        return cosines.masked_fill(~pairs, 0.0).square().sum()
