import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medproto.losses import OrthogonalityLoss


def loss_by_definition(vectors, classes):
    """Gram matrix minus identity, squared Frobenius norm, class by class."""
    total = 0.0
    for k in sorted(set(classes.tolist())):
        rows = [
            v.flatten() / v.flatten().norm()
            for v, c in zip(vectors, classes, strict=True)
            if c == k
        ]
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                total += (torch.dot(a, b).item() - (i == j)) ** 2
    return total


def test_by_hand():
    # Class 0: (3, 0) and (2, 2), cosine 1/sqrt 2, squared 1/2, two ordered pairs.
    # Class 1: (0, 5) and (0, -1), cosine -1: opposite is as bad as equal. Class 2: alone.
    vectors = torch.tensor([[3.0, 0.0], [0.0, 5.0], [2.0, 2.0], [0.0, -1.0], [3.0, 0.0]])
    loss = OrthogonalityLoss()(vectors, torch.tensor([0, 1, 0, 1, 2]))
    assert loss.item() == pytest.approx(2 * 0.5 + 2 * 1)


def test_bounds():
    classes = torch.tensor([1, 0, 1, 1, 0])
    assert OrthogonalityLoss()(torch.eye(5), classes).item() == 0
    assert OrthogonalityLoss()(torch.ones(5, 4), classes).item() == pytest.approx(3 * 2 + 2 * 1)


def test_a_larger_prototype_is_one_vector():
    # Equal in the first cell, orthogonal in the second: cosine 1/2 as a whole.
    vectors = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])  # [P, D, size]
    loss = OrthogonalityLoss()(vectors, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(2 * 0.25)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_equals_the_definition_for_any_counts_and_order(classes, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(classes), 3, 2, 2, generator=generator, dtype=torch.float64)
    classes = torch.tensor(classes)
    loss = OrthogonalityLoss()(vectors, classes)
    assert loss.item() == pytest.approx(loss_by_definition(vectors, classes), abs=1e-12)
    order = torch.randperm(len(classes), generator=generator)
    torch.testing.assert_close(OrthogonalityLoss()(vectors[order], classes[order]), loss)


def test_reshaping_to_equal_groups_would_mix_these_classes():
    # Interleaved classes, orthogonal inside each: a reshape to [2, 2, D] pairs equal vectors.
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    unit = vectors.reshape(2, 2, 2)
    assert (unit @ unit.mT - torch.eye(2)).square().sum().item() == 4
    assert OrthogonalityLoss()(vectors, torch.tensor([0, 1, 0, 1])).item() == 0


def test_gradient():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([1, 0, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda v: OrthogonalityLoss()(v, classes), (vectors,))
    equal = torch.ones(3, 4, requires_grad=True)
    OrthogonalityLoss()(equal, torch.tensor([0, 0, 0])).backward()
    assert torch.isfinite(equal.grad).all()


def test_reduced_precision_does_not_reach_the_products():
    vectors = torch.tensor([[1.0, 0.0], [math.cos(0.3), math.sin(0.3)]])
    classes = torch.tensor([0, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = OrthogonalityLoss()(vectors, classes)
    assert loss.item() == pytest.approx(2 * math.cos(0.3) ** 2, rel=1e-6)


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"must be \[P, D, \*size\] .* got \[3, 2\] and \[2\]"):
        OrthogonalityLoss()(torch.ones(3, 2), torch.tensor([0, 1]))
