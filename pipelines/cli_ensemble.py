"""``medproto ensemble``: several runs as one classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .wording import interval, number

__all__ = ["app"]

app = typer.Typer(
    name="ensemble",
    help="Several finished runs as one classifier: logits and evidence add up.\n\n"
    "Example: medproto ensemble evaluate --run runs/a --run runs/b",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Runs = Annotated[list[Path], typer.Option("--run", help="Folder of a finished training; repeat.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.callback()
def _group() -> None:
    """Several finished runs as one classifier."""


@app.command("evaluate")
def evaluate(
    runs: Runs,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    cohort: Annotated[Path | None, typer.Option(help="Another cohort table.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the figures of the sum of the logits, and each member beside it.

    Example: medproto ensemble evaluate --run runs/a --run runs/b --json
    """
    from medproto.data import Cohort

    from .cli_run import warn_of_cohort
    from .ensemble import Ensemble
    from .runs import RunFolder

    ensemble = Ensemble(tuple(RunFolder(run) for run in runs))
    findings = ensemble.runs[0].config.data.label_columns or ()
    other = None if cohort is None else Cohort.read(cohort, label_columns=findings)
    summary = ensemble.evaluate(split=split, cohort=other)
    warn_of_cohort(summary)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
        return
    typer.echo(f"{'images (groups)':<24} {summary['n']} ({summary['groups']})")
    typer.echo(f"{'AUROC, ensemble':<24} {interval(summary['auroc'])}")
    typer.echo(f"{'probabilities':<24} {_calibration(ensemble.shared_split, summary)}")
    for run, member in zip(runs, summary["members"], strict=True):
        gain = interval(member["difference"], sign=True)
        typer.echo(f"  {run.name:<22} {number(member['auroc'])}; ensemble less this one {gain}")


def _calibration(shared_split: bool, summary: dict[str, Any]) -> str:
    if summary["calibrated"]:
        return f"calibrated on validation images, temperature {summary['doubt']['temperature']:.2f}"
    if not shared_split:
        return "not calibrated: the runs have no common split"
    if summary["doubt"] is None:
        return "not calibrated, as a run without a calibration of its own is among them"
    return "not calibrated: the validation images determine no temperature"


@app.command("predict")
def predict(
    runs: Runs,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    audit: Annotated[str, typer.Option(help="The log: a path or a database URL.")],
    actor: Annotated[str | None, typer.Option(help="Who asks; the user by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict with the evidence of all members; each result is recorded before it is printed.

    Example: medproto ensemble predict --run runs/a --run runs/b image.dcm --audit audit.db
    """
    from audit import AuditLog
    from medproto.errors import MedProtoError

    from .cli_use import actor_name, report_prediction
    from .ensemble import Ensemble
    from .predict import RecordedPrediction
    from .runs import RunFolder

    ensemble = Ensemble(tuple(RunFolder(run) for run in runs))
    who = actor_name(actor)
    done: list[RecordedPrediction] = []
    failed = 0
    with AuditLog.open(audit) as log:
        for path in images:
            prediction, problem = None, None
            try:
                prediction = ensemble.predict(path, log, actor=who)
            except MedProtoError as error:
                problem = str(error)
            failed += report_prediction(str(path), prediction, problem, done, as_json)
    if as_json:
        typer.echo(json.dumps([p.to_json() for p in done], indent=2, allow_nan=False))
    if failed:
        raise typer.Exit(1)
