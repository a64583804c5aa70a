import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from medproto.losses import ClusterLoss, SeparationLoss

NAN = math.nan
CLASS_OF = torch.tensor([0, 0, 1])
DISTANCES = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
MEMBERSHIP = torch.eye(2)
COSTS = (ClusterLoss, SeparationLoss)


def published(distances, mask, largest):
    """The form of the published code: M - max((M - d) * mask), averaged over the images."""
    return (largest - ((largest - distances) * mask).max(dim=1).values).mean()


def costs_by_definition(distances, membership, classes, weights=None):
    """Both costs, one image, class and prototype at a time."""
    cluster = separation = 0.0
    for b, row in enumerate(membership.tolist()):
        nearest = {}
        for p, k in enumerate(classes.tolist()):
            d = distances[b, p].item()
            nearest[k] = min(nearest.get(k, math.inf), d)
        shown = [k for k, value in enumerate(row) if value == 1]
        own = [nearest[k] for k in shown if k in nearest]
        others = [nearest[k] for k, value in enumerate(row) if value == 0 and k in nearest]
        weight = 1.0
        if weights is not None and shown:
            weight = sum(weights[k].item() for k in shown) / len(shown)
        cluster += weight * (sum(own) / len(own) if own else 0.0)
        separation += weight * (min(others) if others else 0.0)
    return cluster / len(membership), separation / len(membership)


@st.composite
def problems(draw, *, at_least=1):
    """Random membership with unknown classes, classes without prototypes, unequal counts."""
    count, num_classes = draw(st.integers(at_least, 6)), draw(st.integers(1, 5))
    prototypes = draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    values = torch.tensor([1.0, 0.0, NAN])
    membership = values[torch.randint(0, 3, (count, num_classes), generator=generator)]
    classes = torch.randint(0, num_classes, (prototypes,), generator=generator)
    distances = torch.rand(count, prototypes, generator=generator, dtype=torch.float64)
    weights = torch.rand(num_classes, generator=generator, dtype=torch.float64) * 3
    return distances, membership, classes, weights


def test_by_hand():
    # Image 0 (class 0): own 1, 2, other 3. Image 1 (class 1): own 6, other 4, 5.
    assert ClusterLoss()(DISTANCES, MEMBERSHIP, CLASS_OF).item() == (1 + 6) / 2
    assert SeparationLoss()(DISTANCES, MEMBERSHIP, CLASS_OF).item() == (3 + 4) / 2


def test_several_shown_unknown_and_empty_classes_by_hand():
    # Prototypes of classes 2, 0, 2, 1; class 3 has none.
    classes = torch.tensor([2, 0, 2, 1])
    distances = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 4)  # m = 2, 4, 1
    membership = torch.tensor(
        [
            [1.0, 1.0, 0.0, 0.0],  # cluster (2 + 4) / 2, separation 1
            [0.0, 1.0, NAN, 1.0],  # cluster 4, separation 2: class 2 is unknown
            [1.0, 1.0, 1.0, 0.0],  # cluster (2 + 4 + 1) / 3; the one class not shown has none
            [NAN, NAN, NAN, 1.0],  # nothing is left
        ]
    )
    cluster = ClusterLoss()(distances, membership, classes)
    separation = SeparationLoss()(distances, membership, classes)
    assert cluster.item() == pytest.approx((3 + 4 + 7 / 3) / 4, rel=1e-6)
    assert separation.item() == pytest.approx((1 + 2) / 4, rel=1e-6)


def test_class_weights_by_hand_and_divided_by_the_number_of_images():
    # c_y = 1 and 5; for several shown classes their mean: (1 + 5) / 2.
    weights = torch.tensor([1.0, 5.0])
    assert (
        ClusterLoss(class_weights=weights)(DISTANCES, MEMBERSHIP, CLASS_OF).item() == (1 + 30) / 2
    )
    separation = SeparationLoss(class_weights=weights)
    assert separation(DISTANCES, MEMBERSHIP, CLASS_OF).item() == (3 + 20) / 2
    both = torch.tensor([[1.0, 1.0], [0.0, 0.0]])  # the second image shows nothing: weight 1
    assert ClusterLoss(class_weights=weights)(DISTANCES, both, CLASS_OF).item() == 3 * 2 / 2
    assert separation(DISTANCES, both, CLASS_OF).item() == 4 / 2


