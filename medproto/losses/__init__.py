"""Losses on tensors; they know no network."""

from .fine_annotation import FineAnnotationLoss
from .head_loss import HeadLoss
from .orthogonality import OrthogonalityLoss
from .patch_losses import ALL_CLASSES, ForbidLoss, KeepLoss
from .peak_in_mask import PeakInMaskLoss
from .protopnet_loss import ProtoPNetLoss, l1_of_other_classes
from .prototype_costs import ClusterLoss, SeparationLoss

__all__ = [
    "ALL_CLASSES",
    "ClusterLoss",
    "FineAnnotationLoss",
    "ForbidLoss",
    "HeadLoss",
    "KeepLoss",
    "OrthogonalityLoss",
    "PeakInMaskLoss",
    "ProtoPNetLoss",
    "SeparationLoss",
    "l1_of_other_classes",
]
