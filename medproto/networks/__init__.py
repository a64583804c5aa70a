"""Networks in MONAI's contract: ``ProtoPNet`` and its parts, and the plain classifier twin."""

from .backbones import BACKBONES, EfficientNetLite0, build_backbone
from .memory_format import use_channels_last
from .model_file import ModelCard, load_model, save_model, tensor_digest
from .protopnet import ProtoPNet, ProtoPNetOutput
from .prototype_layer import PrototypeLayer
from .twin import PlainClassifier

__all__ = [
    "BACKBONES",
    "EfficientNetLite0",
    "ModelCard",
    "PlainClassifier",
    "ProtoPNet",
    "ProtoPNetOutput",
    "PrototypeLayer",
    "build_backbone",
    "load_model",
    "save_model",
    "tensor_digest",
    "use_channels_last",
]
