"""``medproto train``, ``evaluate`` and ``compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medproto.data import Cohort

from .wording import interval, percent

__all__ = ["compare", "evaluate", "print_metrics", "train", "warn_of_cohort"]

Run = Annotated[Path, typer.Argument(help="Folder of a finished training.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Split = Annotated[str, typer.Option(help="train, val or test.")]


def train(
    cohort: Annotated[Path, typer.Option(help="Cohort table with a column `split`.")],
    out: Annotated[Path, typer.Option(help="New folder for the run.")],
    preset: Annotated[str | None, typer.Option(help="clinical (the default) or paper.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as section.key=value.")
    ] = None,
    twin: Annotated[bool, typer.Option(help="Also train the plain classifier.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished run.")] = False,
    group: Annotated[
        str | None, typer.Option(help="Column that keeps images of a patient together.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    mlflow: Annotated[
        str | None, typer.Option(help="MLflow tracking URI that gets losses and figures too.")
    ] = None,
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes on this machine that train together.")
    ] = 1,
) -> None:
    """Train a prototype network: features, projection, last layer; then evaluate it.

    Example: medproto train --cohort cohort.csv --out runs/first --set data.image_size=224
    """
    from medproto.data import Cohort

    from .config import load_config
    from .processes import is_main, is_started, joined

    settled = load_config(config, settings or (), preset=preset)
    if nproc > 1 and not is_started():
        from .launch import launch

        raise typer.Exit(launch(nproc))
    from .train import train as run_training

    with joined(device):
        run = run_training(
            Cohort.read(cohort, group=group, label_columns=settled.data.label_columns or ()),
            out,
            settled,
            twin=twin,
            resume=resume,
            device=device,
            mlflow=mlflow,
        )
        if not is_main():
            return
    print_metrics(run.metrics)
    typer.echo(f"\nreport: {out / 'report.html'}", err=True)


def evaluate(
    run: Run,
    split: Annotated[
        str | None, typer.Option(help="train, val or test of the run; test by default.")
    ] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="Another cohort table: external validation.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Its column that keeps images of a patient together.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute discrimination, calibration, localisation and prototype quality, with intervals.

    Example: medproto evaluate runs/first --json
    """
    from medproto.data import Cohort

    from .evaluate import evaluate_run
    from .runs import RunFolder

    if cohort is not None and split is not None:
        raise typer.BadParameter("another cohort is taken as a whole: give --cohort or --split.")
    if cohort is None and group is not None:
        raise typer.BadParameter("--group is for another cohort; give --cohort, too.")
    folder = RunFolder(run)
    _ = folder.network
    findings = folder.config.data.label_columns or ()
    other: Cohort | None = None
    if cohort is not None:
        other = Cohort.read(cohort, group=group, label_columns=findings)
    summary = evaluate_run(folder, split=split or "test", cohort=other).summary
    warn_of_cohort(summary)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        print_metrics(summary)


def warn_of_cohort(summary: dict[str, Any]) -> None:
    """Say on stderr what of a cohort for external validation is not external, or not counted."""
    left_out = summary.get("other_labels") or {}
    if left_out:
        counts = ", ".join(f"{n} of {label[:60]!r}" for label, n in left_out.items())
        typer.echo(
            f"medproto: {sum(left_out.values())} images are left out, since the run does not know "
            f"their label: {counts}.",
            err=True,
        )
    known = summary.get("known_images") or {}
    if any(known.values()):
        counts = ", ".join(f"{n} of its {split} split" for split, n in known.items() if n)
        typer.echo(
            f"medproto: this is not external: among the images are {counts}, pixel for pixel.",
            err=True,
        )


def compare(
    run: Run,
    out: Annotated[Path, typer.Option(help="New folder for the page and the table.")],
    split: Split = "test",
    methods: Annotated[str, typer.Option(help="Of prototype, gradcam.")] = "prototype,gradcam",
    as_json: AsJson = False,
) -> None:
    """Compare explanation methods on the images that have masks, beside the controls.

    Example: medproto compare runs/first --methods prototype,gradcam --out runs/first/comparison
    """
    from .compare import compare_run
    from .runs import RunFolder

    result = compare_run(RunFolder(run), split=split, methods=methods.split(","), out=out)
    if as_json:
        typer.echo(json.dumps(result, indent=2, allow_nan=False))
        return
    for row in result["rows"]:
        typer.echo(f"{row['name']:<38} {interval(row['pointing'])}  {row['note']}")
    typer.echo(f"page: {out / 'comparison.html'}", err=True)


def print_metrics(summary: dict[str, Any]) -> None:
    """Print the main figures of an evaluation, one a line, with their intervals."""
    lines = [
        ("images (groups)", f"{summary['n']} ({summary['groups']})"),
        ("classes", ", ".join(summary["classes"])),
        ("AUROC", interval(summary["auroc"])),
    ]
    for name, entry in (summary.get("findings") or {}).items():
        lines.append((f"  {name} ({entry['positives']} of {entry['n']})", interval(entry["auroc"])))
    for key in ("balanced_accuracy", "quadratic_weighted_kappa", "grade_error"):
        if summary.get(key):
            lines.append((key.replace("_", " "), interval(summary[key])))
    for name, entry in (summary.get("aggregated") or {}).items():
        if entry:
            lines.append((f"  by {name} ({entry['n']})", interval(entry["auroc"])))
    if summary.get("twin"):
        lines.append(("  plain twin, AUROC", interval(summary["twin"]["auroc"])))
        lines.append(("  difference to it", interval(summary["twin"]["difference"], sign=True)))
    place = summary.get("localization")
    if place:
        lines.append(("evidence on the finding", interval(place["pointing_game"])))
        lines.append(("  best constant place", interval(place["constant_location"])))
        lines.append(("  median box", f"{percent(place['box_area']['median'])} of the image"))
    quality = summary["prototypes"]
    lines.append(("prototypes", f"{quality['total']} from {quality['unique_groups']} groups"))
    for name, value in lines:
        typer.echo(f"{name:<24} {value}")
