"""Calibration and doubt of a run: temperature, prediction sets, and a flag for unusual images.

Symbols: ``N`` images, ``K`` logits, ``P`` prototypes.

All three are fitted on the validation images once the last layer is final, and kept in
``doubt.json``. Validation also chose the epochs, so the stated rates are a little optimistic; the
test split says what they are worth.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
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
        probabilities: ``[N, classes]``, calibrated.
        sets: ``[N, classes]``, which classes cannot be ruled out.
        abstained: ``[N]``, the set has not exactly one member.
        novelty: ``[N]``, or ``None`` where it cannot be measured.
        out_of_distribution: ``[N]``, likewise.
    """

    probabilities: Floats
    sets: Booleans
    abstained: Booleans
    novelty: Floats | None
    out_of_distribution: Booleans | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """The three fits of a run.

    Args:
        head: what the logits mean.
        temperature: of the probabilities.
        sets: on the calibrated probabilities.
        unusual: on the pooled similarities; ``None`` if they never change between images.
    """

    head: HeadKind
    temperature: Temperature
    sets: ConformalSets
    unusual: OutOfDistribution | None

    def judge(self, logits: Floats, scores: Floats) -> Judgement:
        """Judge images by their logits ``[N, K]`` and pooled similarities ``[N, P]``."""
        chances = probabilities(logits, head=self.head, temperature=self.temperature.value)
        unusual = self.unusual
        return Judgement(
            probabilities=chances,
            sets=self.sets.sets(chances),
            abstained=self.sets.abstained(chances),
            novelty=None if unusual is None else unusual.novelty(scores),
            out_of_distribution=None if unusual is None else unusual.flag(scores),
        )

    def summary(
        self, logits: Floats, scores: Floats, labels: Sequence[int], groups: Sequence[str]
    ) -> dict[str, Any]:
        """Return how often the sets cover the truth, and how often is abstained or flagged."""
        judged = self.judge(logits, scores)
        truth = np.asarray(labels)
        coverage = bootstrap(set_coverage, judged.sets, truth, groups=list(groups), seed=0)
        sure = ~judged.abstained
        right = judged.probabilities.argmax(axis=1) == truth
        flagged = judged.out_of_distribution
        return {
            "temperature": self.temperature.value,
            "alpha": self.sets.alpha,
            "coverage": coverage.to_dict(),
            "abstained": float(judged.abstained.mean()),
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
    chances = probabilities(logits, head=network.head, temperature=temperature.value)
    members = list(groups)
    unusual = None
    if usual.std(axis=0).max() > 0:
        unusual = OutOfDistribution.fit(
            scores, reference=usual, false_alarm=FALSE_ALARM, groups=members
        )
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
