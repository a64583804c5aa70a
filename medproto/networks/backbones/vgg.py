"""VGG-16 and VGG-19 without batch normalization, in MONAI's style.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S``, ``*G`` image and cells.

References:
    [1] Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
        Recognition", ICLR 2015, table 1, columns D and E. https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from monai.networks.layers.factories import Act, Conv, Pool
from torch import Tensor, nn

from ..receptive_field import cell_grid, windows_of
from .base import Backbone, Normalization, Weights
from .weights import copy_weights, read_weights, weight_file

__all__ = ["VGGBackbone"]

_CHANNELS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


class VGGBackbone(Backbone):
    """Blocks of 3x3 convolutions, each block with its pooling, as the published ProtoPNet has it.

    Args:
        name: ``"vgg16"`` or ``"vgg19"``.
        spatial_dims: 2.
        in_channels: ``C``.
        image_size: ``*S``, each at least ``2 ** stage``.
        stage: last block kept, 1 to 5.
        weights: a file in torchvision's layout (``features.N.weight``), or ``None``.

    Raises:
        ValueError: if an argument is outside the range given above.
        ModelFileError: if the weight file does not fit.
    """

    DIMS: ClassVar[tuple[int, ...]] = (2,)
    STAGES: ClassVar[int] = 5

    def __init__(
        self,
        name: str,
        spatial_dims: int,
        in_channels: int,
        *,
        image_size: Sequence[int],
        stage: int | None = None,
        weights: Weights = None,
    ) -> None:
        super().__init__(
            name, spatial_dims, in_channels, image_size=image_size, stage=stage, weights=weights
        )
        self.normalization = Normalization(spatial_dims, in_channels)
        layers, ends = _layers(name, spatial_dims, self.normalization.out_channels)
        if weights is not None:
            source, self.weights_digest = read_weights(weight_file(name, weights))
            copy_weights(
                layers, source, lambda key: f"features.{key}", name=name, ignored=["classifier."]
            )
        self.features = layers[: ends[self.stage - 1]]
        self.out_channels = _CHANNELS[self.stage - 1]
        self.grid = cell_grid(image_size, windows_of(self.features, spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[B, D, *G]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        return self.features(self.normalization(x))


def _layers(name: str, dims: int, in_channels: int) -> tuple[nn.Sequential, list[int]]:
    """Return all layers, numbered as in torchvision, and the end of each block."""
    layers: list[nn.Module] = []
    ends: list[int] = []
    for channels, repeats in zip(_CHANNELS, _CONVOLUTIONS[name], strict=True):
        for _ in range(repeats):
            conv = Conv[Conv.CONV, dims](in_channels, channels, kernel_size=3, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            layers += [conv, Act[Act.RELU](inplace=True)]
            in_channels = channels
        layers.append(Pool[Pool.MAX, dims](kernel_size=2, stride=2))
        ends.append(len(layers))
    return nn.Sequential(*layers), ends
