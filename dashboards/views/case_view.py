"""One recorded prediction: result, image with evidence, the sum, and its place in the log."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from medproto.errors import MedProtoError
from pipelines.wording import doubts, signed

from .. import caching, queries
from ..answers import CaseLink, CaseView, RunView, Source
from ..figures import case_data
from ..text import plain
from ..viewer import show_viewer

__all__ = ["render"]

TIME = slice(0, 19)  # a record's time to the second
DOUBTS = ("prediction_set", "abstained", "out_of_distribution")


def render(source: Source, rebuild: caching.Rebuild) -> None:
    """Draw the page.

    Args:
        rebuild: computes a recorded case again.
    """
    try:
        run = caching.run_view(source.run)
        links = queries.list_cases(source.audit, run)
    except queries.QueryError as error:
        st.error(plain(str(error)))
        return
    if not links:
        st.info(
            "The log holds no prediction of this model yet. "
            "`medproto predict RUN IMAGE --audit LOG` records one."
        )
        return
    link = _choose(links)
    try:
        case = queries.read_case(source.audit, run, link.sequence)
    except queries.QueryError as error:
        st.error(plain(str(error)))
        return
    _result(case, source)
    _picture(case, run, source, rebuild)
    _sum(case)
    _identity(case)


def _choose(links: tuple[CaseLink, ...]) -> CaseLink:
    def name(link: CaseLink) -> str:
        row = "not in the cohort" if link.row is None else f"row {link.row}"
        return f"No. {link.sequence} · {link.label} {link.probability:.1%} · {row}"

    chosen = st.sidebar.selectbox("Recorded case", links, format_func=name)
    st.sidebar.caption(f"{len(links)} recorded predictions of this model, newest first")
    return chosen


def _result(case: CaseView, source: Source) -> None:
    st.title(f"Record {case.sequence}: {plain(case.label)}", anchor=False)
    if case.synthetic:
        st.warning("**SYNTHETIC** Computer-made image or training images: no patient is shown.")
    left, middle, right = st.columns([2, 2, 3])
    name, probability, logit = case.classes[0]
    calibrated = "calibrated" if case.calibrated else "not calibrated"
    left.metric(f"Probability of {plain(name)}", f"{probability:.1%}")
    left.caption(calibrated if case.calibrated else f"{calibrated}; an order, not a risk")
    middle.metric(f"Logit of {plain(name)}", signed(logit))
    if len(case.classes) > 1:
        second = case.classes[1]
        middle.caption(f"next: {plain(second[0])}, {second[1]:.1%}, logit {signed(second[2])}")
    payload = case.payload
    for line in doubts(*(payload.get(key) for key in DOUBTS)):
        st.warning(plain(line))
    right.markdown(f"**Label in the cohort table:** {_true_label(case)}")
    state = caching.chain_state(source.audit, case.sequence)
    (right.success if state.ok else right.error)(state.message)


def _true_label(case: CaseView) -> str:
    if case.true_label is None:
        return "not known"
    verdict = "agrees" if case.true_label == case.label else "**disagrees**"
    return f"{plain(case.true_label)} (the prediction {verdict})"


def _picture(case: CaseView, run: RunView, source: Source, rebuild: caching.Rebuild) -> None:
    if case.row is None:
        st.info(
            "The image of this record is not in the run's cohort, so its pixels cannot be shown. "
            "The record below is complete without them."
        )
        return
    try:
        rebuilt = caching.rebuilt_case(source.run, case, case.row, rebuild)
    except MedProtoError as error:
        st.error(f"The image cannot be shown: {plain(str(error))}")
        return
    except (OSError, ValueError, KeyError):
        st.error(
            "The image cannot be shown: its file is missing or is not the one that was recorded."
        )
        return
    show_viewer(case_data(case, rebuilt, run, source.run), key="case")
    if rebuilt.largest_difference is not None:
        st.caption(
            "Computed again now from model and image: the logits differ from the recorded ones by "
            f"at most {rebuilt.largest_difference:.1e}. Grad-CAM: captum LayerGradCam, ReLU on, "
            f"{run.layer}, target logit of {plain(case.label)}; a second opinion, not part of "
            "the sum. Maps are scaled to their own range."
        )


def _sum(case: CaseView) -> None:
    st.subheader("The sum, to check by hand", anchor=False)
    st.table(sum_table(case), hide_index=True, border="horizontal")
    st.caption(
        "Largest contributions first, for and against alike. Rounded to three decimals; the record "
        f"holds them in full, and there the sum differs from the logit by "
        f"{case.total.difference:.1e}. The last columns: share of the similarity that "
        "stays when all but the box is blurred (100%: the box alone explains it), and when the box "
        "itself is (100%: the box does not matter); measured for the largest contributions."
    )


def sum_table(case: CaseView) -> pd.DataFrame:
    """Return the sum as text, one row a part, the total last."""
    rows = [
        {
            "No.": str(line.place),
            "Part": f"Prototype {line.prototype} ({plain(line.class_name)}), "
            f"from row {line.source_row}, group {plain(line.source_group)}",
            "Similarity": f"{line.similarity:.3f}",
            "Weight": signed(line.weight),
            "Points": f"**{signed(line.contribution)}** "
            + ("for" if line.contribution >= 0 else "against"),
            "Kept by the box alone": "" if line.kept is None else f"{line.kept:.0%}",
            "Kept without the box": "" if line.left is None else f"{line.left:.0%}",
        }
        for line in case.lines
    ]
    total = case.total
    ends = [
        (f"Sum of the other prototypes ({total.others})", signed(total.others_sum)),
        ("Bias", signed(total.bias)),
        (f"**Total = logit of {plain(case.label)}**", f"**{signed(total.total)}**"),
    ]
    rows += [{"Part": name, "Points": value} for name, value in ends]
    return pd.DataFrame(rows).fillna("")


def _identity(case: CaseView) -> None:
    with st.expander("Record, digests and how to verify"):
        st.markdown(
            f"Record number **{case.sequence}**, {plain(case.recorded_at[TIME])} UTC, "
            f"by {plain(case.actor)}"
        )
        for name, digest in (
            ("Digest of the record", case.digest),
            ("Digest of the image's pixels", case.pixel_digest),
            ("Digest of the model", case.model_digest),
        ):
            st.caption(name)
            st.code(digest, language=None)
        st.markdown(
            "`medproto audit verify LOG` checks the whole log; "
            f"`medproto audit show LOG {case.sequence}` prints this record with all "
            "contributions."
        )
