"""The only translator from explanations to the payload of a record: numbers, names and digests.

No pixels, no identity, no path. Boxes are ``[row0, col0, row1, col1]`` in stored pixels,
zero-based, end exclusive; millimetres count from the outer corner of the first pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medproto.networks import ModelCard
from medproto.records import Explanation, ImageReference, PrototypeEvidence, PrototypeSource

__all__ = ["prediction_payload", "reference_payload"]


def prediction_payload(explanation: Explanation, card: ModelCard) -> dict[str, Any]:
    """Return what is recorded of one prediction; JSON types only.

    Logits, bias, weights and contributions are in the order of ``logit_names``, probabilities in
    that of ``classes``. ``present`` names the findings, or the one class or grade; ``shown_logit``
    is the position of the logit that decided. ``prediction_set``, ``abstained``, ``undecided`` and
    ``out_of_distribution`` are null where the run cannot judge them.
    """
    prediction = explanation.prediction
    return {
        "label": prediction.label,
        "classes": list(prediction.classes),
        "head": prediction.head,
        "present": [prediction.classes[k] for k in prediction.present],
        "probabilities": list(prediction.probabilities),
        "calibrated": prediction.calibrated,
        "logit_names": list(prediction.logit_names),
        "logits": list(prediction.logits),
        "shown_logit": prediction.shown_logit,
        "bias": list(explanation.bias),
        "prediction_set": _list(prediction.prediction_set),
        "abstained": prediction.abstained,
        "undecided": _list(prediction.undecided),
        "out_of_distribution": prediction.out_of_distribution,
        "evidence": [_evidence(item) for item in explanation.evidence],
        "completeness_error": explanation.completeness_error,
        "model_digest": prediction.model_digest,
        "config_digest": card.config_digest,
        "dtype": prediction.dtype,
        "image": reference_payload(prediction.reference),
        "preprocessing": dict(card.preprocessing),
        "versions": dict(card.versions),
        "synthetic_model": card.synthetic,
    }


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)


def reference_payload(reference: ImageReference) -> dict[str, Any]:
    """Return what is known of an image, as JSON types."""
    values = asdict(reference)
    for key in ("shape", "spacing_mm", "window"):
        values[key] = None if values[key] is None else list(values[key])
    affine = reference.affine
    values["affine"] = None if affine is None else [list(row) for row in affine]
    return values


def _evidence(item: PrototypeEvidence) -> dict[str, Any]:
    return {
        "prototype": item.prototype,
        "class": item.class_name,
        "similarity": item.similarity,
        "weights": list(item.weights),
        "contributions": list(item.contributions),
        "cell": list(item.cell),
        "box_px": item.box.to_list(),
        "box_mm": None if item.box_mm is None else list(item.box_mm),
        "source": _source(item.source),
        "faithfulness": None if item.faithfulness is None else asdict(item.faithfulness),
    }


def _source(source: PrototypeSource) -> dict[str, Any]:
    return {
        "row": source.row,
        "group": source.group,
        "pixel_digest": source.pixel_digest,
        "cell": list(source.cell),
        "box_px": source.box.to_list(),
        "similarity": source.similarity,
        "floor": source.floor,
    }