@given(problems())
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(problem):
    distances, membership, classes, weights = problem
    for given_weights in (None, weights):
        cluster, separation = costs_by_definition(distances, membership, classes, given_weights)
        arguments = (distances, membership, classes)
        assert ClusterLoss(class_weights=given_weights)(*arguments).item() == pytest.approx(cluster)
        found = SeparationLoss(class_weights=given_weights)(*arguments).item()
        assert found == pytest.approx(separation)


@given(problems(at_least=2), st.data())
@settings(max_examples=40, deadline=None)
def test_shards_add_up(problem, data):
    distances, membership, classes, weights = problem
    cut = data.draw(st.integers(1, len(distances) - 1))
    for kind in COSTS:
        cost = kind(class_weights=weights)
        whole = cost(distances, membership, classes) * len(distances)
        parts = sum(
            cost(distances[part], membership[part], classes) * len(distances[part])
            for part in (slice(cut), slice(cut, None))
        )
        torch.testing.assert_close(parts, whole)


@given(problems())
@settings(max_examples=40, deadline=None)
def test_gradients_are_finite_and_sit_on_the_nearest_prototypes(problem):
    distances, membership, classes, _ = problem
    for kind in COSTS:
        leaf = distances.clone().requires_grad_()
        cost = kind()(leaf, membership, classes)
        cost.backward()
        assert torch.isfinite(leaf.grad).all()
        # Both costs are homogeneous of degree 1 in the distances: Euler's relation.
        torch.testing.assert_close((leaf.grad * distances).sum(), cost.detach())


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_published_form_where_that_is_valid(seed):
    generator = torch.Generator().manual_seed(seed)
    distances = torch.rand(8, 6, generator=generator) * 128
    labels = torch.randint(0, 3, (8,), generator=generator)
    classes = torch.arange(3).repeat_interleave(2)
    own = (labels[:, None] == classes[None]).float()
    membership = one_hot(labels, 3)
    cluster = ClusterLoss()(distances, membership, classes)
    separation = SeparationLoss()(distances, membership, classes)
    torch.testing.assert_close(cluster, published(distances, own, 128.0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        separation, published(distances, 1 - own, 128.0), rtol=1e-5, atol=1e-4
    )


def test_gradient_survives_beyond_the_published_bound():
    distances = torch.full((1, 2), 200.0, requires_grad=True)
    own = torch.tensor([[1.0, 0.0]])
    (lost,) = torch.autograd.grad(published(distances, own, 128.0), distances)
    assert lost.tolist() == [[0.0, 0.0]]
    ClusterLoss()(distances, own, torch.tensor([0, 1])).backward()
    assert distances.grad.tolist() == [[1.0, 0.0]]


def test_a_diverged_distance_is_not_hidden():
    distances = torch.tensor([[NAN, 1.0, 2.0]])
    assert ClusterLoss()(distances, torch.tensor([[1.0, 0.0]]), CLASS_OF).isnan()


@pytest.mark.parametrize("kind", COSTS)
def test_bad_arguments(kind):
    with pytest.raises(ValueError, match=r"must be \[B, P\] .* here \[2, 2\], got \[1, 3\]"):
        kind()(DISTANCES[:1], MEMBERSHIP, CLASS_OF[:2])
    with pytest.raises(ValueError, match=r"membership must be \[B, num_classes\] .* got \[2\]"):
        kind()(DISTANCES, torch.tensor([0, 1]), CLASS_OF)
    with pytest.raises(ValueError, match="Write NaN for other codes"):
        kind()(DISTANCES, MEMBERSHIP - 1, CLASS_OF)
    with pytest.raises(ValueError, match=r"lie in 0\.\.1, the columns of membership, got 0 to 2"):
        kind()(DISTANCES, MEMBERSHIP, torch.tensor([0, 0, 2]))
    with pytest.raises(ValueError, match="finite numbers >= 0, got"):
        kind(class_weights=torch.tensor([1.0, -1.0]))
