"""Prototype layer: compare every patch of a feature map with learned prototypes.

Symbols: ``B`` batch, ``D`` channels of a patch, ``P`` prototypes, ``*G`` spatial axes of the
feature cells, ``N`` their product.

Two similarities are offered:

- ``"log"`` [1]: distance ``d = |z - p|^2 / scale``, similarity ``log((d + 1) / (d + epsilon))`` in
  ``(0, log(1 / epsilon)]``, about 9.21 at most. The published network has ``scale = 1``; dividing
  by ``D`` keeps the logarithm out of its flat part on wide features.
- ``"cosine"`` [2]: distance ``d = 1 - cos(z, p)`` in ``[0, 2]``, similarity ``scale * (1 - d)``.

Distances are of features and have no physical unit. Everything here runs in float32 with autocast
off: at reduced precision a projected prototype no longer recognises its own source.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.1.
        https://arxiv.org/abs/1806.10574
    [2] Donnelly et al., "Deformable ProtoPNet", CVPR 2022. https://arxiv.org/abs/2111.15000
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PrototypeLayer", "Similarity"]

Similarity = Literal["cosine", "log"]


class PrototypeLayer(nn.Module):
    """Distance and similarity of each feature patch to each of ``P`` prototype vectors.

    The module owns the prototype vectors and nothing else: classes, source images and phases of
    training are the business of its callers.

    Args:
        num_prototypes: ``P``, at least 1.
        channels: ``D``, at least 1; must equal the channel count of the incoming feature map.
        similarity: ``"log"`` or ``"cosine"``, see the module's head.
        scale: divides the squared distance (log) or multiplies the cosine; above 0.
        epsilon: softens the log similarity, ``0 < epsilon < 1``.

    Raises:
        ValueError: if an argument is outside the range given above.

    Example:
        >>> layer = PrototypeLayer(num_prototypes=6, channels=8)
        >>> distances = layer(torch.rand(2, 8, 7, 7))
        >>> distances.shape, layer.similarity(distances).amax(dim=(2, 3)).shape
        (torch.Size([2, 6, 7, 7]), torch.Size([2, 6]))
    """

    def __init__(
        self,
        num_prototypes: int,
        channels: int,
        *,
        similarity: Similarity = "log",
        scale: float = 1.0,
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__()
        if num_prototypes < 1 or channels < 1:
            raise ValueError(
                f"num_prototypes and channels must be >= 1, got {num_prototypes} and {channels}."
            )
        if similarity not in ("cosine", "log"):
            raise ValueError(f"similarity must be 'cosine' or 'log', got {similarity!r}.")
        if not scale > 0.0:
            raise ValueError(f"scale must be above 0, got {scale}.")
        if not 0.0 < epsilon < 1.0:
            raise ValueError(f"epsilon must lie strictly between 0 and 1, got {epsilon}.")
        self.kind = similarity
        self.scale = scale
        self.epsilon = epsilon
        self.vectors = nn.Parameter(torch.rand(num_prototypes, channels))  # [P, D]

    @property
    def bound(self) -> float:
        """Largest possible similarity, reached by a patch that equals the prototype."""
        return math.log(1 / self.epsilon) if self.kind == "log" else self.scale

    def forward(self, features: Tensor) -> Tensor:
        """Return distances ``[B, P, *G]``, all >= 0, for ``features`` of shape ``[B, D, *G]``.

        Raises:
            ValueError: if ``features`` has no spatial axis or its channel count is not ``D``.
        """
        channels = self.vectors.shape[1]
        if features.ndim < 3 or features.shape[1] != channels:
            raise ValueError(
                f"features must have shape [B, {channels}, *spatial], got {list(features.shape)}."
            )
        with torch.autocast(features.device.type, enabled=False):
            patches = features.float() if features.dtype != torch.float64 else features
            patches = patches.flatten(2).transpose(1, 2)  # [B, N, D]
            vectors = self.vectors.to(patches.dtype)
            distances = self._pairwise(vectors, patches)  # [B, P, N]
        return distances.unflatten(2, features.shape[2:])

    def _pairwise(self, vectors: Tensor, patches: Tensor) -> Tensor:
        if self.kind == "cosine":
            unit = functional.normalize(patches, dim=2)
            cosine = functional.normalize(vectors, dim=1) @ unit.transpose(1, 2)
            return (1 - cosine).clamp_min(0.0)
        # Differences first, squares after. Expanding |z|^2 - 2<z, p> + |p|^2 is faster, but for a
        # projected prototype z equals p: the terms cancel, and in float32 with D = 1024 the patch
        # a prototype was taken from can score 8.56 instead of 9.21.
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(vectors[None], patches, compute_mode=exact).pow(2) / self.scale

    def similarity(self, distances: Tensor) -> Tensor:
        """Return the similarity of each distance, same shape; at most :attr:`bound`."""
        if self.kind == "cosine":
            return self.scale * (1 - distances)
        return torch.log((distances + 1) / (distances + self.epsilon))

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        num_prototypes, channels = self.vectors.shape
        return (
            f"num_prototypes={num_prototypes}, channels={channels}, similarity={self.kind!r}, "
            f"scale={self.scale}, epsilon={self.epsilon}"
        )
