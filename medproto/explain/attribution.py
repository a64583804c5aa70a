"""Where in an image a value of a network rests: integrated gradients [1], by captum.

Symbols: ``B`` batch, ``C`` image channels, ``*S`` image axes.

From the blurred image to the image itself: what a feature cell sees is gone in the one, the light
of the place is not. The gradient at the image alone would also count pixels that the value would
react to although it does not rest on them.

References:
    [1] Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, section 3.
        https://arxiv.org/abs/1703.01365
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import IntegratedGradients
from monai.networks.layers import GaussianFilter
from torch import Tensor
from torch.nn import functional

__all__ = ["attribute_place"]

STEPS = 8
"""Of the integral from the blurred image to the image."""

BLUR = 0.75
"""Standard deviation of the blur in strides of the feature cells."""


def attribute_place(
    forward: Callable[..., Tensor],
    images: Tensor,
    *arguments: Any,
    stride: float,
    window: float,
) -> Tensor:
    """Return how much of one value per image rests on each place, ``[B, *S]`` on the CPU.

    Args:
        forward: ``images [B, C, *S]`` and ``arguments`` to ``[B]`` values.
        images: they need no gradient.
        arguments: tensors with one entry for each image, or anything that is no tensor.
        stride: of the feature cells in pixels, the unit of blur and window.
        window: side in strides of the window that attributions are averaged over; those of single
            pixels are noise.
    """
    images = images.detach()
    blur = GaussianFilter(images.ndim - 2, BLUR * stride).to(images.device)
    # It counts what lies beyond the image as 0; the share of that is taken out again.
    blurred = blur(images) / blur(torch.ones_like(images))
    with torch.enable_grad():
        values = IntegratedGradients(forward).attribute(
            images,
            blurred,
            additional_forward_args=arguments or None,
            n_steps=STEPS,
            method="riemann_middle",
            internal_batch_size=len(images),
        )
    return _averaged(values.detach().sum(dim=1), window * stride).cpu()


def _averaged(values: Tensor, side: float) -> Tensor:
    """Return ``[B, *S]`` averaged over a window of an odd side, about ``side``."""
    odd = 2 * round(side / 2) + 1
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[values.ndim - 1]
    return pool(values[:, None], odd, stride=1, padding=odd // 2)[:, 0]
