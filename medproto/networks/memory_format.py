"""The memory format of weights: channels last, the same in training, projection and prediction.

On a CPU a forward pass of a network of depthwise convolutions takes half the time this way.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["use_channels_last"]


def use_channels_last(module: nn.Module) -> None:
    """Lay the parameters of a network of planes or volumes out with the channels last, in place."""
    # Not ``contiguous``: it leaves weights of one input channel, and of 1x1 kernels, as they are,
    # since these are contiguous in both senses; convolutions go by the strides all the same.
    volumes = any(parameter.ndim == 5 for parameter in module.parameters())
    layout = torch.channels_last_3d if volumes else torch.channels_last
    module.to(memory_format=layout)  # type: ignore[call-overload]
