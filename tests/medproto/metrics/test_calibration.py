import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from medproto.metrics import (
    TEMPERATURE_BOUNDS,
    Temperature,
    apply_temperature,
    fit_temperature,
    probabilities,
)

HEADS = ["multiclass", "binary", "multilabel", "ordinal"]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def loss_by_definition(logits, labels, head, temperature):
    """Mean negative log-likelihood of the known labels, one at a time."""
    terms = []
    for row, label in zip(logits, labels):
        z = [value / temperature for value in row]
        if head in ("multiclass", "binary"):
            terms.append(math.log(sum(math.exp(v) for v in z)) - z[label])
            continue
        for k, value in enumerate(z):
            target = label[k] if head == "multilabel" else float(label > k)
            if not math.isnan(target):
                chance = sigmoid(value)
                terms.append(-math.log(chance if target else 1 - chance))
    return sum(terms) / len(terms)


def example(head, seed, cases=60):
    random = np.random.default_rng(seed)
    columns = 2 if head == "binary" else 4
    logits = 3 * random.normal(size=(cases, columns))
    noise = random.gumbel(size=logits.shape) * 3
    if head == "multilabel":
        labels = (logits + random.logistic(size=logits.shape) * 3 > 0).astype(float)
        labels[random.random(labels.shape) < 0.3] = np.nan
        return logits, labels
    if head == "ordinal":
        logits = -np.sort(-logits, axis=1)
        return logits, (logits + random.logistic(size=(cases, 1)) * 3 > 0).sum(axis=1)
    if head == "binary":
        logits[:, 0] = 0.0
    return logits, (logits + noise).argmax(axis=1)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(2))
def test_the_temperature_is_where_a_golden_section_search_finds_the_smallest_loss(head, seed):
    logits, labels = example(head, seed)
    fitted = fit_temperature(logits, labels, head=head)
    searched = minimize_scalar(
        lambda inverse: loss_by_definition(logits, labels, head, 1 / inverse),
        bracket=(0.02, 0.3, 2.0),
        method="golden",
        options={"xtol": 1e-9},
    )
    assert fitted.value == pytest.approx(1 / searched.x, rel=1e-5)
    assert fitted.bound is None
    assert fitted.loss == pytest.approx(searched.fun, rel=1e-10)
    assert fitted.loss_before == pytest.approx(loss_by_definition(logits, labels, head, 1.0))
    assert fitted.cases == 60
    assert 1.5 < fitted.value < 6  # the labels were drawn at 3


def test_closed_form():
    # Three of four cases with margin 2 are right: sigmoid(2 / T) = 3 / 4.
    logits = np.array([[0.0, 2.0]] * 4)
    expected = 2 / math.log(3)
    assert fit_temperature(logits, [1, 1, 1, 0], head="binary").value == pytest.approx(expected)
    assert fit_temperature(logits[::-1] + 7, [1, 0, 1, 1], head="multiclass").value == (
        pytest.approx(expected)
    )
    findings = np.array([[1.0], [1.0], [1.0], [0.0], [np.nan]])
    scores = np.array([[2.0], [2.0], [2.0], [2.0], [-50.0]])
    fitted = fit_temperature(scores, findings, head="multilabel")
    assert fitted.value == pytest.approx(expected)
    assert fit_temperature(scores[:4], [1, 1, 1, 0], head="ordinal").value == (
        pytest.approx(expected)
    )


@given(factor=st.floats(0.3, 3.0), head=st.sampled_from(HEADS))
def test_scaled_logits_scale_the_temperature(factor, head):
    logits, labels = example(head, 5)
    one, other = (fit_temperature(z, labels, head=head) for z in (logits, factor * logits))
    assert other.value == pytest.approx(factor * one.value, rel=1e-8)
    assert other.loss == pytest.approx(one.loss, rel=1e-10)


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_cases_without_an_error_stop_at_the_lower_bound_and_say_so(size):
    fitted = fit_temperature(size * np.eye(3), [0, 1, 2], head="multiclass")
    assert (fitted.value, fitted.bound) == (TEMPERATURE_BOUNDS[0], "lower")
    assert 0 <= fitted.loss <= fitted.loss_before
    wrong = fit_temperature(size * np.eye(3), [1, 2, 0], head="multiclass")
    assert (wrong.value, wrong.bound) == (TEMPERATURE_BOUNDS[1], "upper")
    assert wrong.loss < wrong.loss_before


