"""Grad-CAM on a prototype network: a second opinion beside the evidence, not part of it.

Symbols: ``C`` image channels, ``*S`` image axes, ``*G`` feature cells.

captum's ``LayerGradCam`` [1] with ``relu_attributions=True``: the published method [2] keeps
positive parts only, captum's default does not. It explains the *same logit* as the evidence, at the
feature map the prototypes are compared with. The gradient passes through the pooling, so it comes
from the best-matching cells alone; the channel weights are then averaged over all cells.

References:
    [1] Kokhlikyan et al., "Captum", 2020. https://arxiv.org/abs/2009.07896
    [2] Selvaraju et al., "Grad-CAM", ICCV 2017, section 3. https://arxiv.org/abs/1610.02391
"""

from __future__ import annotations

import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch import Tensor

from ..networks import PlainClassifier, ProtoPNet

__all__ = ["GradCam"]


class GradCam:
    """Grad-CAM of a network at its feature layer.

    Args:
        network: in ``eval`` mode; left as found (hooks removed, gradients untouched).
    """

    name = "Grad-CAM"
    description = "captum LayerGradCam, ReLU on"

    def __init__(self, network: ProtoPNet | PlainClassifier) -> None:
        self._network = network

    def attribute(self, image: Tensor, target: int) -> NDArray[np.float32]:
        """Return the map ``[*G]``, >= 0, of ``image [C, *S]`` for the logit ``target``."""
        method = LayerGradCam(self._network, self._network.feature_layer)
        with torch.enable_grad():
            leaf = image[None].detach().clone().requires_grad_(True)
            values = method.attribute(leaf, target=target, relu_attributions=True)
        return values[0, 0].detach().float().cpu().numpy()
