"""What the queries answer: frozen views of a run and of its recorded cases. No computing.

Symbols: ``K`` classes, ``P`` prototypes. Rows are zero-based positions in the run's cohort
snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medproto.records import PixelBox, PrototypeSource
from pipelines.score_sum import ScoreSum

__all__ = ["CaseLink", "CaseView", "ChainState", "EvidenceLine", "RunView", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """What a dashboard looks at.

    Args:
        run: folder of a finished training.
        audit: path or URL of the log.
    """

    run: Path
    audit: str


@dataclass(frozen=True, slots=True)
class RunView:
    """A run, without its network.

    Args:
        name: of the folder.
        classes: ``[K]`` names.
        model_digest: identity of the model.
        synthetic: the model learned from images that are not of patients.
        metrics: the run's ``metrics.json``; empty if it is missing.
        sources: ``[P]`` where the prototypes came from.
        rows: row of each image by the digest of its pixels; the first where pixels repeat.
        labels: label of each row.
        layer: where Grad-CAM is computed, in words.
    """

    name: str
    classes: tuple[str, ...]
    model_digest: str
    synthetic: bool
    metrics: Mapping[str, Any]
    sources: tuple[PrototypeSource, ...]
    rows: Mapping[str, int]
    labels: tuple[str, ...]
    layer: str


@dataclass(frozen=True, slots=True)
class CaseLink:
    """A recorded prediction in the list of cases.

    Args:
        probability: of the predicted class.
        row: of the image, ``None`` if it is not in the run's cohort.
    """

    sequence: int
    recorded_at: str
    label: str
    probability: float
    row: int | None


@dataclass(frozen=True, slots=True)
class EvidenceLine:
    """One shown line of the sum.

    Args:
        place: from 1, by absolute contribution.
        weight: for the predicted class.
        contribution: to the predicted class, in logit units.
        box: stored pixels of the image.
        box_mm: ``(*start, *stop)``; ``None`` without spacing.
        kept: share of the similarity that stays with the outside of the box blurred; ``None`` if
            it was not measured.
        left: share that stays with the inside blurred; ``None`` if it was not measured.
    """

    place: int
    prototype: int
    class_name: str
    similarity: float
    weight: float
    contribution: float
    box: PixelBox
    box_mm: tuple[float, ...] | None
    source_row: int
    source_group: str
    kept: float | None
    left: float | None


@dataclass(frozen=True, slots=True)
class CaseView:
    """A recorded prediction as its record tells it.

    Args:
        classes: name, probability and logit of each, largest logit first.
        label: name of the predicted class.
        lines: largest absolute contributions to the predicted class.
        total: the sum that they belong to.
        row: of the image; ``None`` if it is not in the run's cohort.
        true_label: of the cohort table, ``None`` if not known.
        payload: of the record, to compute the case again.
    """

    sequence: int
    digest: str
    recorded_at: str
    actor: str
    classes: tuple[tuple[str, float, float], ...]
    label: str
    calibrated: bool
    lines: tuple[EvidenceLine, ...]
    total: ScoreSum
    row: int | None
    true_label: str | None
    pixel_digest: str
    model_digest: str
    synthetic: bool
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChainState:
    """Whether the log verifies from its first record up to one of them.

    Args:
        ok: it does.
        message: in one sentence.
    """

    ok: bool
    message: str
