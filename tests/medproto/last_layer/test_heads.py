import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from medproto.last_layer import solve_head

LOGISTIC_HEADS = ("binary", "multilabel", "ordinal")


def solve(problem, **options):
    head, scores, targets, owners, classes = problem
    return solve_head(head, scores, targets, owners, num_classes=classes, **options)


def cross_entropy(logit, shown):
    return -log_expit(logit if shown else -logit)


def objective_by_definition(problem, weights, bias, class_weights, l1, ridge):
    """The objective as the head's text states it, one image and one weight at a time."""
    head, scores, targets, owners, classes = problem
    logits = scores @ weights.T + bias
    images = len(scores)
    value = 0.0
    if head == "binary":
        for i, y in enumerate(targets):
            value += class_weights[y] * cross_entropy(logits[i, 1] - logits[i, 0], y) / images
        return value + ridge / 2 * (weights[1] ** 2).sum()
    if head == "ordinal":
        for i, y in enumerate(targets):
            for k in range(classes - 1):
                value += class_weights[y] * cross_entropy(logits[i, k], y > k) / images
        for p, grade in enumerate(owners):
            middle = 0 < grade < classes - 1
            value += l1 * abs(weights[0, p]) * middle + ridge / 2 * weights[0, p] ** 2
        return value
    for k in range(classes):
        known = [i for i in range(images) if not np.isnan(targets[i, k])]
        for i in known:
            balance = class_weights[k] if targets[i, k] else 1.0
            value += balance * cross_entropy(logits[i, k], targets[i, k]) / len(known)
        for p, finding in enumerate(owners):
            value += l1 * abs(weights[k, p]) * (finding != k) + ridge / 2 * weights[k, p] ** 2
    return value


def plain_regressions(problem, class_weights, l1):
    """Each head as logistic regressions on copied rows, one row a question, biases as columns.

    Yields features ``[R, P + M]``, answers and case weights ``[R]``, L1 and signs ``[P]``.
    """
    head, scores, targets, owners, classes = problem
    images, prototypes = scores.shape
    if head == "binary":
        design = np.column_stack([scores, np.ones(images)])
        cases = np.asarray(class_weights)[targets] / images
        yield design, targets == 1, cases, np.zeros(prototypes), np.ones(prototypes)
    elif head == "ordinal":
        steps = np.eye(classes - 1)
        design = np.vstack([np.column_stack([scores, np.tile(e, (images, 1))]) for e in steps])
        answers = np.concatenate([targets > k for k in range(classes - 1)])
        cases = np.tile(np.asarray(class_weights)[targets] / images, classes - 1)
        signs = 1.0 * (owners == classes - 1) - (owners == 0)
        yield design, answers, cases, l1 * (signs == 0), signs
    else:
        for k in range(classes):
            rows = ~np.isnan(targets[:, k])
            answers = targets[rows, k] == 1
            cases = np.where(answers, class_weights[k], 1.0) / rows.sum()
            design = np.column_stack([scores[rows], np.ones(rows.sum())])
            yield design, answers, cases, l1 * (owners != k), 1.0 * (owners == k)


def minimum_by_scipy(problem, class_weights, l1, ridge):
    """SLSQP on ``w = up - down`` with bounds; shares no line with the solver under test."""
    total = 0.0
    for design, answers, cases, cost, signs in plain_regressions(problem, class_weights, l1):
        count = len(signs)
        flip = np.where(answers, 1.0, -1.0)

        def value_and_gradient(x, design=design, flip=flip, cases=cases, cost=cost, count=count):
            up, down = x[:count], x[count : 2 * count]
            margins = flip * (design @ np.concatenate([up - down, x[2 * count :]]))
            value = -cases @ log_expit(margins) + cost @ (up + down)
            slope = design.T @ (-cases * flip * expit(-margins))
            slope[:count] += ridge * (up - down)
            return value + ridge / 2 * ((up - down) ** 2).sum(), np.concatenate(
                [cost + slope[:count], cost - slope[:count], slope[count:]]
            )

        biases = design.shape[1] - count
        bounds = [(0, 0 if s < 0 else None) for s in signs]
        bounds += [(0, 0 if s > 0 else None) for s in signs] + [(None, None)] * biases
        total += minimize(
            value_and_gradient,
            np.zeros(2 * count + biases),
            jac=True,
            bounds=bounds,
            method="SLSQP",
            options={"maxiter": 2000, "ftol": 1e-14},
        ).fun
    return total


