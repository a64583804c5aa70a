"""The lead of the largest similarity outside a marked region, by hand and by its definition."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medproto.losses import PeakInMaskLoss

NAN = math.nan


def by_definition(similarities, membership, classes, inside, margin):
    total = 0.0
    for b in range(len(membership)):
        own = [p for p, k in enumerate(classes.tolist()) if membership[b, k] == 1]
        excess = []
        for p in own:
            sides = {True: [], False: []}
            for cell in product(*map(range, inside.shape[1:])):
                value = similarities[(b, p, *cell)].item()
                sides[bool(inside[(b, *cell)])].append(value)
            if sides[True] and sides[False]:
                excess.append(max(max(sides[False]) - max(sides[True]) + margin, 0.0))
        if excess:
            total += sum(excess) / len(excess)
    return total / len(membership)


def arguments(seed, images=4, prototypes=5, cells=(3, 4)):
    generator = torch.Generator().manual_seed(seed)
    similarities = 3 * torch.randn(images, prototypes, *cells, generator=generator)
    values = torch.tensor([1.0, 0.0, NAN])
    membership = values[torch.randint(0, 3, (images, 3), generator=generator)]
    classes = torch.randint(0, 3, (prototypes,), generator=generator)
    inside = torch.rand(images, *cells, generator=generator) > 0.7
    inside[0], inside[1] = True, False  # nothing outside, nothing inside
    return similarities, membership, classes, inside


def test_by_hand():
    # Prototype 0: 4 inside, 5 outside, lead 1 + 1. Prototype 1: 9 inside, 2 outside, none.
    # Prototype 2 is of the other class.
    similarities = torch.tensor([[[4.0, 5.0, 3.0], [9.0, 1.0, 2.0], [0.0, 8.0, 8.0]]])
    loss = PeakInMaskLoss()(
        similarities, torch.tensor([[1.0, 0.0]]), torch.tensor([0, 0, 1]),
        torch.tensor([[True, False, False]]),
    )  # fmt: skip
    assert loss.item() == pytest.approx((2 + 0) / 2)


@pytest.mark.parametrize("cells", [(3, 4), (2, 3, 2)], ids=["2d", "3d"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed, cells):
    given_ = arguments(seed, cells=cells)
    loss = PeakInMaskLoss(0.5)(*given_)
    assert loss.item() == pytest.approx(by_definition(*given_, 0.5), rel=1e-5)


@given(st.integers(0, 999), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_a_constant_changes_nothing(seed, constant):
    similarities, *rest = arguments(seed)
    loss = PeakInMaskLoss()
    torch.testing.assert_close(
        loss(similarities + constant, *rest), loss(similarities, *rest), atol=1e-4, rtol=1e-4
    )


def test_shards_add_up():
    given_ = arguments(7)
    loss = PeakInMaskLoss()
    parts = sum(
        loss(given_[0][part], given_[1][part], given_[2], given_[3][part]) * count
        for part, count in ((slice(1), 1), (slice(1, None), 3))
    )
    torch.testing.assert_close(parts, 4 * loss(*given_))


def test_gradients_where_something_is_marked_and_where_nothing_is():
    similarities, *rest = arguments(3)
    leaf = similarities.double().requires_grad_()
    loss = PeakInMaskLoss()
    assert torch.autograd.gradcheck(lambda s: loss(s, *rest), (leaf,))
    loss(leaf, *rest).backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad[:2].abs().max() == 0


def test_shapes_are_told():
    with pytest.raises(ValueError, match=r"got \[1, 1, 3\] and \[1, 4\] for 1 images"):
        PeakInMaskLoss()(
            torch.zeros(1, 1, 3), torch.ones(1, 1), torch.tensor([0]),
            torch.ones(1, 4, dtype=torch.bool),
        )  # fmt: skip
