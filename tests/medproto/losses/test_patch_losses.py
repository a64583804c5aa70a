import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medproto.losses import ALL_CLASSES, ForbidLoss, KeepLoss

CLASS_OF = torch.tensor([1, 0, 1])
SIMILARITIES = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [64.0, 128.0, 256.0]])


def test_by_hand():
    patch_class = torch.tensor([1, 0, ALL_CLASSES])
    expected = ((1 + 4) + 16 + (64 + 128 + 256)) / 3
    assert ForbidLoss()(SIMILARITIES, patch_class, CLASS_OF).item() == pytest.approx(expected)
    assert KeepLoss()(SIMILARITIES, patch_class, CLASS_OF).item() == pytest.approx(-expected)


@given(st.integers(0, 5), st.integers(1, 6), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_equals_the_definition(patches, prototypes, seed):
    generator = torch.Generator().manual_seed(seed)
    similarities = torch.randn(patches, prototypes, generator=generator, dtype=torch.float64)
    patch_class = torch.randint(-1, 3, (patches,), generator=generator)
    classes = torch.randint(0, 3, (prototypes,), generator=generator)
    expected = 0.0
    for m in range(patches):
        for p in range(prototypes):
            if patch_class[m] in (ALL_CLASSES, classes[p]):
                expected += similarities[m, p].item() / patches
    assert ForbidLoss()(similarities, patch_class, classes).item() == pytest.approx(expected)


def test_gradient_reaches_the_prototypes_concerned_alone():
    similarities = SIMILARITIES.clone().requires_grad_()
    KeepLoss()(similarities, torch.tensor([0, 1, 5]), CLASS_OF).backward()
    third = pytest.approx(-1 / 3)
    assert similarities.grad.tolist() == [[0, third, 0], [third, 0, third], [0, 0, 0]]


def test_no_patches_cost_nothing_and_can_be_differentiated():
    similarities = torch.zeros(0, 3, requires_grad=True)
    loss = ForbidLoss()(similarities, torch.zeros(0, dtype=torch.long), CLASS_OF)
    loss.backward()
    assert loss.item() == 0


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"must be \[M, P\] .* got \[3, 3\], \[2\] and \[3\]"):
        ForbidLoss()(SIMILARITIES, torch.tensor([0, 1]), CLASS_OF)
