"""The sum of a prediction of every head, of old records and of records by others."""

import copy

import pytest

from audit import AuditLog
from audit.prediction import read_prediction
from audit.prediction_text import prediction_lines
from audit.text import record_text


def entry(similarity, weights, name):
    return {
        "prototype": 0,
        "class": name,
        "similarity": similarity,
        "weights": weights,
        "contributions": [similarity * weight for weight in weights],
    }


@pytest.fixture
def findings():
    """Two findings present and one not: 2 x 1.5 - 1, 4 x 0.5 - 1, 2 x -0.5 + 4 x 0 - 1."""
    return {
        "label": "nodule, effusion",
        "classes": ["nodule", "effusion", "edema"],
        "head": "multilabel",
        "present": ["nodule", "effusion"],
        "probabilities": [0.875, 0.75, 0.125],
        "logit_names": ["nodule", "effusion", "edema"],
        "logits": [2.0, 1.0, -2.0],
        "shown_logit": 0,
        "bias": [-1.0, -1.0, -1.0],
        "evidence": [
            entry(2.0, [1.5, 0.0, -0.5], "nodule"),
            entry(4.0, [0.0, 0.5, 0.0], "effusion"),
        ],
    }


@pytest.fixture
def grades():
    """Three grades, two thresholds with one weight a prototype: 2 x 1 - 0.5 and 2 x 1 - 3."""
    return {
        "label": "mild",
        "classes": ["none", "mild", "severe"],
        "head": "ordinal",
        "present": ["mild"],
        "probabilities": [0.25, 0.5, 0.25],
        "logit_names": ["above none", "above mild"],
        "logits": [1.5, -1.0],
        "shown_logit": 0,
        "bias": [-0.5, -3.0],
        "evidence": [entry(2.0, [1.0, 1.0], "severe")],
    }


def flat(lines):
    return [" ".join(line.split()) for line in lines]


def sums(lines):
    return [line.partition(",")[0] for line in lines if line.startswith("Sum for")]


def test_each_present_finding_has_its_sum(findings):
    lines = flat(prediction_lines(findings))
    assert lines[:6] == [
        "Prediction: nodule, effusion",
        "",
        "finding contributions + bias = total logit difference probability present",
        "nodule 3.000000 -1.000000 2.000000 2.000000 0.0e+00 0.875000 yes",
        "effusion 2.000000 -1.000000 1.000000 1.000000 0.0e+00 0.750000 yes",
        "edema -1.000000 -1.000000 -2.000000 -2.000000 0.0e+00 0.125000 no",
    ]
    assert sums(lines) == [
        "Sum for nodule (present; --class NAME shows another finding)",
        "Sum for effusion (present; --class NAME shows another finding)",
    ]
    assert "0 effusion 4.000000 x 0.500000 = 2.000000 - -" in lines


def test_a_finding_that_is_not_present_is_shown_on_request(findings):
    lines = flat(prediction_lines(findings, of_class="edema"))
    assert sums(lines) == ["Sum for edema (not present; --class NAME shows another finding)"]
    assert "= total -2.000000" in lines
    with pytest.raises(ValueError, match="finding must be one of nodule, effusion, edema, got 'x'"):
        prediction_lines(findings, of_class="x")


def test_without_a_finding_the_largest_logit_is_summed_up(findings):
    findings["label"], findings["present"] = "none of the findings", []
    findings["logits"], findings["shown_logit"] = [-2.0, -1.0, -2.0], 1
    lines = flat(prediction_lines(findings))
    assert lines[0] == "Prediction: none of the findings"
    assert sums(lines) == ["Sum for effusion (not present; --class NAME shows another finding)"]


