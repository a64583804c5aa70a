"""Evidence of one prediction: every prototype's similarity, weight, contribution, box and source.

Symbols: ``C`` image channels, ``P`` prototypes, ``K`` classes, ``*S`` axes of the network's input,
``*G`` of the feature cells.

The explanation *is* the computation: contributions (similarity x weight) and the bias sum to the
logit, and :func:`explain` refuses to return one that does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CompletenessError
from ..metrics import probabilities
from ..networks import ProtoPNet, ProtoPNetOutput
from ..records import (
    Explanation,
    ImageReference,
    PixelBox,
    Placement,
    Prediction,
    PrototypeEvidence,
    PrototypeSource,
)
from .faithfulness import box_faithfulness
from .geometry import cells_to_network, cells_to_stored, peak_box

__all__ = ["COMPLETENESS_TOLERANCE", "explain", "heat_maps", "network_box", "source_box"]

COMPLETENESS_TOLERANCE = 1e-4
"""Largest difference of sum and logit that float32 arithmetic may cause."""

NetworkBox = tuple[tuple[float, ...], tuple[float, ...]]


@torch.no_grad()
def explain(
    network: ProtoPNet,
    image: Tensor,
    *,
    reference: ImageReference,
    placement: Placement,
    classes: Sequence[str],
    sources: Sequence[PrototypeSource],
    model_digest: str,
    faithfulness: int = 5,
) -> Explanation:
    """Predict one image and account for the logits.

    Args:
        network: projected, in ``eval`` mode.
        image: ``[C, *S]``, preprocessed as for training.
        reference: what is known of the stored image.
        placement: where the stored image lies in ``image``.
        classes: names of the classes, grades or findings.
        sources: ``[P]`` where the prototypes came from, in order.
        model_digest: identity of the model.
        faithfulness: number of largest absolute contributions to each shown logit whose boxes are
            measured.

    Raises:
        CompletenessError: if contributions and bias do not sum to the logits within 1e-4.
        ValueError: if ``sources`` or ``classes`` do not fit the network.
    """
    _check_lengths(network, classes, sources)
    output = network.evidence(image[None])
    prediction = _prediction(network, output, reference, classes, model_digest)
    scores = output.scores[0].double().cpu().numpy()  # [P]
    weights = network.last_layer.weight.double().cpu().numpy()  # [K, P]
    bias = network.last_layer.bias.double().cpu().numpy()  # [K]
    contributions = weights * scores  # [K, P]
    total = contributions.sum(axis=1) + bias
    error = float(np.abs(total - np.asarray(prediction.logits)).max())
    if not error < COMPLETENESS_TOLERANCE:
        raise CompletenessError(
            f"contributions and bias must sum to the logit within {COMPLETENESS_TOLERANCE:g}, "
            f"the largest difference is {error:g}. Is the last layer run in reduced precision?"
        )
    boxes = [network_box(network, output, p, image.shape[1:]) for p in range(len(scores))]
    shown = -np.abs(contributions[list(prediction.shown_logits)])  # [shown, P]
    chosen = dict.fromkeys(np.argsort(shown, axis=1, kind="stable")[:, :faithfulness].ravel())
    measured = box_faithfulness(network, image, [(int(p), boxes[p]) for p in chosen])
    evidence = tuple(
        PrototypeEvidence(
            prototype=p,
            class_index=sources[p].class_index,
            class_name=sources[p].class_name,
            similarity=float(scores[p]),
            weights=tuple(weights[:, p].tolist()),
            contributions=tuple(contributions[:, p].tolist()),
            cell=tuple(output.locations[0, p].tolist()),
            box=(box := placement.box_to_stored(*boxes[p])),
            box_mm=box.to_mm(reference.spacing_mm) if reference.spacing_mm else None,
            source=sources[p],
            faithfulness=measured.get(p),
        )
        for p in range(len(scores))
    )
    return Explanation(prediction, evidence, tuple(bias.tolist()), error)


def _check_lengths(
    network: ProtoPNet, classes: Sequence[str], sources: Sequence[PrototypeSource]
) -> None:
    prototypes = len(network.prototype_class)
    if len(classes) != network.num_classes or len(sources) != prototypes:
        raise ValueError(
            f"classes and sources must have {network.num_classes} and {prototypes} entries, got "
            f"{len(classes)} and {len(sources)}. Project the prototypes first."
        )


def _prediction(
    network: ProtoPNet,
    output: ProtoPNetOutput,
    reference: ImageReference,
    classes: Sequence[str],
    model_digest: str,
) -> Prediction:
    logits = output.logits[0].double().cpu()
    return Prediction(
        reference=reference,
        classes=tuple(classes),
        logits=tuple(logits.tolist()),
        probabilities=tuple(probabilities(logits[None].numpy(), head=network.head)[0].tolist()),
        model_digest=model_digest,
        dtype=str(output.similarities.dtype).removeprefix("torch."),
        head=network.head,
    )


def network_box(
    network: ProtoPNet, output: ProtoPNetOutput, prototype: int, network_shape: Sequence[int]
) -> NetworkBox:
    """Box of one prototype in the first image of ``output``; positions in network pixels."""
    values = output.similarities[0, prototype].float().cpu().numpy()
    heat = cells_to_network(values, network.grid, tuple(network_shape))
    return peak_box(heat, network.grid.center(output.locations[0, prototype].tolist()))


@torch.no_grad()
def heat_maps(
    network: ProtoPNet, image: Tensor, prototypes: Sequence[int], placement: Placement
) -> dict[int, NDArray[np.float32]]:
    """Similarity maps of some prototypes on the stored pixels ``[*S]`` of one image ``[C, *S]``."""
    output = network.evidence(image[None])
    return {
        p: cells_to_stored(output.similarities[0, p].float().cpu().numpy(), network.grid, placement)
        for p in prototypes
    }


def source_box(
    network: ProtoPNet, image: Tensor, placement: Placement, prototype: int, cell: Sequence[int]
) -> PixelBox:
    """Box of a prototype on its own source image ``[C, *S]``, in stored pixels, round ``cell``."""
    with torch.no_grad():
        output = network.evidence(image[None])
    values = output.similarities[0, prototype].float().cpu().numpy()
    heat = cells_to_network(values, network.grid, tuple(image.shape[1:]))
    return placement.box_to_stored(*peak_box(heat, network.grid.center(cell)))
