"""Phase 3: compute the scores once and solve the last layer to a certified optimum.

Symbols: ``N`` images, ``P`` prototypes, ``K`` classes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medproto.last_layer import (
    LastLayerSolution,
    replace_source_scores,
    score_floors,
    solve_head,
)
from medproto.networks import ProtoPNet

from .config_sections import LastLayerConfig
from .datasets import ImageSet
from .inference import count_from_floor, infer_similarities

__all__ = ["class_weights", "fit_last_layer", "keep_scores"]

logger = logging.getLogger("medproto.train")


def class_weights(labels: NDArray[Any], num_classes: int) -> list[float]:
    """Return ``N / (K N_k)``: inverse frequency, 1 on average over the images.

    For findings, labels ``[N, K]``, the certain cases without over those with each finding: what
    its presence weighs against its absence.
    """
    if labels.ndim == 2:
        return ((labels == 0).sum(axis=0) / (labels == 1).sum(axis=0)).tolist()
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * counts)).tolist()


def fit_last_layer(
    network: ProtoPNet,
    train: ImageSet,
    val: ImageSet,
    source_positions: list[int],
    config: LastLayerConfig,
    *,
    weighted: bool,
    scores_path: Path,
) -> LastLayerSolution:
    """Set the floors where there are none yet, solve the last layer, in place, keep the scores.

    Args:
        source_positions: ``[P]`` position in ``train`` of each prototype's source image. There a
            prototype scores its bound by construction, so that score is replaced.
        weighted: weight the cross-entropy by inverse class frequency.
        scores_path: ``.npz`` for scores and labels of both sets, for solving again later.
    """
    labels = train.labels
    prototype_class = network.prototype_class.cpu().numpy()
    similarities = infer_similarities(network, train)
    if config.floor is not None and network.floor.isinf().all():
        floors = score_floors(similarities, labels, prototype_class, quantile=config.floor)
        network.floor.copy_(torch.from_numpy(floors))
    scores = count_from_floor(network, similarities)
    replaced = replace_source_scores(scores, labels, prototype_class, np.asarray(source_positions))
    solution = solve_head(
        network.head,
        replaced,
        labels,
        prototype_class,
        num_classes=network.num_classes,
        class_weights=class_weights(train.labels, network.num_classes) if weighted else None,
        l1=config.l1,
        ridge=config.ridge,
    )
    if not solution.converged:
        logger.warning(
            "the last layer did not reach its optimum: residual %.1e after %d iterations.",
            solution.residual,
            solution.iterations,
        )
    if not solution.weights.any():
        logger.warning(
            "all weights of the last layer are zero: no prototype speaks for its class on the "
            "training images, so no evidence counts and all predictions are alike."
        )
    with torch.no_grad():
        network.last_layer.weight.copy_(torch.from_numpy(solution.weights))
        network.last_layer.bias.copy_(torch.from_numpy(solution.bias))
    keep_scores(network, train, val, source_positions, scores_path, train_similarities=similarities)
    return solution


def keep_scores(
    network: ProtoPNet,
    train: ImageSet,
    val: ImageSet,
    source_positions: list[int],
    path: Path,
    *,
    train_similarities: NDArray[np.float64] | None = None,
) -> None:
    """Write similarities, not counted from the floor, and labels of both sets to the ``.npz``.

    Args:
        train_similarities: where they are known already.
    """
    np.savez(
        path,
        train_scores=(
            infer_similarities(network, train) if train_similarities is None else train_similarities
        ),
        train_labels=train.labels,
        train_rows=np.asarray(train.rows),
        val_scores=infer_similarities(network, val),
        val_labels=val.labels,
        val_rows=np.asarray(val.rows),
        source_positions=np.asarray(source_positions),
    )
