import math

import numpy as np
import pytest
from scipy.special import expit

from medproto.last_layer import solve_head
from medproto.last_layer.logistic import binary_problem, finding_problems
from medproto.last_layer.solver import minimize


def solve(problem, **options):
    head, scores, targets, owners, classes = problem
    return solve_head(head, scores, targets, owners, num_classes=classes, **options)


def test_binary_pencil_two_images():
    # Scores +-1 and b = 0 by symmetry: both margins are w, so 0.1 w = 1 / (1 + exp(w)).
    solution = solve_head(
        "binary", [[1.0], [-1.0]], [1, 0], [1], num_classes=2, l1=0.0, ridge=0.1, tolerance=1e-10
    )
    weight = solution.weights[1, 0]
    assert 0.1 * weight == pytest.approx(1 / (1 + math.exp(weight)), abs=1e-9)
    assert (solution.weights[0] == 0).all()
    assert solution.bias == pytest.approx([0.0, 0.0], abs=1e-9)
    assert solution.bias[0] == 0.0
    assert solution.zeros == 0


def test_multilabel_pencil_shares_and_the_edge_of_the_l1():
    # Finding 0 (known to rows 0 1, scores +-1; no own prototype): at w = 0 the loss falls by 1/2 a
    # unit of w, so an L1 of 0.6 holds it at zero and one of 0.2 leaves 0.1 w + 0.2 = 1/(1+exp(w)).
    # Finding 1 owns the prototype but sees rows 2 3 4 5 alone, where it says nothing: 1 of 4 shows
    # it, weighed by 6, so the odds are 6 to 3.
    nan = math.nan
    targets = [[1, nan], [0, nan], [nan, 1], [nan, 0], [nan, 0], [nan, 0]]
    scores = [[1.0], [-1.0], [5.0], [5.0], [5.0], [5.0]]
    options = dict(num_classes=2, class_weights=[1.0, 6.0], ridge=0.1, tolerance=1e-10)
    held = solve_head("multilabel", scores, targets, [1], l1=0.6, **options)
    assert held.weights[0, 0] == 0.0
    free = solve_head("multilabel", scores, targets, [1], l1=0.2, **options)
    weight = free.weights[0, 0]
    assert 0.1 * weight + 0.2 == pytest.approx(1 / (1 + math.exp(weight)), abs=1e-9)
    for solution in (held, free):
        assert solution.weights[1, 0] == pytest.approx(0.0, abs=1e-9)
        assert solution.bias == pytest.approx([0.0, math.log(2)], abs=1e-8)


def test_ordinal_pencil_three_images():
    # Scores -1 0 1, grades 0 1 2, so b = (h, -h) by symmetry. Stationarity in w and in h:
    # 0.1 w = 2/3 (q(h - w) + q(-h - w)) and q(h - w) = q(-h - w) + q(-h), q the sigmoid.
    solution = solve_head(
        "ordinal",
        [[-1.0], [0.0], [1.0]],
        [0, 1, 2],
        [2],
        num_classes=3,
        l1=0.0,
        ridge=0.1,
        tolerance=1e-10,
    )
    weight, height = solution.weights[0, 0], solution.bias[0]
    assert solution.weights.shape == (2, 1)
    assert solution.bias[1] == pytest.approx(-height, abs=1e-9)
    left, right = expit(height - weight), expit(-height - weight)
    assert 0.1 * weight == pytest.approx(2 / 3 * (left + right), abs=1e-9)
    assert left == pytest.approx(right + expit(-height), abs=1e-9)


def test_ordinal_pencil_without_information_the_biases_are_the_shares_above():
    # 4, 2, 1, 1 images of the grades: above are 4/8, 2/8, 1/8.
    labels = [0, 0, 0, 0, 1, 1, 2, 3]
    solution = solve_head(
        "ordinal", np.full((8, 4), 9.2), labels, [0, 1, 2, 3], num_classes=4, l1=0.01, ridge=0.01
    )
    assert solution.bias == pytest.approx([0.0, -math.log(3), -math.log(7)], abs=1e-6)
    assert solution.weights == pytest.approx(np.zeros((3, 4)), abs=1e-9)


@pytest.mark.parametrize(("owner", "rises"), [(0, False), (1, True), (2, True)])
def test_ordinal_signs(owner, rises):
    # The one prototype scores more the higher the grade: good for any grade but the lowest.
    scores = np.array([[0.0], [0.3], [0.5], [0.8], [1.0], [1.2]])
    options = dict(num_classes=3, l1=1e-3, ridge=1e-3)
    up = solve_head("ordinal", scores, [0, 0, 1, 1, 2, 2], [owner], **options)
    down = solve_head("ordinal", -scores, [0, 0, 1, 1, 2, 2], [owner], **options)
    assert (up.weights[0, 0] > 0) == rises
    assert (down.weights[0, 0] < 0) == (owner != 2)
    assert up.zeros == (not rises)


@pytest.mark.parametrize("seed", range(8))
def test_ordinal_biases_fall_and_rows_are_equal(seed, make_head_problem):
    random = np.random.default_rng(seed)
    head, scores, _, _, _ = make_head_problem("ordinal", seed, lift=3.0 * (seed % 2))
    labels = np.append(np.arange(5), random.choice(5, len(scores) - 5, p=[0.6, 0.1, 0.2, 0, 0.1]))
    solution = solve(
        (head, scores, labels, np.arange(9) % 5, 5),
        class_weights=random.uniform(0.2, 5, 5),
        l1=1e-4,
        ridge=1e-5,
    )
    assert solution.converged
    assert (np.diff(solution.bias) < 0).all()
    assert (solution.weights == solution.weights[0]).all()
    assert solution.zeros == (solution.weights[0] == 0).sum()


