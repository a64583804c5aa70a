"""Run a network over a set of images, in the order of the set, as prediction does."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medproto.networks import ProtoPNet

from .datasets import ImageSet

__all__ = ["infer_logits", "infer_scores"]

BATCH = 32


@torch.no_grad()
def infer_logits(network: nn.Module, images: ImageSet) -> NDArray[np.float64]:
    """Return logits ``[N, K]`` in ``eval`` mode."""
    network.eval()
    parts = [network(batch).double() for batch, *_ in images.batches(BATCH)]
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def infer_scores(network: ProtoPNet, images: ImageSet) -> NDArray[np.float64]:
    """Return pooled similarities ``[N, P]`` in ``eval`` mode."""
    network.eval()
    parts = [network.evidence(batch).scores.double() for batch, *_ in images.batches(BATCH)]
    return torch.cat(parts).cpu().numpy()
