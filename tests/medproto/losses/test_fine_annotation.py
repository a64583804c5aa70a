import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medproto.explain import cells_to_network
from medproto.losses import FineAnnotationLoss
from medproto.records import CellGrid

NAN = math.nan
# Two cells on four pixels, centered at 1 and 3: hats at the pixels 0.5, 1.5, 2.5, 3.5 are
# 1, 3/4, 1/4, 0 and 0, 1/4, 3/4, 1; each cell has half of the drawing.
LINE = CellGrid((2,), (1.0,), (2.0,), (5.0,))


def penalties_by_definition(similarities, membership, classes, mask, has_mask, grid):
    """Each cell drawn alone by the heat maps' own drawing, image by image."""
    size = mask.shape[1:]
    hats = {}
    for cell in product(*(range(n) for n in grid.shape)):
        one_hot = np.zeros(grid.shape, dtype=np.float32)
        one_hot[cell] = 1
        hats[cell] = cells_to_network(one_hot, grid, size)
    total = 0.0
    for b, p in product(range(len(membership)), range(len(classes))):
        shown = membership[b, classes[p]].item()
        if math.isnan(shown):
            continue
        weight = np.ones(size)
        if shown == 1:
            weight = 1 - mask[b].numpy() if has_mask[b] else np.zeros(size)
        squares = sum(
            max(similarities[(b, p, *cell)].item(), 0) ** 2 * float((weight * hat).mean())
            for cell, hat in hats.items()
        )
        total += math.sqrt(squares)
    return total / len(membership)


def arguments(grid, size, seed, images=4, prototypes=5):
    generator = torch.Generator().manual_seed(seed)
    similarities = torch.randn(images, prototypes, *grid.shape, generator=generator)
    values = torch.tensor([1.0, 0.0, NAN])
    membership = values[torch.randint(0, 3, (images, 3), generator=generator)]
    classes = torch.randint(0, 3, (prototypes,), generator=generator)
    mask = (torch.rand(images, *size, generator=generator) > 0.6).float()
    has_mask = torch.rand(images, generator=generator) > 0.3
    return (similarities, membership, classes), {"mask": mask, "has_mask": has_mask}


def test_by_hand():
    # Mask on pixels 0 and 1. Of cell 0, (1/4) / 4 of all pixels is drawn outside; of cell 1
    # (3/4 + 1) / 4. Everywhere: 1/2 each.
    similarities = torch.tensor([[[4.0, 2.0], [3.0, -9.0]]])
    loss = FineAnnotationLoss(LINE)(
        similarities, torch.tensor([[1.0, 0.0]]), torch.tensor([0, 1]),
        mask=torch.tensor([[1.0, 1.0, 0.0, 0.0]]), has_mask=torch.tensor([True]),
    )  # fmt: skip
    own = math.sqrt(16 * 1 / 16 + 4 * 7 / 16)
    other = math.sqrt(9 / 2)  # the negative similarity is no answer
    assert loss.item() == pytest.approx(own + other)


def test_centered_answers_by_hand():
    # The means of the maps are 3 and 5: what is above them is 1 in cell 0, and 4 in cell 1.
    similarities = torch.tensor([[[4.0, 2.0], [1.0, 9.0]]])
    loss = FineAnnotationLoss(LINE, centered=True)(
        similarities, torch.tensor([[1.0, 0.0]]), torch.tensor([0, 1]),
        mask=torch.tensor([[1.0, 1.0, 0.0, 0.0]]), has_mask=torch.tensor([True]),
    )  # fmt: skip
    own = math.sqrt(1 * 1 / 16)
    other = math.sqrt(16 / 2)
    assert loss.item() == pytest.approx(own + other)


