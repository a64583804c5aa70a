"""DenseNet-121 and 161 on MONAI's ``DenseNet``.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S``, ``*G`` image and cells.

References:
    [1] Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, table 1.
        https://arxiv.org/abs/1608.06993
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from monai.networks.nets import DenseNet
from torch import Tensor, nn

from ..receptive_field import cell_grid, windows_of
from .base import Backbone, Normalization, Weights
from .weights import copy_weights, read_weights, weight_file

__all__ = ["DenseNetBackbone"]

_SETTINGS: dict[str, dict[str, Any]] = {
    "densenet121": {"init_features": 64, "growth_rate": 32, "block_config": (6, 12, 24, 16)},
    "densenet161": {"init_features": 96, "growth_rate": 48, "block_config": (6, 12, 36, 24)},
}


class DenseNetBackbone(Backbone):
    """The first dense blocks of MONAI's ``DenseNet``, in its own modules.

    The features of a stage end with normalization and ReLU: behind the last block the published
    ones, behind an earlier block those of the transition that follows, without its convolution and
    pooling.

    Args:
        name: ``"densenet121"`` or ``"densenet161"``.
        spatial_dims: 2 or 3.
        in_channels: ``C``.
        image_size: ``*S``, at least 29 for all four stages.
        stage: last dense block kept, 1 to 4.
        weights: a file in torchvision's layout (``features.denseblock1.denselayer1.norm1.weight``
            or the older ``norm.1``), ``"download"`` for DenseNet-121, or ``None``.

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
        network = DenseNet(
            spatial_dims, self.normalization.out_channels, out_channels=1, **_SETTINGS[name]
        )
        if weights is not None:
            source, self.weights_digest = read_weights(weight_file(name, weights))
            copy_weights(
                network.features,
                _new_names(source),
                lambda key: "features." + key.replace(".layers.", "."),
                name=name,
                ignored=["classifier."],
            )
        self.features, norm = _cut(network, self.stage)
        self.out_channels = norm.num_features
        self.grid = cell_grid(image_size, windows_of(self.features, spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[B, D, *G]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        return self.features(self.normalization(x))


def _cut(network: DenseNet, stage: int) -> tuple[nn.Sequential, Any]:
    """Return the layers up to a dense block with the norm and ReLU behind it, and that norm."""
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in network.features.named_children():
        kept[name] = module
        if name == f"denseblock{stage}":
            break
    if stage == DenseNetBackbone.STAGES:
        norm, relu = network.features.norm5, network.class_layers.relu
        kept["norm5"] = norm
    else:
        transition = network.features.get_submodule(f"transition{stage}")
        norm, relu = transition.norm, transition.relu
        # The transition's own name, so that the state dict keeps MONAI's names.
        kept[f"transition{stage}"] = nn.Sequential(OrderedDict(norm=norm))
    kept["relu"] = relu
    return nn.Sequential(kept), norm


def _new_names(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with ``norm.1`` of older files written ``norm1``."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
    return {old.sub(r"\1\2", key): value for key, value in source.items()}
