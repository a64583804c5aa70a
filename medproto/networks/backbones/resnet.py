"""ResNet-18, 34, 50 and 152 on MONAI's ``ResNet``.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S``, ``*G`` image and cells.

MONAI's defaults are not the published network: its stem has stride 1, its shortcuts are without
weights in the two shallow ones, and the convolutions of its shortcuts have a bias. torchvision's
tensors would partly load all the same, and give wrong features in silence. Here all three are set.
In the bottleneck the stride is on the 3x3 convolution, in MONAI as in torchvision.

References:
    [1] He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1.
        https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from monai.networks.nets import ResNet
from torch import Tensor, nn

from ..receptive_field import Window, cell_grid, window_of, windows_of
from .base import Backbone, Normalization, Weights
from .weights import copy_weights, read_weights, weight_file

__all__ = ["ResNetBackbone"]

_CHANNELS = (64, 128, 256, 512)
_BLOCKS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}


class ResNetBackbone(Backbone):
    """The stem and the first stages of MONAI's ``ResNet``, in its own modules.

    Args:
        name: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet152"``.
        spatial_dims: 2 or 3.
        in_channels: ``C``.
        image_size: ``*S``.
        stage: last stage kept, 1 to 4 (``layer1`` to ``layer4``).
        weights: a file in torchvision's layout (``layer1.0.conv1.weight``), or ``None``.

    Raises:
        ValueError: if an argument is outside the range given above.
        ModelFileError: if the weight file does not fit.
    """

    STAGES: ClassVar[int] = 4

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
        block, layers = _BLOCKS[name]
        network = ResNet(
            block,
            list(layers),
            list(_CHANNELS),
            spatial_dims=spatial_dims,
            n_input_channels=self.normalization.out_channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        if weights is not None:
            source, self.weights_digest = read_weights(weight_file(name, weights))
            copy_weights(network, source, lambda key: key, name=name, ignored=["fc."])
        self.conv1, self.bn1, self.act = network.conv1, network.bn1, network.act
        self.maxpool = network.maxpool
        for number in range(1, self.stage + 1):
            self.add_module(f"layer{number}", getattr(network, f"layer{number}"))
        self.out_channels = _CHANNELS[self.stage - 1] * (4 if block == "bottleneck" else 1)
        self.grid = cell_grid(image_size, self._windows(spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[B, D, *G]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        x = self.maxpool(self.act(self.bn1(self.conv1(self.normalization(x)))))
        for stage in self._stages():
            x = stage(x)
        return x

    def _stages(self) -> list[nn.Module]:
        return [self.get_submodule(f"layer{number}") for number in range(1, self.stage + 1)]

    def _windows(self, dims: int) -> Iterator[Window]:
        yield window_of(self.conv1, dims)
        yield window_of(self.maxpool, dims)
        for stage in self._stages():
            yield from windows_of(stage, dims, skip="downsample")
