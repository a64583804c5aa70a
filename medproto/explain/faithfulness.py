"""How far a shown box explains a similarity: blur away everything but the box, and the box itself.

A feature cell sees more of the image than the box drawn for it. So beside each box stands what the
similarity becomes when only the box is left, and when the box is taken away (spatial misalignment,
[1]). The change is a strong blur: gray levels and large shapes stay, detail goes.

References:
    [1] Sacha et al., "Interpretability Benchmark for Evaluating Spatial Misalignment of
        Prototypical Parts Explanations", AAAI 2024. https://arxiv.org/abs/2308.08162
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy import ndimage
from torch import Tensor

from ..networks import ProtoPNet
from ..records import BoxFaithfulness
from .boxes import Box

__all__ = ["BLUR_SHARE", "box_faithfulness"]

BLUR_SHARE = 1 / 16
"""Standard deviation of the blur as a share of each axis of the image."""


@torch.no_grad()
def box_faithfulness(
    network: ProtoPNet, image: Tensor, boxes: Sequence[tuple[int, Box]]
) -> dict[int, BoxFaithfulness]:
    """Measure boxes of one image.

    Args:
        network: in ``eval`` mode.
        image: ``[C, *S]``, preprocessed.
        boxes: ``(prototype, (start, stop))`` in network pixels, as of
            :func:`medproto.explain.peak_boxes`.

    Returns:
        The three pooled similarities of each prototype, by its index.
    """
    if not boxes:
        return {}
    sigma = [0.0, *(size * BLUR_SHARE for size in image.shape[1:])]
    pixels = image.detach().cpu().float().numpy()
    blurred = torch.from_numpy(ndimage.gaussian_filter(pixels, sigma)).to(image)
    variants = [image]
    for _, (start, stop) in boxes:
        inside = (
            slice(None),
            *(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)),
        )
        only_box, without_box = blurred.clone(), image.clone()
        only_box[inside] = image[inside]
        without_box[inside] = blurred[inside]
        variants += [only_box, without_box]
    scores = network.evidence(torch.stack(variants)).scores.cpu()  # [1 + 2 boxes, P]
    return {
        p: BoxFaithfulness(
            float(scores[0, p]), float(scores[1 + 2 * i, p]), float(scores[2 + 2 * i, p])
        )
        for i, (p, _) in enumerate(boxes)
    }
