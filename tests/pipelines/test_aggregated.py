"""Figures by patient and study, by pencil."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from medproto.data import Cohort
from pipelines.aggregated import RULES, summarize_groups
from pipelines.cli_run import print_metrics
from pipelines.evaluate import evaluate_run
from pipelines.pages.run_view import run_context

NAN = float("nan")


def images(patients, labels, studies=None):
    table = pd.DataFrame({"image": "none.png", "label": "", "patient_id": list(patients)})
    if studies is not None:
        table["study_uid"] = studies
    rows = tuple(range(len(patients)))
    return SimpleNamespace(
        cohort=Cohort(table, Path()), rows=rows, labels=np.array(labels), groups=tuple(patients)
    )


def two(*margins):
    """Logits of two classes from their difference."""
    return np.array([[0.0, margin] for margin in margins])


def test_mean_logit_and_positive_if_any():
    # Patients' means: a 1, b 0, c 0.5, d -1; a and d are positive (d in one of two images).
    # Pairs (positive, negative): a beats b and c, d beats none: 2 of 4.
    logits = two(3, -1, 0, 2, -1, -2, 0)
    given = images("aabccdd", [1, 1, 0, 0, 0, 0, 1])
    found = summarize_groups(logits, given, head="binary")
    assert found["study"] is None  # there is no such column
    patient = found["patient"]
    assert patient["auroc"]["value"] == pytest.approx(0.5)
    assert patient["auroc"]["low"] <= 0.5 <= patient["auroc"]["high"]
    assert (patient["n"], patient["patients"], patient["images"]) == (4, 4, 7)
    assert (patient["disagreeing"], patient["left_out"]) == (1, 0)
    assert patient["label"] == RULES["two classes"]
    assert patient["logits"] == "mean of the images"
    assert summarize_groups(logits, given, head="multiclass") == found
    json.dumps(found, allow_nan=False)


def test_studies_lie_within_patients_and_intervals_are_over_patients():
    # Study s of a and of b are two; the last image of b has none and is its own.
    given = images("aaabbb", [1, 1, 0, 0, 0, 0], ["s", "s", "t", "s", "", ""])
    study = summarize_groups(two(2, 0, 0.5, 3, -1, -2), given, head="binary")["study"]
    # Means: a/s 1 positive; a/t 0.5, b/s 3, b -1, b -2 negative: three of four pairs.
    assert study["auroc"]["value"] == pytest.approx(0.75)
    assert (study["n"], study["patients"], study["images"]) == (5, 2, 6)
    assert study["disagreeing"] == 0
    # One image a study: nothing to aggregate, though patients have several.
    alone = images("aab", [1, 1, 0], ["s", "t", "u"])
    found = summarize_groups(two(1, 1, 0), alone, head="binary")
    assert found["study"] is None
    assert found["patient"]["n"] == 2


def test_one_image_a_patient_is_nothing_to_aggregate():
    given = images("abc", [0, 1, 0], ["s", "s", "s"])
    assert summarize_groups(two(0, 1, 2), given, head="binary") is None


def test_classes_that_disagree_are_left_out_and_counted():
    logits = np.array([[2, 0, 0], [0, 2, 0], [0, 0, 2], [0, 3, 0], [0, 3, 0]], dtype=float)
    given = images("abcdd", [0, 1, 2, 0, 1])
    patient = summarize_groups(logits, given, head="multiclass")["patient"]
    assert patient["auroc"]["value"] == 1.0  # of a, b and c
    assert (patient["n"], patient["images"]) == (3, 3)
    assert (patient["disagreeing"], patient["left_out"]) == (1, 1)


def test_findings_take_the_largest_logit_and_an_unknown_label_stays_unknown():
    logits = np.array([[3.0, 0.0], [-3.0, 1.0], [1.0, 2.0], [1.0, -2.0], [2.0, 0.0]])
    labels = [[1.0, 0.0], [0.0, NAN], [0.0, 1.0], [0.0, 1.0], [NAN, 0.0]]
    patient = summarize_groups(logits, images("aabbc", labels), head="multilabel")["patient"]
    # First finding: a 3 present, b 1 absent, c unknown: 1. Second: a unknown, b 2, c 0: 1.
    assert patient["auroc"]["value"] == 1.0
    assert patient["logits"] == "largest of the images"
    assert (patient["n"], patient["disagreeing"], patient["left_out"]) == (3, 1, 0)


def test_grades_take_the_highest():
    logits = np.array([[-1.0, -2.0], [3.0, 2.0], [0.5, -3.0], [4.0, -2.0]])
    patient = summarize_groups(logits, images("aabc", [0, 2, 0, 1]), head="ordinal")["patient"]
    # Means a (1, 0), b (0.5, -3), c (4, -2); grades 2, 0, 1: each threshold is ranked rightly.
    assert patient["auroc"]["value"] == 1.0
    assert (patient["disagreeing"], patient["label"]) == (1, RULES["ordinal"])


def test_evaluation_page_and_text(tiny_run, metrics, history, capsys):
    # Each patient has one image of each class, so that all are positive.
    found = evaluate_run(tiny_run).summary["aggregated"]
    assert found["study"] is None
    assert found["patient"]["auroc"] == {"value": None, "low": None, "high": None}
    assert (found["patient"]["n"], found["patient"]["disagreeing"]) == (5, 5)
    own = {**found["patient"], "auroc": {"value": 0.912, "low": 0.8, "high": 0.99}}
    shown = {**metrics, "aggregated": {"patient": own, "study": None}}
    print_metrics(shown)
    assert "by patient (5)" in capsys.readouterr().out
    report = SimpleNamespace(
        metrics=shown,
        head="multiclass",
        probabilities=None,
        labels=None,
        history=history,
        classes=(),
        sources=(),
    )
    row = run_context(report)["figures"][1]
    assert row["name"] == "AUROC by patient"
    assert "5 are labeled in several ways, 0 left out" in row["meaning"]
