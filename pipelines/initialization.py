"""Start of the prototypes: k-means on the patches that speak most for their class.

Symbols: ``B`` batch, ``D`` channels, ``K`` classes, ``*G`` feature cells.

Most cells of an image show nothing that tells its class, so centres of *all* own-class patches are
centres of background. The classifier that was trained on the same features says which cells speak
for a class: its class activation map, against the mean of the other classes.
"""

from __future__ import annotations

import logging

import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

from medproto.networks import PlainClassifier, ProtoPNet

from .datasets import ImageSet

__all__ = ["start_prototypes"]

logger = logging.getLogger("medproto.train")

CELL_SHARE = 0.03
"""Share of an image's cells that are looked at, at least one: findings are small."""


@torch.no_grad()
def start_prototypes(
    network: ProtoPNet, classifier: PlainClassifier, images: ImageSet, *, seed: int
) -> None:
    """Set the prototype vectors to the cluster centres of each class, in place.

    For the cosine similarity patches are scaled to unit length first, since only their direction
    counts.
    """
    network.eval()
    classifier.eval()
    patches: list[list[Tensor]] = [[] for _ in range(network.out_channels)]
    for batch, labels, _, _ in images.batches(32):
        features = network.features(batch)  # [B, D, *G]
        maps = classifier.class_activation(features).flatten(2)  # [B, K, N]
        flat = features.flatten(2)  # [B, D, N]
        count = max(1, round(CELL_SHARE * flat.shape[2]))
        for b, label in enumerate(labels):
            others = (maps[b].sum(dim=0) - maps[b, label]) / (maps.shape[1] - 1)
            cells = (maps[b, label] - others).topk(count).indices
            patches[label].append(flat[b][:, cells].T)  # [count, D]
    for k, own in enumerate(patches):
        members = (network.prototype_class == k).nonzero().flatten()
        points = torch.cat(own)
        if network.prototype_layer.kind == "cosine":
            points = functional.normalize(points, dim=1)
        # Fewer patches than prototypes: the rest keep their random start; projection drops them.
        clusters = min(len(members), len(points))
        means = KMeans(n_clusters=clusters, n_init=4, random_state=seed).fit(points.numpy())
        centers = torch.from_numpy(means.cluster_centers_).to(network.prototype_layer.vectors)
        network.prototype_layer.vectors[members[:clusters]] = centers
    logger.info("prototypes start at the centres of their classes' most telling patches.")
