"""Measure where a feature cell really looks: the centre of its effective receptive field.

Symbols: ``B`` batch, ``C`` image channels, ``P`` prototypes, ``*S`` image axes, ``*G`` cells.

Size, stride and padding give the centre of the *theoretical* field. Trained filters need not weigh
it evenly: EfficientNet-Lite0 with its ImageNet weights looks 5 to 7 pixels to the leading side of
it at stride 16, with random weights it does not (measured, ``docs/cell-grid.md``). A map drawn on
the theoretical centres is displaced by as much, which on a small finding is the difference between
hit and miss. So the displacement is measured on the trained network and kept in the model file.

References:
    [1] Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
        Networks", NeurIPS 2016. https://arxiv.org/abs/1701.04128
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .protopnet import ProtoPNet

__all__ = ["measure_center_shift"]


def measure_center_shift(
    network: ProtoPNet, batches: Iterable[Tensor], *, seed: int = 0
) -> tuple[float, ...]:
    """Return the median displacement of the effective from the theoretical centre, pixels per axis.

    For each image one prototype is drawn, and the squared input gradient of its similarity at the
    inner cell where it answers most is taken as weight of the pixels [1]: maps and boxes are drawn
    there. Cells near the border are left out, since their fields are cut off. The median, because
    the gradient of some cells lies far off; the mean of 128 of them moves by a quarter of a cell
    from draw to draw (measured, ``docs/cell-grid.md``).

    Args:
        network: in ``eval`` mode; its ``center_shift`` has no effect and is not changed.
        batches: images ``[B, C, *S]``.
        seed: of the draw.

    Raises:
        ValueError: if there is no image.
    """
    generator = torch.Generator().manual_seed(seed)
    grid, layer = network.grid, network.prototype_layer
    shift = torch.tensor(network.center_shift.tolist())
    displacements: list[Tensor] = []
    for images in batches:
        images = images.detach().clone().requires_grad_(True)
        # By each patch itself: a centered (focal) similarity has a gradient everywhere.
        similarities = layer.similarity_of_patches(network.evidence(images).distances)
        picked, centers = [], []
        for b in range(len(images)):
            p = int(torch.randint(similarities.shape[1], (), generator=generator))
            inner = similarities[b, p].detach()[
                tuple(slice(n // 4, n - n // 4) for n in grid.shape)
            ]
            place = torch.unravel_index(inner.argmax(), inner.shape)
            cell = tuple(int(i) + n // 4 for i, n in zip(place, grid.shape))
            picked.append(similarities[(b, p, *cell)])
            centers.append(grid.center(cell))
        (gradient,) = torch.autograd.grad(torch.stack(picked).sum(), images)
        weights = gradient.square().sum(dim=1).cpu()  # [B, *S]
        displacements.append(_centroids(weights) - torch.tensor(centers) + shift)
    if not displacements:
        raise ValueError("batches must hold an image, got none.")
    return tuple(torch.cat(displacements).quantile(0.5, dim=0).tolist())


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
