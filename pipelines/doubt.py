"""Calibration and doubt of a run: temperature, prediction sets, and a flag for unusual images.

Symbols: ``N`` images, ``K`` logits, ``P`` prototypes.

All three are fitted on the validation images once the last layer is final, and kept in
``doubt.json``. Validation also chose the epochs, so the stated rates are a little optimistic; the
test split says what they are worth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medproto.errors import ModelFileError
from medproto.metrics import (
    ConformalSets,
    OutOfDistribution,
    Temperature,
    bootstrap,
    fit_temperature,
    probabilities,
    set_coverage,
)
from medproto.networks import ProtoPNet
from medproto.records import HeadKind

__all__ = ["ALPHA", "FALSE_ALARM", "Doubt", "Judgement", "fit_doubt", "read_doubt"]

ALPHA = 0.1
"""Share of the images whose prediction set may miss the truth."""

FALSE_ALARM = 0.05
"""Share of usual images that may be flagged as unusual."""

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said of ``N`` images beside their logits.

    Args:
        probabilities: ``[N, classes]``.
        sets: ``[N, classes]``, which classes cannot be ruled out; ``None`` where there were too few
            validation groups to rule out any.
        abstained: ``[N]``, the set has not exactly one member; likewise.
        novelty: ``[N]``, or ``None`` where it cannot be measured.
        out_of_distribution: ``[N]``, likewise.
    """

    probabilities: Floats
    sets: Booleans | None
    abstained: Booleans | None
    novelty: Floats | None
    out_of_distribution: Booleans | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """The three fits of a run.

    Args:
        head: what the logits mean.
        temperature: of the probabilities; 1 where the validation images are separated without an
            error, for then the best one is 0, which would make every prediction certain.
        sets: on the calibrated probabilities.
        unusual: on the pooled similarities; ``None`` if they never change between images, or there
            are too few validation groups for the rate.
    """

    head: HeadKind
    temperature: Temperature
    sets: ConformalSets
    unusual: OutOfDistribution | None

    @property
    def calibrated(self) -> bool:
        """Whether the validation images determined a temperature."""
        return self.temperature.bound is None

    def judge(self, logits: Floats, scores: Floats) -> Judgement:
        """Judge images by their logits ``[N, K]`` and pooled similarities ``[N, P]``."""
        chances = probabilities(logits, head=self.head, temperature=self.temperature.value)
        unusual = self.unusual
        enough = math.isfinite(max(self.sets.thresholds))
        return Judgement(
            probabilities=chances,
            sets=self.sets.sets(chances) if enough else None,
            abstained=self.sets.abstained(chances) if enough else None,
            novelty=None if unusual is None else unusual.novelty(scores),
            out_of_distribution=None if unusual is None else unusual.flag(scores),
        )

    def summary(
        self, logits: Floats, scores: Floats, labels: Sequence[int], groups: Sequence[str]
    ) -> dict[str, Any]:
        """Return how often the sets cover the truth, and how often is abstained or flagged."""
        judged = self.judge(logits, scores)
        truth = np.asarray(labels)
        right = judged.probabilities.argmax(axis=1) == truth
        flagged = judged.out_of_distribution
        sets: dict[str, Any] = {"coverage": None, "abstained": None}
        sure = np.zeros(len(truth), dtype=np.bool_)
        if judged.sets is not None and judged.abstained is not None:
            coverage = bootstrap(set_coverage, judged.sets, truth, groups=list(groups), seed=0)
            sure = ~judged.abstained
            sets = {"coverage": coverage.to_dict(), "abstained": float(judged.abstained.mean())}
        return {
            "temperature": self.temperature.value,
            "validation_groups": self.sets.groups,
            "alpha": self.sets.alpha,
            **sets,
            "accuracy": float(right.mean()),
            "accuracy_where_not_abstained": float(right[sure].mean()) if sure.any() else None,
            "false_alarm": None if self.unusual is None else self.unusual.false_alarm,
            "flagged": None if flagged is None else float(flagged.mean()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "head": self.head,
            "temperature": self.temperature.to_dict(),
            "sets": self.sets.to_dict(),
            "unusual": None if self.unusual is None else self.unusual.to_dict(),
        }


def fit_doubt(network: ProtoPNet, scores_path: Path, groups: Sequence[str]) -> Doubt:
    """Fit on the validation scores of a run.

    Args:
        network: with its final last layer.
        scores_path: the run's ``scores.npz``.
        groups: ``[N]`` patients of the validation images, in the order of the scores.
    """
    with np.load(scores_path, allow_pickle=False) as stored:
        scores, labels, usual = (
            stored[key] for key in ("val_scores", "val_labels", "train_scores")
        )
    weight = network.last_layer.weight.detach().double().cpu().numpy()
    logits = scores @ weight.T + network.last_layer.bias.detach().double().cpu().numpy()
    temperature = fit_temperature(logits, labels, head=network.head)
    if temperature.bound == "lower":
        temperature = replace(temperature, value=1.0)
    chances = probabilities(logits, head=network.head, temperature=temperature.value)
    members = list(groups)
    unusual = None
    if usual.std(axis=0).max() > 0:
        fitted = OutOfDistribution.fit(
            scores, reference=usual, false_alarm=FALSE_ALARM, groups=members
        )
        unusual = fitted if math.isfinite(fitted.threshold) else None
    sets = ConformalSets.fit(chances, labels, head=network.head, alpha=ALPHA, groups=members)
    return Doubt(network.head, temperature, sets, unusual)


def read_doubt(path: Path) -> Doubt:
    """Read ``doubt.json``.

    Raises:
        ModelFileError: if it cannot be read.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        unusual = fields["unusual"]
        return Doubt(
            fields["head"],
            Temperature.from_dict(fields["temperature"]),
            ConformalSets.from_dict(fields["sets"]),
            None if unusual is None else OutOfDistribution.from_dict(unusual),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{path.name} must hold the calibration of the run; it is missing or damaged. "
            "Restore it from a copy."
        ) from error
