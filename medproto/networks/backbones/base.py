"""What all backbones share: arguments, the normalization of the input, the way to the features.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S`` spatial axes of the
image, ``*G`` of the feature cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...records import CellGrid

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "Normalization", "Weights"]

Weights = str | Path | None
"""``"package"``, ``"download"``, the path of a file, or ``None`` for a random start."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue over the ImageNet training images, values in [0, 1]."""


class Backbone(nn.Module):
    """A network from an image to feature cells whose places are known.

    Args:
        name: as :func:`build_backbone` takes it.
        spatial_dims: one of :attr:`DIMS`.
        in_channels: ``C``, at least 1; with pretrained weights 1 or 3.
        image_size: ``*S``.
        stage: last stage kept, 1 to :attr:`STAGES`; ``None`` is the deepest.
        weights: see :data:`Weights`; pretrained ones are for 2-D.

    Attributes:
        out_channels: ``D``.
        grid: place, stride and theoretical receptive field of the cells.
        whole_image: a cell sees the whole image by another way than its field (squeeze-and-excite,
            or an own network without a compact field).
        arguments: what rebuilds the same network by :func:`build_backbone`, without the weights.
        weights_digest: ``sha256:<hex>`` of the weight file, ``None`` for a random start.

    Raises:
        ValueError: if an argument is outside the range given above.
    """

    DIMS: ClassVar[tuple[int, ...]] = (2, 3)
    STAGES: ClassVar[int]

    out_channels: int
    grid: CellGrid
    whole_image: bool = False

    def __init__(
        self,
        name: str,
        spatial_dims: int,
        in_channels: int,
        *,
        image_size: Sequence[int],
        stage: int | None,
        weights: Weights,
    ) -> None:
        super().__init__()
        if spatial_dims not in self.DIMS:
            allowed = " or ".join(str(n) for n in self.DIMS)
            raise ValueError(f"spatial_dims must be {allowed} for {name}, got {spatial_dims}.")
        if len(image_size) != spatial_dims or min(image_size) < 1:
            raise ValueError(
                f"image_size must be {spatial_dims} values >= 1, got {list(image_size)}."
            )
        self.stage = self.STAGES if stage is None else stage
        if not 1 <= self.stage <= self.STAGES:
            raise ValueError(f"stage must be 1 to {self.STAGES} for {name}, got {stage}.")
        if weights is not None and spatial_dims != 2:
            raise ValueError("pretrained weights exist for spatial_dims=2 only; pass weights=None.")
        if in_channels < 1 or (weights is not None and in_channels not in (1, 3)):
            raise ValueError(
                f"in_channels must be 1 or 3 with pretrained weights, >= 1 without, "
                f"got {in_channels}."
            )
        self.weights_digest: str | None = None
        self.arguments: dict[str, Any] = {
            "name": name,
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "image_size": list(image_size),
            "stage": self.stage,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[B, D, *G]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        raise NotImplementedError


class Normalization(nn.Module):
    """ImageNet normalization of values in [0, 1], the same with and without pretrained weights.

    In 2-D a gray image becomes three channels, each with the mean and deviation of its color: just
    what the three-channel network makes of the gray image repeated three times. Other inputs (3-D,
    or neither 1 nor 3 channels) take the means over the colors, 0.449 and 0.226, for each channel.

    Args:
        spatial_dims: 2 or 3.
        in_channels: ``C``.

    Attributes:
        out_channels: channels behind it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        colored = spatial_dims == 2 and in_channels in (1, 3)
        self.out_channels = 3 if colored else in_channels
        if not colored:
            mean, std = mean.mean(dim=0, keepdim=True), std.mean(dim=0, keepdim=True)
        shape = (1, -1, *(1 for _ in range(spatial_dims)))
        self.register_buffer("mean", mean.reshape(shape), persistent=False)
        self.register_buffer("std", std.reshape(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, 3 or C, *S]`` for images ``[B, C, *S]``."""
        return (x - self.mean) / self.std
