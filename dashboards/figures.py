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

from medproto.records import Explanation, ImageReference, PixelBox, PrototypeSource
from pipelines.head_words import HEAD_WORDS
from pipelines.raster import FOR, box_color, color_map, picture_uri, read_gray, unit_range
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
        """``[rows, cols]`` in [0, 1], as stored."""

    @property
    def explanation(self) -> Explanation:
        """Computed now."""

    @property
    def heat_maps(self) -> Mapping[int, Pixels]:
        """``[rows, cols]`` similarity maps by prototype."""

    @property
    def grad_cams(self) -> Mapping[int, Pixels]:
        """``[rows, cols]``, >= 0, by logit."""

    @property
    def largest_difference(self) -> float | None:
        """Between recorded and rebuilt logits."""


def case_data(case: CaseView, rebuilt: RebuiltCase, run: RunView, folder: Path) -> dict[str, Any]:
    """Return what the viewer needs of one case.

    Args:
        folder: the run folder, for the pictures of the prototypes.
    """
    image = rebuilt.image
    rows, cols = image.shape
    sent = _shrink(image, MAX_SIDE)
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
            "box": _share(line.box, rows, cols),
            "heat": _heat(rebuilt.heat_maps.get(line.prototype)),
            "card": prototype_card(folder, sources[line.prototype], HEAD_WORDS[case.head].noun)
            if line.prototype in sources
            else None,
        }
        for line in case.lines
    ]
    return {
        "kind": "case",
        "key": f"{case.digest}/{case.logit}",
        "label": case.label,
        "logit": case.logit_name,
        "rows": sent.shape[0],
        "cols": sent.shape[1],
        "storedRows": rows,
        "storedCols": cols,
        "pixels": _base64(np.round(np.clip(sent, 0, 1) * 65535).astype("<u2")),
        "gray": _gray_scale(rebuilt.explanation.prediction.reference),
        "evidence": evidence,
        "gradCam": _heat(rebuilt.grad_cams.get(case.logit)),
        "colors": _base64(np.round(color_map(np.linspace(0, 1, 256)) * 255).astype(np.uint8)),
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
        f"cell {source.cell}, box {source.box.to_list()} (row, column, row, column)",
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
    name = f"p{source.prototype:03d}"
    try:
        crop = read_gray(folder / "prototypes" / f"{name}.png")
        whole = read_gray(folder / "prototypes" / f"{name}_source.png")
    except OSError:
        return card
    card["crop"] = picture_uri(crop, side=CARD_SIDE)
    card["source"] = picture_uri(whole, boxes=[(source.box, FOR)], side=CARD_SIDE)
    return card


def _gray_scale(reference: ImageReference) -> dict[str, Any] | None:
    """Center and width of the file's window, to show the chosen one in the file's own units."""
    if reference.window is None:
        return None
    return {"center": reference.window[0], "width": reference.window[1]}


def _share(box: PixelBox, rows: int, cols: int) -> list[float]:
    (row0, col0), (row1, col1) = box.start, box.stop
    return [row0 / rows, col0 / cols, row1 / rows, col1 / cols]


def _heat(values: Pixels | None) -> dict[str, Any] | None:
    if values is None:
        return None
    small = _shrink(unit_range(values), HEAT_SIDE)
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
