"""Losses on tensors; they know no network."""

from .prototype_costs import ClusterLoss, ProtoPNetLoss, SeparationLoss

__all__ = ["ClusterLoss", "ProtoPNetLoss", "SeparationLoss"]
