"""``medproto demo``, ``predict``, ``explain``, ``dashboard`` and ``doctor``."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medproto.data import ImageSource

    from .predict import RecordedPrediction

__all__ = ["actor_name", "dashboard", "demo", "doctor", "explain", "predict", "report_prediction"]

Run = Annotated[Path, typer.Argument(help="Folder of a finished training.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Frame = Annotated[
    int | None, typer.Option(min=0, help="Frame of a file of several, counted from 0.")
]
Channel = Annotated[
    list[Path] | None,
    typer.Option(help="Further channel of the image, as data.channels names them; repeatable."),
]
Log = Annotated[str, typer.Option(help="Log, as a path or sqlite:///path; see `medproto audit`.")]


def demo(
    out: Annotated[Path, typer.Option(help="New folder for everything that is made.")],
    seed: Annotated[int, typer.Option(help="Seed of the cohort and the training.")] = 0,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Chest CTs, as DICOM series and NIfTI files.")
    ] = False,
) -> None:
    """Show the whole way on synthetic radiographs: cohort, training, evidence, record, report.

    Example: medproto demo --out runs/demo
    """
    from .demo import run_demo

    run_demo(out, seed=seed, say=typer.echo, volumes=volumes)


def predict(
    run: Run,
    audit: Log,
    images: Annotated[list[Path] | None, typer.Argument(help="Image files.")] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="Predict all rows of a table; it needs no labels.")
    ] = None,
    frame: Frame = None,
    channel: Channel = None,
    actor: Annotated[str | None, typer.Option(help="Who asks; the user by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict with evidence; each result is recorded before it is printed.

    Example: medproto predict runs/first image.dcm --audit runs/first/audit.db
    """
    from audit import AuditLog
    from medproto.data import Cohort
    from medproto.errors import MedProtoError

    from .predict import predict_batch, predict_recorded
    from .runs import RunFolder

    if bool(images) == (cohort is not None):
        raise typer.BadParameter("give image files or --cohort, one of the two.")
    if frame is not None and cohort is not None:
        raise typer.BadParameter("--frame is of image files; a table has the column 'frame'.")
    if channel and len(images or []) != 1:
        raise typer.BadParameter("--channel goes with one image; a table names its channels.")
    folder = RunFolder(run)
    who = actor_name(actor)
    done: list[RecordedPrediction] = []
    failed = 0
    _ = folder.sources  # a broken model is one error, not one for each image
    with AuditLog.open(audit) as log:
        if cohort is not None:
            data = folder.config.data
            table = Cohort.read(
                cohort,
                label_columns=data.label_columns or (),
                channels=data.channels,
                unlabeled=True,
            )
            items = []
            for row in range(len(table)):
                try:
                    items.append((row, table.image_source(row)))
                except MedProtoError as error:
                    failed += report_prediction(f"row {row}", None, str(error), done, as_json)
            for item in predict_batch(folder, items, log, actor=who, batch=table.digest):
                failed += report_prediction(
                    f"row {item.row}", item.prediction, item.problem, done, as_json
                )
        for path in images or []:
            prediction, problem = None, None
            try:
                source = image_source(path, frame, channel)
                prediction = predict_recorded(folder, source, log, actor=who)
            except MedProtoError as error:
                problem = str(error)
            failed += report_prediction(str(path), prediction, problem, done, as_json)
    if as_json:
        typer.echo(json.dumps([p.to_json() for p in done], indent=2, allow_nan=False))
    if failed:
        raise typer.Exit(1)


def image_source(path: Path, frame: int | None, channels: list[Path] | None) -> ImageSource:
    """Return what to read: a file or folder, one of its frames, or it and its further channels."""
    from medproto.data import ImageChannels, ImageFrame

    image = path if frame is None else ImageFrame(path, frame)
    return ImageChannels((image, *channels)) if channels else image


def actor_name(name: str | None) -> str:
    """Return who asks, as text that a record can hold; anything else is wrong usage."""
    from audit.record import check_text

    try:
        who = getpass.getuser() if name is None else name
        check_text(who, "--actor")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except (KeyError, OSError) as error:  # an account without a name, as in many containers
        raise typer.BadParameter("this account has no name; say who asks with --actor.") from error
    return who


def report_prediction(
    name: str,
    prediction: RecordedPrediction | None,
    problem: str | None,
    done: list[RecordedPrediction],
    as_json: bool,
) -> int:
    """Print one result or problem; return 1 for a problem.

    Args:
        name: of the image, as a person gave it; a file's name may hold what steers a terminal.
    """
    from audit.text import printable

    name = printable(name)
    if prediction is None:
        typer.echo(f"medproto: {name}: {printable(problem or '')}", err=True)
        return 1
    done.append(prediction)
    if not as_json:
        _print_sum(name, prediction)
    return 0


def _print_sum(name: str, prediction: RecordedPrediction) -> None:
    from .prediction_summary import summary_lines

    record = f"{prediction.record.sequence}, {prediction.record.digest}"
    for line in summary_lines(name, prediction.payload, record=record):
        typer.echo(line)


def explain(
    run: Run,
    image: Annotated[Path, typer.Argument(help="Image file.")],
    out: Annotated[Path, typer.Option(help="Folder for the page.")],
    frame: Frame = None,
    channel: Channel = None,
) -> None:
    """Write the "this looks like that" page of one image; it is stamped "not recorded".

    Example: medproto explain runs/first image.png --out pages/
    """
    from .case_report import write_case
    from .runs import RunFolder

    page = write_case(RunFolder(run), image_source(image, frame, channel), out)
    typer.echo(str(page))


def dashboard(
    run: Annotated[Path, typer.Option(help="Folder of a finished training.")],
    audit: Log,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8501,
) -> None:
    """Open the case review in a browser, on this machine only.

    Example: medproto dashboard --run runs/first --audit runs/first/audit.db
    """
    command = [sys.executable, "-m", "dashboards.launch"]
    command += ["--run", str(run), "--audit", audit, "--port", str(port)]
    raise typer.Exit(subprocess.call(command))


def doctor() -> None:
    """Say what this machine has and lacks; exit status 1 if something needed is missing.

    Example: medproto doctor
    """
    from .doctor import examine

    checks = examine()
    for check in checks:
        typer.echo(f"{'ok' if check.ok else 'MISSING':<8} {check.name:<34} {check.detail}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
