"""Several runs as one classifier: their logits add up, and so does their evidence.

Chen et al., "This Looks Like That", NeurIPS 2019, add the logits of several networks to match a
black box (https://arxiv.org/abs/1806.10574). Each contribution stays that of its member, so the sum
over all members' contributions and biases is the ensemble's logit.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audit import AuditLog
from medproto.data import Cohort
from medproto.errors import CohortError, ModelFileError
from medproto.metrics import auroc, paired_difference, probabilities, summarize_classification

from .cases import explain_case
from .evaluate import load_split
from .events import prediction_payload
from .inference import infer_logits
from .predict import RecordedPrediction
from .runs import RunFolder

__all__ = ["Ensemble"]


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
        kinds = {(run.card.classes, run.network.head) for run in self.runs}
        if len(kinds) != 1:
            raise ModelFileError(
                "all runs of an ensemble must have the same classes in the same order and the same "
                f"head, got {' and '.join(sorted(map(str, kinds)))}."
            )

    @property
    def model_digest(self) -> str:
        """``sha256:<hex>`` over the digests of the members, whatever their order."""
        names = "\n".join(sorted(run.card.model_digest for run in self.runs))
        return "sha256:" + hashlib.sha256(names.encode()).hexdigest()

    def predict(self, path: Path, log: AuditLog, *, actor: str) -> RecordedPrediction:
        """Predict one image file and return the result after its record is committed.

        Raises:
            ImageReadError: if the image cannot be read.
            ModelFileError: if a run was altered.
            audit.AuditError: if the log does not take the record.
        """
        started = time.perf_counter()
        payload = self.payload(path)
        milliseconds = 1000 * (time.perf_counter() - started)
        subject = payload["image"]["pixel_digest"]
        record = log.append("prediction", subject=subject, actor=actor, payload=payload)
        return RecordedPrediction(record, payload, milliseconds)

    def payload(self, path: Path) -> dict[str, Any]:
        """Return what is recorded of one prediction.

        As of :func:`pipelines.events.prediction_payload`, with all members' evidence in one list:
        ``prototype`` counts on over the members, ``member`` and ``member_prototype`` say whose it
        is. ``members`` holds each one's digests, logits and bias. The sum of logits is not
        calibrated, and doubt is a matter of single runs.
        """
        explanations = [explain_case(run, path).explanation for run in self.runs]
        parts = [
            prediction_payload(explanation, run.card)
            for explanation, run in zip(explanations, self.runs, strict=True)
        ]
        logits = np.sum([part["logits"] for part in parts], axis=0)
        chances = probabilities(logits[None], head=self.runs[0].network.head)[0]
        keys = ("model_digest", "config_digest", "logits", "bias", "preprocessing", "dtype")
        return {
            **parts[0],
            "label": parts[0]["classes"][int(logits.argmax())],
            "probabilities": chances.tolist(),
            "calibrated": False,
            "logits": logits.tolist(),
            "bias": np.sum([part["bias"] for part in parts], axis=0).tolist(),
            "prediction_set": None,
            "abstained": None,
            "out_of_distribution": None,
            "evidence": _joined(parts),
            "completeness_error": sum(part["completeness_error"] for part in parts),
            "model_digest": self.model_digest,
            "config_digest": "",
            "synthetic_model": any(part["synthetic_model"] for part in parts),
            "members": [{key: part[key] for key in keys} for part in parts],
        }

    def evaluate(self, *, split: str = "test", cohort: Cohort | None = None) -> dict[str, Any]:
        """Compute the figures of the sum, and each member's difference to it.

        Args:
            split: of the members' cohort, which must be the same one, split alike.
            cohort: another cohort instead.

        Raises:
            CohortError: if the members' cohorts differ and no other is given, or there is no image.
        """
        first = self.runs[0]
        if cohort is None and len({run.card.cohort_digest for run in self.runs}) != 1:
            raise CohortError(
                "the runs of an ensemble must share cohort and split, or one's training images may "
                "be another's test images; name another cohort with --cohort."
            )
        target = first.cohort if cohort is None else cohort.select(first.card.classes)
        table = target.table
        rows = (
            table.index[table["split"] == split].tolist() if cohort is None else list(table.index)
        )
        if not rows:
            raise CohortError(f"there must be images to evaluate; the split {split!r} has none.")
        sets = [load_split(run, target, rows) for run in self.runs]
        logits = [
            infer_logits(run.network, images) for run, images in zip(self.runs, sets, strict=True)
        ]
        head, labels, groups = first.network.head, np.asarray(sets[0].labels), list(sets[0].groups)
        joint = probabilities(np.sum(logits, axis=0), head=head)
        summary = summarize_classification(joint, labels, groups, list(first.card.classes))
        members = []
        for run, own in zip(self.runs, logits, strict=True):
            alone = probabilities(own, head=head)
            difference = paired_difference(auroc, joint, alone, labels, groups=groups, seed=0)
            value = auroc(alone, labels)
            entry = {"model_digest": run.card.model_digest, "auroc": value}
            members.append({**entry, "difference": difference.to_dict()})
        return {"split": split if cohort is None else "external", **summary, "members": members}


def _joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    joined: list[dict[str, Any]] = []
    for member, part in enumerate(parts):
        for entry in part["evidence"]:
            own = {"member": member, "member_prototype": entry["prototype"]}
            joined.append({**entry, "prototype": len(joined), **own})
    return joined
