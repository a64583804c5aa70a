"""Predict: one image at a time, recorded before it is returned.

A prediction without a record did not happen: if the log cannot take the record, no result comes
back. An interactive request always appends; an item of a batch carries a request id made of batch,
image, model and configuration, so that only a *retry* of it is a no-op.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from audit import AuditLog, AuditRecord
from medproto.data import ImageSource
from medproto.errors import MedProtoError

from .cases import explain_case
from .events import prediction_payload
from .runs import RunFolder

__all__ = ["BatchItem", "RecordedPrediction", "predict_batch", "predict_recorded"]


@dataclass(frozen=True)
class RecordedPrediction:
    """A prediction whose record is committed.

    Args:
        record: as it stands in the log.
        payload: of the record.
        milliseconds: reading, prediction and evidence, without the append.
    """

    record: AuditRecord
    payload: dict[str, Any]
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``predict --json``."""
        return {
            "record": self.record.sequence,
            "record_digest": self.record.digest,
            **self.payload,
            "milliseconds": round(self.milliseconds, 1),
        }


@dataclass(frozen=True)
class BatchItem:
    """One row of a batch: its prediction, or the reason why there is none."""

    row: int
    prediction: RecordedPrediction | None
    problem: str | None


def predict_recorded(
    run: RunFolder, source: ImageSource, log: AuditLog, *, actor: str, request_id: str | None = None
) -> RecordedPrediction:
    """Predict one image file and return the result after its record is committed.

    Raises:
        ImageReadError: if the image cannot be read.
        ModelFileError: if the run is unfinished or altered.
        audit.AuditError: if the log does not take the record.
    """
    started = time.perf_counter()
    case = explain_case(run, source)
    payload = prediction_payload(case.explanation, run.card)
    milliseconds = 1000 * (time.perf_counter() - started)
    record = log.append(
        "prediction",
        subject=payload["image"]["pixel_digest"],
        actor=actor,
        payload=payload,
        request_id=request_id,
    )
    return RecordedPrediction(record, payload, milliseconds)


def predict_batch(
    run: RunFolder,
    items: Iterable[tuple[int, ImageSource]],
    log: AuditLog,
    *,
    actor: str,
    batch: str,
) -> Iterator[BatchItem]:
    """Predict the rows of a cohort; a bad image is one bad row and does not stop the rest.

    Args:
        items: row number and file, or frame.
        batch: digest of the cohort table; part of the request ids.
    """
    for row, source in items:
        name = "\0".join((batch, str(row), run.card.model_digest, run.card.config_digest))
        request_id = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
        try:
            prediction = predict_recorded(run, source, log, actor=actor, request_id=request_id)
        except MedProtoError as error:
            yield BatchItem(row, None, str(error))
        else:
            yield BatchItem(row, prediction, None)
