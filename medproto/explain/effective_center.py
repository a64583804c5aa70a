"""Measure where the evidence really lies: the place that a similarity rests on.

Symbols: ``B`` batch, ``C`` image channels, ``P`` prototypes, ``n`` axes, ``*S`` image axes.

Size, stride and padding give the centre of a feature cell's *theoretical* field. Trained filters
need not weigh it evenly: EfficientNet-Lite0 with its ImageNet weights looks 5 to 7 pixels to the
leading side of it at stride 16 [1], and a network that has learned a cohort may answer a whole cell
beside the finding, or in two cells of which it lies in one (measured, ``docs/cell-grid.md``). A map
drawn on the theoretical centres is displaced by as much, which on a small finding is the difference
between hit and miss. So the displacement of what is *drawn*, the box, is measured on the trained
network and kept in the model file: one displacement for all cells, and a further one for each
prototype, since prototypes of one network differ by half a cell and more.

What is measured is an attribution (:mod:`.attribution`), not a sensitivity.

References:
    [1] Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
        Networks", NeurIPS 2016. https://arxiv.org/abs/1701.04128
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..networks import ProtoPNet
from ..records import CellGrid
from .attribution import attribute_place
from .boxes import peak_boxes
from .prototype_boxes import unshifted_grid

__all__ = ["Shifts", "measure_shifts"]

WINDOW = 0.5
"""Side in strides of the window that attributions are averaged over; single pixels are noise."""

CELLS_POWER, PROTOTYPES_POWER = 2, 4
"""Of the attributions, as weights of their centroid. Faint ones far off draw it away from what the
evidence rests on; with the fourth power less so (measured, ``docs/cell-grid.md``)."""

FEWEST = 3
"""Images that a prototype must lead in to be given a displacement of its own."""


class Shifts(NamedTuple):
    """How far what evidence rests on lies from where it is drawn without them, network pixels.

    Args:
        cells: ``[n]``, of all cells: for the buffer ``center_shift``.
        prototypes: ``[P, n]``, of each prototype beside that: for the buffer ``prototype_shift``.
    """

    cells: Tensor
    prototypes: Tensor


def measure_shifts(network: ProtoPNet, batches: Iterable[Tensor]) -> Shifts:
    """Return the median displacements of what evidence rests on from its box.

    In each image the prototype that speaks most for a class other than the reference is looked at
    (evidence of absence has no place), at the cell where it answers most. The median, because some
    attributions lie far off. A prototype that leads in fewer than :data:`FEWEST` images has the
    median of all of them.

    It is looked at in the image as it is and turned round on all axes, and the medians averaged:
    what lies on one side of the findings in all images, like the bright layers of skin above those
    of ultrasound, draws the attributions there in whatever network, and is no displacement.

    Args:
        network: in ``eval`` mode; its own shifts have no effect and are not changed.
        batches: images ``[B, C, *S]``, best of such that show a finding.

    Raises:
        ValueError: if there is no image.
    """
    found: list[list[_Displacements]] = []
    for images in batches:
        leaders = _leaders(network, images)
        found.append([_displacements(network, v, leaders) for v in (images, _turned(images))])
    if not found:
        raise ValueError("batches must hold an image, got none.")
    views = [_Displacements(*map(torch.cat, zip(*view))) for view in zip(*found, strict=True)]
    cells = _median([view.cells for view in views])
    own = _median([view.prototypes for view in views]).repeat(len(network.prototype_class), 1)
    for p in range(len(own)):
        led = [view.prototypes[view.leaders == p] for view in views]
        if min(map(len, led)) >= FEWEST:
            own[p] = _median(led)
    return Shifts(cells, own - cells)


class _Displacements(NamedTuple):
    """Of ``B`` images in one view: the leading prototypes ``[B]``, and by each power ``[B, n]``."""

    leaders: Tensor
    cells: Tensor
    prototypes: Tensor


def _median(views: Sequence[Tensor]) -> Tensor:
    """Mean over the views of the interpolated medians of ``[N, n]``, ``[n]``; of none 0."""
    return torch.stack(
        [v.quantile(0.5, dim=0) if len(v) else v.new_zeros(v.shape[1]) for v in views]
    ).mean(dim=0)


def _turned(images: Tensor) -> Tensor:
    """Reverse all axes of ``[B, C, *S]``."""
    return images.flip(tuple(range(2, images.ndim)))


def _displacements(network: ProtoPNet, images: Tensor, leaders: Tensor) -> _Displacements:
    """Return what evidence rests on minus the centre of its box, where it rests on anything."""
    grid = unshifted_grid(network)
    peaks = _peaks(network, images, leaders)
    rests = attribute_place(
        _Picked(network), images, leaders, peaks, stride=max(grid.stride), window=WINDOW
    )
    most = rests.abs().amax(dim=tuple(range(1, rests.ndim)), keepdim=True)
    some = most.flatten() > 0
    rests = (rests / most)[some]  # its fourth power must not vanish
    drawn = _box_centers(network, grid, images, leaders, peaks)[some]
    cells, prototypes = (
        _centroids(rests**power) - drawn for power in (CELLS_POWER, PROTOTYPES_POWER)
    )
    return _Displacements(leaders.cpu()[some], cells, prototypes)


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
def _leaders(network: ProtoPNet, images: Tensor) -> Tensor:
    """Return the prototype ``[B]`` that speaks most in each image."""
    output = network.evidence(images)
    logits = output.logits.clone()
    if network.head in ("multiclass", "binary"):
        logits[:, 0] = -torch.inf
    contributions = network.last_layer.weight[logits.argmax(dim=1)] * output.scores
    return contributions.argmax(dim=1)


@torch.no_grad()
def _peaks(network: ProtoPNet, images: Tensor, prototypes: Tensor) -> Tensor:
    """Return the cell ``[B, n]`` in which one prototype answers most in each image."""
    rows = torch.arange(len(images), device=images.device)
    return network.evidence(images).locations[rows, prototypes]


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
