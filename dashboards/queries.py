"""Questions to a run folder and an audit log. Reads only.

What is said of a case comes from its record. The run folder adds what the record leaves out on
purpose: the label of the cohort table, and where the image lies, found by the digest of its pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from audit import AuditError, AuditLog, AuditRecord, VerificationError, verify
from medproto.errors import MedProtoError
from medproto.records import PixelBox
from pipelines.score_sum import score_sum

from .answers import CaseLink, CaseView, ChainState, EvidenceLine, RunView

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
        rows: dict[str, int] = {}
        for row, digest in enumerate(table["pixel_digest"]):
            rows.setdefault(str(digest), row)
        return RunView(
            name=run.name,
            classes=tuple(str(name) for name in card["classes"]),
            model_digest=str(card["model_digest"]),
            synthetic=bool(card["synthetic"]),
            metrics=metrics,
            sources=sources,
            rows=rows,
            labels=tuple(str(label) for label in table["label"]),
            layer=f"backbone stage {card['architecture']['stage']}",
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QueryError(
            "The run folder cannot be read: a file in it is damaged or of another version."
        ) from error


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


def read_case(audit: str, run: RunView, sequence: int) -> CaseView:
    """Return one recorded prediction.

    Raises:
        QueryError: if there is no such prediction of this run's model, or the log cannot be read.
    """
    with _open(audit) as log:
        record = _reading(lambda: log.get(sequence))
    if record.kind != "prediction" or record.payload.get("model_digest") != run.model_digest:
        raise QueryError(f"Record {sequence} is not a prediction of this run's model.")
    try:
        return _view(record, run)
    except (KeyError, TypeError, ValueError, IndexError) as error:
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
    payload = record.payload
    probability = payload["probabilities"][payload["classes"].index(payload["label"])]
    return CaseLink(
        sequence=record.sequence,
        recorded_at=record.recorded_at,
        label=str(payload["label"]),
        probability=float(probability),
        row=run.rows.get(record.subject),
    )


def _view(record: AuditRecord, run: RunView) -> CaseView:
    payload = record.payload
    classes = [str(name) for name in payload["classes"]]
    k = classes.index(payload["label"])
    logits = [float(v) for v in payload["logits"]]
    evidence = payload["evidence"]
    total = score_sum(
        [float(e["contributions"][k]) for e in evidence],
        float(payload["bias"][k]),
        logits[k],
        shown=SHOWN,
    )
    order = sorted(range(len(classes)), key=lambda c: -logits[c])
    row = run.rows.get(record.subject)
    return CaseView(
        sequence=record.sequence,
        digest=record.digest,
        recorded_at=record.recorded_at,
        actor=record.actor,
        classes=tuple((classes[c], float(payload["probabilities"][c]), logits[c]) for c in order),
        label=classes[k],
        calibrated=bool(payload["calibrated"]),
        lines=tuple(
            _line(place, evidence[position], k) for place, position in enumerate(total.shown, 1)
        ),
        total=total,
        row=row,
        true_label=None if row is None else run.labels[row] or None,
        pixel_digest=record.subject,
        model_digest=str(payload["model_digest"]),
        synthetic=bool(payload["image"]["synthetic"]) or run.synthetic,
        payload=payload,
    )


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