def test_labels_unknown_to_all_findings_equal_dropped_rows(make_head_problem):
    head, scores, targets, owners, classes = make_head_problem("multilabel", 20)
    targets[::4] = np.nan
    kept = ~np.isnan(targets).all(axis=1)
    masked = solve((head, scores, targets, owners, classes), l1=1e-3, ridge=1e-3)
    dropped = solve((head, scores[kept], targets[kept], owners, classes), l1=1e-3, ridge=1e-3)
    assert masked.weights.tobytes() == dropped.weights.tobytes()
    assert masked.bias.tobytes() == dropped.bias.tobytes()
    assert masked.objective == dropped.objective


def test_each_finding_sees_its_known_rows_alone(make_head_problem):
    head, scores, targets, owners, classes = make_head_problem("multilabel", 21, unknown=0.4)
    whole = solve((head, scores, targets, owners, classes), l1=1e-3, ridge=1e-3)
    for k in range(classes):
        known = ~np.isnan(targets[:, k])
        column = np.repeat(targets[known, k : k + 1], classes, axis=1)
        alone = solve((head, scores[known], column, owners, classes), l1=1e-3, ridge=1e-3)
        np.testing.assert_array_equal(alone.weights[k], whole.weights[k])
        assert alone.bias[k] == whole.bias[k]


def test_the_findings_are_summed_up(make_head_problem):
    # Finding 0 has an easy problem and finding 1 does not: after 3 rounds they stand apart.
    head, scores, targets, owners, classes = make_head_problem("multilabel", 25)
    targets[:, 0] = np.arange(len(targets)) % 2
    options = dict(l1=1e-2, ridge=1e-3)
    parts = [
        minimize(part, max_iterations=3, tolerance=1e-5)
        for part in finding_problems(scores, targets, owners, np.ones(classes), **options)
    ]
    assert {part.converged for part in parts} == {True, False}
    problem = (head, scores, targets, owners, classes)
    whole = solve(problem, max_iterations=3, tolerance=1e-5, **options)
    assert not whole.converged
    assert whole.objective == pytest.approx(sum(part.objective for part in parts))
    assert whole.gap == pytest.approx(sum(part.gap for part in parts))
    assert whole.residual == sorted(part.residual for part in parts)[-1]
    assert whole.iterations == sorted(part.iterations for part in parts)[-1] == 3
    assert whole.zeros == (whole.weights == 0).sum()


def test_curvature_bound_pencil():
    # Scores 3 and -1, each image weighs 1/2: the Gram matrix of [s 1] is [[5, 1], [1, 1]], whose
    # larger eigenvalue is 3 + sqrt(5); a quarter of it, and the ridge.
    problem = binary_problem(
        np.array([[3.0], [-1.0]]), [0, 1], np.array([1]), np.ones(2), ridge=0.5
    )
    assert problem.lipschitz == pytest.approx((3 + math.sqrt(5)) / 4 + 0.5, rel=1e-12)


def test_binary_is_multiclass_whose_row_0_the_l1_holds_at_zero(make_head_problem):
    # Prototypes of class 1 alone: with W_0 = 0 the softmax is the sigmoid, b = (-d/2, d/2).
    _, scores, labels, owners, _ = make_head_problem("binary", 22)
    options = dict(num_classes=2, class_weights=[0.7, 1.6], ridge=1e-2, tolerance=1e-10)
    binary = solve_head("binary", scores, labels, owners, l1=0.0, **options)
    softmax = solve_head("multiclass", scores, labels, owners, l1=1e3, **options)
    assert (softmax.weights[0] == 0).all()
    assert binary.weights[1] == pytest.approx(softmax.weights[1], abs=1e-7)
    assert binary.bias[1] == pytest.approx(softmax.bias[1] - softmax.bias[0], abs=1e-7)
    assert binary.objective == pytest.approx(softmax.objective, rel=1e-10)


def test_binary_is_multiclass_with_twice_the_ridge_where_all_prototypes_help():
    # Without L1 the softmax halves d = W_1 - W_0 >= 0 between the rows: ridge/2 (2 (d/2)^2), half
    # of what the same d costs the binary head. So twice the ridge makes them one problem.
    random = np.random.default_rng(23)
    labels = np.arange(60) % 2
    scores = random.normal(size=(60, 4)) + 2.0 * labels[:, None]
    options = dict(num_classes=2, l1=0.0, tolerance=1e-10)
    binary = solve_head("binary", scores, labels, [1] * 4, ridge=0.1, **options)
    softmax = solve_head("multiclass", scores, labels, [1] * 4, ridge=0.2, **options)
    assert (binary.weights[1] > 0).all()
    assert binary.weights[1] == pytest.approx(softmax.weights[1] - softmax.weights[0], abs=1e-7)
    assert binary.objective == pytest.approx(softmax.objective, rel=1e-10)


def test_the_smallest_cases_of_the_heads_agree(make_head_problem):
    # One finding that owns all prototypes, and two grades, are both the binary problem.
    _, scores, labels, owners, _ = make_head_problem("binary", 24)
    options = dict(l1=1e-3, ridge=1e-2)
    binary = solve_head("binary", scores, labels, owners, num_classes=2, **options)
    finding = solve_head(
        "multilabel", scores, labels[:, None], owners - 1, num_classes=1, **options
    )
    grades = solve_head("ordinal", scores, labels, owners, num_classes=2, **options)
    for other in (finding, grades):
        assert other.weights.shape == (1, 9)
        np.testing.assert_array_equal(other.weights[0], binary.weights[1])
        assert other.bias[0] == binary.bias[1]
