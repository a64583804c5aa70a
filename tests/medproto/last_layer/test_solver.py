import math
import time

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from medproto.last_layer import solve_last_layer
from medproto.last_layer.solver import _minimum_under_signs


def objective_by_definition(weights, bias, problem, class_weights, l1, ridge):
    """The objective as the contract states it, one image at a time."""
    scores, labels, prototype_class = problem
    loss = 0.0
    for row, label in zip(scores, labels, strict=True):
        loss -= class_weights[label] * log_softmax(weights @ row + bias)[label]
    wrong = sum(
        abs(weights[k, p])
        for k in range(len(weights))
        for p in range(len(prototype_class))
        if k != prototype_class[p]
    )
    return loss / len(labels) + l1 * wrong + ridge / 2 * (weights**2).sum()


def minimum_by_scipy(problem, num_classes, class_weights, l1, ridge):
    """SLSQP on ``w = up - down`` with bounds; shares no line with the solver under test."""
    scores, labels, prototype_class = problem
    own = np.arange(num_classes)[:, None] == prototype_class[None, :]
    count = own.size
    target = np.eye(num_classes)[labels]
    case = np.asarray(class_weights)[labels][:, None] / len(labels)

    def value_and_gradient(x):
        up, down = x[:count].reshape(own.shape), x[count : 2 * count].reshape(own.shape)
        weights, bias = up - down, x[2 * count :]
        log_q = log_softmax(scores @ weights.T + bias, axis=1)
        value = -(case * target * log_q).sum() + ridge / 2 * (weights**2).sum()
        value += l1 * (up + down)[~own].sum()
        error = case * (np.exp(log_q) - target)
        slope = error.T @ scores + ridge * weights
        cost = l1 * ~own
        return value, np.concatenate(
            [(slope + cost).ravel(), (cost - slope).ravel(), error.sum(axis=0)]
        )

    bounds = [(0, None)] * count + [(0, 0 if o else None) for o in own.ravel()]
    bounds += [(None, None)] * num_classes
    start = np.zeros(2 * count + num_classes)
    return minimize(
        value_and_gradient,
        start,
        jac=True,
        bounds=bounds,
        method="SLSQP",
        options={"maxiter": 2000, "ftol": 1e-14},
    ).fun


