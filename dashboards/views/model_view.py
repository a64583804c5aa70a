"""The model: how good it is, and the prototypes that it compares images with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from pipelines.head_words import HEAD_WORDS
from pipelines.wording import interval

from .. import caching, queries
from ..answers import RunView, Source
from ..figures import gallery_data
from ..text import plain
from ..viewer import show_viewer

__all__ = ["render"]

FIGURES = (
    ("auroc", "AUROC", "0.5 is guessing, 1 is perfect"),
    ("balanced_accuracy", "Balanced accuracy", "mean share found over the classes"),
    ("average_precision", "Average precision", "area under precision against recall"),
    ("quadratic_weighted_kappa", "Quadratic weighted kappa", "agreement on the grade; 0 is chance"),
    ("grade_error", "Grade error", "mean distance to the true grade, 0 is best"),
    ("grade_accuracy", "Grade accuracy", "share of the images with exactly the true grade"),
    ("ece", "Calibration error", "gap of stated and observed frequency, 0 is best"),
)

PLACES = (
    ("pointing_game", "Main evidence on the finding", "center of its box inside the annotation"),
    ("constant_location", "Control: best constant place", "never looks at the image"),
    ("image_center", "Control: image center", "never looks at the image"),
    ("area", "Control: chance", "share of the image that the finding covers"),
)


def render(source: Source) -> None:
    """Draw the page."""
    try:
        run = caching.run_view(source.run)
    except queries.QueryError as error:
        st.error(plain(str(error)))
        return
    st.title(f"Model of run {plain(run.name)}", anchor=False)
    if run.synthetic:
        st.warning("**SYNTHETIC** The model learned from computer-made images.")
    _figures(run)
    _gallery(run, source)
    with st.expander("Digest of the model"):
        st.code(run.model_digest, language=None)


def figure_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Return the figures with intervals as text; those not computed are left out."""
    place = metrics.get("localization") or {}
    rows = [
        {"Figure": name, "Value (95 % interval)": interval(values[key]), "What it says": meaning}
        for values, figures in ((metrics, FIGURES), (place, PLACES))
        for key, name, meaning in figures
        if values.get(key)
    ]
    return pd.DataFrame(rows)


def finding_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Return the figures of each finding as text; empty for other heads."""
    rows = [
        {
            "Finding": plain(str(name)),
            "Present in": f"{entry.get('positives', 0)} of {entry.get('n', 0)}",
            "AUROC (95 % interval)": interval(entry.get("auroc")),
            "Average precision": interval(entry.get("average_precision")),
            "Calibration error": interval(entry.get("ece")),
        }
        for name, entry in (metrics.get("findings") or {}).items()
    ]
    return pd.DataFrame(rows)


def _figures(run: RunView) -> None:
    table = figure_table(run.metrics)
    st.subheader("How good it is", anchor=False)
    if table.empty:
        st.info("This run has no metrics. `medproto evaluate RUN` computes them.")
        return
    st.table(table, hide_index=True, border="horizontal")
    findings = finding_table(run.metrics)
    if not findings.empty:
        st.caption("The figures above are means over the findings; each of them by itself:")
        st.table(findings, hide_index=True, border="horizontal")
    st.caption(
        f"{run.metrics.get('n', 'unknown')} images of {run.metrics.get('groups', 'unknown')} "
        "patients or groups that took no part in training; intervals are bootstrap intervals over "
        "patients or groups."
    )


def _gallery(run: RunView, source: Source) -> None:
    st.subheader("Prototypes", anchor=False)
    words = HEAD_WORDS[run.head]
    shown = [k for k in range(len(run.classes)) if _count(run, k)]
    k = st.radio(
        words.noun.capitalize(),
        shown,
        format_func=lambda k: plain(f"{run.classes[k]} ({_count(run, k)})"),
        horizontal=True,
    )
    st.caption("Each prototype is a patch of one training image, shown with where it lies there.")
    without = [plain(name) for k, name in enumerate(run.classes) if k not in shown]
    if without:
        st.caption(f"Without prototypes of its own: {', '.join(without)}.")
    show_viewer(gallery_data(run, source.run, int(k)), key="gallery")


def _count(run: RunView, class_index: int) -> int:
    return sum(source.class_index == class_index for source in run.sources)
