"""Start of the prototypes: k-means on the patches that speak most for their class.

Symbols: ``B`` batch, ``D`` channels, ``K`` classes, ``*G`` feature cells.

Most cells of an image show nothing that tells its class, so centres of *all* own-class patches are
centres of background. The classifier that was trained on the same features says which cells speak
for a class: its class activation map, against the mean of the other classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

from medproto.networks import PlainClassifier, ProtoPNet
from medproto.records import HeadKind

from .datasets import ImageSet

__all__ = ["center_logits", "shown_classes", "start_prototypes"]

logger = logging.getLogger("medproto.train")

CELL_SHARE = 0.03
"""Share of an image's cells that are looked at, at least one: findings are small."""


@torch.no_grad()
def start_prototypes(
    network: ProtoPNet,
    classifier: PlainClassifier,
    images: ImageSet,
    *,
    seed: int,
    cells: Tensor | None = None,
) -> None:
    """Set the prototype vectors to the cluster centres of each class, in place.

    For the cosine similarity patches are scaled to unit length first, since only their direction
    counts.

    Args:
        cells: ``[N, *H]`` bool by position of the image, patches to look at, where ``*H`` are the
            places of a prototype; ``None`` is all.
    """
    network.eval()
    classifier.eval()
    patches: list[list[Tensor]] = [[] for _ in range(network.num_classes)]
    layer = network.prototype_layer
    for batch, labels, positions, _ in images.batches(32):
        features = network.features(batch)  # [B, D, *G]
        maps = classifier.class_activation(features).flatten(2)  # [B, K, N]
        flat = layer.patches(features).flatten(2)  # [B, D * size, N]
        if layer.size:
            maps = _centered(maps.unflatten(2, features.shape[2:]), layer.size)
        count = max(1, round(CELL_SHARE * flat.shape[2]))
        for b, label in enumerate(labels):
            for k in shown_classes(label):
                speaking = _speaking(maps[b], k, network.head)
                if cells is not None:
                    speaking = speaking.masked_fill(~cells[positions[b]].flatten(), -torch.inf)
                best = speaking.topk(count)
                chosen = best.indices[best.values > -torch.inf]
                patches[k].append(flat[b][:, chosen].T)  # [count or fewer, D]
    for k, own in enumerate(patches):
        members = (network.prototype_class == k).nonzero().flatten()
        if not len(members) or not own:
            continue
        points = torch.cat(own)
        if layer.kind == "cosine":
            points = functional.normalize(points, dim=1)
        # Fewer patches than prototypes: the rest keep their random start; projection drops them.
        clusters = min(len(members), len(points))
        means = KMeans(n_clusters=clusters, n_init=4, random_state=seed).fit(points.numpy())
        centers = torch.from_numpy(means.cluster_centers_).to(layer.vectors)
        layer.vectors[members[:clusters]] = centers.reshape(clusters, *layer.vectors.shape[1:])
    logger.info("prototypes start at the centres of their classes' most telling patches.")


@torch.no_grad()
def center_logits(network: ProtoPNet, images: ImageSet) -> None:
    """Set the biases such that each logit is 0 on average over the images, in place.

    For heads of sigmoids: similarities are positive, so their sum over the prototypes of a finding
    would call it present in every image, with a loss that tells the images apart no more. A softmax
    takes no notice of what all logits have in common.
    """
    network.eval()
    logits = torch.cat([network(batch) for batch, *_ in images.batches(32)])
    network.last_layer.bias.sub_(logits.mean(dim=0))


def shown_classes(label: int | Sequence[float]) -> list[int]:
    """Return the classes that an image is known to show."""
    return [label] if isinstance(label, int) else [k for k, y in enumerate(label) if y == 1]


def _speaking(maps: Tensor, label: int, head: HeadKind) -> Tensor:
    """Return how much each cell ``[N]`` speaks for a class, from the activation maps ``[K, N]``.

    Against the mean of the other classes; for grades, for having passed the threshold below and not
    the one above; findings do not exclude each other.
    """
    if head == "multilabel":
        return maps[label]
    if head != "ordinal":
        return maps[label] - (maps.sum(dim=0) - maps[label]) / (len(maps) - 1)
    below = maps[label - 1] if label > 0 else torch.zeros_like(maps[0])
    above = maps[label] if label < len(maps) else torch.zeros_like(maps[0])
    return below - above


def _centered(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the mean ``[B, K, N]`` of maps ``[B, K, *H]`` over each patch of ``size`` cells."""
    for axis, side in enumerate(size):
        maps = maps.unfold(2 + axis, side, 1).mean(dim=-1)
    return maps.flatten(2)
