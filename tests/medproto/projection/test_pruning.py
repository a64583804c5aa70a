"""The pruning rule on tables small enough to count with a finger."""

import math

import numpy as np
import pytest

from medproto.projection import pruning_decision

# Classes of the six nearest patches of five prototypes: 0 0 0 1 1.
NEAREST = [
    [0, 0, 0, 1, 1, 1],  # 3 of its own: stays, the rule is "fewer than 3"
    [0, 1, 1, 0, 1, 1],  # 2: goes
    [0, 0, 0, 0, 0, 0],  # 6
    [1, 0, 0, 0, 0, 0],  # 1: goes
    [1, 1, 1, 0, 1, 1],  # 5
]
CLASSES = [0, 0, 0, 1, 1]


def test_the_published_rule():
    decision = pruning_decision(NEAREST, CLASSES)
    assert decision.own == (3, 2, 6, 1, 5)
    assert decision.pruned == decision.impure == (1, 3)
    assert decision.kept == (0, 2, 4)
    assert decision.unused == decision.spared == ()


@pytest.mark.parametrize(("tau", "pruned"), [(0, ()), (2, (3,)), (4, (0, 1, 3)), (6, (0, 1, 3))])
def test_other_thresholds(tau, pruned):
    decision = pruning_decision(NEAREST, CLASSES, tau=tau)
    assert decision.pruned == pruned
    assert decision.spared == ((4,) if tau == 6 else ())


def test_the_purest_of_a_class_stays():
    # class 1: one and two of its own, both below 3; the second is the purer one
    nearest = [[0] * 6, [1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]]
    decision = pruning_decision(nearest, [0, 1, 1])
    assert decision.impure == (1, 2)
    assert decision.spared == (2,)
    assert decision.pruned == (1,)


def test_of_equally_pure_ones_the_first_stays():
    decision = pruning_decision([[1, 0], [1, 0], [0, 0]], [1, 1, 0], tau=2)
    assert decision.spared == (0,)
    assert decision.kept == (0, 2)


def test_zero_weights():
    weights = np.zeros((2, 5))
    weights[0, 0] = weights[1, 2] = weights[0, 3] = -0.25  # 1 and 4 are not used
    decision = pruning_decision(NEAREST, CLASSES, tau=0, weights=weights)
    assert decision.unused == decision.pruned == (1, 4)
    assert decision.impure == ()
    both = pruning_decision(NEAREST, CLASSES, weights=weights)
    assert both.pruned == (1, 3)  # 4 is not used, but the purest of class 1
    assert both.spared == (4,)


def test_findings_count_where_they_are_one():
    nan = math.nan
    # [P, k, M]: two prototypes of finding 1, three patches each, two findings
    findings = [
        [[0, 1], [1, 1], [1, 0]],  # 2 of finding 1
        [[0, 1], [0, nan], [1, 0]],  # 1, since unknown does not count
    ]
    decision = pruning_decision(findings, [1, 1], tau=2)
    assert decision.own == (2, 1)
    assert decision.pruned == (1,)


def test_one_hot_findings_are_classes():
    one_hot = np.eye(2)[np.asarray(NEAREST)]
    assert pruning_decision(one_hot, CLASSES) == pruning_decision(NEAREST, CLASSES)


@pytest.mark.parametrize(
    ("labels", "classes", "options", "message"),
    [
        ([0, 1], [0, 1], {}, r"must be \[P, k\] classes"),
        (NEAREST, [0, 1], {}, r"got \[5, 6\] for \[2\] prototype classes"),
        (NEAREST, CLASSES, {"tau": 7}, "tau must be 0 to 6"),
        (NEAREST, CLASSES, {"weights": np.zeros((5, 2))}, r"weights must be \[K, 5\]"),
    ],
)
def test_wrong_arguments(labels, classes, options, message):
    with pytest.raises(ValueError, match=message):
        pruning_decision(labels, classes, **options)
