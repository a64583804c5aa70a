"""Fill and write the "this looks like that" page of one image."""

from __future__ import annotations

from pathlib import Path

from medproto.data import ImageSource
from medproto.networks.model_file import write_atomically

from .cases import picture_case
from .gallery import read_pictures
from .pages import CasePage, RecordStamp, case_page
from .pictures import reasoning_figure, to_png_bytes
from .predict import RecordedPrediction
from .report import now
from .runs import RunFolder

__all__ = ["write_case"]

SHOWN = 10
SHOWN_OF_SEVERAL = 5
DRAWN = 5


def write_case(
    run: RunFolder, image: ImageSource, out: Path, *, recorded: RecordedPrediction | None = None
) -> Path:
    """Write the page and the reasoning figure of one image and return the page's path.

    Of several findings that are present each has a section of the page and a figure of its own,
    numbered by the finding.

    The files are named by the record, or by the digest of the pixels where there is none: a source
    file's name may hold an identity.

    Args:
        recorded: stamps the page with its record; without it the page says "not recorded".

    Raises:
        ImageReadError: if the image cannot be read.
        ModelFileError: if the run is unfinished or altered.
    """
    case = picture_case(run, image)
    prediction = case.explanation.prediction
    digest = prediction.reference.pixel_digest.removeprefix("sha256:")[:12]
    name = f"image_{digest}" if recorded is None else f"record_{recorded.record.sequence:06d}"
    pictures = read_pictures(run.path / "prototypes", run.sources)
    stamp = None
    if recorded is not None:
        record = recorded.record
        stamp = RecordStamp(record.sequence, record.digest, record.recorded_at, record.actor)
    page = CasePage(
        title=f"Image {digest}" if recorded is None else f"Record {recorded.record.sequence}",
        explanation=case.explanation,
        image=case.image,
        prototypes=pictures,
        heat_maps=case.heat_maps,
        grad_cams=case.grad_cams,
        grad_cam_layer=f"backbone stage {run.card.architecture['stage']}",
        record=stamp,
        synthetic=run.card.synthetic or prediction.reference.synthetic,
        shown=SHOWN if len(prediction.shown_logits) == 1 else SHOWN_OF_SEVERAL,
        created=now(),
    )
    out.mkdir(parents=True, exist_ok=True)
    for k in prediction.shown_logits:
        figure = reasoning_figure(
            case.explanation,
            case.image,
            prototypes=pictures,
            heat_maps=case.heat_maps,
            class_index=k,
            rows=DRAWN,
        )
        part = "" if len(prediction.shown_logits) == 1 else f"_{k}"
        write_atomically(out / f"{name}_reasoning{part}.png", to_png_bytes(figure))
    path = out / f"{name}.html"
    write_atomically(path, case_page(page).encode())
    return path
