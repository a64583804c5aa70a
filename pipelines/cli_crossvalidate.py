"""``medproto crossvalidate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .wording import interval

__all__ = ["crossvalidate"]


def crossvalidate(
    cohort: Annotated[Path, typer.Option(help="Cohort table with a column `fold`.")],
    out: Annotated[Path, typer.Option(help="Folder of the folds; an unfinished one goes on.")],
    preset: Annotated[str | None, typer.Option(help="clinical (the default) or paper.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as section.key=value.")
    ] = None,
    twin: Annotated[bool, typer.Option(help="Also train the plain classifier.")] = False,
    group: Annotated[
        str | None, typer.Option(help="Column that keeps images of a patient together.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    mlflow: Annotated[
        str | None, typer.Option(help="MLflow tracking URI that gets losses and figures too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json on stdout.")] = False,
) -> None:
    """Train one run a fold and test it on that fold; run it again to go on after a break.

    Example: medproto crossvalidate --cohort folds.csv --out runs/cv --twin
    """
    from medproto.data import Cohort

    from .config import load_config
    from .crossvalidate import crossvalidate as run_folds

    settled = load_config(config, settings or (), preset=preset)
    table = Cohort.read(cohort, group=group, label_columns=settled.data.label_columns or ())
    say = None if as_json else _say_fold
    summary = run_folds(
        table, out, settled, twin=twin, device=device, mlflow=mlflow, after_fold=say
    )
    if as_json:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
        return
    _say_means(summary["mean"])
    typer.echo(f"\nsummary: {out / 'summary.json'}", err=True)


def _say_fold(row: dict[str, Any]) -> None:
    parts = [f"fold {row['fold']}  n {row['n']:<5} AUROC {interval(row['auroc'])}"]
    if row["difference"] is not None:
        parts.append(f"to the twin {interval(row['difference'], sign=True)}")
    if row["localization"] is not None:
        hits = row["localization"]["pointing_game"]["value"]
        constant = row["localization"]["constant_location"]["value"]
        parts.append(f"evidence on the finding {hits:.2f}, best constant place {constant:.2f}")
    typer.echo("  ".join(parts))


def _say_means(means: dict[str, Any]) -> None:
    typer.echo("\nmean over the folds, each figure computed within its fold")
    lines = [("AUROC", means["auroc"], False)]
    if means["difference"] is not None:
        lines += [("  plain twin", means["twin"], False)]
        lines += [("  difference to it", means["difference"], True)]
    place = means["localization"]
    if place is not None:
        lines += [("evidence on the finding", place["pointing_game"], False)]
        lines += [("  best constant place", place["constant_location"], False)]
        lines += [("  difference to it", place["difference"], True)]
    for name, figure, sign in lines:
        typer.echo(f"{name:<24} {interval(figure, sign=sign)}")
