import pytest
import torch

from medproto.losses import ClusterLoss, ProtoPNetLoss, SeparationLoss

CLASS_OF = torch.tensor([0, 0, 1])
DISTANCES = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
LABELS = torch.tensor([0, 1])


def published(distances, mask, largest):
    """The form of the published code: M - max((M - d) * mask), averaged over the images."""
    return (largest - ((largest - distances) * mask).max(dim=1).values).mean()


def test_by_hand():
    # Image 0 (class 0): own 1, 2, other 3. Image 1 (class 1): own 6, other 4, 5.
    assert ClusterLoss()(DISTANCES, LABELS, CLASS_OF).item() == (1 + 6) / 2
    assert SeparationLoss()(DISTANCES, LABELS, CLASS_OF).item() == (3 + 4) / 2


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_published_form_where_that_is_valid(seed):
    generator = torch.Generator().manual_seed(seed)
    distances = torch.rand(8, 6, generator=generator) * 128
    labels = torch.randint(0, 3, (8,), generator=generator)
    classes = torch.arange(3).repeat_interleave(2)
    own = (labels[:, None] == classes[None]).float()
    cluster = ClusterLoss()(distances, labels, classes)
    separation = SeparationLoss()(distances, labels, classes)
    torch.testing.assert_close(cluster, published(distances, own, 128.0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        separation, published(distances, 1 - own, 128.0), rtol=1e-5, atol=1e-4
    )


def test_gradient_survives_beyond_the_published_bound():
    distances = torch.full((1, 2), 200.0, requires_grad=True)
    cost = ClusterLoss()(distances, torch.tensor([0]), torch.tensor([0, 1]))
    cost.backward()
    assert distances.grad.tolist() == [[1.0, 0.0]]


def test_total_by_hand():
    # Equal logits: cross-entropy log 2 each, weighted (1 + 3) / 2 images.
    loss = ProtoPNetLoss(cluster=0.8, separation=0.08, class_weights=torch.tensor([1.0, 3.0]))
    terms = loss(torch.zeros(2, 2), DISTANCES, LABELS, CLASS_OF)
    cross_entropy = 0.6931472 * 2
    assert terms["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-6)
    expected = cross_entropy + 0.8 * 3.5 - 0.08 * 3.5
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        ProtoPNetLoss(cluster=-1, separation=0)
    with pytest.raises(ValueError, match=r"must be \[B, P\]"):
        ClusterLoss()(DISTANCES[:1], LABELS, CLASS_OF[:2])
    with pytest.raises(ValueError, match="every class needs a prototype"):
        SeparationLoss()(DISTANCES[:, :2], LABELS, CLASS_OF[:2])
