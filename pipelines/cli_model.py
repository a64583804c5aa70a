"""``medproto model``: what can be done with the network of a run alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    name="model",
    help="The network of a finished run: export it.\n\n"
    "Example: medproto model export runs/first --format onnx --out first.onnx",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """File formats of an export."""

    ONNX = "onnx"
    TORCH = "torch"


@app.callback()
def _group() -> None:
    """The network of a finished run: export it."""


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training.")],
    format: Annotated[Format, typer.Option(help="onnx, or torch for torch.export (.pt2).")],
    out: Annotated[Path, typer.Option(help="File to write; FILE.json is written beside it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Export the logits for another runtime, and check that they are equal.

    An export makes no evidence and no record: it is for timing and integration. ONNX needs
    pip install 'medproto[export]'.

    Example: medproto model export runs/first --format onnx --out first.onnx
    """
    from medproto.networks.export import export_onnx, export_program

    from .runs import RunFolder

    if out.is_dir():
        raise typer.BadParameter(f"--out must be a file, got the folder {out}.")
    folder = RunFolder(run)
    write = export_onnx if format is Format.ONNX else export_program
    card = write(folder.network, out, card=folder.card)
    if as_json:
        typer.echo(json.dumps(asdict(card), indent=2, allow_nan=False))
        return
    lines = [
        ("file", f"{out} ({card.size / 1e6:.1f} MB)"),
        ("format", "torch.export" if card.opset is None else f"ONNX, opset {card.opset}"),
        ("model", card.model_digest),
        ("largest difference", f"{card.max_difference:.1e} of a logit, on random images"),
    ]
    for name, value in lines:
        typer.echo(f"{name:<24} {value}")
    typer.echo("Its predictions have no evidence and no record; see docs/export.md.", err=True)
