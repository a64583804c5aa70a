"""What the viewer draws, as JSON types: pixels as base64, boxes as shares of the image.

Pure functions. Pixels travel inside this data over the session's own connection; no function here
or in the views may hand an image to Streamlit's media address, which anyone with the link can read.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medproto.explain import CellMap
from medproto.records import Explanation, ImageReference, PixelBox, PrototypeSource
from pipelines.gallery import read_pictures
from pipelines.head_words import HEAD_WORDS
from pipelines.pages.case_view import box_text
from pipelines.raster import FOR, box_color, color_map, picture_uri, unit_range
from pipelines.views import View, view_of
from pipelines.wording import side, signed

from .answers import CaseView, RunView

__all__ = ["RebuiltCase", "case_data", "gallery_data", "prototype_card"]

MAX_SIDE = 2048
"""Longest side sent to the browser in pixels; a larger image is averaged down, which is said."""

HEAT_SIDE = 160
CARD_SIDE = 220

Pixels = NDArray[np.float32]


class RebuiltCase(Protocol):
    """A recorded case computed again, as :func:`pipelines.cases.rebuild_case` returns it."""

    @property
    def image(self) -> Pixels:
        """``[*S]`` in [0, 1], as stored."""

    @property
    def explanation(self) -> Explanation:
        """Computed now."""

    @property
    def heat_maps(self) -> Mapping[int, CellMap]:
        """Similarity maps by prototype."""

    @property
    def grad_cams(self) -> Mapping[int, CellMap]:
        """Of each shown logit, >= 0."""

    @property
    def largest_difference(self) -> float | None:
        """Between recorded and rebuilt logits."""


def case_data(case: CaseView, rebuilt: RebuiltCase, run: RunView, folder: Path) -> dict[str, Any]:
    """Return what the viewer needs of one case.

    Args:
        folder: the run folder, for the pictures of the prototypes.
    """
    reference = rebuilt.explanation.prediction.reference
    places = [line.box.center for line in case.lines] if len(reference.shape) == 3 else []
    views = [view_of(reference, place) for place in places] or [view_of(reference)]
    sources = {source.prototype: source for source in run.sources}
    evidence = [
        {
            "place": line.place,
            "prototype": line.prototype,
            "className": line.class_name,
            "sum": f"similarity {line.similarity:.3f} \N{MULTIPLICATION SIGN} weight "
            f"{signed(line.weight)} = {signed(line.contribution)}",
            "side": side(line.contribution),
            "color": box_color(line.contribution),
            "view": number if places else 0,
            "heat": _heat(views[number if places else 0], rebuilt.heat_maps.get(line.prototype)),
            "card": prototype_card(folder, sources[line.prototype], HEAD_WORDS[case.head].noun)
            if line.prototype in sources
            else None,
        }
        for number, line in enumerate(case.lines)
    ]
    rows, cols = views[0].image(rebuilt.image).shape
    shown = [_view_data(view, case, rebuilt) for view in views]
    unit = "voxels, three planes" if places else "pixels"
    return {
        "kind": "case",
        "key": f"{case.digest}/{case.logit}",
        "label": case.label,
        "logit": case.logit_name,
        "rows": shown[0]["rows"],
        "cols": shown[0]["cols"],
        "fullRows": rows,
        "fullCols": cols,
        "size": " \N{MULTIPLICATION SIGN} ".join(map(str, reference.shape)) + f" {unit}",
        "gray": _gray_scale(reference),
        "evidence": evidence,
        "views": shown,
        "colors": _base64(np.round(color_map(np.linspace(0, 1, 256)) * 255).astype(np.uint8)),
    }


def _view_data(view: View, case: CaseView, rebuilt: RebuiltCase) -> dict[str, Any]:
    """Return the pixels of one view, where the evidence lies in it, and Grad-CAM over it."""
    image = view.image(rebuilt.image)
    sent = _shrink(image, MAX_SIDE)
    boxes = [[_share(box, *image.shape) for box in view.boxes(line.box)] for line in case.lines]
    return {
        "rows": sent.shape[0],
        "cols": sent.shape[1],
        "pixels": _base64(np.round(np.clip(sent, 0, 1) * 65535).astype("<u2")),
        "boxes": boxes,
        "gradCam": _heat(view, rebuilt.grad_cams.get(case.logit)),
    }


def gallery_data(run: RunView, folder: Path, class_index: int) -> dict[str, Any]:
    """Return the prototypes of one class, finding or grade as cards."""
    members = [source for source in run.sources if source.class_index == class_index]
    return {
        "kind": "gallery",
        "key": f"{run.model_digest}/{class_index}",
        "cards": [prototype_card(folder, source, HEAD_WORDS[run.head].noun) for source in members],
    }


def prototype_card(folder: Path, source: PrototypeSource, noun: str) -> dict[str, Any]:
    """Return patch, source image and provenance of one prototype; pictures may be missing.

    Args:
        noun: what its class is called.
    """
    lines = [
        f"training row {source.row}, group {source.group}",
        f"cell {source.cell}, box {box_text(source.box)}",
        f"similarity to its own patch {source.similarity:.4f}",
    ]
    if source.floor is not None:
        lines.append(f"scores count from similarity {source.floor:.3f}")
    card = {
        "title": f"Prototype {source.prototype}, {noun} {source.class_name}",
        "lines": lines,
        "crop": None,
        "source": None,
    }
    try:
        picture = read_pictures(folder / "prototypes", (source,))[source.prototype]
    except OSError:
        return card
    boxes = [(box, FOR) for box in picture.boxes]
    card["crop"] = picture_uri(picture.crop, side=CARD_SIDE)
    card["source"] = picture_uri(picture.source, boxes=boxes, side=CARD_SIDE)
    return card


def _gray_scale(reference: ImageReference) -> dict[str, Any] | None:
    """Center and width of the file's window, to show the chosen one in the file's own units."""
    if reference.window is None:
        return None
    return {"center": reference.window[0], "width": reference.window[1]}


def _share(box: PixelBox, rows: int, cols: int) -> list[float]:
    (row0, col0), (row1, col1) = box.start, box.stop
    return [row0 / rows, col0 / cols, row1 / rows, col1 / cols]


def _heat(view: View, cells: CellMap | None) -> dict[str, Any] | None:
    if cells is None:
        return None
    small = _shrink(unit_range(view.heat(cells)), HEAT_SIDE)
    coded = np.round(small * 255).astype(np.uint8)
    return {"rows": coded.shape[0], "cols": coded.shape[1], "values": _base64(coded)}


def _shrink(values: NDArray[np.floating[Any]], side: int) -> NDArray[np.floating[Any]]:
    """Average down to at most ``side`` pixels; smaller images stay as they are."""
    from PIL import Image

    rows, cols = values.shape
    factor = side / max(rows, cols)
    if factor >= 1:
        return values
    size = (max(1, round(cols * factor)), max(1, round(rows * factor)))
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
