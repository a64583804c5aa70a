"""What the queries answer: frozen views of a run and of its recorded cases. No computing.

Symbols: ``C`` classes, findings or grades, ``K`` logits, ``P`` prototypes. Rows are zero-based
positions in the run's cohort snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medproto.records import HeadKind, PixelBox, PrototypeSource
from pipelines.score_sum import ScoreSum

__all__ = [
    "CaseLink",
    "CaseView",
    "ChainState",
    "ClassLine",
    "EvidenceLine",
    "LogitLine",
    "RunView",
    "Source",
    "Truth",
]

Truth = Mapping[str, bool | None]
"""What the cohort table says of each class or finding of an image; ``None`` where it is uncertain.
Empty if the image has no label."""


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
        classes: ``[C]`` names.
        head: what the logits mean.
        model_digest: identity of the model.
        synthetic: the model learned from images that are not of patients.
        metrics: the run's ``metrics.json``; empty if it is missing.
        sources: ``[P]`` where the prototypes came from.
        rows: row of each image by the digest of its pixels; the first where pixels repeat.
        truths: what the cohort table says of each row.
        layer: where Grad-CAM is computed, in words.
    """

    name: str
    classes: tuple[str, ...]
    head: HeadKind
    model_digest: str
    synthetic: bool
    metrics: Mapping[str, Any]
    sources: tuple[PrototypeSource, ...]
    rows: Mapping[str, int]
    truths: tuple[Truth, ...]
    layer: str


@dataclass(frozen=True, slots=True)
class CaseLink:
    """A recorded prediction in the list of cases.

    Args:
        label: predicted class or grade, or the present findings; empty if the record cannot be
            read as a prediction.
        probability: of the predicted class, or of the only finding that is present, else ``None``.
        row: of the image, ``None`` if it is not in the run's cohort.
    """

    sequence: int
    recorded_at: str
    label: str
    probability: float | None
    row: int | None


@dataclass(frozen=True, slots=True)
class ClassLine:
    """A class, finding or grade of a prediction.

    Args:
        logit: ``None`` for grades, which have none of their own.
        present: it is the predicted class or grade, or a finding that is present.
        true: what the cohort table says; ``None`` if that is uncertain or not known.
    """

    name: str
    probability: float
    logit: float | None
    present: bool
    true: bool | None


@dataclass(frozen=True, slots=True)
class LogitLine:
    """A logit of a prediction, in short.

    Args:
        name: of the class or finding, or "above" a grade.
        evidence: sum of the contributions of all prototypes.
    """

    name: str
    evidence: float
    bias: float
    logit: float


@dataclass(frozen=True, slots=True)
class EvidenceLine:
    """One shown line of the sum.

    Args:
        place: from 1, by absolute contribution.
        weight: for the logit that is taken apart.
        contribution: to that logit.
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
    """A recorded prediction as its record tells it, with one of its logits taken apart.

    Args:
        head: what the logits mean.
        classes: largest logit first; grades in order.
        label: name of the predicted class or grade, or the present findings.
        logits: ``[K]`` in the order of the record.
        logit: position of the one that is taken apart.
        choices: positions of the logits that may be taken apart: findings by the size of their
            logits, thresholds in order, else one alone.
        lines: largest absolute contributions to it.
        total: the sum that they belong to.
        row: of the image; ``None`` if it is not in the run's cohort.
        truth: of the cohort table.
        agrees: the prediction is what the cohort table says, as far as that is known; ``None`` if
            nothing is.
        payload: of the record, to compute the case again.
    """

    sequence: int
    digest: str
    recorded_at: str
    actor: str
    head: HeadKind
    classes: tuple[ClassLine, ...]
    label: str
    calibrated: bool
    logits: tuple[LogitLine, ...]
    logit: int
    choices: tuple[int, ...]
    lines: tuple[EvidenceLine, ...]
    total: ScoreSum
    row: int | None
    truth: Truth
    agrees: bool | None
    pixel_digest: str
    model_digest: str
    synthetic: bool
    payload: Mapping[str, Any]

    @property
    def logit_name(self) -> str:
        """Name of the logit that is taken apart."""
        return self.logits[self.logit].name


@dataclass(frozen=True, slots=True)
class ChainState:
    """Whether the log verifies from its first record up to one of them.

    Args:
        ok: it does.
        message: in one sentence.
    """

    ok: bool
    message: str
