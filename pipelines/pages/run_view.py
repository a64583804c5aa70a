"""What the template of the run report reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medproto.records import HeadKind, PrototypeSource

from ..charts import confusion_figure, curves_figure, roc_figure
from ..head_words import HEAD_WORDS
from ..pictures import to_png_bytes
from ..raster import FOR, data_uri, picture_uri
from ..strongest_weight import strongest_elsewhere
from .case_view import box_text
from .models import RunReport

__all__ = ["run_context"]

CROP_SIDE = 130
SOURCE_SIDE = 190

FIGURES = (
    ("auroc", "AUROC", "chance that a random positive case scores above a random negative one; "
     "0.5 is guessing, 1 is perfect"),
    ("average_precision", "Average precision", "area under precision against recall; guessing "
     "gives the share of positive cases"),
    ("balanced_accuracy", "Balanced accuracy", "mean over the classes of the share found; "
     "guessing gives one over the number of classes"),
    ("ece", "Calibration error (ECE)", "mean gap between stated probability and observed "
     "frequency; 0 is best"),
)  # fmt: skip
"""Key in the metrics, name, and what it says."""

MEANS: dict[HeadKind, dict[str, str]] = {
    "multiclass": {"auroc": "; more than two classes: mean of one against the rest"},
    "binary": {},
    "multilabel": {
        key: "; mean over the findings" for key in ("auroc", "average_precision", "ece")
    },
    "ordinal": {"auroc": "; mean over the thresholds between grades"},
}
"""What the figures of a head are means of."""

GRADES = (
    ("quadratic_weighted_kappa", "Quadratic weighted kappa", "agreement with the true grades "
     "beyond chance, far errors counting more; 0 is chance, 1 is perfect"),
    ("grade_error", "Mean error in grades", "mean distance of predicted and true grade; 0 is best"),
    ("grade_accuracy", "Accuracy", "share of the images with the right grade"),
)  # fmt: skip
"""The same for grades in order."""

POINTS = (
    ("sensitivity", "share of the positive cases that are called positive"),
    ("specificity", "share of the negative cases that are called negative"),
)

PLACES = (
    ("pointing_game", "Evidence on the finding", "share of the images in which the center of the "
     "main evidence's box lies in the annotated finding", False),
    ("constant_location", "Control: best constant place", "the same share for one fixed point, "
     "the best one on training masks; it never looks at the image", True),
    ("image_center", "Control: center of the image", "the same share for the middle of every "
     "image", True),
    ("area", "Control: chance", "share of the image that the finding covers: what a random point "
     "would hit", True),
    ("energy_inside", "Heat inside the finding", "share of the similarity map's sum that lies in "
     "the finding; compare with chance", False),
    ("box_area", "Size of the box", "share of the image that the box of the main evidence covers; "
     "a large box hits more by itself", False),
)  # fmt: skip
"""Key in the localisation block, name, what it says, and whether it is a control."""


def run_context(report: RunReport) -> dict[str, Any]:
    """Return the variables of ``run.html``; figures are drawn here."""
    metrics = report.metrics
    confusion = metrics.get("confusion")
    place = metrics.get("localization")
    roc = None
    if report.probabilities is not None and report.labels is not None:
        figure = roc_figure(report.probabilities, report.labels, report.classes, head=report.head)
        roc = data_uri(to_png_bytes(figure))
    return {
        "report": report,
        "metrics": metrics,
        "words": HEAD_WORDS[report.head],
        "figures": _figures(metrics, report.head),
        "findings": _findings(metrics),
        "difference": (metrics.get("twin") or {}).get("difference"),
        "curves": data_uri(to_png_bytes(curves_figure(report.history))),
        "roc": roc,
        "confusion": None
        if confusion is None
        else data_uri(to_png_bytes(confusion_figure(confusion["matrix"], confusion["labels"]))),
        "place": place,
        "places": _places(place),
        "positive_places": _places((place or {}).get("positive_correct")),
        "subgroups": _subgroups(metrics.get("subgroups") or {}),
        "gallery": _gallery(report),
        "quality": metrics.get("prototypes"),
        "last_layer": metrics.get("last_layer"),
    }


def _figures(metrics: Mapping[str, Any], head: HeadKind) -> list[dict[str, Any]]:
    twin = metrics.get("twin") or {}
    means = MEANS[head]
    rows = [
        {
            "name": name,
            "own": metrics.get(key),
            "twin": twin.get(key),
            "meaning": meaning + means.get(key, ""),
        }
        for key, name, meaning in (*FIGURES, *GRADES)
        if metrics.get(key) is not None
    ]
    rows[1:1] = _aggregated(metrics.get("aggregated") or {})
    point, other = metrics.get("operating_point"), twin.get("operating_point") or {}
    if not point:
        return rows
    for key, meaning in POINTS:
        rows.append(
            {
                "name": f"{key.capitalize()} at the threshold",
                "own": point[key],
                "twin": other.get(key),
                "meaning": f"{meaning}; threshold {point['threshold']:.3f}, chosen on validation "
                "images",
            }
        )
    return rows


def _findings(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a finding of a network with several findings an image."""
    twin = (metrics.get("twin") or {}).get("findings") or {}
    return [
        {"name": name, "twin": (twin.get(name) or {}).get("auroc"), **entry}
        for name, entry in (metrics.get("findings") or {}).items()
    ]


def _aggregated(groups: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, entry in groups.items():
        if entry:
            meaning = (
                f"{entry['n']} of them, from {entry['patients']} patients or groups; logits: "
                f"{entry['logits']}; label: {entry['label']} ({entry['disagreeing']} are labeled "
                f"in several ways, {entry['left_out']} left out)"
            )
            row = {"name": f"AUROC by {name}", "own": entry["auroc"], "twin": None}
            rows.append({**row, "meaning": meaning})
    return rows


def _places(place: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not place:
        return []
    return [
        {"name": name, "value": place[key], "meaning": meaning, "control": control}
        for key, name, meaning, control in PLACES
        if place.get(key) is not None
    ]


def _subgroups(columns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"column": column, "value": value, **entry}
        for column, values in columns.items()
        for value, entry in values.items()
    ]


def _gallery(report: RunReport) -> list[dict[str, Any]]:
    """Return the prototypes by class, each class with its list."""
    classes = []
    for k, name in enumerate(report.classes):
        members = [s for s in report.sources if s.class_index == k]
        classes.append({"name": name, "members": [_prototype(report, s) for s in members]})
    return classes


def _prototype(report: RunReport, source: PrototypeSource) -> dict[str, Any]:
    picture = report.pictures.get(source.prototype)
    weight, elsewhere, unused = None, None, False
    if report.weights is not None:
        weights = report.weights[:, source.prototype].tolist()
        # Of grades there is one row less, and all rows are equal.
        weight = weights[min(source.class_index, len(weights) - 1)]
        other = strongest_elsewhere(weights, source.class_index, len(report.classes))
        if other is not None:
            elsewhere = {"name": report.classes[other], "weight": weights[other]}
        unused = not any(weights)
    return {
        "source": source,
        "box": box_text(source.box),
        "cell": ", ".join(str(i) for i in source.cell),
        "weight": weight,
        "elsewhere": elsewhere,
        "unused": unused,
        "crop": None if picture is None else picture_uri(picture.crop, side=CROP_SIDE),
        "picture": None
        if picture is None
        else picture_uri(
            picture.source, boxes=[(box, FOR) for box in picture.boxes], side=SOURCE_SIDE
        ),
    }
