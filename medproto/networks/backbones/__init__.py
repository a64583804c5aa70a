"""Backbones: networks from an image to feature cells whose places are known."""

from .base import Backbone, Weights
from .build import BACKBONES, build_backbone
from .efficientnet_lite import LITE0_WEIGHTS_DIGEST, EfficientNetLite0

__all__ = [
    "BACKBONES",
    "LITE0_WEIGHTS_DIGEST",
    "Backbone",
    "EfficientNetLite0",
    "Weights",
    "build_backbone",
]