PROBLEMS = {
    "two classes": (dict(seed=0), 1e-3, 1e-3),
    "three classes": (dict(seed=1, classes=3), 1e-2, 1e-3),
    "five classes": (dict(seed=2, classes=5, prototypes=15, images=150), 3e-3, 1e-2),
    "log similarities": (dict(seed=3, scale=0.1, offset=9.0), 1e-3, 1e-3),
    "cosine times ten": (dict(seed=4, scale=3.0, classes=3, images=200), 1e-2, 1e-2),
    "separable": (dict(seed=5, lift=8.0), 1e-3, 1e-3),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_objective_equals_an_independent_solver(name, make_problem):
    arguments, l1, ridge = PROBLEMS[name]
    problem = make_problem(**arguments)
    classes = arguments.get("classes", 2)
    class_weights = np.linspace(0.5, 1.5, classes)
    solution = solve_last_layer(
        *problem, num_classes=classes, class_weights=class_weights, l1=l1, ridge=ridge
    )
    assert solution.converged
    assert solution.residual <= 1e-6
    expected = minimum_by_scipy(problem, classes, class_weights, l1, ridge)
    assert solution.objective == pytest.approx(expected, rel=1e-6)
    again = objective_by_definition(
        solution.weights, solution.bias, problem, class_weights, l1, ridge
    )
    assert solution.objective == pytest.approx(again, rel=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_residual_is_the_stated_one(name, make_problem):
    # Written anew from the formula; numerical derivative, so equal only to that one's precision.
    arguments, l1, ridge = PROBLEMS[name]
    scores, labels, owners = make_problem(**arguments)
    classes = arguments.get("classes", 2)
    rough = solve_last_layer(
        scores, labels, owners, num_classes=classes, l1=l1, ridge=ridge, max_iterations=1
    )
    point = np.column_stack([rough.weights, rough.bias])
    own = np.arange(classes)[:, None] == owners[None, :]

    def smooth(x):
        return objective_by_definition(
            x[:, :-1], x[:, -1], (scores, labels, owners), np.ones(classes), 0.0, ridge
        )

    gradient = np.zeros_like(point)
    for index in np.ndindex(*point.shape):
        nudge = np.zeros_like(point)
        nudge[index] = 1e-5
        gradient[index] = (smooth(point + nudge) - smooth(point - nudge)) / 2e-5
    design = np.column_stack([scores, np.ones(len(scores))])
    bound = np.linalg.norm(design, 2) ** 2 / 2 / len(scores) + ridge
    step = 1 / bound
    moved = point - step * gradient
    shrunk = np.sign(moved) * np.maximum(abs(moved) - step * l1, 0)
    weights = np.where(own, np.maximum(moved[:, :-1], 0), shrunk[:, :-1])
    near = np.column_stack([weights, moved[:, -1]])
    expected = np.linalg.norm(point - near) / step / max(1, np.linalg.norm(point))
    assert rough.residual == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_pencil_without_information_the_bias_is_the_log_of_the_class_shares():
    # A constant score says nothing, so W = 0 and softmax(b) = shares (3/4, 1/4), sum(b) = 0.
    solution = solve_last_layer(
        np.full((4, 2), 9.2103), [0, 0, 0, 1], [0, 1], num_classes=2, l1=0.01, ridge=0.01
    )
    assert solution.bias == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-6)
    assert solution.weights == pytest.approx(np.zeros((2, 2)), abs=1e-9)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert solution.objective == pytest.approx(entropy, rel=1e-9)


def test_pencil_one_prototype_obeys_its_stationarity():
    # Scores +-1, one prototype of class 0, L1 so strong that w[1, 0] = 0, and b = 0 by symmetry.
    # Both images then have the margin w = w[0, 0], so w minimises log(1 + exp(-w)) + 0.05 w^2:
    # 0.1 w = 1 / (1 + exp(w)).
    solution = solve_last_layer(
        [[1.0], [-1.0]], [0, 1], [0], num_classes=2, l1=10.0, ridge=0.1, tolerance=1e-10
    )
    weight = solution.weights[0, 0]
    assert solution.weights[1, 0] == 0.0
    assert 0.1 * weight == pytest.approx(1 / (1 + math.exp(weight)), abs=1e-9)
    assert solution.bias == pytest.approx([0.0, 0.0], abs=1e-9)


def test_zeros_are_exact_and_own_weights_are_not_negative(make_problem):
    scores, labels, owners = make_problem(7, prototypes=20, classes=3, images=150)
    solution = solve_last_layer(scores, labels, owners, num_classes=3, l1=1e-2, ridge=1e-3)
    own = np.arange(3)[:, None] == owners[None, :]
    assert (solution.weights[own] >= 0).all()
    assert solution.zeros == np.count_nonzero(solution.weights == 0.0) > 0
    assert (solution.weights[~own] != 0).any()
    assert not np.any((solution.weights != 0) & (abs(solution.weights) < 1e-9))
    assert solution.bias.sum() == pytest.approx(0.0, abs=1e-12)


def test_an_own_weight_that_would_turn_negative_is_zero():
    # The only prototype of class 0 looks like class 1, so its free optimum is negative.
    solution = solve_last_layer(
        [[0.0], [0.2], [1.0], [1.2]], [0, 0, 1, 1], [0], num_classes=2, l1=10.0, ridge=0.01
    )
    assert (solution.weights == 0.0).all()


def test_strong_l1_zeroes_every_wrong_class_weight(make_problem):
    scores, labels, owners = make_problem(8, classes=3)
    solution = solve_last_layer(scores, labels, owners, num_classes=3, l1=100.0, ridge=1e-3)
    wrong = np.arange(3)[:, None] != owners[None, :]
    assert (solution.weights[wrong] == 0.0).all()
    assert (solution.weights[~wrong] > 0).any()


def test_an_offset_moves_into_the_bias(make_problem):
    scores, labels, owners = make_problem(9, scale=0.1, offset=9.0)
    options = dict(num_classes=2, l1=1e-4, ridge=1e-4, tolerance=1e-9)
    far = solve_last_layer(scores, labels, owners, **options)
    near = solve_last_layer(scores - 9.0, labels, owners, **options)
    assert far.weights == pytest.approx(near.weights, rel=1e-6, abs=1e-6)
    shift = -9.0 * far.weights.sum(axis=1)
    assert far.bias == pytest.approx(near.bias + shift - shift.mean(), abs=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(seed=0, images=1200, prototypes=95, classes=4, scale=4.0, lift=0.5),
        dict(seed=1, images=350, prototypes=50, classes=5, scale=0.02, offset=9.0),
        dict(seed=2, images=60, prototypes=80, classes=2, lift=6.0, offset=9.0),
    ],
    ids=["wide", "flat", "more prototypes than images"],
)
def test_hard_problems_converge_quickly(arguments, make_problem):
    problem = make_problem(**arguments)
    begun = time.perf_counter()
    solution = solve_last_layer(
        *problem, num_classes=arguments["classes"], l1=1e-5, ridge=1e-6, max_iterations=60
    )
    assert solution.converged
    assert solution.gap <= 1e-6 * solution.objective
    assert time.perf_counter() - begun < 20