def test_grades_and_thresholds_are_two_tables(grades):
    lines = flat(prediction_lines(grades))
    assert lines[:9] == [
        "Prediction: mild",
        "",
        "threshold contributions + bias = total logit difference passed",
        "above none 2.000000 -0.500000 1.500000 1.500000 0.0e+00 yes",
        "above mild 2.000000 -3.000000 -1.000000 -1.000000 0.0e+00 no",
        "",
        "grade probability",
        "none 0.250000",
        "mild 0.500000",
    ]
    assert sums(lines) == ["Sum for above none (--class NAME shows another threshold)"]
    other = flat(prediction_lines(grades, of_class="above mild"))
    assert "recorded logit -1.000000" in other
    with pytest.raises(ValueError, match="threshold must be one of above none, above mild"):
        prediction_lines(grades, of_class="mild")


@pytest.mark.parametrize("kind", ["findings", "grades"])
def test_what_is_missing_follows_from_the_logits(request, kind):
    payload = request.getfixturevalue(kind)
    short = {k: v for k, v in payload.items() if k not in ("present", "logit_names", "shown_logit")}
    assert read_prediction(short) == read_prediction(payload)


def test_binary_sums_up_the_logit_that_is_not_fixed(prediction_payload):
    payload = {**prediction_payload, "head": "binary", "label": "normal"}
    assert read_prediction(payload).shown == (1,)
    del payload["head"]
    assert read_prediction(payload).shown == (0,)  # an old record, without a head


CONTRADICTIONS = [
    {"head": "other"},
    {"head": None},
    {"head": ["ordinal"]},
    {"head": "multiclass"},  # the label is none of the classes
    {"head": "ordinal"},
    {"label": None},
    {"classes": []},
    {"classes": ["nodule", "effusion"]},
    {"logit_names": ["a", "b"]},
    {"logit_names": None},
    {"present": ["cyst"]},
    {"present": "nodule"},
    {"present": [["nodule"]]},
    {"shown_logit": 3},
    {"shown_logit": -1},
    {"shown_logit": 1.5},
    {"shown_logit": True},
    {"logits": [True, 1.0, 1.0]},
    {"probabilities": [0.5, 0.5]},
    {"evidence": {}},
    {"evidence": ["similarity"]},
]


@pytest.mark.parametrize("change", CONTRADICTIONS, ids=str)
def test_a_contradiction_is_shown_as_it_is(tmp_path, findings, change):
    payload = findings | change
    assert read_prediction(payload) is None
    with AuditLog.create(tmp_path / "log.db") as log:
        record = log.append("prediction", subject="s", actor="a", payload=payload)
    text = record_text(record)
    assert "\nPayload\n" in text
    assert "probabilities" in text


def test_a_record_that_says_another_class_is_present_is_shown_as_it_is(grades):
    assert read_prediction(grades | {"present": ["severe"]}) is None


NEEDED = ("label", "classes", "probabilities", "logits", "bias", "evidence")
DERIVED = ("logit_names", "present", "shown_logit")


@pytest.mark.parametrize("key", NEEDED)
def test_without_a_needed_field_there_is_no_table(findings, key):
    del findings[key]
    assert prediction_lines(findings) == []


@pytest.mark.parametrize("key", DERIVED)
def test_what_follows_from_the_others_may_be_missing(findings, key):
    whole = prediction_lines(copy.deepcopy(findings))
    del findings[key]
    assert prediction_lines(findings) == whole


@pytest.mark.parametrize("value", [None, 1.5, {}, [None], [[]]], ids=str)
@pytest.mark.parametrize("key", [*NEEDED, *DERIVED, "head"])
def test_a_field_of_another_type_is_no_prediction(findings, key, value):
    assert prediction_lines(findings | {key: value}) == []


def test_names_cannot_steer_the_terminal(findings):
    findings["classes"][0] = findings["logit_names"][0] = findings["present"][0] = "\x1b[31m"
    findings["label"] = "\x1b[31m, effusion"
    text = "\n".join(prediction_lines(findings))
    assert "\x1b" not in text
    assert "Prediction: '\\x1b[31m, effusion'" in text
    assert "Sum for '\\x1b[31m'" in text
