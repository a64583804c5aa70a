"""Figures of one prediction: its reasoning, and Grad-CAM beside the evidence.

Symbols: ``rows, cols`` of the stored image.

Every function returns a matplotlib ``Figure`` that belongs to nobody else: no pyplot, no global
state, no open windows. matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medproto.explain import CellMap
from medproto.records import Explanation, PixelBox, PrototypeEvidence

from .raster import FOR, box_color, overlay
from .score_sum import ScoreSum, score_sum
from .views import View, view_of
from .wording import side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "INK",
    "MUTED",
    "PrototypePicture",
    "grad_cam_figure",
    "new_figure",
    "plain_text",
    "reasoning_figure",
    "to_png_bytes",
]

Pixels = NDArray[np.floating[Any]]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colors, told apart by all kinds of color vision."""

INK = "#1b2733"
"""Color of text that carries a finding."""

MUTED = "#52606d"
"""Color of captions and axes; 5.9 to 1 against white."""


@dataclass(frozen=True, eq=False)
class PrototypePicture:
    """How a prototype looks: a patch of a training image, and where it lies there.

    Args:
        crop: ``[rows, cols]`` of the patch, in [0, 1]; of a volume three planes through it.
        source: ``[rows, cols]`` of the whole training image, likewise.
        boxes: of the patch, pixels of ``source``: one, or one a plane.
    """

    crop: Pixels
    source: Pixels
    boxes: tuple[PixelBox, ...]