def test_two_runs_give_the_same_bits(make_problem):
    problem = make_problem(10)
    first, second = (
        solve_last_layer(*problem, num_classes=2, l1=1e-3, ridge=1e-3) for _ in range(2)
    )
    assert first.weights.tobytes() == second.weights.tobytes()
    assert first.bias.tobytes() == second.bias.tobytes()


def test_out_of_rounds_is_said(make_problem):
    problem = make_problem(11, prototypes=30, images=200)
    solution = solve_last_layer(*problem, num_classes=2, l1=1e-4, ridge=1e-5, max_iterations=1)
    assert not solution.converged
    assert solution.iterations == 1
    assert solution.gap > 1e-6 * solution.objective


def test_gap_bounds_the_distance_to_the_minimum(make_problem):
    problem = make_problem(12, prototypes=20)
    best = solve_last_layer(*problem, num_classes=2, l1=1e-3, ridge=1e-3, tolerance=1e-9)
    for rounds in range(1, best.iterations):
        rough = solve_last_layer(
            *problem, num_classes=2, l1=1e-3, ridge=1e-3, tolerance=1e-9, max_iterations=rounds
        )
        above = rough.objective - best.objective
        assert -1e-12 <= above <= rough.gap + 1e-12


def test_replacement_is_applied_before_the_fit(make_problem):
    scores, labels, owners = make_problem(13, prototypes=2, images=10)
    spoilt = scores.copy()
    spoilt[[0, 1], [0, 1]] = 1e3  # on their own sources; the replacement must not see it
    options = dict(num_classes=2, own_score_replacement=[0, 1])
    clean = solve_last_layer(scores, labels, owners, **options)
    assert solve_last_layer(spoilt, labels, owners, **options).weights == pytest.approx(
        clean.weights, rel=1e-9
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(labels=[0, 0, 0, 0]), r"each of the 2 classes, got none of \[1\]"),
        (dict(labels=[0, 1, 2, 1], num_classes=4), r"got none of \[3\]"),
        (dict(num_classes=1), "num_classes must be at least 2, got 1"),
        (dict(scores=[[1.0, np.nan]] * 4), "scores must be finite, got 4"),
        (dict(scores=[1.0, 2.0]), r"\[images, prototypes\], got \[2\]"),
        (dict(scores=np.zeros((0, 2))), r"\[images, prototypes\], got \[0, 2\]"),
        (dict(labels=[0, 1]), r"labels must have shape \[4\], got \[2\]"),
        (dict(labels=[0, 1, 0, 2]), r"labels must lie in 0\.\.1, got 0 to 2"),
        (dict(labels=[0.0, 1.0, 0.0, 1.0]), "labels must be whole numbers, got float64"),
        (dict(prototype_class=[0]), r"prototype_class must have shape \[2\], got \[1\]"),
        (dict(prototype_class=[0, -1]), r"prototype_class must lie in 0\.\.1, got -1 to 0"),
        (dict(class_weights=[1.0]), r"class_weights must be 2 finite numbers above 0, got \[1"),
        (dict(class_weights=[1.0, 0.0]), "class_weights must be 2 finite numbers above 0"),
        (dict(l1=-1.0), "l1 must be a finite number >= 0, got -1"),
        (dict(ridge=0.0), "ridge must be a finite number above 0, got 0.0: without"),
        (dict(max_iterations=0), "max_iterations must be at least 1"),
        (dict(tolerance=0.0), "tolerance above 0, got 200 and 0.0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = dict(
        scores=[[1.0, 0.0], [0.0, 1.0]] * 2,
        labels=[0, 1, 0, 1],
        prototype_class=[0, 1],
        num_classes=2,
    )
    with pytest.raises(ValueError, match=message):
        solve_last_layer(**(arguments | change))


def test_model_minimum_under_signs_by_pencil():
    # minimise (x - 1) * 2 + (x - 1)^2 from x = 1: free minimum x = 0 touches zero and stays there;
    # y is unsigned and goes from 1 to -1.
    target = _minimum_under_signs(
        np.diag([2.0, 1.0]), np.array([4.0, 2.0]), np.array([1.0, 1.0]), np.array([True, False])
    )
    assert target == pytest.approx([0.0, -1.0])
