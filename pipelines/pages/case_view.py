"""What the template of the case page reads."""

from __future__ import annotations

import math
from typing import Any

from medproto.records import (
    BoxFaithfulness,
    Explanation,
    ImageReference,
    PixelBox,
    Prediction,
    PrototypeEvidence,
)

from ..head_words import HEAD_WORDS
from ..raster import FOR, box_color, picture_uri
from ..score_sum import score_sum
from ..strongest_weight import strongest_elsewhere
from ..views import picture_of, view_of
from ..wording import doubts, side
from .models import CasePage

__all__ = ["case_context"]

MAIN_SIDE = 520
SECTION_SIDE = 260
ROW_SIDE = 230
CROP_SIDE = 150
MOST_SIMILAR = 10
BOXED = 5


def case_context(case: CasePage) -> dict[str, Any]:
    """Return the variables of ``case.html``; pictures are drawn here.

    Raises:
        KeyError: if the picture of a shown prototype is missing.
    """
    explanation = case.explanation
    prediction = explanation.prediction
    logits = sorted(prediction.shown_logits, key=lambda k: -prediction.logits[k])
    sections = [_section(case, k) for k in logits]
    return {
        "case": case,
        "prediction": prediction,
        "words": HEAD_WORDS[prediction.head],
        "label": prediction.label,
        "doubts": doubts(
            prediction.prediction_set,
            prediction.abstained,
            prediction.out_of_distribution,
            prediction.undecided,
        ),
        "classes": _classes(prediction),
        "thresholds": _thresholds(explanation) if prediction.head == "ordinal" else [],
        "sections": sections,
        "image": sections[0]["boxed_image"] if len(sections) == 1 else _main_places(case, logits),
        "completeness_error": explanation.completeness_error,
        "image_facts": _image_facts(prediction.reference),
        "volume": len(prediction.reference.shape) == 3,
    }


def _classes(prediction: Prediction) -> list[dict[str, Any]]:
    """Classes and findings, largest logit first; grades, which have no logit each, in order."""
    order = list(range(len(prediction.classes)))
    ordinal = prediction.head == "ordinal"
    if not ordinal:
        order.sort(key=lambda c: -prediction.logits[c])
    return [
        {
            "name": prediction.classes[c],
            "probability": prediction.probabilities[c],
            "logit": None if ordinal else prediction.logits[c],
            "present": c in prediction.present,
        }
        for c in order
    ]


def _thresholds(explanation: Explanation) -> list[dict[str, Any]]:
    prediction = explanation.prediction
    return [
        {
            "name": name,
            "evidence": math.fsum(e.contributions[k] for e in explanation.evidence),
            "bias": explanation.bias[k],
            "logit": prediction.logits[k],
            "passed": prediction.logits[k] > 0,
        }
        for k, name in enumerate(prediction.logit_names)
    ]


def _section(case: CasePage, k: int) -> dict[str, Any]:
    """The account of one logit: its largest contributions one by one, its sum, its Grad-CAM."""
    explanation = case.explanation
    prediction = explanation.prediction
    account = score_sum(
        [e.contributions[k] for e in explanation.evidence],
        explanation.bias[k],
        prediction.logits[k],
        shown=case.shown,
    )
    shown = [explanation.evidence[position] for position in account.shown]
    boxes = [(e.box, box_color(e.contributions[k])) for e in reversed(shown[:BOXED])]
    width = MAIN_SIDE if len(prediction.shown_logits) == 1 else SECTION_SIDE
    grad_cam = case.grad_cams.get(k)
    view = view_of(prediction.reference, shown[0].box.center)
    return {
        "name": prediction.logit_names[k],
        "passed": prediction.logits[k] > 0,
        "orphan": not any(e.class_index == k for e in explanation.evidence),
        "probability": None if prediction.head == "ordinal" else prediction.probabilities[k],
        "sum": account,
        "rows": [_row(case, evidence, k, place) for place, evidence in enumerate(shown, start=1)],
        "asked": len(boxes),
        "boxed": sum(bool(view.boxes(box)) for box, _ in boxes),
        "neutral": any(e.contributions[k] == 0 for e in shown[:BOXED]),
        "boxed_image": picture_of(view, case.image, boxes=boxes, side=width),
        "similar": _most_similar(explanation, k),
        "grad_cam": None
        if grad_cam is None
        else picture_of(view, case.image, cells=grad_cam, side=MAIN_SIDE),
        "evidence_map": _evidence_map(case, shown, k),
    }


def _main_places(case: CasePage, logits: list[int]) -> str:
    """The image with one box a finding, that of its largest contribution."""
    first = [case.explanation.ranked(k)[0] for k in logits]
    view = view_of(case.explanation.prediction.reference, first[0].box.center)
    return picture_of(view, case.image, boxes=[(e.box, FOR) for e in first], side=MAIN_SIDE)


