"""Measure where the evidence really lies: the place that a similarity rests on.

Symbols: ``B`` batch, ``C`` image channels, ``P`` prototypes, ``n`` axes, ``*S`` image axes.

Size, stride and padding give the centre of a feature cell's *theoretical* field. Trained filters
need not weigh it evenly: EfficientNet-Lite0 with its ImageNet weights looks 5 to 7 pixels to the
leading side of it at stride 16 [1], and a network that has learned a cohort may answer a whole cell
beside the finding, or in two cells of which it lies in one (measured, ``docs/cell-grid.md``). A map
drawn on the theoretical centres is displaced by as much, which on a small finding is the difference
between hit and miss. So the displacement of what is *drawn*, the box, is measured on the trained
network and kept in the model file.

What is measured is an attribution (:mod:`.attribution`), not a sensitivity.

References:
    [1] Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
        Networks", NeurIPS 2016. https://arxiv.org/abs/1701.04128
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..networks import ProtoPNet
from ..records import CellGrid
from .attribution import attribute_place
from .boxes import peak_boxes

__all__ = ["measure_center_shift"]

WINDOW = 0.5
"""Side in strides of the window that attributions are averaged over; single pixels are noise."""


def measure_center_shift(network: ProtoPNet, batches: Iterable[Tensor]) -> tuple[float, ...]:
    """Return the median displacement of what evidence rests on from its box, pixels per axis.

    In each image the prototype that speaks most for a class other than the reference is looked at
    (evidence of absence has no place), at the cell where it answers most. The median, because some
    attributions lie far off.

    Each image is looked at as it is and turned round on all axes, and the two medians are averaged:
    what lies on one side of the findings in all images, like the bright layers of skin above those
    of ultrasound, draws the attributions there in whatever network, and is no displacement.

    Args:
        network: in ``eval`` mode; its ``center_shift`` has no effect and is not changed.
        batches: images ``[B, C, *S]``, best of such that show a finding.

    Raises:
        ValueError: if there is no image.
    """
    found = [
        [_displacements(network, view) for view in (images, _turned(images))] for images in batches
    ]
    if not found:
        raise ValueError("batches must hold an image, got none.")
    medians = [torch.cat(view).quantile(0.5, dim=0) for view in zip(*found, strict=True)]
    return tuple(torch.stack(medians).mean(dim=0).tolist())


def _turned(images: Tensor) -> Tensor:
    """Reverse all axes of ``[B, C, *S]``."""
    return images.flip(tuple(range(2, images.ndim)))


def _displacements(network: ProtoPNet, images: Tensor) -> Tensor:
    """Return what the evidence rests on minus the centre of its box, ``[B, n]``."""
    grid = _unshifted(network)
    prototypes, cells = _looked_at(network, images)
    rests = attribute_place(
        _Picked(network), images, prototypes, cells, stride=max(grid.stride), window=WINDOW
    )
    drawn = _box_centers(network, grid, images, prototypes, cells)
    return _centroids(rests.square()) - drawn


def _unshifted(network: ProtoPNet) -> CellGrid:
    places = zip(network.grid.first_center, network.center_shift.tolist(), strict=True)
    return replace(network.grid, first_center=tuple(c - s for c, s in places))


@torch.no_grad()
def _box_centers(
    network: ProtoPNet, grid: CellGrid, images: Tensor, prototypes: Tensor, cells: Tensor
) -> Tensor:
    """Return the centre ``[B, n]`` of the box that one prototype has in each image."""
    similarities = network.evidence(images).similarities
    own = similarities[torch.arange(len(images)), prototypes].float().cpu().numpy()
    boxes = torch.tensor(peak_boxes(own, grid, images.shape[2:], cells.tolist()))  # [B, 2, axes]
    return boxes.mean(dim=1)


class _Picked(nn.Module):
    """One similarity of each image.

    By each patch itself: a centered (focal) similarity rests on the whole image.
    """

    def __init__(self, network: ProtoPNet) -> None:
        super().__init__()
        self._network = network

    def forward(self, images: Tensor, prototypes: Tensor, cells: Tensor) -> Tensor:
        """Return ``[B]`` similarities of ``prototypes [B]`` at ``cells [B, axes]``."""
        distances = self._network.evidence(images).distances
        similarities = self._network.prototype_layer.similarity_of_patches(distances)
        rows = torch.arange(len(images), device=images.device)
        return similarities[(rows, prototypes, *cells.unbind(dim=1))]


@torch.no_grad()
def _looked_at(network: ProtoPNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prototype ``[B]`` of each image and the cell ``[B, axes]`` of its answer."""
    output = network.evidence(images)
    logits = output.logits.clone()
    if network.head in ("multiclass", "binary"):
        logits[:, 0] = -torch.inf
    contributions = network.last_layer.weight[logits.argmax(dim=1)] * output.scores
    prototypes = contributions.argmax(dim=1)
    rows = torch.arange(len(images), device=images.device)
    return prototypes, output.locations[rows, prototypes]


def _centroids(weights: Tensor) -> Tensor:
    """Return the weighted mean position ``[B, n]`` of ``weights [B, *S]``."""
    axes = range(1, weights.ndim)
    total = weights.sum(dim=tuple(axes)).clamp_min(torch.finfo(weights.dtype).tiny)
    centroids = []
    for axis in axes:
        marginal = weights.sum(dim=tuple(a for a in axes if a != axis))  # [B, size]
        position = torch.arange(marginal.shape[1]) + 0.5
        centroids.append((marginal * position).sum(dim=1) / total)
    return torch.stack(centroids, dim=1)
