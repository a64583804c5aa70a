"""Run a network over a set of images, in the order of the set, as prediction does."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medproto.networks import ProtoPNet

from .datasets import ImageSet

__all__ = ["count_from_floor", "infer_logits", "infer_similarities", "pooled_similarities"]

BATCH = 32


@torch.no_grad()
def infer_logits(network: nn.Module, images: ImageSet) -> NDArray[np.float64]:
    """Return logits ``[N, K]`` in ``eval`` mode."""
    network.eval()
    parts = [network(batch).double() for batch, *_ in images.batches(BATCH)]
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def infer_similarities(network: ProtoPNet, images: ImageSet) -> NDArray[np.float64]:
    """Return pooled similarities ``[N, P]`` in ``eval`` mode, not counted from the floor."""
    network.eval()
    parts = [pooled_similarities(network, batch) for batch, *_ in images.batches(BATCH)]
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def pooled_similarities(network: ProtoPNet, images: Tensor) -> Tensor:
    """Return the same ``[B, P]``, float64, for images ``[B, C, *S]``, in the mode that it is in."""
    return network.pool(network.evidence(images).similarities).double()


def count_from_floor(network: ProtoPNet, similarities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores ``[N, P]`` that the network makes of pooled similarities."""
    pooled = torch.from_numpy(similarities).float().to(network.floor.device)
    return network.above_floor(pooled).double().cpu().numpy()
