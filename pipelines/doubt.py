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
    predicted_grade,
    probabilities,
    set_coverage,
)
from medproto.networks import ProtoPNet
from medproto.records import HeadKind

from .inference import count_from_floor

__all__ = [
    "ALPHA",
    "FALSE_ALARM",
    "Doubt",
    "Judgement",
    "fit_doubt",
    "fit_joint_doubt",
    "read_doubt",
]

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
        sets: ``[N, classes]``, which classes cannot be ruled out, or ``[N, K, 2]`` for the absence
            and presence of findings; ``None`` where there were too few validation groups, of
            findings with a certain label, to rule out any.
        abstained: ``[N]`` (findings: ``[N, K]``), the set has not exactly one member; likewise.
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
        """Judge images by their logits ``[N, K]`` and pooled similarities ``[N, P]``.

        Not counted from the floor: below it, too, images are like others or unlike them.
        """
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
        self, logits: Floats, scores: Floats, labels: NDArray[Any], groups: Sequence[str]
    ) -> dict[str, Any]:
        """Return how often the sets cover the truth, and how often is abstained or flagged.

        For findings every figure counts pairs of image and finding whose label is certain.
        """
        judged = self.judge(logits, scores)
        truth = np.asarray(labels)
        right, known = _right(self.head, judged.probabilities, truth)
        flagged = judged.out_of_distribution
        sets: dict[str, Any] = {"coverage": None, "abstained": None}
        sure = np.zeros(truth.shape, dtype=np.bool_)
        if judged.sets is not None and judged.abstained is not None:
            coverage = bootstrap(set_coverage, judged.sets, truth, groups=list(groups), seed=0)
            sure = known & ~judged.abstained
            sets = {"coverage": coverage.to_dict(), "abstained": float(judged.abstained.mean())}
        return {
            "temperature": self.temperature.value,
            "temperature_bound": self.temperature.bound,
            "validation_groups": self.sets.groups,
            "alpha": self.sets.alpha,
            **sets,
            "accuracy": float(right[known].mean()) if known.any() else None,
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


def _right(head: HeadKind, chances: Floats, truth: NDArray[Any]) -> tuple[Booleans, Booleans]:
    """Return what is predicted right and what is known: ``[N]``, or ``[N, K]`` for findings."""
    if head == "multilabel":
        return (chances > 0.5) == (truth == 1), ~np.isnan(truth)
    predicted = predicted_grade(chances) if head == "ordinal" else chances.argmax(axis=1)
    return predicted == truth, np.ones(len(truth), dtype=np.bool_)


def fit_doubt(network: ProtoPNet, scores_path: Path, groups: Sequence[str]) -> Doubt:
    """Fit on the validation scores of a run.

    Args:
        network: with its final last layer.
        scores_path: the run's ``scores.npz``.
        groups: ``[N]`` patients of the validation images, in the order of the scores.
    """
    return fit_joint_doubt([(network, scores_path)], groups)


def fit_joint_doubt(networks: Sequence[tuple[ProtoPNet, Path]], groups: Sequence[str]) -> Doubt:
    """Fit on the sum of the logits of several networks, and their similarities side by side.

    Args:
        networks: and ``scores.npz`` of each, of one head and of the same images.
        groups: as of :func:`fit_doubt`.
    """
    network = networks[0][0]
    parts = [_stored_scores(*pair) for pair in networks]
    logits = np.sum([part[0] for part in parts], axis=0)
    labels = parts[0][1]
    scores, usual = (np.concatenate([part[k] for part in parts], axis=1) for k in (2, 3))
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


def _stored_scores(network: ProtoPNet, path: Path) -> tuple[Floats, NDArray[Any], Floats, Floats]:
    """Return logits, labels and similarities of the validation images, and those of training."""
    with np.load(path, allow_pickle=False) as stored:
        scores, labels, usual = (
            stored[key] for key in ("val_scores", "val_labels", "train_scores")
        )
    weight = network.last_layer.weight.detach().double().cpu().numpy()
    bias = network.last_layer.bias.detach().double().cpu().numpy()
    return count_from_floor(network, scores) @ weight.T + bias, labels, scores, usual


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
