"""``medproto cohort``: build, check and split cohort tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from . import cli_cohort_build
from .cli_cohort_build import Group, LabelColumns, Out, names_of, write_cohort

__all__ = ["app"]

app = typer.Typer(
    help="Build, check and split cohort tables.", no_args_is_help=True, rich_markup_mode=None
)
app.command("from-bids")(cli_cohort_build.from_bids)
app.command("from-dicom")(cli_cohort_build.from_dicom)
app.command("from-folder")(cli_cohort_build.from_folder)
app.command("from-nifti")(cli_cohort_build.from_nifti)
app.command("from-npz")(cli_cohort_build.from_npz)
app.command("recipe")(cli_cohort_build.recipe)

Table = Annotated[Path, typer.Argument(help="Cohort table, .csv or .parquet.")]
VOI = "voi, full-range, percentile or window:CENTER,WIDTH"
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.command("check")
def check(
    table: Table,
    group: Group = None,
    label_columns: LabelColumns = None,
    voi: Annotated[
        str, typer.Option(help=f"Gray range, as data.voi of a training: {VOI}.")
    ] = "voi",
    channels: Annotated[
        str | None, typer.Option(help="Columns image_path_... of further channels, by commas.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every image of a cohort and name all problems, a line each.

    Example: medproto cohort check cohort.csv

    Example: medproto cohort check cohort.csv --label-columns nodule,effusion
    """
    from tqdm import tqdm

    from medproto.data import Cohort, check_cohort
    from medproto.data.gray import read_policy

    try:
        read_policy(voi)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    cohort = Cohort.read(
        table, group=group, label_columns=names_of(label_columns), channels=names_of(channels)
    )
    with tqdm(unit=" files", disable=None, leave=False) as bar:  # none where nobody watches

        def show(done: int, count: int) -> None:
            bar.total = count
            bar.update(done - bar.n)

        report = check_cohort(cohort, voi=voi, progress=show)
    if as_json:
        problems = [asdict(problem) for problem in report.problems]
        document = {"ok": report.ok, "n": report.n, "problems": problems, **report.summary}
        typer.echo(json.dumps(document, indent=2))
    else:
        for problem in report.problems:
            where = "table" if problem.row is None else f"row {problem.row}"
            typer.echo(f"{where:<9} {problem.stage:<10} {problem.reason}")
        _print_summary(report.summary)
        found = f"{len(report.problems)} problem(s)" if report.problems else "no problems"
        typer.echo(f"{report.n} rows, {found}.")
    if not report.ok:
        raise typer.Exit(1)


def _print_summary(summary: Mapping[str, Any]) -> None:
    for key, value in summary.items():
        if key == "findings":
            _print_findings(value)
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name}: {count}" for name, count in value.items())
        if value not in ("", None):
            typer.echo(f"{key + ':':<11} {value}")


def _print_findings(findings: Mapping[str, Mapping[str, int]]) -> None:
    width = max(len("findings:"), *(len(name) + 2 for name in findings))
    typer.echo(f"{'findings:':<{width}}  {'present':>9} {'absent':>9} {'uncertain':>9}")
    for name, counts in findings.items():
        cells = " ".join(f"{counts[key]:>9}" for key in ("present", "absent", "uncertain"))
        typer.echo(f"  {name:<{width - 2}}  {cells}")


@app.command("split")
def split(
    table: Table,
    out: Out,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")],
    folds: Annotated[
        int | None, typer.Option(help="Write a column `fold` of K folds instead of `split`.")
    ] = None,
    group: Group = None,
    label_columns: LabelColumns = None,
) -> None:
    """Split by patient (or group), stratified by label or finding, into train, val and test.

    Example: medproto cohort split cohort.csv --seed 0 --out cohort.csv

    Example: medproto cohort split c.csv --label-columns nodule,effusion --seed 0 --out c.csv
    """
    from medproto.data import Cohort, split_cohort

    cohort = Cohort.read(table, group=group, label_columns=names_of(label_columns))
    cohort = split_cohort(cohort, folds=folds, seed=seed)
    write_cohort(cohort, out, ())
    column = "fold" if folds else "split"
    for name, count in cohort.table[column].value_counts().sort_index().items():
        typer.echo(f"{column} {name}: {count} images", err=True)
