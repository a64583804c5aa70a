import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medproto.losses import HeadLoss

NAN = math.nan
HEADS = ("multiclass", "binary", "multilabel", "ordinal")
LOG2 = math.log(2)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def loss_by_definition(head, logits, targets, weights):
    """One image at a time, from the probabilities."""
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        if head in ("multiclass", "binary"):
            probability = math.exp(row[target]) / sum(math.exp(z) for z in row)
            total -= weights[target] * math.log(probability)
        elif head == "ordinal":
            for k, z in enumerate(row):
                probability = sigmoid(z) if target > k else 1 - sigmoid(z)
                total -= weights[target] * math.log(probability)
        else:
            known = [
                -weights[k] * math.log(sigmoid(z)) if y == 1 else -math.log(1 - sigmoid(z))
                for k, (z, y) in enumerate(zip(row, target, strict=True))
                if not math.isnan(y)
            ]
            total += sum(known) / len(known) if known else 0.0
    return total / len(logits)


@st.composite
def problems(draw, head, *, at_least=1):
    count = draw(st.integers(at_least, 6))
    width = 2 if head == "binary" else draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = torch.randn(count, width, generator=generator, dtype=torch.float64) * 3
    num_classes = width + (head == "ordinal")
    if head == "multilabel":
        values = torch.tensor([1.0, 0.0, NAN])
        targets = values[torch.randint(0, 3, (count, width), generator=generator)]
    else:
        targets = torch.randint(0, num_classes, (count,), generator=generator)
    weights = torch.rand(num_classes, generator=generator, dtype=torch.float64) * 3
    return logits, targets, weights


def test_multiclass_by_hand():
    # Softmax of (0, 0, log 2) is 1/4, 1/4, 1/2.
    logits = torch.tensor([[0.0, 0.0, LOG2]] * 2)
    targets = torch.tensor([0, 2])
    assert HeadLoss("multiclass")(logits, targets).item() == pytest.approx(1.5 * LOG2)
    weights = torch.tensor([3.0, 7.0, 1.0])  # (3 * 2 + 1 * 1) / 2 images, not / (3 + 1)
    loss = HeadLoss("multiclass", class_weights=weights)(logits, targets)
    assert loss.item() == pytest.approx(3.5 * LOG2)


def test_binary_is_the_logistic_loss_of_the_second_logit():
    # sigmoid(log 3) = 3/4.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    loss = HeadLoss("binary")(logits, torch.tensor([1, 0])).item()
    assert loss == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_multilabel_by_hand():
    # Image 0: one of two labels known. Image 1: both, the present one weighs 5. Image 2: none.
    logits = torch.tensor([[0.0, 9.0], [0.0, math.log(3)], [4.0, 4.0]])
    targets = torch.tensor([[0.0, NAN], [1.0, 0.0], [NAN, NAN]])
    loss = HeadLoss("multilabel", class_weights=torch.tensor([5.0, 2.0]))(logits, targets)
    assert loss.item() == pytest.approx((LOG2 + (5 * LOG2 + math.log(4)) / 2 + 0) / 3)


def test_ordinal_by_hand():
    # Grade 1 of 0..2: above threshold 0, not above threshold 1; sigmoid(log 3) = 3/4.
    logits = torch.tensor([[math.log(3), 0.0]])
    loss = HeadLoss("ordinal")(logits, torch.tensor([1])).item()
    assert loss == pytest.approx(math.log(4 / 3) + LOG2)
    weights = torch.tensor([1.0, 10.0, 100.0])
    loss = HeadLoss("ordinal", class_weights=weights)(logits, torch.tensor([1])).item()
    assert loss == pytest.approx(10 * (math.log(4 / 3) + LOG2))


def test_ordinal_of_two_grades_is_the_binary_head():
    logits = torch.tensor([[0.3], [-1.2]])
    targets = torch.tensor([1, 0])
    binary = torch.cat([torch.zeros(2, 1), logits], dim=1)
    torch.testing.assert_close(
        HeadLoss("ordinal")(logits, targets), HeadLoss("binary")(binary, targets)
    )


@pytest.mark.parametrize("head", HEADS)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_equals_the_definition(head, data):
    logits, targets, weights = data.draw(problems(head))
    weighted = HeadLoss(head, class_weights=weights)(logits, targets).item()
    assert weighted == pytest.approx(loss_by_definition(head, logits, targets, weights.tolist()))
    plain = HeadLoss(head)(logits, targets).item()
    assert plain == pytest.approx(loss_by_definition(head, logits, targets, [1.0] * len(weights)))


@pytest.mark.parametrize("head", HEADS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_shards_add_up(head, data):
    logits, targets, weights = data.draw(problems(head, at_least=2))
    cut = data.draw(st.integers(1, len(logits) - 1))
    loss = HeadLoss(head, class_weights=weights)
    parts = loss(logits[:cut], targets[:cut]) * cut
    parts += loss(logits[cut:], targets[cut:]) * (len(logits) - cut)
    torch.testing.assert_close(parts, loss(logits, targets) * len(logits))


def test_masked_labels_have_no_gradient_and_no_not_a_number():
    logits = torch.tensor([[5.0, -80.0], [300.0, -300.0]], requires_grad=True)
    HeadLoss("multilabel")(logits, torch.tensor([[NAN, NAN], [NAN, 1.0]])).backward()
    assert logits.grad.tolist() == [[0.0, 0.0], [0.0, -0.5]]


@pytest.mark.parametrize("head", HEADS)
def test_reduced_precision_does_not_reach_the_sum(head):
    logits = torch.tensor([[0.1, 1.7], [2.3, -0.4]])
    targets = (
        torch.tensor([[1.0, 0.0], [NAN, 1.0]]) if head == "multilabel" else torch.tensor([1, 0])
    )
    weights = torch.tensor([1.1, 2.3, 0.7][: 2 + (head == "ordinal")])
    loss = HeadLoss(head, class_weights=weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = loss(logits, targets)
    assert reduced.dtype == torch.float32
    assert reduced.item() == loss(logits, targets).item()


def test_bad_arguments():
    logits = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"head must be one of .*'ordinal'.*, got 'softmax'"):
        HeadLoss("softmax")
    with pytest.raises(ValueError, match=r"binary head must be \[B, 2\], got \[2, 3\]"):
        HeadLoss("binary")(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="each of the 3 classes, got 2"):
        HeadLoss("ordinal", class_weights=torch.ones(2))(logits, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"must be \[B\] long, got \[2\] of torch.float32"):
        HeadLoss("multiclass")(logits, torch.zeros(2))
    with pytest.raises(ValueError, match=r"lie in 0\.\.1, got -100 to 0"):
        HeadLoss("multiclass")(logits, torch.tensor([0, -100]))
    with pytest.raises(ValueError, match="one row an image, 2, got 1"):
        HeadLoss("ordinal")(logits, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"must be \[2, 2\] floating, got \[2\] of torch.int64"):
        HeadLoss("multilabel")(logits, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="must be 1, 0 or NaN"):
        HeadLoss("multilabel")(logits, logits - 1)
