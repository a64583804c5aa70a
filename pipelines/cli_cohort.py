"""``medproto cohort``: build, check and split cohort tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medproto.data import Cohort

__all__ = ["app"]

app = typer.Typer(
    help="Build, check and split cohort tables.", no_args_is_help=True, rich_markup_mode=None
)

Table = Annotated[Path, typer.Argument(help="Cohort table, .csv or .parquet.")]
Out = Annotated[Path, typer.Option("--out", help="Table to write, .csv or .parquet.")]
Group = Annotated[
    str | None,
    typer.Option("--group", help="Column that keeps images of a patient together."),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels", help="CSV with the columns image and label (or image and --label-columns)."
    ),
]
LabelColumns = Annotated[
    str | None,
    typer.Option(
        "--label-columns",
        help="Columns of findings that may occur together, with commas between: 1 present, "
        "0 absent, -1 or empty uncertain. In place of the column label.",
    ),
]
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
    cohort = Cohort.read(table, group=group, label_columns=_names(label_columns))
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


def _names(text: str | None) -> tuple[str, ...]:
    """Return the names of a list with commas."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


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

    cohort = Cohort.read(table, group=group, label_columns=_names(label_columns))
    cohort = split_cohort(cohort, folds=folds, seed=seed)
    _write(cohort, out, ())
    column = "fold" if folds else "split"
    for name, count in cohort.table[column].value_counts().sort_index().items():
        typer.echo(f"{column} {name}: {count} images", err=True)


@app.command("from-dicom")
def from_dicom(
    source: Annotated[Path, typer.Argument(help="Folder that is searched for DICOM files.")],
    out: Out,
    labels: Labels = None,
    copy_as_pseudonyms: Annotated[
        bool, typer.Option(help="Copy the files beside the table under pseudonymous names.")
    ] = False,
    label_columns: LabelColumns = None,
) -> None:
    """Build a table from a folder of DICOM files; patients and studies become pseudonyms.

    Pseudonyms are keyed: set MEDPROTO_PSEUDONYM_KEY to link them across builds.

    Example: medproto cohort from-dicom export/ --labels labels.csv --out cohort.csv
    """
    from medproto.data import from_dicom as build

    copies = out.parent / f"{out.stem}_images" if copy_as_pseudonyms else None
    cohort, notes = build(
        source, labels=labels, copy_to=copies, label_columns=_names(label_columns)
    )
    _write(cohort, out, notes)


@app.command("from-folder")
def from_folder(
    source: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: Out,
    labels: Labels = None,
    group: Group = None,
    label_columns: LabelColumns = None,
) -> None:
    """Build a table from PNG or JPEG files: a sub-folder for each class, or a labels table.

    Example: medproto cohort from-folder images/ --labels labels.csv --group case --out cohort.csv
    """
    from medproto.data import from_folder as build

    cohort, notes = build(source, labels=labels, group=group, label_columns=_names(label_columns))
    _write(cohort, out, notes)


@app.command("from-npz")
def from_npz(
    source: Annotated[Path, typer.Argument(help="MedMNIST file, .npz.")],
    out: Out,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes 0, 1, ..., with commas between.")
    ] = None,
) -> None:
    """Build a table from a MedMNIST file; its images are written beside the table as PNG.

    Example: medproto cohort from-npz pneumoniamnist_28.npz --classes normal,pneumonia --out p.csv
    """
    from medproto.data import from_npz as build

    names = None if classes is None else tuple(classes.split(","))
    cohort, notes = build(source, out.parent / f"{out.stem}_images", classes=names)
    _write(cohort, out, notes)


def _write(cohort: Cohort, out: Path, notes: tuple[str, ...] | list[str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    cohort.save(out)
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(f"wrote {len(cohort.table)} rows to {out}", err=True)