@given(st.integers(0, 999), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_a_constant_is_no_answer_where_answers_are_centered(seed, constant):
    grid, size = GRIDS[0]
    (similarities, membership, classes), named = arguments(grid, size, seed)
    loss = FineAnnotationLoss(grid, centered=True)
    with_it = loss(similarities + constant, membership, classes, **named)
    without = loss(similarities, membership, classes, **named)
    torch.testing.assert_close(with_it, without, atol=1e-4, rtol=1e-4)


def test_without_a_mask_only_the_other_classes_pay_and_unknown_ones_do_not():
    similarities = torch.ones(2, 3, 2)
    membership = torch.tensor([[1.0, 0.0, NAN], [1.0, 0.0, NAN]])
    mask = torch.tensor([[NAN] * 4, [0.0] * 4])
    loss = FineAnnotationLoss(LINE)(
        similarities, membership, torch.tensor([0, 1, 2]),
        mask=mask, has_mask=torch.tensor([False, True]),
    )  # fmt: skip
    # Image 0: other 1. Image 1, a mask that marks nothing: own 1 and other 1.
    assert loss.item() == pytest.approx((1 + 2) / 2)


GRIDS = [
    (CellGrid((3, 4), (0.5, 3.5), (8.0, 5.0), (9.0, 9.0)), (20, 22)),
    (CellGrid((2, 3, 1), (3.0, -1.0, 4.0), (4.0, 3.0, 8.0), (9.0, 9.0, 9.0)), (8, 7, 9)),
]


@pytest.mark.parametrize(("grid", "size"), GRIDS, ids=["2d", "3d"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition_on_the_grid_of_the_heat_maps(grid, size, seed):
    positional, named = arguments(grid, size, seed)
    expected = penalties_by_definition(*positional, *named.values(), grid)
    loss = FineAnnotationLoss(grid)(*positional, **named)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 999), st.booleans())
@settings(max_examples=30, deadline=None)
def test_is_never_below_the_drawn_map_and_equal_for_a_constant_one(seed, constant):
    grid, size = GRIDS[0]
    (similarities, _, _), named = arguments(grid, size, seed, images=1, prototypes=1)
    similarities = torch.ones_like(similarities) if constant else similarities.abs()
    loss = FineAnnotationLoss(grid)(
        similarities, torch.ones(1, 1), torch.tensor([0]),
        mask=named["mask"], has_mask=torch.tensor([True]),
    ).item()  # fmt: skip
    drawn = cells_to_network(similarities[0, 0].numpy(), grid, size)
    outside = math.sqrt(float((drawn**2 * (1 - named["mask"][0].numpy())).mean()))
    assert loss == pytest.approx(outside) if constant else loss >= outside - 1e-6


def test_shards_add_up():
    grid, size = GRIDS[0]
    (similarities, membership, classes), named = arguments(grid, size, 7)
    loss = FineAnnotationLoss(grid)
    parts = 0.0
    for part in (slice(1), slice(1, None)):
        cut = {name: value[part] for name, value in named.items()}
        value = loss(similarities[part], membership[part], classes, **cut)
        parts = parts + value * len(similarities[part])
    whole = loss(similarities, membership, classes, **named) * len(similarities)
    torch.testing.assert_close(parts, whole)


def test_gradients():
    grid, size = GRIDS[0]
    (similarities, membership, classes), named = arguments(grid, size, 3)
    leaf = similarities.double().requires_grad_()
    loss = FineAnnotationLoss(grid)
    assert torch.autograd.gradcheck(lambda s: loss(s, membership, classes, **named), (leaf,))
    silent = torch.zeros_like(similarities, requires_grad=True)
    loss(silent, membership, classes, **named).backward()
    assert silent.grad.abs().max() == 0


def test_reduced_precision_does_not_reach_the_shares():
    grid, size = GRIDS[0]
    positional, named = arguments(grid, size, 5)
    loss = FineAnnotationLoss(grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = loss(*positional, **named)
    assert reduced.item() == loss(*positional, **named).item()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("similarities", torch.zeros(1, 1, 3), r"must be .* \[1, 1, 2\], got \[1, 1, 3\]"),
        ("mask", torch.zeros(1, 4, 4), r"must be \[1, \*S\] with 1 image axes, got \[1, 4, 4\]"),
        ("has_mask", torch.ones(1), r"must be \[1\] bool, got \[1\] of torch.float32"),
    ],
)
def test_bad_arguments(name, value, message):
    good = {
        "similarities": torch.zeros(1, 1, 2),
        "membership": torch.ones(1, 1),
        "prototype_class": torch.tensor([0]),
        "mask": torch.zeros(1, 4),
        "has_mask": torch.tensor([True]),
    }
    with pytest.raises(ValueError, match=f"{name} {message}"):
        FineAnnotationLoss(LINE)(**{**good, name: value})
