"""The whole way on synthetic radiographs or chest CTs, in one command.

Cohort of DICOM files, or of CT series and NIfTI volumes -> check -> split -> train (with twin) ->
evaluate -> audited prediction with evidence -> Grad-CAM comparison -> report -> ``audit verify``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audit import AuditLog, verify
from medproto.data import (
    Cohort,
    check_cohort,
    from_dicom,
    from_nifti,
    join_cohorts,
    split_cohort,
)
from medproto.data.phantom import make_phantom_cohort
from medproto.data.phantom_volume import make_volume_phantoms
from medproto.errors import MedProtoError

from .case_report import write_case
from .compare import compare_run
from .config import load_config
from .predict import predict_recorded
from .runs import RunFolder
from .train import train
from .wording import interval, percent

__all__ = ["DEMO_SETTINGS", "VOLUME_SETTINGS", "run_demo"]

PATIENTS = 150
VOLUMES = 120
CASES = 6
SIZE = 320
DEMO_SETTINGS = ("training.batch_size=8", "training.joint_epochs=4")
"""Settings that differ from the preset: few images, so more steps an epoch, and fewer epochs."""

VOLUME_SETTINGS = (
    "data.crop=lungs",
    "data.image_size=[36,56,48]",
    "model.prototypes_per_class=5",
    "training.batch_size=4",
    "training.features_epochs=0",
    "training.joint_epochs=8",
    "training.learning_rate_joint=0.002",
    "training.peak_in_masks=0.5",
    "training.patches_in_masks=true",
)
"""The same for volumes: their network starts at random, and eighty images are few for that. So it
is told where the masses of the training images lie."""


def run_demo(
    out: Path, *, seed: int, say: Callable[[str], None], volumes: bool = False
) -> RunFolder:
    """Run everything into ``out`` and say at each step where it stands.

    Args:
        volumes: CT series and NIfTI files in place of radiographs.

    Raises:
        MedProtoError: if ``out`` is taken or a step fails.
    """
    if out.exists() and any(out.iterdir()):
        raise MedProtoError(f"the folder {out} is not empty; choose a new one with --out.")
    started = time.perf_counter()

    def step(number: int, text: str) -> None:
        say(f"\n[{number}/8 {time.perf_counter() - started:4.0f} s] {text}")

    images = "chest CTs as DICOM series and NIfTI" if volumes else "chest radiographs as DICOM"
    step(1, f"Synthetic {images} (no patient is in them)")
    table = _make_cohort(out, seed, say, volumes=volumes)
    twin = "" if volumes else ", and the plain twin"
    step(2, f"Training: features, projection, last layer{twin}")
    settings = VOLUME_SETTINGS if volumes else DEMO_SETTINGS
    config = load_config(None, [f"seed={seed}", *settings])
    run = train(Cohort.read(table), out / "run", config, twin=not volumes)
    step(3, "Evaluation on patients that took no part in training")
    _say_metrics(run.metrics, say)
    step(4, "Prediction with evidence, recorded before it is shown")
    cases = _chosen_cases(run)
    with AuditLog.create(str(out / "audit.db")) as log:
        recorded = [predict_recorded(run, path, log, actor="demo") for path in cases]
    for prediction in recorded:
        payload = prediction.payload
        k = payload["classes"].index(payload["label"])
        top = max(payload["evidence"], key=lambda e: e["contributions"][k])
        say(
            f"  record {prediction.record.sequence}: {payload['label']}, logit "
            f"{payload['logits'][k]:+.2f}: bias {payload['bias'][k]:+.2f}, most evidence from "
            f"prototype {top['prototype']}, {top['contributions'][k]:+.2f}, at box {top['box_px']}"
        )
    step(5, "This looks like that: the pages of these cases")
    for path, prediction in zip(cases, recorded, strict=True):
        write_case(run, path, out / "cases", recorded=prediction)
    step(6, "Grad-CAM beside the prototypes")
    comparison = compare_run(
        run, split="test", methods=["prototype", "gradcam"], out=out / "comparison"
    )
    for row in comparison["rows"]:
        say(f"  {row['name']:<44} hits the finding in {row['pointing']['value']:.0%}")
    step(7, "The log, verified")
    report = verify(str(out / "audit.db"))
    if not report.ok:
        raise MedProtoError("the log of the demo does not verify; please report this.")
    say(f"  {report.records} records, head {report.head}")
    step(8, "Done")
    _say_summary(out, run, say)
    return run


def _make_cohort(
    out: Path, seed: int, say: Callable[[str], None], *, volumes: bool = False
) -> Path:
    # A key of its own, since nobody is hidden: the same seed gives the same pseudonyms and split.
    key, copies = f"demo {seed}", out / "images"
    if volumes:
        series, files = make_volume_phantoms(out / "data", patients=VOLUMES, seed=seed)
        parts = [
            from_dicom(series, series=True, key=key, copy_to=copies / "ct").cohort,
            from_nifti(files, key=key, copy_to=copies / "nifti").cohort,
        ]
        cohort = join_cohorts(parts, out)
    else:
        labels = make_phantom_cohort(out / "data", patients=PATIENTS, size=SIZE, seed=seed)
        cohort = from_dicom(out / "data", labels=labels, key=key, copy_to=copies).cohort
    cohort = split_cohort(cohort, folds=None, seed=seed)
    table = out / "cohort.csv"
    cohort.save(table)
    report = check_cohort(Cohort.read(table))
    counts = ", ".join(f"{n} {name}" for name, n in cohort.table["label"].value_counts().items())
    say(f"  {report.n} images ({counts}), {len(report.problems)} problems")
    return table


def _chosen_cases(run: RunFolder) -> list[Path]:
    """Some test images of each class, the positive ones first."""
    test = run.cohort.table[run.cohort.table["split"] == "test"]
    rows: list[int] = []
    for name in reversed(run.card.classes):
        rows += test.index[test["label"] == name].tolist()[: CASES // len(run.card.classes)]
    return [run.cohort.image_path(row) for row in rows]


def _say_metrics(metrics: dict[str, Any], say: Callable[[str], None]) -> None:
    twin = metrics["twin"]
    beside = f", plain twin {interval(twin['auroc'])}" if twin else ""
    say(f"  AUROC {interval(metrics['auroc'])}{beside}")
    place = (metrics["localization"] or {}).get("positive_correct")
    if place is None:
        say("  no positive case was classified correctly, so there is no evidence to locate")
        return
    say(
        f"  evidence on the finding, correct positive cases: {interval(place['pointing_game'])}\n"
        f"  best constant place, as control: {interval(place['constant_location'])}\n"
        f"  median box: {percent(place['box_area']['median'])} of the image"
    )


def _say_summary(out: Path, run: RunFolder, say: Callable[[str], None]) -> None:
    metrics = run.metrics
    quality, last = metrics["prototypes"], metrics["last_layer"]
    width = min(100, shutil.get_terminal_size().columns)
    rows = [
        ("cohort", f"{len(run.cohort.table)} synthetic images, {out / 'cohort.csv'}"),
        ("model", f"{quality['total']} prototypes from {quality['unique_groups']} patients"),
        ("", f"last layer solved, optimality residual {last['residual']:.0e}"),
        ("how well", f"AUROC {metrics['auroc']['value']:.3f} on {metrics['n']} test images"),
        ("report", str(out / "run" / "report.html")),
        ("cases", str(out / "cases")),
        ("Grad-CAM", str(out / "comparison" / "comparison.html")),
        ("record", f"{out / 'audit.db'}, verified"),
        ("next", f"medproto dashboard --run {out / 'run'} --audit {out / 'audit.db'}"),
    ]
    say("-" * width)
    for name, value in rows:
        say(f"{name:<10} {value}")
    say("-" * width)
    say("Synthetic data; a demonstration of the software, not of clinical performance.")
