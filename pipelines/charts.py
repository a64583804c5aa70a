"""Charts of a run: training curves, confusion matrix, ROC curve.

Symbols: ``C`` classes, findings or grades, ``N`` images. Figures as in :mod:`pipelines.pictures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.records import HeadKind

from .pictures import COLORS, INK, MUTED, new_figure, plain_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["confusion_figure", "curves_figure", "roc_curve_points", "roc_figure"]

DASHES = ("-", "--", "-.", ":")
"""Where there are more curves than colors."""


def curves_figure(history: pd.DataFrame) -> Figure:
    """Draw losses and validation AUROC over all epochs; segments are marked.

    Args:
        history: one row an epoch with ``segment``, ``loss``, ``val_loss`` and ``val_auroc``; the
            segment ``twin``, a model of its own, is drawn dashed.
    """
    figure = new_figure(10, 3.4)
    axes = figure.subplots(1, 2)
    panels = (
        ("Loss", (("loss", "training"), ("val_loss", "validation"))),
        ("Validation AUROC", (("val_auroc", "validation"),)),
    )
    names = history["segment"].astype(str)
    stretch = (names != names.shift()).cumsum()  # a phase may come again
    for ax, (title, columns) in zip(axes, panels):
        begin = 0
        for number, part in history.groupby(stretch):
            name = names[part.index[0]]
            epochs = np.arange(begin + 1, begin + len(part) + 1)
            dashes = "--" if name == "twin" else "-"
            for color, (column, label) in zip(COLORS, columns):
                legend = label if begin == 0 else None
                values = part[column].to_numpy(dtype=float)
                ax.plot(epochs, values, dashes, marker="o", ms=3, color=color, label=legend)
            ax.axvspan(begin + 0.5, begin + len(part) + 0.5, color=MUTED, lw=0,
                       alpha=0.03 if number % 2 else 0.10)  # fmt: skip
            if part.index[0] == names.index[names == name][0]:
                ax.text(begin + 0.6, 1.02, plain_text(name), transform=ax.get_xaxis_transform(),
                        fontsize=8, color=MUTED, rotation=0)  # fmt: skip
            begin += len(part)
        _style(ax, "epoch, all segments", title)
        ax.legend(frameon=False, fontsize=8)
    return figure


def confusion_figure(matrix: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw ``[C, C]`` counts, rows true, columns predicted; shade is the share of the row."""
    counts = np.asarray(matrix, dtype=float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.75 * len(classes)
    figure = new_figure(side + 0.6, side)
    ax = figure.subplots()
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, col), count in np.ndenumerate(counts):
        ink = "white" if share[row, col] > 0.6 else INK
        ax.text(
            col, row, f"{int(count)}\n{share[row, col]:.0%}", ha="center", va="center", color=ink
        )
    names = [plain_text(name) for name in classes]
    ax.set_xticks(range(len(names)), names, rotation=20 if len(names) > 2 else 0)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("predicted", color=INK)
    ax.set_ylabel("true", color=INK)
    ax.tick_params(length=0)
    return figure


def roc_figure(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    head: HeadKind = "multiclass",
) -> Figure:
    """Draw ROC curves: of the second of two classes, of each of more against the rest, of each
    finding, or of each threshold between grades.

    Args:
        probabilities: ``[N, C]``, one a class, finding or grade.
        labels: ``[N]`` zero-based; for ``multilabel`` ``[N, C]`` 1, 0 or NaN, which is left out.
        classes: ``C`` names.
        head: what the probabilities are of.
    """
    curves = list(_curves(np.asarray(probabilities), np.asarray(labels), classes, head))
    crowded = len(curves) > len(COLORS)
    figure = new_figure(6.4 if crowded else 4.4, 4.2)
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], ":", color=MUTED, label="chance")
    for number, (name, scores, positive) in enumerate(curves):
        x, y = roc_curve_points(scores, positive)
        dashes = DASHES[number // len(COLORS) % len(DASHES)]
        ax.plot(x, y, dashes, color=COLORS[number % len(COLORS)], label=plain_text(name))
    _style(ax, "1 - specificity", "sensitivity")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    place = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)} if crowded else {}
    ax.legend(frameon=False, fontsize=9, **place or {"loc": "lower right"})
    return figure


def _curves(
    chances: NDArray[np.floating[Any]],
    targets: NDArray[Any],
    classes: Sequence[str],
    head: HeadKind,
) -> Iterator[tuple[str, NDArray[np.floating[Any]], NDArray[np.bool_]]]:
    """Yield the name, the scores and the truth of each curve."""
    if head == "multilabel":
        for k, name in enumerate(classes):
            known = ~np.isnan(targets[:, k])
            yield name, chances[known, k], targets[known, k] == 1
    elif head == "ordinal":
        for k, name in enumerate(classes[:-1]):
            yield f"above {name}", chances[:, k + 1 :].sum(axis=1), targets > k
    else:
        for k in [1] if len(classes) == 2 else range(len(classes)):
            yield classes[k], chances[:, k], targets == k


def roc_curve_points(
    scores: ArrayLike, positive: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(1 - specificity, sensitivity)`` from (0, 0) to (1, 1), one point a distinct score.

    Returns:
        Empty arrays if one of the two groups has no case, for then there is no curve.
    """
    values, truth = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    if truth.all() or not truth.any():
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # a tie is one threshold, one point
    hits = np.cumsum(truth[order])[last] / truth.sum()
    false = np.cumsum(~truth[order])[last] / (~truth).sum()
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], hits])


def _style(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, color=INK, fontsize=9)
    ax.set_ylabel(y, color=INK, fontsize=9)
    ax.tick_params(colors=MUTED, labelsize=8)
    ax.grid(color="#d9e2ec", linewidth=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
