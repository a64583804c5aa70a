"""Pooled scores of thousands of patches at once, as if each were a prototype.

Symbols: ``B`` batch, ``D`` channels, ``C`` patches to be scored, ``N`` patches of an image.

The prototype layer takes differences first and squares after, which is exact and slow. Here a
distance is one entry of a matrix product: |z - p|^2 = (-2p, |p|^2, 1) . (z, 1, |z|^2), and
1 - cos(z, p) = (-p/|p|, 1) . (z/|z|, 1). In float32 this is right to about 1e-7 of |z|^2: enough to
compare patches, too little to show a score. Chosen patches are scored by the layer itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..networks import ProtoPNet

__all__ = ["PatchScorer"]

BLOCK = 2**19
"""Distances held at a time: 2 MB, so that they are pooled before they leave the cache."""


class PatchScorer:
    """Scores patches in images with the similarity and the pooling of a network.

    Args:
        network: only read.
        vectors: ``[C, D * size]`` features of the patches, in the order of the layer's ``patches``.
    """

    def __init__(self, network: ProtoPNet, vectors: Tensor) -> None:
        self._network = network
        self._cosine = network.prototype_layer.kind == "cosine"
        self._factors = self._left(vectors.float())

    def _left(self, vectors: Tensor) -> Tensor:
        ones = torch.ones_like(vectors[:, :1])
        if self._cosine:
            return torch.cat([-functional.normalize(vectors, dim=1), ones], dim=1)
        squares = vectors.square().sum(dim=1, keepdim=True)
        scale = self._network.prototype_layer.scale
        return torch.cat([-2 * vectors, squares, ones], dim=1) / scale

    def _right(self, patches: Tensor) -> Tensor:
        """Return the other factors ``[B, D * size + 1 or 2, N]`` of ``[B, D * size, N]``."""
        ones = torch.ones_like(patches[:, :1])
        if self._cosine:
            return torch.cat([functional.normalize(patches, dim=1), ones], dim=1)
        return torch.cat([patches, ones, patches.square().sum(dim=1, keepdim=True)], dim=1)

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Return the scores ``[B, C]`` of all patches in images of features ``[B, D, *H]``."""
        with torch.autocast(features.device.type, enabled=False):
            patches = self._network.prototype_layer.patches(features).flatten(2).float()
            right = self._right(patches)
            # One image and one block at a time: the distances of a batch would be gigabytes.
            blocks = self._factors.to(right.device).split(max(1, BLOCK // right.shape[2]))
            rows = [torch.cat([self._pooled(block @ image) for block in blocks]) for image in right]
            return torch.stack(rows)

    def _pooled(self, distances: Tensor) -> Tensor:
        """Return scores ``[c]`` of distances ``[c, N]``.

        A similarity falls with the distance, so the smallest distances are pooled; only the mean
        that ``"focal"`` subtracts needs the similarity everywhere.
        """
        layer, k = self._network.prototype_layer, self._network.top_k
        nearest = _smallest(distances, k).clamp_min(0.0)
        scores = layer.similarity_of_patches(nearest).mean(dim=1)
        if layer.kind == "focal":
            scores -= layer.similarity_of_patches(distances.clamp_min_(0.0)).mean(dim=1)
        return scores


def _smallest(values: Tensor, k: int) -> Tensor:
    """Return the ``k`` smallest ``[c, k]`` of each row of ``[c, N]``, in any order."""
    if k == 1:
        return values.amin(dim=1, keepdim=True)
    if values.device.type == "cpu":  # three times as fast as torch's, measured for 7 of 196
        return torch.from_numpy(np.partition(values.numpy(), k - 1, axis=1)[:, :k])
    return values.topk(k, dim=1, largest=False).values
