"""Prototype layer: compare every patch of a feature map with learned prototypes.

Symbols: ``B`` batch, ``D`` channels of a patch, ``P`` prototypes, ``*H`` spatial axes of the
features, ``*G`` of the patches, ``N`` their number. A patch is one cell, or ``*size`` cells side by
side; then ``G = H - size + 1`` along each axis and patches overlap.

Four similarities are offered:

- ``"log"`` [1]: distance ``d = |z - p|^2 / scale``, similarity ``log((d + 1) / (d + epsilon))`` in
  ``(0, log(1 / epsilon)]``, about 9.21 at most. The published network has ``scale = 1``; dividing
  by ``D`` keeps the logarithm out of its flat part on wide features.
- ``"linear"`` [1]: the same distance, similarity ``-d``; 0 at most.
- ``"focal"`` [3]: the log similarity minus its mean over all patches of the image. Its maximum is
  maximum minus mean, so that what is alike everywhere, background above all, counts for nothing.
- ``"cosine"`` [2]: distance ``d = 1 - cos(z, p)`` in ``[0, 2]``, similarity ``scale * (1 - d)``.

Distances are of features and have no physical unit. Everything here runs in float32 with autocast
off: at reduced precision a projected prototype no longer recognises its own source.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.1.
        https://arxiv.org/abs/1806.10574
    [2] Donnelly et al., "Deformable ProtoPNet", CVPR 2022. https://arxiv.org/abs/2111.15000
    [3] Rymarczyk et al., "ProtoPool", ECCV 2022, section 3. https://arxiv.org/abs/2112.02902
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PrototypeLayer", "Similarity"]

Similarity = Literal["cosine", "focal", "linear", "log"]


class PrototypeLayer(nn.Module):
    """Distance and similarity of each feature patch to each of ``P`` prototype vectors.

    The module owns the prototype vectors and nothing else: classes, source images and phases of
    training are the business of its callers.

    Args:
        num_prototypes: ``P``, at least 1.
        channels: ``D``, at least 1; must equal the channel count of the incoming feature map.
        size: of a patch in cells per spatial axis, at least 1; an empty one means one cell on any
            number of axes.
        similarity: see the module's head.
        scale: multiplies the cosine, divides the squared distance of the others; above 0.
        epsilon: softens the log similarity, ``0 < epsilon < 1``.

    Attributes:
        vectors: ``[P, D]``, or ``[P, D, *size]`` for patches of more than one cell.

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
        size: Sequence[int] = (),
        similarity: Similarity = "log",
        scale: float = 1.0,
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__()
        if num_prototypes < 1 or channels < 1:
            raise ValueError(
                f"num_prototypes and channels must be >= 1, got {num_prototypes} and {channels}."
            )
        if any(side < 1 for side in size):
            raise ValueError(f"size must be >= 1 cells per axis, got {list(size)}.")
        if similarity not in get_args(Similarity):
            raise ValueError(
                f"similarity must be one of {', '.join(get_args(Similarity))}, got {similarity!r}."
            )
        if not scale > 0.0:
            raise ValueError(f"scale must be above 0, got {scale}.")
        if not 0.0 < epsilon < 1.0:
            raise ValueError(f"epsilon must lie strictly between 0 and 1, got {epsilon}.")
        self.kind: Similarity = similarity
        self.scale = scale
        self.epsilon = epsilon
        self.size = tuple(size) if any(side > 1 for side in size) else ()
        self.vectors = nn.Parameter(torch.rand(num_prototypes, channels, *self.size))

    @property
    def bound(self) -> float:
        """Similarity of a patch that equals the prototype, the largest there is.

        For ``"focal"`` before the mean is subtracted, see :meth:`similarity_of_patches`.
        """
        bounds = {"cosine": self.scale, "linear": 0.0}
        return bounds.get(self.kind, math.log(1 / self.epsilon))

    def forward(self, features: Tensor) -> Tensor:
        """Return distances ``[B, P, *G]``, all >= 0, for ``features`` of shape ``[B, D, *H]``.

        Raises:
            ValueError: if ``features`` has no spatial axis, fewer cells than a patch, or another
                channel count than ``D``.
        """
        with torch.autocast(features.device.type, enabled=False):
            patches = self.patches(features)  # [B, D * size, *G]
            shape = patches.shape[2:]
            patches = patches if patches.dtype == torch.float64 else patches.float()
            patches = patches.flatten(2).transpose(1, 2)  # [B, N, D * size]
            vectors = self.vectors.flatten(1).to(patches.dtype)
            distances = self._pairwise(vectors, patches)  # [B, P, N]
        return distances.unflatten(2, shape)

    def patches(self, features: Tensor) -> Tensor:
        """Return all patches ``[B, D * size, *G]`` of ``[B, D, *H]``, in the order of ``vectors``.

        Raises:
            ValueError: as of :meth:`forward`.
        """
        channels = self.vectors.shape[1]
        if features.ndim < 3 or features.shape[1] != channels:
            raise ValueError(
                f"features must have shape [B, {channels}, *spatial], got {list(features.shape)}."
            )
        if not self.size:
            return features
        if features.ndim - 2 != len(self.size) or any(
            have < want for have, want in zip(features.shape[2:], self.size, strict=True)
        ):
            raise ValueError(
                f"features must have at least {list(self.size)} cells, "
                f"got {list(features.shape[2:])}."
            )
        windows = features
        for axis, side in enumerate(self.size):
            windows = windows.unfold(2 + axis, side, 1)  # [B, D, *G, *size] in the end
        first = 2 + len(self.size)
        order = (0, 1, *range(first, windows.ndim), *range(2, first))
        return windows.permute(order).flatten(1, 1 + len(self.size))

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
        """Return the similarity map ``[B, P, *G]`` of ``distances [B, P, *G]``.

        For ``"focal"`` the map of one image is centered; the other kinds look at each patch alone.
        """
        values = self.similarity_of_patches(distances)
        if self.kind != "focal":
            return values
        return values - values.mean(dim=tuple(range(2, values.ndim)), keepdim=True)

    def similarity_of_patches(self, distances: Tensor) -> Tensor:
        """Return the similarity of each distance by itself, any shape; at most :attr:`bound`."""
        if self.kind == "cosine":
            return self.scale * (1 - distances)
        if self.kind == "linear":
            return -distances
        return torch.log((distances + 1) / (distances + self.epsilon))

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        num_prototypes, channels = self.vectors.shape[:2]
        return (
            f"num_prototypes={num_prototypes}, channels={channels}, size={self.size}, "
            f"similarity={self.kind!r}, scale={self.scale}, epsilon={self.epsilon}"
        )
