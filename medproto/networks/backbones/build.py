"""Backbones by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import Backbone, Weights
from .densenet import DenseNetBackbone
from .efficientnet import EfficientNetBackbone, Layout
from .efficientnet_lite import EfficientNetLite0
from .own import OwnBackbone
from .resnet import ResNetBackbone
from .vgg import VGGBackbone

__all__ = ["BACKBONES", "build_backbone"]

_FAMILIES: dict[str, Any] = {
    **dict.fromkeys(("vgg16", "vgg19"), VGGBackbone),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet152"), ResNetBackbone),
    **dict.fromkeys(("densenet121", "densenet161"), DenseNetBackbone),
}
_EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(4))

BACKBONES = ("efficientnet_lite0", *_EFFICIENTNETS, *_FAMILIES)
"""Names that :func:`build_backbone` knows, beside ``"package.module:factory"``."""


def build_backbone(
    name: str,
    spatial_dims: int,
    in_channels: int,
    *,
    image_size: Sequence[int],
    stage: int | None = None,
    weights: Weights = None,
    layout: Layout | None = None,
    measured: Mapping[str, Any] | None = None,
    trusted: bool = False,
) -> Backbone:
    """Build a backbone by its name.

    ``build_backbone(**backbone.arguments)`` builds the same network again without the weight file;
    its tensors then come from the state dict.

    Args:
        name: one of :data:`BACKBONES`, or ``"package.module:factory"`` for a network of one's own,
            where ``factory(spatial_dims, in_channels)`` returns a module from ``[B, C, *S]`` to
            ``[B, D, *G]``.
        spatial_dims: 2, or 3 for all but VGG.
        in_channels: ``C``; with pretrained weights 1 or 3.
        image_size: ``*S``. All axes equal for EfficientNets in MONAI's layout.
        stage: last stage kept: VGG 1 to 5, ResNet and DenseNet 1 to 4, EfficientNets 1 to 7, own
            networks 1. ``None`` is the deepest.
        weights: for 2-D: ``"package"`` (Lite0: ImageNet, installed with medproto), ``"download"``
            (ImageNet by MONAI: DenseNet-121, EfficientNet-B0 to B3), the path of a state dict in
            torchvision's layout (``.pth`` or ``.safetensors``), or ``None`` for a random start.
        layout: of EfficientNet-B0 to B3, ``"monai"`` or ``"torchvision"``; ``None`` follows the
            weights. It stands in ``arguments`` for a rebuild.
        measured: of an own network, from ``arguments``; ``None`` measures.
        trusted: the code of an own network may be imported although its name does not stand in the
            environment variable ``MEDPROTO_TRUSTED_BACKBONES``.

    Raises:
        ValueError: if an argument is outside the range given above, or an own network is untrusted.
        ModelFileError: if a weight file is missing, unreadable or of another network.

    Example:
        >>> net = build_backbone("resnet18", 2, 1, image_size=(96, 64), stage=3)
        >>> net.out_channels, net.grid.shape
        (256, (6, 4))
    """
    given: dict[str, Any] = {"image_size": image_size, "stage": stage, "weights": weights}
    own = ":" in name
    if layout is not None and name not in _EFFICIENTNETS:
        raise ValueError(f"layout must be None for {name}, got {layout!r}.")
    if measured is not None and not own:
        raise ValueError(f"measured must be None for {name}: its windows are known.")
    if own:
        if weights is not None or stage not in (None, 1):
            raise ValueError(
                f"stage and weights must be None (null in a configuration) for {name}: cut it and "
                f"load its weights in the factory. Got stage={stage}, weights={str(weights)!r}."
            )
        return OwnBackbone(
            name,
            spatial_dims,
            in_channels,
            image_size=image_size,
            trusted=trusted,
            measured=measured,
        )
    if name == "efficientnet_lite0":
        return EfficientNetLite0(spatial_dims, in_channels, **given)
    if name in _EFFICIENTNETS:
        return EfficientNetBackbone(name, spatial_dims, in_channels, layout=layout, **given)
    if name in _FAMILIES:
        return _FAMILIES[name](name, spatial_dims, in_channels, **given)
    raise ValueError(
        f"backbone must be one of {', '.join(BACKBONES)}, or 'package.module:factory', "
        f"got {name!r}."
    )