@pytest.mark.parametrize("head", HEADS)
def test_logits_that_say_nothing_keep_the_temperature_one(head):
    labels = np.array([[1, np.nan], [0, 1]]) if head == "multilabel" else [0, 1]
    fitted = fit_temperature(np.zeros((2, 2)), labels, head=head)
    assert (fitted.value, fitted.bound) == (1.0, None)
    assert fitted.loss == pytest.approx(math.log(2))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_by_definition(temperature):
    logits = np.array([[2.0, 0.5, -1.0], [0.0, -0.1, -3.0]])
    z = logits / temperature
    np.testing.assert_array_equal(apply_temperature(logits, temperature), z)
    by_head = {
        "multiclass": [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in z],
        "multilabel": [[sigmoid(v) for v in row] for row in z],
        "ordinal": [
            [
                1 - sigmoid(row[0]),
                sigmoid(row[0]) - sigmoid(row[1]),
                sigmoid(row[1]) - sigmoid(row[2]),
                sigmoid(row[2]),
            ]
            for row in z
        ],
    }
    for head, expected in by_head.items():
        got = probabilities(logits, head=head, temperature=temperature)
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    binary = probabilities([[0.0, 1.2]], head="binary", temperature=temperature)
    np.testing.assert_allclose(binary[0, 1], sigmoid(1.2 / temperature), rtol=1e-12)


def test_grades_of_extreme_or_unsorted_logits_stay_probabilities():
    # sigmoid(40) - sigmoid(39) is 0 in plain float64; it is e^-39 - e^-40 to first order.
    chances = probabilities([[40.0, 39.0]], head="ordinal")[0]
    np.testing.assert_allclose(chances[0], math.exp(-40), rtol=1e-9)
    np.testing.assert_allclose(chances[1], math.exp(-39) - math.exp(-40), rtol=1e-9)
    out_of_order = probabilities([[-1.0, 2.0, 0.5], [800.0, 0.0, -800.0]], head="ordinal")
    in_order = probabilities([[2.0, 0.5, -1.0], [800.0, 0.0, -800.0]], head="ordinal")
    np.testing.assert_array_equal(out_of_order, in_order)
    assert (out_of_order >= 0).all()
    np.testing.assert_allclose(out_of_order.sum(axis=1), 1.0, rtol=1e-12)


def test_record_round_trip():
    fitted = fit_temperature(*example("ordinal", 1), head="ordinal")
    assert Temperature.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize(
    ("logits", "labels", "head", "message"),
    [
        (np.zeros((2, 3)), [0, 1], "binary", r"\[cases, 2\] for the binary head, got \[2, 3\]"),
        (np.zeros((2, 1)), [0, 1], "multiclass", r"logits >= 2\].* got \[2, 1\]"),
        (np.zeros((2, 2)), [0, 1], "softmax", "one of multiclass, .* got 'softmax'"),
        ([[0.0, np.nan]], [0], "binary", "finite, got NaN"),
        (np.zeros((2, 2)), [0, 2], "binary", r"in 0\.\.1, got another"),
        (np.zeros((2, 2)), [0, 3], "ordinal", r"in 0\.\.2, got another"),
        (np.zeros((2, 2)), [0, 1], "multilabel", r"shape \[2, 2\], got \[2\]"),
        (np.zeros((1, 2)), [[0.5, 1]], "multilabel", "0, 1 or NaN"),
        (np.zeros((1, 2)), [[np.nan, np.nan]], "multilabel", "at least one known label"),
        (np.zeros((0, 2)), [], "binary", "at least one known label"),
    ],
)
def test_wrong_arguments(logits, labels, head, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels, head=head)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_wrong_temperature(temperature):
    with pytest.raises(ValueError, match="finite and above 0"):
        probabilities([[0.0, 1.0]], head="binary", temperature=temperature)
