"""Measure where the cells of an unknown network lie, from its input gradient.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S``, ``*G`` image and cells.

The support of the input gradient of a cell is its receptive field, and the middle of the support
its centre. Trained or random weights may hide a part of it (closed ReLUs, lost maxima), so the
gradient is taken on a *positive copy*: all weights positive, no bias, BatchNorm the identity,
maximum pooling replaced by average pooling, in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...records import CellGrid

__all__ = ["measure_grid"]

_ENLARGED = (1, 2, 4)
"""Factors by which an axis is enlarged until the field of inner cells fits into the image."""

_CELLS = 3
"""Neighbouring cells measured on each axis, around the middle."""

_AVERAGE: dict[type[nn.Module], Any] = {nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}


class _Axis(NamedTuple):
    first_center: float
    stride: float
    field: float | None


def measure_grid(
    network: nn.Module,
    in_channels: int,
    image_size: Sequence[int],
    shape: Sequence[int],
    *,
    seed: int = 0,
) -> tuple[CellGrid, bool]:
    """Return the grid of a network's cells, and whether a cell sees the whole image.

    On each axis the gradients of up to three neighbouring inner cells are taken, for an image that
    is enlarged along that axis (2 and 4 times, if the network takes such images) until their
    supports end inside. Centre and stride are then those of the middles of the supports, exact. If
    the supports never end inside, the cell counts as seeing the whole image; its centre is the
    centroid of the squared excess of the gradient over its median along the axis, and the stride is
    rounded to whole pixels when it is within 5 % of them: good to about a pixel.

    Args:
        network: maps ``[B, C, *S]`` to ``[B, D, *G]``; not changed.
        in_channels: ``C``.
        image_size: ``*S``.
        shape: ``*G``.
        seed: of the positive weights and of the image.
    """
    generator = torch.Generator().manual_seed(seed)
    positive = _positive_copy(network, generator)
    axes = []
    for axis in range(len(image_size)):
        found: _Axis | None = None
        for factor in _ENLARGED:
            size = [n * factor if a == axis else n for a, n in enumerate(image_size)]
            image = torch.rand((1, in_channels, *size), generator=generator, dtype=torch.float64)
            try:
                marginals = _marginals(positive, 0.5 + image / 2, axis)
            except (RuntimeError, ValueError, AssertionError):
                if found is None:
                    raise
                break  # it takes images of its own size only
            found = _axis(marginals, size[axis])
            if found.field is not None:
                break
        axes.append(found)
    grid = CellGrid(
        tuple(shape),
        tuple(a.first_center for a in axes if a),
        tuple(a.stride for a in axes if a),
        tuple(
            float(n if a.field is None else a.field)
            for a, n in zip(axes, image_size, strict=True)
            if a
        ),
    )
    return grid, any(a.field is None for a in axes if a)


def _positive_copy(network: nn.Module, generator: torch.Generator) -> nn.Module:
    positive = copy.deepcopy(network).cpu().double().eval()
    for parent in list(positive.modules()):
        for name, child in parent.named_children():
            average = _AVERAGE.get(type(child))
            pool: Any = child
            if average and pool.dilation in (1, (1, 1), (1, 1, 1)) and not pool.return_indices:
                replacement = average(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
                setattr(parent, name, replacement)
    with torch.no_grad():
        for name, value in positive.named_parameters():
            if value.ndim >= 2:
                draws = torch.rand(value.shape, generator=generator, dtype=value.dtype)
                value.copy_((0.5 + draws) / value[0].numel())
            else:
                value.fill_(0.0 if name.endswith("bias") else 1.0)
        for name, buffer in positive.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(0.0)
            elif name.endswith("running_var"):
                buffer.fill_(1.0)
    return positive


def _marginals(network: nn.Module, image: Tensor, axis: int) -> dict[int, Tensor]:
    """Return, for inner cells of an axis, the absolute input gradient summed over the others."""
    image.requires_grad_(True)
    features = network(image * 1.0)[0]  # [D, *G]
    # Unequal weights: the plain sum over the channels behind a LayerNorm is constant.
    channel = torch.linspace(0.5, 1.5, len(features), dtype=features.dtype)
    summed = torch.einsum("d,d...->...", channel, features)  # [*G]
    cells = summed.shape[axis]
    start = max(0, (cells - _CELLS) // 2)
    found = {}
    for number in range(start, min(start + _CELLS, cells)):
        cell = tuple(number if a == axis else n // 2 for a, n in enumerate(summed.shape))
        (gradient,) = torch.autograd.grad(summed[cell], image, retain_graph=True)
        others = [a for a in range(gradient.ndim) if a != axis + 2]
        found[number] = gradient.abs().sum(dim=others)
        if not found[number].any():
            raise ValueError("the features must depend on the image, but their gradient is 0.")
    return found


def _axis(marginals: dict[int, Tensor], size: int) -> _Axis:
    middles, fields = {}, []
    for number, marginal in marginals.items():
        covered = marginal.nonzero().flatten().tolist()
        if covered and covered[0] > 0 and covered[-1] < size - 1:
            middles[number] = (covered[0] + covered[-1] + 1) / 2
            fields.append(covered[-1] - covered[0] + 1)
    if len(middles) >= 2:
        stride = _slope(middles)
        number, middle = next(iter(middles.items()))
        return _Axis(middle - number * stride, stride, float(max(fields)))
    centroids = {number: _centroid(marginal) for number, marginal in marginals.items()}
    stride = _slope(centroids) if len(centroids) > 1 else float(size)
    if abs(stride - round(stride)) < 0.05 * stride:
        stride = float(round(stride))
    firsts = [middle - number * stride for number, middle in centroids.items()]
    return _Axis(sum(firsts) / len(firsts), stride, None)


def _slope(positions: dict[int, float]) -> float:
    first, last = min(positions), max(positions)
    return (positions[last] - positions[first]) / (last - first)


def _centroid(marginal: Tensor) -> float:
    weight = (marginal - marginal.median()).clamp_min(0).square()
    position = torch.arange(len(weight), dtype=weight.dtype) + 0.5
    return float((weight * position).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny))
