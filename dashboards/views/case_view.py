"""One recorded prediction: result, image with evidence, the sum, and its place in the log."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from medproto.errors import MedProtoError
from pipelines.head_words import HEAD_WORDS
from pipelines.wording import bias_remark, recorded_doubts, side, signed

from .. import caching, queries
from ..answers import CaseLink, CaseView, RunView, Source
from ..figures import case_data
from ..text import plain
from ..viewer import show_viewer

__all__ = ["render"]

TIME = slice(0, 19)  # a record's time to the second


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
        _result(case, source)
        case = queries.read_case(source.audit, run, link.sequence, logit=_choose_logit(case))
    except queries.QueryError as error:
        st.error(plain(str(error)))
        return
    _picture(case, run, source, rebuild)
    _sum(case)
    _identity(case)


def _choose(links: tuple[CaseLink, ...]) -> CaseLink:
    def name(link: CaseLink) -> str:
        row = "not in the cohort" if link.row is None else f"row {link.row}"
        share = "" if link.probability is None else f" {link.probability:.1%}"
        return f"No. {link.sequence} · {link.label or 'cannot be read'}{share} · {row}"

    chosen = st.sidebar.selectbox("Recorded case", links, format_func=name)
    plural = "" if len(links) == 1 else "s"
    st.sidebar.caption(f"{len(links)} recorded prediction{plural} of this model, newest first")
    return chosen


def _result(case: CaseView, source: Source) -> None:
    st.title(f"Record {case.sequence}: {plain(case.label)}", anchor=False)
    if case.synthetic:
        st.warning("**SYNTHETIC** Computer-made image or training images: no patient is shown.")
    for line in recorded_doubts(case.payload):
        st.warning(plain(line))
    left, right = st.columns([4, 3])
    with left:
        if case.head in ("multiclass", "binary"):
            _two_figures(case)
        else:
            st.table(class_table(case), hide_index=True, border="horizontal")
            st.caption(_how_to_read(case))
    right.markdown(f"**Label in the cohort table:** {_true_label(case)}")
    state = caching.chain_state(source.audit, case.sequence)
    (right.success if state.ok else right.error)(state.message)


def _two_figures(case: CaseView) -> None:
    left, middle = st.columns(2)
    first = case.classes[0]
    left.metric(f"Probability of {plain(first.name)}", f"{first.probability:.1%}")
    left.caption("calibrated" if case.calibrated else "not calibrated; an order, not a risk")
    shown = case.logits[case.logit]
    middle.metric(f"Logit of {plain(shown.name)}", signed(shown.logit))
    if case.head == "binary":
        other = case.logits[1 - case.logit].name
        middle.caption(f"above 0: {plain(shown.name)}, below 0: {plain(other)}")
    elif len(case.classes) > 1:
        second = case.classes[1]
        middle.caption(
            f"next: {plain(second.name)}, {second.probability:.1%}, logit {signed(second.logit)}"
        )


def class_table(case: CaseView) -> pd.DataFrame:
    """Return findings or grades with their probabilities as text, what is predicted in bold."""
    rows = []
    for line in case.classes:
        bold = "**" if line.present else ""
        row = {
            HEAD_WORDS[case.head].noun.capitalize(): f"{bold}{plain(line.name)}{bold}",
            "Probability": f"{line.probability:.1%}",
        }
        if line.logit is not None:
            row |= {"Logit": signed(line.logit), "Present": "**yes**" if line.present else "no"}
            row["Cohort table"] = {True: "present", False: "absent", None: "not known"}[line.true]
        elif case.truth:
            row["Cohort table"] = "this grade" if line.true else ""
        rows.append(row)
    return pd.DataFrame(rows)


def _how_to_read(case: CaseView) -> str:
    start = "Calibrated. " if case.calibrated else "Not calibrated; an order, not a risk. "
    if case.head == "multilabel":
        return start + "A finding is present if its logit is above 0; findings may occur together."
    passed = sum(line.logit > 0 for line in case.logits)
    return start + (
        "The predicted grade lies as many steps above the lowest as thresholds are passed: "
        f"{passed} of {len(case.logits)}. They share the evidence and differ in their bias."
    )


def _true_label(case: CaseView) -> str:
    if case.agrees is None:
        return "not known"
    names = [name for name, value in case.truth.items() if value]
    unsure = [name for name, value in case.truth.items() if value is None]
    text = plain(", ".join(names) or "none of the findings")
    if unsure:
        text += f", uncertain: {plain(', '.join(unsure))}"
    return f"{text} (the prediction {'agrees' if case.agrees else '**disagrees**'})"


def _choose_logit(case: CaseView) -> int:
    """Ask whose sum is shown, where there is a choice."""
    if len(case.choices) == 1:
        return case.logit
    present = {line.name for line in case.classes if line.present}

    def name(k: int) -> str:
        line = case.logits[k]
        if case.head == "ordinal":
            state = "passed" if line.logit > 0 else "not passed"
        else:
            state = "present" if line.name in present else "not present"
        return plain(f"{line.name} ({state}, logit {signed(line.logit)})")

    noun = HEAD_WORDS[case.head].logit_noun
    return st.radio(
        f"Evidence for the {noun}",
        case.choices,
        index=case.choices.index(case.logit),
        format_func=name,
        horizontal=True,
        key=f"logit of {case.digest}",
    )


def _picture(case: CaseView, run: RunView, source: Source, rebuild: caching.Rebuild) -> None:
    if case.row is None:
        st.info(
            "The image of this record is not in the run's cohort, so its pixels cannot be shown. "
            "The record below is complete without them."
        )
        return
    try:
        rebuilt = caching.rebuilt_case(source.run, case, case.row, rebuild)
        data = case_data(case, rebuilt, run, source.run)
    except MedProtoError as error:
        st.error(f"The image cannot be shown: {plain(str(error))}")
        return
    except (OSError, ValueError, KeyError):
        st.error(
            "The image cannot be shown: its file is missing or is not the one that was recorded."
        )
        return
    show_viewer(data, key="case")
    if rebuilt.largest_difference is not None:
        st.caption(
            "Computed again now from model and image: the logits differ from the recorded ones by "
            f"at most {rebuilt.largest_difference:.1e}. Grad-CAM: captum LayerGradCam, ReLU on, "
            f"{run.layer}, target logit of {plain(case.logit_name)}; a second opinion, not part of "
            "the sum. Maps are scaled to their own range."
        )


def _sum(case: CaseView) -> None:
    st.subheader("The sum, to check by hand", anchor=False)
    if case.total.bias_leads:
        st.warning(bias_remark(case.total))
    st.table(sum_table(case), hide_index=True, border="horizontal")
    st.caption(
        "Largest contributions first, for and against alike. Rounded to three decimals; the record "
        f"holds them in full, and there the sum differs from the logit by "
        f"{case.total.difference:.1e}. The last columns: share of the similarity that "
        "stays when all but the box is blurred (100%: the box alone explains it), and when the box "
        "itself is (100%: the box does not matter); measured for the largest contributions. A "
        "similarity counts from its prototype's floor, where it has one: what training images "
        "without its class reach as well."
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
            "Points": f"**{signed(line.contribution)}** {side(line.contribution)}",
            "Kept by the box alone": "" if line.kept is None else f"{line.kept:.0%}",
            "Kept without the box": "" if line.left is None else f"{line.left:.0%}",
        }
        for line in case.lines
    ]
    total = case.total
    ends = [
        (f"Sum of the other prototypes ({total.others})", signed(total.others_sum)),
        ("Bias", signed(total.bias)),
        (f"**Total = logit of {plain(case.logit_name)}**", f"**{signed(total.total)}**"),
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
