"""``medproto prototypes``: list them, show what they answer to, prune them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_use import actor_name
from .wording import number, percent, signed

__all__ = ["app"]

app = typer.Typer(
    name="prototypes",
    help="The prototypes of a finished run: list, show, prune.\n\n"
    "Example: medproto prototypes list runs/first",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Run = Annotated[Path, typer.Argument(help="Folder of a finished training.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.command("list")
def list_command(run: Run, as_json: AsJson = False) -> None:
    """List the prototypes: class, source, weights, rank of contribution, purity.

    Rank 1 contributes most over the training images. The share of its own class among the nearest
    training patches is known after a pruning; `show` computes it too.

    Example: medproto prototypes list runs/first
    """
    from .prototypes import list_prototypes
    from .runs import RunFolder

    entries = list_prototypes(RunFolder(run))
    if as_json:
        typer.echo(json.dumps({"prototypes": entries}, indent=2, allow_nan=False))
        return
    width = max(len(entry["class"]) for entry in entries)
    typer.echo(f"{'index':>5}  {'class':<{width}}  {'rank':>4}  {'own class':>9}  weights, source")
    for entry in entries:
        typer.echo(_line(entry, width))


def _line(entry: dict[str, Any], width: int) -> str:
    share = "not known" if entry["own_share"] is None else percent(entry["own_share"], 0)
    stray = entry["strongest_elsewhere"]
    return (
        f"{entry['prototype']:>5}  {entry['class']:<{width}}  {entry['rank']:>4}  {share:>9}  "
        f"{' '.join(signed(weight) for weight in entry['weights'])}  row {entry['row']}, "
        f"group {entry['group']}" + (f"  (speaks more for {stray})" if stray else "")
    )


@app.command("show")
def show(
    run: Run,
    out: Annotated[Path, typer.Option(help="Folder for the page.")],
    prototype: Annotated[
        int | None, typer.Argument(min=0, help="Index of one prototype; all without it.")
    ] = None,
) -> None:
    """Write the page of the patches nearest to each prototype; it is stamped "not recorded".

    Six patches of training images and five of test images, over all classes, one an image.

    Example: medproto prototypes show runs/first --out pages/
    """
    from .global_report import write_prototypes
    from .runs import RunFolder

    folder = RunFolder(run)
    count = len(folder.sources)
    if prototype is not None and prototype >= count:
        raise typer.BadParameter(f"the run has the prototypes 0 to {count - 1}, got {prototype}.")
    chosen = None if prototype is None else [prototype]
    page, document = write_prototypes(folder, out, chosen)
    for entry in document["prototypes"]:
        own = {split: sum(h["agrees"] is True for h in entry[split]) for split in ("train", "test")}
        typer.echo(
            f"prototype {entry['prototype']:>3} ({entry['class']}): "
            f"{own['train']} of {len(entry['train'])} nearest training images are of its class, "
            f"{own['test']} of {len(entry['test'])} test images"
        )
    typer.echo(f"page: {page}", err=True)


@app.command("prune")
def prune(
    run: Run,
    out: Annotated[Path, typer.Option(help="New folder for the pruned run.")],
    k: Annotated[int, typer.Option(min=1, help="Nearest training patches looked at.")] = 6,
    tau: Annotated[
        int, typer.Option(min=0, help="Prune if fewer of them are of its own class.")
    ] = 3,
    zero_weight: Annotated[
        bool, typer.Option("--zero-weight", help="Also prune where all weights are zero.")
    ] = False,
    audit: Annotated[str | None, typer.Option(help="Log that takes a record of it.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who asks; the user by default.")] = None,
) -> None:
    """Take out prototypes whose nearest training patches are mostly of other classes.

    The last layer is solved again and a new run is written: a new version of the model with its
    own digest. The old run stays as it is. No class is left without a prototype.

    Example: medproto prototypes prune runs/first --out runs/pruned --audit runs/audit.db
    """
    from audit import AuditLog

    from .prototypes import prune_run
    from .runs import RunFolder

    folder = RunFolder(run)
    who = "" if audit is None else actor_name(actor)
    with nullcontext() if audit is None else AuditLog.open(audit) as log:
        record = prune_run(folder, out, k=k, tau=tau, zero_weight=zero_weight, log=log, actor=who)
    for entry in record["pruned"]:
        typer.echo(
            f"pruned prototype {entry['was']:>3} ({entry['class']}), "
            f"{' and '.join(entry['reasons'])}: {entry['own']} of the {record['k']} nearest "
            "training patches are"
        )
    before = RunFolder(run).metrics["auroc"]["value"]
    metrics = RunFolder(out).metrics
    typer.echo(
        f"{metrics['pruning']['before']} prototypes before, {metrics['pruning']['after']} after; "
        f"test AUROC {number(before)} before, {number(metrics['auroc']['value'])} after"
    )
    typer.echo(f"report: {out / 'report.html'}", err=True)
