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
from .boxes import Box
from .faithfulness import box_faithfulness
from .geometry import CellMap
from .prototype_boxes import prototype_boxes, prototype_grid

__all__ = [
    "COMPLETENESS_TOLERANCE",
    "explain",
    "explain_batch",
    "heat_maps",
    "network_box",
    "source_box",
]

COMPLETENESS_TOLERANCE = 1e-4
"""Largest difference of sum and logit that float32 arithmetic may cause."""


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
    (explanation,) = explain_batch(
        network,
        image[None],
        references=[reference],
        placements=[placement],
        classes=classes,
        sources=sources,
        model_digest=model_digest,
        faithfulness=faithfulness,
    )
    return explanation


@torch.no_grad()
def explain_batch(
    network: ProtoPNet,
    images: Tensor,
    *,
    references: Sequence[ImageReference],
    placements: Sequence[Placement],
    classes: Sequence[str],
    sources: Sequence[PrototypeSource],
    model_digest: str,
    faithfulness: int = 5,
) -> list[Explanation]:
    """Predict images ``[B, C, *S]`` in one pass and account for the logits of each.

    Arguments and errors as of :func:`explain`, with a reference and a placement for each image. The
    similarities may differ from those of one image alone in the last digits.
    """
    _check_lengths(network, classes, sources)
    output = network.evidence(images)
    weights = network.last_layer.weight.double().cpu().numpy()  # [K, P]
    bias = network.last_layer.bias.double().cpu().numpy()  # [K]
    scores = output.scores.double().cpu().numpy()  # [B, P]
    contributions = weights * scores[:, None]  # [B, K, P]
    errors = _completeness_errors(contributions, bias, output.logits)
    cells, own_weights = output.locations.tolist(), [tuple(own) for own in weights.T.tolist()]
    explanations = []
    for b, boxes in enumerate(_boxes(network, output, images.shape[2:])):
        prediction = _prediction(network, output, b, references[b], classes, model_digest)
        shown = -np.abs(contributions[b, list(prediction.shown_logits)])  # [shown, P]
        chosen = dict.fromkeys(np.argsort(shown, axis=1, kind="stable")[:, :faithfulness].ravel())
        measured = box_faithfulness(network, images[b], [(int(p), boxes[p]) for p in chosen])
        similarities, parts = scores[b].tolist(), contributions[b].T.tolist()
        evidence = tuple(
            PrototypeEvidence(
                prototype=p,
                class_index=sources[p].class_index,
                class_name=sources[p].class_name,
                similarity=similarities[p],
                weights=own_weights[p],
                contributions=tuple(parts[p]),
                cell=tuple(cells[b][p]),
                box=(box := placements[b].box_to_stored(*boxes[p])),
                box_mm=box.to_mm(spacing) if (spacing := references[b].spacing_mm) else None,
                source=sources[p],
                faithfulness=measured.get(p),
            )
            for p in range(len(boxes))
        )
        explanation = Explanation(prediction, evidence, tuple(bias.tolist()), float(errors[b]))
        explanations.append(explanation)
    return explanations


def _completeness_errors(
    contributions: NDArray[np.float64], bias: NDArray[np.float64], logits: Tensor
) -> NDArray[np.float64]:
    """Largest difference of each image's sums and logits, ``[B]``; an error if one is too large."""
    totals = contributions.sum(axis=2) + bias  # [B, K]
    errors: NDArray[np.float64] = np.abs(totals - logits.double().cpu().numpy()).max(axis=1)
    if not (errors < COMPLETENESS_TOLERANCE).all():
        raise CompletenessError(
            f"contributions and bias must sum to the logit within {COMPLETENESS_TOLERANCE:g}, the "
            f"largest difference is {errors.max():g}. Is the last layer run in reduced precision?"
        )
    return errors


def _boxes(
    network: ProtoPNet, output: ProtoPNetOutput, network_shape: Sequence[int]
) -> list[list[Box]]:
    """Boxes ``[B][P]`` in network pixels."""
    maps, cells = output.similarities.float().cpu().numpy(), output.locations.tolist()
    every = range(len(network.prototype_class))
    return [
        prototype_boxes(network, values, every, own, network_shape)
        for values, own in zip(maps, cells, strict=True)
    ]


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
    position: int,
    reference: ImageReference,
    classes: Sequence[str],
    model_digest: str,
) -> Prediction:
    logits = output.logits[position].double().cpu()
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
) -> Box:
    """Box of one prototype in the first image of ``output``; positions in network pixels."""
    cell = output.locations[0, prototype].tolist()
    return _box_round(network, output, prototype, network_shape, cell)


def _box_round(
    network: ProtoPNet,
    output: ProtoPNetOutput,
    prototype: int,
    network_shape: Sequence[int],
    cell: Sequence[int],
) -> Box:
    """Box of one prototype in the first image of ``output`` round ``cell``, network pixels."""
    values = output.similarities[0, prototype, None].float().cpu().numpy()
    return prototype_boxes(network, values, [prototype], [cell], network_shape)[0]


@torch.no_grad()
def heat_maps(
    network: ProtoPNet, image: Tensor, prototypes: Sequence[int], placement: Placement
) -> dict[int, CellMap]:
    """Similarity maps of some prototypes, to be drawn on the stored image of ``[C, *S]``."""
    output = network.evidence(image[None])
    maps = output.similarities[0].float().cpu().numpy()
    return {p: CellMap(maps[p], prototype_grid(network, p), placement) for p in prototypes}


def source_box(
    network: ProtoPNet, image: Tensor, placement: Placement, prototype: int, cell: Sequence[int]
) -> PixelBox:
    """Box of a prototype on its own source image ``[C, *S]``, in stored pixels, round ``cell``."""
    with torch.no_grad():
        output = network.evidence(image[None])
    box = _box_round(network, output, prototype, image.shape[1:], cell)
    return placement.box_to_stored(*box)
