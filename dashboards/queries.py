"""Questions to a run folder and an audit log. Reads only.

What is said of a case comes from its record. The run folder adds what the record leaves out on
purpose: the label of the cohort table, and where the image lies, found by the digest of its pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from audit import AuditError, AuditLog, AuditRecord, VerificationError, verify
from audit.prediction import LoggedPrediction, read_prediction
from medproto.errors import MedProtoError
from medproto.records import PixelBox
from pipelines.head_words import HEAD_WORDS
from pipelines.score_sum import score_sum

from .answers import (
    CaseLink,
    CaseView,
    ChainState,
    ClassLine,
    EvidenceLine,
    LogitLine,
    RunView,
    Truth,
)

__all__ = [
    "QueryError",
    "chain_state",
    "list_cases",
    "read_case",
    "read_run",
]

SHOWN = 5


class QueryError(MedProtoError):
    """A run folder or log cannot answer; the message is meant for the page."""


def read_run(run: Path) -> RunView:
    """Read a run folder.

    Raises:
        QueryError: if it is missing, unfinished or unreadable.
    """
    from pipelines.runs import sources_from_table

    for name in ("model.json", "cohort.csv", "prototypes.parquet"):
        if not (run / name).is_file():
            raise QueryError(
                f"The run folder must hold {name}, which is missing. Is it the folder of a "
                "finished training? Start the dashboard with --run RUN."
            )
    try:
        card = json.loads((run / "model.json").read_text(encoding="utf-8"))
        table = pd.read_csv(run / "cohort.csv", dtype=str, keep_default_na=False)
        sources = sources_from_table(pd.read_parquet(run / "prototypes.parquet"))
        metrics_file = run / "metrics.json"
        metrics = json.loads(metrics_file.read_text("utf-8")) if metrics_file.is_file() else {}
        classes = tuple(str(name) for name in card["classes"])
        head = card["architecture"].get("head", "multiclass")
        rows: dict[str, int] = {}
        for row, digest in enumerate(table["pixel_digest"]):
            rows.setdefault(str(digest), row)
        return RunView(
            name=run.name,
            classes=classes,
            head=head if head in HEAD_WORDS else "multiclass",
            model_digest=str(card["model_digest"]),
            synthetic=bool(card["synthetic"]),
            metrics=metrics,
            sources=sources,
            rows=rows,
            truths=_truths(table, classes, head),
            layer=f"backbone stage {card['architecture']['stage']}",
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QueryError(
            "The run folder cannot be read: a file in it is damaged or of another version."
        ) from error


def _truths(table: pd.DataFrame, classes: Sequence[str], head: str) -> tuple[Truth, ...]:
    """Return what the cohort table says of each row."""
    from medproto.data.findings import read_targets

    if head != "multilabel":
        return tuple(
            {name: name == label for name in dict.fromkeys((*classes, label))} if label else {}
            for label in map(str, table["label"])
        )
    known = read_targets(table, list(classes))
    return tuple(
        {name: None if value != value else value == 1 for name, value in zip(classes, row)}
        for row in known.tolist()
    )


def list_cases(audit: str, run: RunView) -> tuple[CaseLink, ...]:
    """Return the recorded predictions of the run's model, newest first.

    Raises:
        QueryError: if the log is missing or cannot be read.
    """
    with _open(audit) as log:
        records = _reading(lambda: list(log.records(kind="prediction", newest_first=True)))
    return tuple(
        _link(record, run)
        for record in records
        if record.payload.get("model_digest") == run.model_digest
    )


def read_case(audit: str, run: RunView, sequence: int, *, logit: int | None = None) -> CaseView:
    """Return one recorded prediction.

    Args:
        logit: position of the logit to take apart; ``None`` for the one that the prediction shows
            first.

    Raises:
        QueryError: if there is no such prediction of this run's model, or the log cannot be read.
    """
    with _open(audit) as log:
        record = _reading(lambda: log.get(sequence))
    if record.kind != "prediction" or record.payload.get("model_digest") != run.model_digest:
        raise QueryError(f"Record {sequence} is not a prediction of this run's model.")
    try:
        return _view(record, run, logit)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise QueryError(
            f"Record {sequence} lacks parts of a prediction; it was written by another version."
        ) from error


def chain_state(audit: str, sequence: int) -> ChainState:
    """Verify the log and say whether its records up to ``sequence`` are what was written."""
    try:
        report = verify(audit)
    except (VerificationError, AuditError):
        return ChainState(False, "The log cannot be verified: it is missing or unreadable.")
    if report.ok:
        return ChainState(
            True, f"The log verifies: all {report.records} records are what was written."
        )
    whole = any(problem.sequence is None for problem in report.problems)
    if report.first_bad is not None and report.first_bad > sequence and not whole:
        return ChainState(
            True,
            f"Records 1 to {sequence} verify, but record {report.first_bad} is damaged. "
            "Tell whoever keeps the log.",
        )
    where = f"record {report.first_bad}" if report.first_bad is not None else "the file itself"
    return ChainState(
        False,
        f"THE LOG DOES NOT VERIFY: {where} was altered. Do not rely on this case; "
        "run `medproto audit verify` and tell whoever keeps the log.",
    )


def _open(audit: str) -> AuditLog:
    return _reading(lambda: AuditLog.open(audit, read_only=True))


def _reading(read: Any) -> Any:
    try:
        return read()
    except VerificationError as error:
        number = f" at record {error.sequence}" if error.sequence is not None else ""
        raise QueryError(
            f"The log does not verify{number}, so no case is shown. Run `medproto audit verify`."
        ) from error
    except AuditError as error:
        raise QueryError(
            "The log cannot be read: it is missing, locked or not a log, or the record is not in "
            "it. Start the dashboard with --audit LOG."
        ) from error


def _link(record: AuditRecord, run: RunView) -> CaseLink:
    label, probability = "", None
    prediction = read_prediction(record.payload)
    if prediction is not None:
        label = prediction.label
        if len(prediction.present) == 1:
            probability = float(prediction.probabilities[prediction.present[0]])
    row = run.rows.get(record.subject)
    return CaseLink(record.sequence, record.recorded_at, label, probability, row)


def _view(record: AuditRecord, run: RunView, logit: int | None) -> CaseView:
    payload = record.payload
    prediction = read_prediction(payload)
    if prediction is None:
        raise ValueError("the payload is no sound prediction.")
    choices = _choices(prediction)
    k = _first(prediction) if logit is None else choices[choices.index(logit)]
    evidence = prediction.evidence
    total = score_sum(
        [float(e["contributions"][k]) for e in evidence],
        float(prediction.bias[k]),
        float(prediction.logits[k]),
        shown=SHOWN,
    )
    row = run.rows.get(record.subject)
    truth = {} if row is None else run.truths[row]
    return CaseView(
        sequence=record.sequence,
        digest=record.digest,
        recorded_at=record.recorded_at,
        actor=record.actor,
        head=prediction.head,
        classes=_classes(prediction, truth),
        label=prediction.label,
        calibrated=payload.get("calibrated") is True,
        logits=_logits(prediction),
        logit=k,
        choices=choices,
        lines=tuple(
            _line(place, evidence[position], k) for place, position in enumerate(total.shown, 1)
        ),
        total=total,
        row=row,
        truth=truth,
        agrees=_agrees(prediction, truth),
        pixel_digest=record.subject,
        model_digest=str(payload["model_digest"]),
        synthetic=bool(payload["image"]["synthetic"]) or run.synthetic,
        payload=payload,
    )


def _first(prediction: LoggedPrediction) -> int:
    """Return the position of the logit that the page opens with."""
    return max(prediction.shown, key=lambda k: prediction.logits[k])


def _choices(prediction: LoggedPrediction) -> tuple[int, ...]:
    """Findings by the size of their logits, thresholds in order, else the one that is shown."""
    if prediction.head not in ("multilabel", "ordinal"):
        return prediction.shown
    order = range(len(prediction.names))
    if prediction.head == "ordinal":
        return tuple(order)
    return tuple(sorted(order, key=lambda k: -prediction.logits[k]))


def _classes(prediction: LoggedPrediction, truth: Truth) -> tuple[ClassLine, ...]:
    order = list(range(len(prediction.classes)))
    ordinal = prediction.head == "ordinal"
    if not ordinal:
        order.sort(key=lambda c: -prediction.logits[c])
    return tuple(
        ClassLine(
            name=prediction.classes[c],
            probability=float(prediction.probabilities[c]),
            logit=None if ordinal else float(prediction.logits[c]),
            present=c in prediction.present,
            true=truth.get(prediction.classes[c]),
        )
        for c in order
    )


def _logits(prediction: LoggedPrediction) -> tuple[LogitLine, ...]:
    return tuple(
        LogitLine(
            name=name,
            evidence=math.fsum(e["contributions"][k] for e in prediction.evidence),
            bias=float(prediction.bias[k]),
            logit=float(prediction.logits[k]),
        )
        for k, name in enumerate(prediction.names)
    )


def _agrees(prediction: LoggedPrediction, truth: Truth) -> bool | None:
    """Compare what is known: of findings each, else the one class."""
    found = {prediction.classes[k] for k in prediction.present}
    known = [(name in found) == value for name, value in truth.items() if value is not None]
    return all(known) if known else None


def _line(place: int, entry: Mapping[str, Any], k: int) -> EvidenceLine:
    measured, box_mm = entry["faithfulness"], entry["box_mm"]
    whole = float(measured["similarity"]) if measured else 0.0
    return EvidenceLine(
        place=place,
        prototype=int(entry["prototype"]),
        class_name=str(entry["class"]),
        similarity=float(entry["similarity"]),
        weight=float(entry["weights"][k]),
        contribution=float(entry["contributions"][k]),
        box=PixelBox.from_list(entry["box_px"]),
        box_mm=None if box_mm is None else tuple(float(v) for v in box_mm),
        source_row=int(entry["source"]["row"]),
        source_group=str(entry["source"]["group"]),
        kept=float(measured["outside_changed"]) / whole if whole else None,
        left=float(measured["inside_changed"]) / whole if whole else None,
    )
