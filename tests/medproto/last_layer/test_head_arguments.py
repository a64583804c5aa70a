import math

import numpy as np
import pytest

from medproto.last_layer import solve_head, solve_last_layer, zero_weight_prototypes

SCORES = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.2, 0.1]]
ARGUMENTS = {
    "binary": dict(targets=[0, 1, 0, 1], prototype_class=[1, 1], num_classes=2),
    "multilabel": dict(
        targets=[[1, 0], [0, 1], [1, math.nan], [0, 0]], prototype_class=[0, 0], num_classes=2
    ),
    "ordinal": dict(targets=[0, 1, 2, 1], prototype_class=[0, 2], num_classes=3),
}


@pytest.mark.parametrize(
    ("head", "change", "message"),
    [
        ("binary", dict(num_classes=3), "num_classes must be 2 for a binary head, got 3"),
        ("binary", dict(prototype_class=[1, 0]), r"1 throughout .* got 0 for prototypes \[1\]"),
        ("binary", dict(targets=[1, 1, 1, 1]), r"each of the 2 classes, got none of \[0\]"),
        ("binary", dict(targets=[0, 1, 2, 1]), r"labels must lie in 0\.\.1, got 0 to 2"),
        ("binary", dict(class_weights=[1.0]), "class_weights must be 2 finite numbers above 0"),
        ("binary", dict(ridge=0.0), "ridge must be a finite number above 0"),
        ("binary", dict(tolerance=0.0), "tolerance above 0, got 200 and 0.0"),
        ("multilabel", dict(targets=[0, 1, 0, 1]), r"shape \[4, 2\], got \[4\]"),
        ("multilabel", dict(targets=[[1, 0]] * 3), r"shape \[4, 2\], got \[3, 2\]"),
        ("multilabel", dict(targets=[[1, 2], [0, 0]] * 2), "0, 1 or NaN .* got 2"),
        ("multilabel", dict(targets=[[1, 0], [0, 0]] * 2), "got no image that shows finding 1"),
        (
            "multilabel",
            dict(targets=[[1, 1], [1, math.nan], [1, 0], [math.nan, 0]]),
            "got no image that is known not to show finding 0",
        ),
        ("multilabel", dict(num_classes=0), "num_classes must be at least 1, got 0"),
        ("multilabel", dict(prototype_class=[0, 2]), r"prototype_class must lie in 0\.\.1"),
        ("multilabel", dict(l1=-1.0), "l1 must be a finite number >= 0, got -1"),
        ("ordinal", dict(targets=[0, 2, 2, 0]), r"each of the 3 classes, got none of \[1\]"),
        (
            "ordinal",
            dict(num_classes=1, prototype_class=[0, 0]),
            "num_classes must be at least 2, got 1",
        ),
        ("ordinal", dict(scores=[[1.0, math.nan]] * 4), "scores must be finite, got 4"),
        ("ordinal", dict(max_iterations=0), "max_iterations must be at least 1"),
        ("softmax", {}, "one of multiclass, binary, multilabel, ordinal, got 'softmax'"),
    ],
)
def test_wrong_arguments_are_named(head, change, message):
    arguments = dict(scores=SCORES, l1=1e-3, ridge=1e-3) | ARGUMENTS.get(head, ARGUMENTS["binary"])
    with pytest.raises(ValueError, match=message):
        solve_head(head, **(arguments | change))


def test_multiclass_is_solve_last_layer(make_problem):
    scores, labels, owners = make_problem(1, classes=3)
    options = dict(num_classes=3, class_weights=[1.0, 2.0, 0.5], l1=1e-2, ridge=1e-3)
    front = solve_head("multiclass", scores, labels, owners, **options)
    direct = solve_last_layer(scores, labels, owners, **options)
    assert front.weights.tobytes() == direct.weights.tobytes()
    assert front.bias.tobytes() == direct.bias.tobytes()


def test_zero_weight_prototypes_pencil():
    weights = np.array([[0.0, 0.0, -0.2, 0.0, 1.0], [-0.0, 0.1, 0.0, 1e-300, 0.0]])
    assert zero_weight_prototypes(weights).tolist() == [0]
    assert zero_weight_prototypes(weights, threshold=0.1).tolist() == [0, 1, 3]


def test_dropping_zero_weight_prototypes_leaves_the_solution(make_problem):
    scores, labels, owners = make_problem(2, classes=3, prototypes=12, lift=0.3)
    options = dict(num_classes=3, l1=0.02, ridge=1e-2, tolerance=1e-9)
    whole = solve_head("ordinal", scores, labels, owners, **options)
    gone = zero_weight_prototypes(whole.weights)
    assert 0 < len(gone) < 12
    kept = np.setdiff1d(np.arange(12), gone)
    pruned = solve_head("ordinal", scores[:, kept], labels, owners[kept], **options)
    assert pruned.weights == pytest.approx(whole.weights[:, kept], abs=1e-6)
    assert pruned.bias == pytest.approx(whole.bias, abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "threshold", "message"),
    [
        ([1.0, 2.0], 0.0, r"\[logits, prototypes\], got shape \[2\] with 0"),
        ([[1.0, math.nan]], 0.0, r"got shape \[1, 2\] with 1"),
        ([[1.0]], -1.0, "threshold must be a finite number >= 0, got -1"),
    ],
)
def test_zero_weight_prototypes_names_wrong_arguments(weights, threshold, message):
    with pytest.raises(ValueError, match=message):
        zero_weight_prototypes(weights, threshold=threshold)
