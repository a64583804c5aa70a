"""Add-on layers: 1x1 convolutions between the backbone and the prototypes.

Symbols: ``B`` batch, ``D`` channels, ``*G`` feature cells.

Both kinds end in a sigmoid, so that features lie in (0, 1) as the prototypes do at their start.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019, section 2.1 and the published code.
        https://arxiv.org/abs/1806.10574
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from monai.networks.layers import Conv
from torch import nn

__all__ = ["AddOn", "build_add_on"]

AddOn = Literal["bottleneck", "none", "regular"]


def build_add_on(
    kind: AddOn, spatial_dims: int, in_channels: int, channels: int
) -> tuple[nn.Module, int]:
    """Return the add-on layers and the number of channels behind them.

    Args:
        kind: ``"none"``; ``"regular"``: two convolutions, ReLU between; ``"bottleneck"``: rounds of
            two convolutions to half as many channels, but never fewer than ``channels``, ReLU
            behind each but the last, which ends in the sigmoid; at least one round.
        spatial_dims: 2 or 3.
        in_channels: of the backbone's features.
        channels: ``D`` behind the layers; without effect for ``"none"``.

    Raises:
        ValueError: if there is no such kind, or ``channels`` is below 1.
    """
    if kind not in get_args(AddOn):
        raise ValueError(f"add_on must be one of {', '.join(get_args(AddOn))}, got {kind!r}.")
    if kind == "none":
        return nn.Identity(), in_channels
    if channels < 1:
        raise ValueError(f"prototype_channels must be >= 1, got {channels}.")
    widths = [(in_channels, channels)]
    if kind == "bottleneck":
        widths = list(_halvings(in_channels, channels))
    convolution = Conv[Conv.CONV, spatial_dims]
    layers: list[nn.Module] = []
    for before, after in widths:
        layers += [convolution(before, after, kernel_size=1), nn.ReLU()]
        layers += [convolution(after, after, kernel_size=1), nn.ReLU()]
    layers[-1] = nn.Sigmoid()
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers), channels


def _halvings(before: int, channels: int) -> Iterator[tuple[int, int]]:
    while True:
        after = max(channels, before // 2)
        yield before, after
        if after <= channels:
            return
        before = after
