"""Measure where a feature cell really looks: the place that its similarity rests on.

Symbols: ``B`` batch, ``C`` image channels, ``P`` prototypes, ``*S`` image axes.

Size, stride and padding give the centre of the *theoretical* field. Trained filters need not weigh
it evenly: EfficientNet-Lite0 with its ImageNet weights looks 5 to 7 pixels to the leading side of
it at stride 16 [1], and a network that has learned a cohort may answer a whole cell beside the
finding (measured, ``docs/cell-grid.md``). A map drawn on the theoretical centres is displaced by as
much, which on a small finding is the difference between hit and miss. So the displacement is
measured on the trained network and kept in the model file.

What is measured is an attribution, not a sensitivity: integrated gradients [2] from the blurred
image to the image itself. The squared gradient at the image alone also counts pixels that the
similarity would react to although it does not rest on them.

References:
    [1] Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
        Networks", NeurIPS 2016. https://arxiv.org/abs/1701.04128
    [2] Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, section 3.
        https://arxiv.org/abs/1703.01365
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from captum.attr import IntegratedGradients
from monai.networks.layers import GaussianFilter
from torch import Tensor, nn
from torch.nn import functional

from .protopnet import ProtoPNet

__all__ = ["measure_center_shift"]

STEPS = 8
"""Of the integral from the blurred image to the image."""

BLUR = 0.75
"""Standard deviation of the blur in strides: what a cell sees is gone, the light of the place is
not."""

WINDOW = 0.5
"""Side in strides of the window that attributions are averaged over; single pixels are noise."""


def measure_center_shift(network: ProtoPNet, batches: Iterable[Tensor]) -> tuple[float, ...]:
    """Return the median displacement of the effective from the theoretical centre, pixels per axis.

    In each image the prototype that speaks most for a class other than the reference is looked at
    (evidence of absence has no place), at the cell where it answers most: the box of the evidence
    is drawn there. The median, because some attributions lie far off.

    Args:
        network: in ``eval`` mode; its ``center_shift`` has no effect and is not changed.
        batches: images ``[B, C, *S]``, best of such that show a finding.

    Raises:
        ValueError: if there is no image.
    """
    grid = network.grid
    shift = torch.tensor(network.center_shift.tolist())
    picked = _Picked(network)
    attribution = IntegratedGradients(picked)
    displacements: list[Tensor] = []
    for images in batches:
        images = images.detach()
        prototypes, cells = _looked_at(network, images)
        stride = max(grid.stride)
        blurred = GaussianFilter(images.ndim - 2, BLUR * stride)(images)
        values = attribution.attribute(
            images,
            blurred,
            additional_forward_args=(prototypes, cells),
            n_steps=STEPS,
            method="riemann_middle",
            internal_batch_size=len(images),
        )
        weights = _averaged(values.sum(dim=1), stride).square().cpu()  # [B, *S]
        centers = torch.tensor([grid.center(cell) for cell in cells.tolist()])
        displacements.append(_centroids(weights) - centers + shift)
    if not displacements:
        raise ValueError("batches must hold an image, got none.")
    return tuple(torch.cat(displacements).quantile(0.5, dim=0).tolist())


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


def _averaged(values: Tensor, stride: float) -> Tensor:
    """Return ``[B, *S]`` averaged over a window of an odd side."""
    side = 2 * round(WINDOW * stride / 2) + 1
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[values.ndim - 1]
    return pool(values[:, None], side, stride=1, padding=side // 2)[:, 0]


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
