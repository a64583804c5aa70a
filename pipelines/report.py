"""Fill the report of a run and write it: ``report.html`` and the figures beside it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from medproto.data import Cohort
from medproto.networks import ModelCard, ProtoPNet, tensor_digest
from medproto.networks.model_file import write_atomically
from medproto.records import PrototypeSource

from .evaluate import Evaluation
from .gallery import read_pictures
from .pages import RunReport, run_report

__all__ = ["now", "write_report"]


def now() -> str:
    """Return the UTC time, ISO 8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_report(
    out: Path,
    network: ProtoPNet,
    card: ModelCard,
    sources: tuple[PrototypeSource, ...],
    metrics: dict[str, Any],
    evaluation: Evaluation,
) -> None:
    """Write ``report.html`` of a run whose other files are in place."""
    facts = {
        "Model": tensor_digest(network.state_dict()),
        "Configuration": card.config_digest,
        "Cohort": card.cohort_digest,
        "Images": _counts(evaluation.images.cohort),
        "Backbone weights": card.backbone_weights or "random start",
        "Versions": ", ".join(f"{name} {value}" for name, value in card.versions.items()),
    }
    report = RunReport(
        title=" / ".join(card.classes),
        classes=card.classes,
        metrics=metrics,
        history=pd.read_csv(out / "history.csv"),
        sources=sources,
        pictures=read_pictures(out / "prototypes", sources),
        weights=network.last_layer.weight.detach().cpu().numpy(),
        probabilities=evaluation.probabilities,
        labels=evaluation.images.labels,
        head=network.head,
        facts=facts,
        synthetic=card.synthetic,
        created=now(),
    )
    write_atomically(out / "report.html", run_report(report).encode())


def _counts(cohort: Cohort) -> str:
    """Return how many images of each label, or with each finding, a split has."""
    splits = cohort.table["split"].tolist()
    if not cohort.label_columns:
        counts = Counter(zip(splits, cohort.table["label"], strict=True))
        return ", ".join(f"{split} {label}: {n}" for (split, label), n in sorted(counts.items()))
    present = cohort.targets() == 1
    parts = []
    for split in sorted(set(splits)):
        rows = [row for row, name in enumerate(splits) if name == split]
        found = zip(cohort.label_columns, present[rows].sum(axis=0).tolist(), strict=True)
        parts.append(f"{split} {len(rows)} (" + ", ".join(f"{k}: {n}" for k, n in found) + ")")
    return ", ".join(parts)
