"""The plain classifier twin: the same features, averaged, and one linear layer.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``K`` classes, ``*S``, ``*G``
spatial axes of image and feature cells.

The twin answers what interpretability costs: same backbone, same stage, same epochs, no prototypes.
Its class activation map ``sum_d w[k, d] z[d]`` [1] also shows where the evidence of a class lies,
which the start of the prototypes makes use of.

References:
    [1] Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
        https://arxiv.org/abs/1512.04150
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .protopnet import ProtoPNet

__all__ = ["PlainClassifier"]


class PlainClassifier(nn.Module):
    """Global average pooling and a linear layer on the features of a :class:`ProtoPNet`.

    Args:
        network: its backbone and add-on layers are *shared*, not copied; training the classifier
            trains them too. Deep-copy the network first where that is not wanted.

    Example:
        >>> net = ProtoPNet(2, 1, 3, image_size=(64, 64), prototypes_per_class=1)
        >>> PlainClassifier(net).eval()(torch.rand(2, 1, 64, 64)).shape
        torch.Size([2, 3])
    """

    def __init__(self, network: ProtoPNet) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.add_on = network.add_on
        channels = network.prototype_layer.vectors.shape[1]
        self.dropout = nn.Dropout(0.2)
        self.class_layer = nn.Linear(channels, network.out_channels)

    @classmethod
    def copy_of(cls, classifier: PlainClassifier) -> PlainClassifier:
        """Return a copy that shares nothing with the original."""
        return copy.deepcopy(classifier)

    @property
    def feature_layer(self) -> nn.Module:
        """The layer whose output is averaged; Grad-CAM explains it."""
        return self.add_on

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``[B, D, *G]`` of images ``[B, C, *S]``."""
        return self.add_on(self.backbone(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, K]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        return self.class_layer(self.dropout(self.features(x).flatten(2).mean(dim=2)))

    def class_activation(self, features: Tensor) -> Tensor:
        """Return the class activation maps ``[B, K, *G]`` of ``features [B, D, *G]``, no bias."""
        return torch.einsum("kd,bd...->bk...", self.class_layer.weight, features)