def reasoning_figure(
    explanation: Explanation,
    image: Pixels,
    *,
    prototypes: Mapping[int, PrototypePicture],
    heat_maps: Mapping[int, CellMap],
    class_index: int | None = None,
    rows: int = 5,
) -> Figure:
    """Draw the table "this looks like that" of one prediction and one class.

    One row a prototype, largest absolute contribution first: image with box, prototype, its
    source image with box, activation map, similarity x weight = points. Below stand the sum of
    all others, the bias and the total.

    Args:
        image: ``[*S]`` in [0, 1], the stored image.
        prototypes: pictures by prototype; those of the shown rows are needed.
        heat_maps: similarity maps by prototype; a missing one leaves its place empty.
        class_index: the logit that is taken apart; ``None`` for the prediction's shown one.
        rows: number of prototypes shown.

    Raises:
        KeyError: if the picture of a shown prototype is missing.
    """
    prediction = explanation.prediction
    k = prediction.shown_logit if class_index is None else class_index
    contributions = [e.contributions[k] for e in explanation.evidence]
    account = score_sum(contributions, explanation.bias[k], prediction.logits[k], shown=rows)
    lines = len(account.shown)
    # Inches: a heading, the rows, and a sum of five lines.
    figure = new_figure(11.5, 0.7 + 2.1 * lines + 1.6)
    grid = figure.add_gridspec(
        lines + 1, 5, height_ratios=[2.1] * lines + [1.5], width_ratios=[1, 0.72, 1, 1, 1.35]
    )
    heads = (
        "This image",
        "Prototype",
        "Its training image",
        "Similarity map",
        "Points",
    )
    for line, position in enumerate(account.shown):
        evidence = explanation.evidence[position]
        axes = [figure.add_subplot(grid[line, column]) for column in range(5)]
        if line == 0:
            for ax, head in zip(axes, heads):
                ax.set_title(head, fontsize=10, color=INK, fontweight="bold", loc="left")
        picture = prototypes[evidence.prototype]
        view = view_of(prediction.reference, evidence.box.center)
        _reasoning_row(axes, view, evidence, k, image, picture, heat_maps.get(evidence.prototype))
    _sum_block(figure.add_subplot(grid[lines, :]), account, prediction.logit_names[k])
    figure.suptitle(
        f"Evidence for and against: {plain_text(prediction.logit_names[k])}"
        f" (predicted: {plain_text(prediction.label)})",
        fontsize=13, color=INK, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def _reasoning_row(
    axes: Sequence[Axes],
    view: View,
    evidence: PrototypeEvidence,
    k: int,
    image: Pixels,
    picture: PrototypePicture,
    heat: CellMap | None,
) -> None:
    points = evidence.contributions[k]
    color = box_color(points)
    seen, boxes = view.image(image), view.boxes(evidence.box)
    _show(axes[0], seen, boxes, color)
    _show(axes[1], picture.crop)
    _show(axes[2], picture.source, picture.boxes, color)
    if heat is None:
        axes[3].set_axis_off()
    else:
        _show(axes[3], overlay(seen, view.heat(heat)), boxes, color)
    axes[4].set_axis_off()
    source = evidence.source
    text = (
        f"Prototype {evidence.prototype} ({plain_text(evidence.class_name)})\n"
        f"from row {source.row}, group {plain_text(source.group)}\n\n"
        f"similarity {evidence.similarity:.3f}\n"
        f"x weight {evidence.weights[k]:+.3f}"
    )
    axes[4].text(0, 0.92, text, fontsize=9, color=INK, va="top", linespacing=1.5)
    axes[4].text(
        0, 0.12, f"= {points:+.3f}  {side(points)}", fontsize=13, fontweight="bold", va="center",
        color=MUTED if points == 0 else COLORS[0] if points > 0 else "#a84600",
    )  # fmt: skip


def _sum_block(ax: Axes, account: ScoreSum, name: str) -> None:
    ax.set_axis_off()
    shown = account.total - account.others_sum - account.bias
    lines = [
        (f"sum of the {len(account.shown)} shown", shown),
        (f"sum of the other prototypes ({account.others})", account.others_sum),
        ("bias", account.bias),
        (f"total = logit of {plain_text(name)}", account.total),
    ]
    for line, (label, value) in enumerate(lines):
        weight = "bold" if line == len(lines) - 1 else "normal"
        y = 0.9 - 0.25 * line
        ax.text(0.88, y, label, fontsize=10, ha="right", color=INK, fontweight=weight)
        ax.text(0.99, y, f"{value:+.3f}", fontsize=10, ha="right", color=INK, fontweight=weight)
    ax.axhline(0.32, xmin=0.55, xmax=0.99, color=MUTED, linewidth=0.8)
    ax.set(xlim=(0, 1), ylim=(0, 1))


def grad_cam_figure(
    image: Pixels,
    evidence_map: Pixels,
    grad_cam: Pixels,
    *,
    layer: str,
    class_name: str,
    prototype: int,
    box: PixelBox | None = None,
) -> Figure:
    """Draw the image, the evidence of one prototype, and Grad-CAM of the same logit.

    Args:
        image: ``[rows, cols]`` in [0, 1].
        evidence_map: ``[rows, cols]`` similarity map of ``prototype``.
        grad_cam: ``[rows, cols]``, >= 0.
        layer: name of the layer Grad-CAM was computed at.
        class_name: class whose logit both explain.
        box: of the prototype's evidence; ``None`` draws none.
    """
    figure = new_figure(11, 4.2)
    axes = figure.subplots(1, 3)
    name = plain_text(class_name)
    boxes = () if box is None else (box,)
    _show(axes[0], image, boxes)
    _show(axes[1], overlay(image, evidence_map), boxes)
    _show(axes[2], overlay(image, grad_cam))
    for ax, title in zip(axes, ("Image", f"Similarity to prototype {prototype}", "Grad-CAM")):
        ax.set_title(title, fontsize=11, color=INK, loc="left")
    axes[1].set_xlabel("part of the sum that is the logit", fontsize=9, color=MUTED)
    axes[2].set_xlabel(
        f"captum LayerGradCam, ReLU on, layer {plain_text(layer)},\ntarget logit of {name}; "
        "a second opinion, not part of the sum", fontsize=9, color=MUTED,
    )  # fmt: skip
    return figure


def to_png_bytes(figure: Figure, *, dpi: int = 110) -> bytes:
    """Return a figure as PNG; without software or date tags, so equal figures are equal bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, with a canvas of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _show(ax: Axes, pixels: Pixels, boxes: Sequence[PixelBox] = (), color: str = FOR) -> None:
    from matplotlib.patches import Rectangle

    ax.imshow(np.clip(pixels, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_anchor("NW")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    for box in boxes:
        (row0, col0), (row1, col1) = box.start, box.stop
        # Pixel i covers [i, i + 1); imshow puts its centre at i, so half a pixel is taken off.
        place = ((col0 - 0.5, row0 - 0.5), col1 - col0, row1 - row0)
        ax.add_patch(Rectangle(*place, fill=False, edgecolor="black", linewidth=3.2))
        ax.add_patch(Rectangle(*place, fill=False, edgecolor=color, linewidth=1.8))


def plain_text(text: str) -> str:
    """Take a name as letters: a dollar sign would start matplotlib's formulas."""
    return text.replace("$", r"\$")
