"""Several runs as one classifier: their logits add up, and so does their evidence.

Chen et al., "This Looks Like That", NeurIPS 2019, add the logits of several networks to match a
black box (https://arxiv.org/abs/1806.10574). Each contribution stays that of its member, so the sum
over all members' contributions and biases is the ensemble's logit.

Where the members were trained on the same images, split alike, their common validation images
calibrate the sum: temperature and prediction sets from the sums of the logits, the flag for unusual
images from all members' similarities side by side. Else an image that one member saw in validation
may have trained another, and the sum stays uncalibrated.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit import AuditLog
from medproto.data import Cohort, ImageSource
from medproto.errors import CohortError, ModelFileError
from medproto.metrics import paired_difference, probabilities
from medproto.records import HeadKind, Prediction

from .cases import ExplainedCase, explain_case, judge_prediction
from .datasets import ImageSet
from .discrimination import ranking_metric, summarize
from .doubt import Doubt, fit_joint_doubt
from .evaluate import known_images, load_split, other_cohort, other_labels
from .events import prediction_payload
from .inference import infer_logits, infer_similarities
from .predict import RecordedPrediction
from .runs import RunFolder

__all__ = ["Ensemble"]

_SCORES = (
    "scores.npz of each run must hold the scores that its doubt.json was fitted on; one is "
    "missing, damaged or of another model. Restore it from a copy."
)


@dataclass(frozen=True)
class Ensemble:
    """Runs with the same classes and head.

    Args:
        runs: at least two, of different models.

    Raises:
        ModelFileError: if a run is unfinished, or they do not belong together.
    """

    runs: tuple[RunFolder, ...]

    def __post_init__(self) -> None:
        digests = {run.card.model_digest for run in self.runs}
        if len(self.runs) < 2 or len(digests) != len(self.runs):
            raise ModelFileError(
                f"an ensemble needs two or more different models, got {len(digests)} in "
                f"{len(self.runs)} run(s)."
            )
        channels = {run.config.data.channels for run in self.runs}
        if len(channels) != 1:
            raise ModelFileError(
                "all runs of an ensemble must take the same channels in the same order, got "
                f"{' and '.join(str(list(names)) for names in sorted(channels))}."
            )
        kinds = {(run.card.classes, run.network.head) for run in self.runs}
        if len(kinds) != 1:
            raise ModelFileError(
                "all runs of an ensemble must have the same classes in the same order and the same "
                f"head, got {' and '.join(sorted(_kind(*kind) for kind in kinds))}."
            )

    @cached_property
    def shared_split(self) -> bool:
        """Whether all members have the same images, labels, groups and split."""
        return len({run.cohort.content_digest for run in self.runs}) == 1

    @cached_property
    def doubt(self) -> Doubt | None:
        """Calibration of the sum, ``None`` without a shared split or a member's own calibration.

        Raises:
            ModelFileError: if a member's scores of the validation images are missing or not those
                of its own calibration.
        """
        if not self.shared_split or any(run.doubt is None for run in self.runs):
            return None
        table = self.runs[0].cohort.table
        groups = table["group"][table["split"] == "val"].tolist()
        pairs = [(run.network, run.path / "scores.npz") for run in self.runs]
        try:
            own = [fit_joint_doubt([pair], groups).temperature.loss_before for pair in pairs]
            joint = fit_joint_doubt(pairs, groups)
        except (OSError, KeyError, ValueError) as error:
            raise ModelFileError(_SCORES) from error
        known = [run.doubt.temperature.loss_before for run in self.runs if run.doubt]
        if not np.allclose(own, known, rtol=1e-6):
            raise ModelFileError(_SCORES)
        return joint

    @property
    def model_digest(self) -> str:
        """``sha256:<hex>`` over the digests of the members, whatever their order."""
        names = "\n".join(sorted(run.card.model_digest for run in self.runs))
        return "sha256:" + hashlib.sha256(names.encode()).hexdigest()

    def predict(self, source: ImageSource, log: AuditLog, *, actor: str) -> RecordedPrediction:
        """Predict one image file and return the result after its record is committed.

        Raises:
            ImageReadError: if the image cannot be read.
            ModelFileError: if a run was altered.
            audit.AuditError: if the log does not take the record.
        """
        started = time.perf_counter()
        payload = self.payload(source)
        milliseconds = 1000 * (time.perf_counter() - started)
        subject = payload["image"]["pixel_digest"]
        record = log.append("prediction", subject=subject, actor=actor, payload=payload)
        return RecordedPrediction(record, payload, milliseconds)

    def payload(self, source: ImageSource) -> dict[str, Any]:
        """Return what is recorded of one prediction.

        As of :func:`pipelines.events.prediction_payload`, with all members' evidence in one list:
        ``prototype`` counts on over the members, ``member`` and ``member_prototype`` say whose it
        is. ``members`` holds each one's digests, logits and bias.
        """
        cases = [explain_case(run, source) for run in self.runs]
        explanations = [case.explanation for case in cases]
        parts = [
            prediction_payload(explanation, run.card)
            for explanation, run in zip(explanations, self.runs, strict=True)
        ]
        joint = replace(explanations[0], prediction=self._sum(cases))
        keys = ("model_digest", "config_digest", "logits", "bias", "preprocessing", "dtype")
        return {
            **prediction_payload(joint, self.runs[0].card),
            "bias": np.sum([part["bias"] for part in parts], axis=0).tolist(),
            "evidence": _joined(parts),
            "completeness_error": sum(part["completeness_error"] for part in parts),
            "config_digest": "",
            "synthetic_model": any(part["synthetic_model"] for part in parts),
            "members": [{key: part[key] for key in keys} for part in parts],
        }

    def _sum(self, cases: list[ExplainedCase]) -> Prediction:
        explanations = [case.explanation for case in cases]
        logits = np.sum([one.prediction.logits for one in explanations], axis=0)
        head = self.runs[0].network.head
        prediction = replace(
            explanations[0].prediction,
            logits=tuple(logits.tolist()),
            probabilities=tuple(probabilities(logits[None], head=head)[0].tolist()),
            model_digest=self.model_digest,
            calibrated=False,
            prediction_set=None,
            abstained=None,
            undecided=None,
            out_of_distribution=None,
        )
        if self.doubt is None:
            return prediction
        similarities = [value for case in cases for value in case.similarities]
        return judge_prediction(prediction, similarities, self.doubt)

    def evaluate(self, *, split: str = "test", cohort: Cohort | None = None) -> dict[str, Any]:
        """Compute the figures of the sum, and each member's difference to it.

        Args:
            split: of the members' cohort, which must be the same one, split alike.
            cohort: another cohort instead.

        Raises:
            CohortError: if the members' cohorts differ and no other is given, or there is no image.
        """
        first = self.runs[0]
        if cohort is None and not self.shared_split:
            raise CohortError(
                "the runs of an ensemble must share cohort and split, or one's training images may "
                "be another's test images; name another cohort with --cohort."
            )
        target = first.cohort if cohort is None else other_cohort(first, cohort)
        table = target.table
        rows = (
            table.index[table["split"] == split].tolist() if cohort is None else list(table.index)
        )
        if not rows:
            raise CohortError(f"there must be images to evaluate; the split {split!r} has none.")
        sets = [load_split(run, target, rows) for run in self.runs]
        logits = [infer_logits(run.network, own) for run, own in zip(self.runs, sets, strict=True)]
        head, images = first.network.head, sets[0]
        total, doubt = np.sum(logits, axis=0), self.doubt
        temperature = 1.0 if doubt is None else doubt.temperature.value
        joint = probabilities(total, head=head, temperature=temperature)
        summary = summarize(head, first.card.classes, joint, images, chosen_on=None)
        summary["calibrated"] = doubt is not None and doubt.calibrated
        summary["doubt"] = None
        if doubt is not None:
            pairs = zip(self.runs, sets, strict=True)
            similar = np.concatenate(
                [infer_similarities(run.network, own) for run, own in pairs], axis=1
            )
            summary["doubt"] = doubt.summary(total, similar, images.labels, images.groups)
        return {
            "split": split if cohort is None else "external",
            **summary,
            **self._compared(cohort, sets),
            "members": self._differences(logits, joint, images),
        }

    def _compared(self, cohort: Cohort | None, sets: Sequence[ImageSet]) -> dict[str, Any]:
        """Return what is to be said of another cohort; known images are the most of any member."""
        if cohort is None:
            return {}
        counts = [known_images(run, own) for run, own in zip(self.runs, sets, strict=True)]
        known = {split: max(count[split] for count in counts) for split in counts[0]}
        return {"known_images": known, "other_labels": other_labels(self.runs[0], cohort)}

    def _differences(
        self,
        logits: list[NDArray[np.float64]],
        joint: NDArray[np.float64],
        images: ImageSet,
    ) -> list[dict[str, Any]]:
        """Return the AUROC of each member, and that of the sum less it."""
        members = []
        groups = list(images.groups)
        for run, own in zip(self.runs, logits, strict=True):
            measure = ranking_metric(run.network.head)
            alone = probabilities(own, head=run.network.head)
            difference = paired_difference(
                measure, joint, alone, images.labels, groups=groups, seed=0
            )
            value = measure(alone, images.labels)
            entry = {"model_digest": run.card.model_digest, "auroc": value}
            members.append({**entry, "difference": difference.to_dict()})
        return members


def _joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    joined: list[dict[str, Any]] = []
    for member, part in enumerate(parts):
        for entry in part["evidence"]:
            own = {"member": member, "member_prototype": entry["prototype"]}
            joined.append({**entry, "prototype": len(joined), **own})
    return joined


def _kind(classes: Sequence[str], head: HeadKind) -> str:
    return f"{', '.join(classes)} ({head})"