def _row(case: CasePage, evidence: PrototypeEvidence, k: int, place: int) -> dict[str, Any]:
    points = evidence.contributions[k]
    picture = case.prototypes[evidence.prototype]
    heat = case.heat_maps.get(evidence.prototype)
    color = box_color(points)
    boxes = [(evidence.box, color)]
    view = view_of(case.explanation.prediction.reference, evidence.box.center)
    return {
        "place": place,
        "evidence": evidence,
        "side": side(points),
        "weight": evidence.weights[k],
        "points": points,
        "where": picture_of(view, case.image, boxes=boxes, side=ROW_SIDE),
        "heat": None if heat is None else picture_of(view, case.image, cells=heat, side=ROW_SIDE),
        "crop": picture_uri(picture.crop, side=CROP_SIDE),
        "source": picture_uri(
            picture.source,
            boxes=[(box, color) for box in picture.boxes],
            side=round(ROW_SIDE * view.enlarged),
        ),
        "box": box_text(evidence.box),
        "box_mm": None if evidence.box_mm is None else millimetres(evidence.box_mm),
        "faithfulness": _faithfulness(evidence.faithfulness),
        "stray": _stray(evidence, case.explanation.prediction.classes),
    }


def _most_similar(explanation: Explanation, k: int) -> list[dict[str, Any]]:
    """The prototypes most similar to the image over all classes, whatever their weight."""
    ordered = sorted(explanation.evidence, key=lambda e: -e.similarity)[:MOST_SIMILAR]
    return [
        {
            "evidence": e,
            "weight": e.weights[k],
            "points": e.contributions[k],
            "box": box_text(e.box),
            "stray": _stray(e, explanation.prediction.classes),
        }
        for e in ordered
    ]


def _stray(evidence: PrototypeEvidence, classes: tuple[str, ...]) -> str | None:
    """Class for which the prototype speaks more than for its own, by name."""
    k = strongest_elsewhere(evidence.weights, evidence.class_index, len(classes))
    return None if k is None else classes[k]


def _evidence_map(case: CasePage, shown: list[PrototypeEvidence], k: int) -> dict[str, Any] | None:
    """The map of the largest contribution for the class, to stand beside Grad-CAM."""
    speaking = [e for e in shown if e.contributions[k] > 0 and e.prototype in case.heat_maps]
    if not speaking:
        return None
    first = speaking[0]
    heat = case.heat_maps[first.prototype]
    view = view_of(case.explanation.prediction.reference, first.box.center)
    uri = picture_of(view, case.image, cells=heat, boxes=[(first.box, FOR)], side=MAIN_SIDE)
    return {"prototype": first.prototype, "uri": uri}


def _faithfulness(measured: BoxFaithfulness | None) -> dict[str, float] | None:
    """Shares of the similarity that stay when the outside, or the inside, is blurred away."""
    if measured is None or measured.similarity == 0:
        return None
    return {
        "kept": measured.outside_changed / measured.similarity,
        "left": measured.inside_changed / measured.similarity,
    }


def box_text(box: PixelBox) -> str:
    """Write a box for people: ``rows 10-40, columns 5-20``, first and last pixel, zero-based."""
    names = ("rows", "columns", "slices")
    return ", ".join(
        f"{name} {a}\N{EN DASH}{b - 1}" for name, a, b in zip(names, box.start, box.stop)
    )


def millimetres(box_mm: tuple[float, ...]) -> str:
    """Write the size of a box: ``41.2 x 30.9 mm``, height first."""
    half = len(box_mm) // 2
    sizes = (stop - start for start, stop in zip(box_mm[:half], box_mm[half:]))
    return " \N{MULTIPLICATION SIGN} ".join(f"{size:.1f}" for size in sizes) + " mm"


def _image_facts(reference: ImageReference) -> list[tuple[str, str]]:
    spacing = "not in the file"
    if reference.spacing_mm is not None:
        steps = " \N{MULTIPLICATION SIGN} ".join(f"{step:g}" for step in reference.spacing_mm)
        spacing = f"{steps} mm ({reference.spacing_kind})"
    gray = {
        "window": "window of the file",
        "lut": "lookup table of the file",
        "explicit-window": "window of the run",
        "percentile": "0.5th to 99.5th percentile of the image",
    }
    shown = gray.get(reference.voi, "full range")
    if reference.window is not None:
        shown += f" (center {reference.window[0]:g}, width {reference.window[1]:g})"
    return [
        ("Size", " \N{MULTIPLICATION SIGN} ".join(str(n) for n in reference.shape) + " pixels"),
        ("Modality", f"{reference.modality}, {reference.bits_stored} bits"),
        ("Pixel spacing", spacing),
        ("Gray range", shown + (", MONOCHROME1 inverted once" if reference.inverted else "")),
        ("Digest of the pixels", reference.pixel_digest),
    ]
