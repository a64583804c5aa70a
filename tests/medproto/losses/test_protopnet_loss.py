import math

import pytest
import torch
from torch.nn.functional import one_hot

from medproto.losses import (
    ClusterLoss,
    HeadLoss,
    ProtoPNetLoss,
    SeparationLoss,
    l1_of_other_classes,
)

CLASS_OF = torch.tensor([0, 0, 1])
DISTANCES = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
LABELS = torch.tensor([0, 1])
LOG2 = math.log(2)


def test_total_by_hand():
    # Equal logits: cross-entropy log 2 each, weighted (1 + 3) / 2 images.
    loss = ProtoPNetLoss(cluster=0.8, separation=0.08, class_weights=torch.tensor([1.0, 3.0]))
    terms = loss(torch.zeros(2, 2), DISTANCES, LABELS, CLASS_OF)
    assert list(terms) == ["loss", "cross_entropy", "cluster", "separation"]
    assert terms["cross_entropy"].item() == pytest.approx(LOG2 * 2, rel=1e-6)
    expected = LOG2 * 2 + 0.8 * 3.5 - 0.08 * 3.5
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-6)


def test_weighted_costs_by_hand():
    loss = ProtoPNetLoss(
        cluster=1, separation=1, class_weights=torch.tensor([1.0, 3.0]), weighted_costs=True
    )
    terms = loss(torch.zeros(2, 2), DISTANCES, LABELS, CLASS_OF)
    assert terms["cluster"].item() == (1 * 1 + 3 * 6) / 2
    assert terms["separation"].item() == (1 * 3 + 3 * 4) / 2


def test_binary_head_by_hand():
    # Prototypes of class 1 alone: the positive is pulled, the negative pushed.
    loss = ProtoPNetLoss(cluster=0.8, separation=0.08, head="binary")
    terms = loss(torch.zeros(2, 2), DISTANCES, LABELS, torch.tensor([1, 1, 1]))
    assert terms["cluster"].item() == (0 + 4) / 2
    assert terms["separation"].item() == (1 + 0) / 2
    assert terms["loss"].item() == pytest.approx(LOG2 + 0.8 * 2 - 0.08 * 0.5, rel=1e-6)


def test_ordinal_head_has_one_class_more_than_logits():
    # Three grades, two thresholds at 1/2 each.
    loss = ProtoPNetLoss(cluster=1, separation=1, head="ordinal")
    terms = loss(torch.zeros(2, 2), DISTANCES, torch.tensor([2, 0]), torch.tensor([0, 1, 2]))
    assert terms["cross_entropy"].item() == pytest.approx(2 * LOG2, rel=1e-6)
    assert terms["cluster"].item() == (3 + 4) / 2
    assert terms["separation"].item() == (1 + 5) / 2


def test_multilabel_head_by_hand():
    # Column 2, "no finding", has no prototypes; a NaN label takes no part in any term.
    targets = torch.tensor([[1.0, math.nan, 0.0], [1.0, 1.0, 0.0]])
    loss = ProtoPNetLoss(cluster=1, separation=1, head="multilabel")
    terms = loss(torch.zeros(2, 3), DISTANCES, targets, CLASS_OF)
    assert terms["cross_entropy"].item() == pytest.approx(LOG2, rel=1e-6)
    assert terms["cluster"].item() == (1 + (4 + 6) / 2) / 2
    assert terms["separation"].item() == 0


@pytest.mark.parametrize("head", ["multiclass", "binary", "ordinal"])
def test_is_the_sum_of_its_parts(head):
    generator = torch.Generator().manual_seed(0)
    width, count = {"multiclass": (3, 3), "binary": (2, 2), "ordinal": (3, 4)}[head]
    logits = torch.randn(5, width, generator=generator)
    distances = torch.rand(5, 6, generator=generator)
    labels = torch.randint(0, count, (5,), generator=generator)
    classes = torch.arange(6) % count
    terms = ProtoPNetLoss(cluster=0.5, separation=0.25, head=head)(
        logits, distances, labels, classes
    )
    membership = one_hot(labels, count)
    expected = (
        HeadLoss(head)(logits, labels)
        + 0.5 * ClusterLoss()(distances, membership, classes)
        - 0.25 * SeparationLoss()(distances, membership, classes)
    )
    torch.testing.assert_close(terms["loss"], expected)


def test_bad_coefficients():
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        ProtoPNetLoss(cluster=-1, separation=0)
    with pytest.raises(ValueError, match="must be >= 0, got 0 and nan"):
        ProtoPNetLoss(cluster=0, separation=math.nan)


def test_l1_counts_the_other_classes_alone():
    # Own weights are 100; the others, in absolute value, 1 to 6.
    weight = torch.tensor([[100.0, 1.0, -2.0], [-3.0, 4.0, 100.0], [5.0, 100.0, -6.0]])
    classes = torch.tensor([0, 2, 1])
    weight.requires_grad_()
    total = l1_of_other_classes(weight, classes)
    assert total.item() == 21
    total.backward()
    assert weight.grad.tolist() == [[0, 1, -1], [-1, 1, 0], [1, 0, -1]]


def test_l1_of_bad_shapes():
    with pytest.raises(ValueError, match=r"must be \[K, P\] .* got \[2, 3\] and \[2\]"):
        l1_of_other_classes(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="got 0 to 2; ordinal heads have no L1 term"):
        l1_of_other_classes(torch.zeros(2, 3), torch.tensor([0, 1, 2]))
