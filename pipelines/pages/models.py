"""What the pages show, as frozen data: filled by the use cases, read by the templates' views.

Symbols: ``rows, cols`` of a stored image, ``N`` images, ``P`` prototypes, ``K`` classes. Images are
in [0, 1], larger is brighter. A name on a page (a case, a group) must be a pseudonym already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medproto.explain import CellMap
from medproto.records import Explanation, HeadKind, ImageReference, PixelBox, PrototypeSource

from ..pictures import PrototypePicture

__all__ = [
    "CasePage",
    "ComparisonCase",
    "ComparisonPage",
    "ComparisonRow",
    "RecordStamp",
    "RunReport",
]

Pixels = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class RecordStamp:
    """Where a prediction stands in the log.

    Args:
        sequence: number of the record.
        digest: ``sha256:<hex>`` of the record.
        recorded_at: UTC time of the record, ISO 8601.
        actor: who asked.
    """

    sequence: int
    digest: str
    recorded_at: str
    actor: str


@dataclass(frozen=True, kw_only=True, eq=False)
class CasePage:
    """The "this looks like that" page of one image.

    Args:
        title: pseudonymous name of the case, e.g. ``"Row 12 of the cohort"``.
        explanation: of the image.
        image: ``[*S]`` as stored.
        prototypes: pictures by prototype; needed for the ``shown`` largest contributions to each
            logit that is shown: of each present finding, or of the predicted class.
        heat_maps: similarity maps by prototype; a missing one is left out.
        grad_cams: >= 0, by logit; a missing one is left out.
        grad_cam_layer: name of the layer they were computed at.
        record: ``None`` stamps the page "not recorded".
        true_label: label of the cohort table; ``None`` where it is not known.
        synthetic: the image or the model's training images do not come from patients.
        shown: number of prototypes shown one by one for each logit.
        created: UTC time of the page, ISO 8601; empty leaves it out.
    """

    title: str
    explanation: Explanation
    image: Pixels
    prototypes: Mapping[int, PrototypePicture]
    heat_maps: Mapping[int, CellMap]
    grad_cams: Mapping[int, CellMap] = field(default_factory=dict)
    grad_cam_layer: str = ""
    record: RecordStamp | None = None
    true_label: str | None = None
    synthetic: bool = False
    shown: int = 5
    created: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunReport:
    """The report of a training run.

    Args:
        title: of the run.
        classes: ``[K]`` names.
        metrics: the document of ``evaluate --json``, with ``last_layer`` (``objective``,
            ``residual``, ``iterations``, ``zeros``) beside it; null keys are said to be missing.
        history: as :func:`pipelines.pictures.curves_figure` takes it.
        sources: ``[P]`` where the prototypes came from.
        pictures: by prototype; one without a picture is listed without it.
        weights: ``[K, P]`` of the last layer; ``None`` leaves them out of the gallery.
        probabilities: ``[N, K]`` of the evaluated images, for the ROC curve; ``None``: no curve.
        labels: ``[N]``, zero-based, with ``probabilities``; of findings ``[N, K]`` 1, 0 or NaN.
        head: what the logits mean.
        facts: what identifies the run, by name: digests, versions, settings, cohort counts.
        synthetic: the cohort is not of patients.
        created: UTC time, ISO 8601; empty leaves it out.
    """

    title: str
    classes: Sequence[str]
    metrics: Mapping[str, Any]
    history: pd.DataFrame
    sources: Sequence[PrototypeSource]
    pictures: Mapping[int, PrototypePicture]
    weights: NDArray[np.floating[Any]] | None = None
    probabilities: NDArray[np.floating[Any]] | None = None
    labels: NDArray[Any] | None = None
    head: HeadKind = "multiclass"
    facts: Mapping[str, str] = field(default_factory=dict)
    synthetic: bool = False
    created: str = ""


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One method or control; intervals are ``{"value", "low", "high"}`` or ``None``.

    Args:
        name: of the method or the control.
        note: half a sentence on what was measured.
        control: knows nothing of the image; a method has to beat it.
        pointing: share of the images whose marked point lies in the mask.
        energy: share of the map's sum that lies in the mask.
    """

    name: str
    note: str
    control: bool
    pointing: Mapping[str, float | None] | None
    energy: Mapping[str, float | None] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparisonCase:
    """One image with the maps of the methods.

    Args:
        title: pseudonymous name.
        reference: of the image.
        image: ``[*S]`` as stored.
        maps: by name of the method.
        points: by name of the method, the place in stored pixels that it points at: planes of a
            volume go through it.
        boxes: by name of the method; a method without a box has none.
        mask_box: box around the finding; ``None`` draws none.
        note: e.g. whether the prediction is right.
    """

    title: str
    reference: ImageReference
    image: Pixels
    maps: Mapping[str, CellMap]
    points: Mapping[str, Sequence[float]]
    boxes: Mapping[str, PixelBox] = field(default_factory=dict)
    mask_box: PixelBox | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparisonPage:
    """Explanation methods side by side, with controls.

    Args:
        title: of the comparison.
        rows: methods first, then controls.
        cases: examples.
        n: images that the figures are over.
        split: they come from.
        agreement: rank correlation of the maps, median over the images; ``None`` leaves it out.
        facts: what identifies model and data, by name.
        recorded: the comparison stands in a log.
        synthetic: the images are not of patients.
        created: UTC time, ISO 8601; empty leaves it out.
    """

    title: str
    rows: Sequence[ComparisonRow]
    cases: Sequence[ComparisonCase]
    n: int
    split: str
    agreement: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    recorded: bool = False
    synthetic: bool = False
    created: str = ""