PROBLEMS = {
    "plain": (dict(seed=0), 1e-3, 1e-3),
    "strong L1": (dict(seed=1, prototypes=15, images=150), 3e-2, 1e-2),
    "log similarities": (dict(seed=3, scale=0.1, offset=9.0), 1e-3, 1e-3),
    "cosine times ten": (dict(seed=4, scale=3.0, images=200), 1e-2, 1e-2),
    "separable": (dict(seed=5, lift=8.0), 1e-3, 1e-3),
}


@pytest.mark.parametrize("head", LOGISTIC_HEADS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_objective_equals_an_independent_solver(name, head, make_head_problem):
    arguments, l1, ridge = PROBLEMS[name]
    problem = make_head_problem(head, **arguments)
    balance = np.linspace(0.5, 1.5, problem[-1])
    solution = solve(problem, class_weights=balance, l1=l1, ridge=ridge)
    assert solution.converged
    assert solution.residual <= 1e-6
    assert solution.objective == pytest.approx(
        minimum_by_scipy(problem, balance, l1, ridge), rel=1e-6
    )
    again = objective_by_definition(problem, solution.weights, solution.bias, balance, l1, ridge)
    assert solution.objective == pytest.approx(again, rel=1e-12)


def one_regression(head, make_head_problem, seed):
    """A problem that is one logistic regression; of two findings the second has no own part."""
    problem = make_head_problem(head, seed, classes=4 if head == "ordinal" else 2, unknown=0.0)
    (regression, *_) = plain_regressions(problem, np.ones(problem[-1]), 1e-2)
    return problem, regression


@pytest.mark.parametrize("head", ["binary", "ordinal"])
def test_residual_is_the_stated_one(head, make_head_problem):
    # Written anew from the formula; numerical derivative, so equal only to that one's precision.
    problem, (design, _, cases, cost, signs) = one_regression(head, make_head_problem, 6)
    rough = solve(problem, l1=1e-2, ridge=1e-2, max_iterations=1)
    count = len(signs)
    biases = rough.bias[-(design.shape[1] - count) :]
    point = np.concatenate([rough.weights[-1], biases])

    def smooth(x):
        rows = np.tile(x[:count], (len(rough.weights), 1))
        bias = x[count:]
        if head == "binary":
            rows[0], bias = 0.0, np.append(0.0, bias)
        return objective_by_definition(problem, rows, bias, np.ones(problem[-1]), 0.0, 1e-2)

    gradient = np.array(
        [(smooth(point + e) - smooth(point - e)) / 2e-5 for e in 1e-5 * np.eye(len(point))]
    )
    step = 1 / (np.linalg.norm(np.sqrt(cases)[:, None] * design, 2) ** 2 / 4 + 1e-2)
    near = point - step * gradient
    for p in range(count):
        shrunk = math.copysign(max(abs(near[p]) - step * cost[p], 0.0), near[p])
        near[p] = 0.0 if shrunk * signs[p] < 0 else shrunk
    expected = np.linalg.norm(point - near) / step / max(1.0, np.linalg.norm(point))
    assert rough.residual == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("head", ["binary", "ordinal"])
def test_gap_is_objective_less_dual_value(head, make_head_problem):
    # max over u of sum_i a_i H(u_i) - sum_p reach_p^2 / (2 ridge), H the entropy, where the u of
    # each bias's answers balance: that is the Lagrange dual. u = the model's own, weakened.
    problem, (design, answers, cases, cost, signs) = one_regression(head, make_head_problem, 7)
    rough = solve(problem, l1=1e-2, ridge=1e-2, max_iterations=1)
    count = len(signs)
    biases = rough.bias[-(design.shape[1] - count) :]
    logits = design @ np.concatenate([rough.weights[-1], biases])
    wrong = expit(np.where(answers, -logits, logits))
    for question in design[:, count:].T.astype(bool):
        yes, no = question & answers, question & ~answers
        more, less = (yes, no) if cases[yes] @ wrong[yes] > cases[no] @ wrong[no] else (no, yes)
        wrong[more] *= (cases[less] @ wrong[less]) / (cases[more] @ wrong[more])
    entropy = -wrong * np.log(wrong) - (1 - wrong) * np.log(1 - wrong)
    pull = (cases * np.where(answers, wrong, -wrong)) @ design[:, :count]
    dual = cases @ entropy
    for p in range(count):
        allowed = 0.0 if pull[p] * signs[p] < 0 else abs(pull[p])
        dual -= max(allowed - cost[p], 0.0) ** 2 / (2 * 1e-2)
    assert rough.gap == pytest.approx(rough.objective - dual, rel=1e-9)


@pytest.mark.parametrize("head", LOGISTIC_HEADS)
def test_gap_bounds_the_distance_to_the_minimum(head, make_head_problem):
    problem = make_head_problem(head, 12, prototypes=20)
    options = dict(l1=1e-3, ridge=1e-3, tolerance=1e-9)
    best = solve(problem, **options)
    assert best.converged
    for rounds in range(1, best.iterations):
        rough = solve(problem, max_iterations=rounds, **options)
        assert not rough.converged
        assert -1e-12 <= rough.objective - best.objective <= rough.gap + 1e-12


@settings(max_examples=60, deadline=None)
@given(
    head=st.sampled_from(LOGISTIC_HEADS),
    seed=st.integers(0, 10_000),
    prototypes=st.integers(1, 5),
    extra=st.integers(0, 12),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    offset=st.sampled_from([0.0, 9.0]),
    l1=st.sampled_from([0.0, 1e-3, 0.1]),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
)
def test_small_problems_are_solved(head, seed, prototypes, extra, scale, offset, l1, ridge):
    random = np.random.default_rng(seed)
    classes = 2 if head == "binary" else 3
    labels = np.append(np.arange(classes), random.integers(0, classes, extra))
    scores = offset + scale * random.normal(size=(len(labels), prototypes))
    owners = np.ones(prototypes, int) if head == "binary" else random.integers(0, 3, prototypes)
    targets = np.eye(3)[labels] if head == "multilabel" else labels
    problem = (head, scores, targets, owners, classes)
    solution = solve(problem, l1=l1, ridge=ridge)
    assert solution.converged
    own = solution.weights * (np.arange(len(solution.weights))[:, None] == owners)
    if head == "ordinal":
        assert (solution.weights[:, owners == 0] <= 0).all()
        assert (solution.weights[:, owners == 2] >= 0).all()
        assert solution.bias[0] > solution.bias[1]
    else:
        assert (own >= 0).all()
    # No step that keeps the constraints goes lower than the gap allows.
    costs = (np.ones(classes), l1, ridge)
    at_most = objective_by_definition(problem, solution.weights, solution.bias, *costs)
    assert solution.objective == pytest.approx(at_most, rel=1e-9)
    for size in (1e-3, 0.1, 1.0):
        factor = 1 + size * random.uniform(-0.9, 0.9, prototypes)
        bias = solution.bias + size * random.normal(size=len(solution.bias))
        bias[0] = 0.0 if head == "binary" else bias[0]
        moved = objective_by_definition(problem, solution.weights * factor, bias, *costs)
        assert moved >= solution.objective - solution.gap - 1e-12


@pytest.mark.parametrize("head", LOGISTIC_HEADS)
@pytest.mark.parametrize(
    "arguments",
    [
        dict(seed=0, images=600, prototypes=60, scale=4.0, lift=0.5),
        dict(seed=1, images=350, prototypes=50, scale=0.02, offset=9.0),
        dict(seed=2, images=60, prototypes=80, lift=6.0, offset=9.0),
        dict(seed=3, images=200, prototypes=30, scale=300.0),
    ],
    ids=["wide", "flat", "more prototypes than images", "huge scores"],
)
def test_hard_problems_converge_in_few_rounds(head, arguments, make_head_problem):
    problem = make_head_problem(head, **arguments)
    solution = solve(problem, l1=1e-5, ridge=1e-6, max_iterations=40)
    assert solution.converged
    assert solution.residual <= 1e-6
    assert solution.gap <= 1e-6 * solution.objective
    assert not np.any((solution.weights != 0) & (abs(solution.weights) < 1e-12))
    again = solve(problem, l1=1e-5, ridge=1e-6, max_iterations=40)
    assert solution.weights.tobytes() == again.weights.tobytes()
    assert solution.bias.tobytes() == again.bias.tobytes()
