"""The published procedure that the speed benchmarks measure against: correct, if slow."""

import copy

import pytest
import torch

from medproto.losses import ProtoPNetLoss, l1_of_other_classes
from medproto.networks import ProtoPNet
from medproto.projection import project_prototypes


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ProtoPNet(
        2,
        1,
        3,
        image_size=(32, 32),
        stage=2,
        prototypes_per_class=3,
        add_on="regular",
        prototype_channels=6,
        similarity="log",
        similarity_scale=1.0,
    ).eval()


@pytest.fixture
def batches():
    torch.manual_seed(1)
    images, labels = torch.rand(11, 1, 32, 32), [0, 1, 2, 1, 0, 2, 2, 1, 0, 0, 1]
    ends = ((0, 4), (4, 8), (8, 11))
    return [
        (images[a:b], labels[a:b], list(range(a, b)), list("abcdefghijk")[a:b]) for a, b in ends
    ]


def test_distances_and_logits_are_those_of_the_project(network, batches, script):
    published = script("published").Published(network)
    images = batches[0][0]
    expected = network.evidence(images)
    logits, smallest = published(images)
    distances = published.distances(network.features(images))
    torch.testing.assert_close(distances, expected.distances, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        smallest, expected.distances.flatten(2).amin(dim=2), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(logits, expected.logits, rtol=1e-3, atol=1e-3)


def test_loss_is_that_of_the_project(network, script):
    published = script("published").Published(network)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    smallest = torch.rand(5, 9) * 4  # below 6, the largest that the published form allows
    terms = ProtoPNetLoss(cluster=0.8, separation=0.08)(
        logits, smallest, labels, network.prototype_class
    )
    size = l1_of_other_classes(network.last_layer.weight, network.prototype_class)
    expected = terms["loss"] + 1e-4 * size
    torch.testing.assert_close(published.loss(logits, smallest, labels), expected)


def test_push_takes_the_patches_of_the_plain_projection(network, batches, script):
    published = script("published")
    other = published.Published(copy.deepcopy(network))
    sources = published.push(other, batches)
    images = torch.cat([batch[0] for batch in batches])
    found = project_prototypes(network, batches, lambda row: images[row], unique=False)
    assert sources == [(match.row, match.cell) for match in found.matches]
    assert len({row for row, _ in sources}) > 1
    torch.testing.assert_close(other.vectors, network.prototype_layer.vectors, rtol=1e-4, atol=1e-5)


def test_one_step_of_the_last_layer_is_adam_by_hand(network, batches, script):
    published = script("published")
    images, labels, *_ = batches[0]
    with torch.no_grad():
        scores = network.evidence(images).scores
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weight = before["last_layer.weight"].double()  # [K, P]
    chances = (scores.double() @ weight.T).softmax(dim=1)
    chances[range(4), labels] -= 1
    other = network.prototype_class[None] != torch.arange(3)[:, None]
    gradient = chances.T @ scores.double() / 4 + 1e-4 * other * weight.sign()
    # Adam's first step: both moments, corrected, give gradient / (|gradient| + 1e-8).
    expected = weight - 1e-4 * gradient / (gradient.abs() + 1e-8)

    published.last_layer_passes(published.Published(network), lambda: batches[:1], 1)
    after = network.state_dict()
    torch.testing.assert_close(after["last_layer.weight"].double(), expected, rtol=0, atol=1e-6)
    assert (after["last_layer.weight"] != before["last_layer.weight"]).any()
    for name in before.keys() - {"last_layer.weight"}:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def test_own_solution_is_converged(script):
    """The part of the benchmarks that solves, on images of the synthetic set."""
    images = script("synthetic").image_set(12, 32)
    network = script("synthetic").prototype_network("efficientnet_lite0", 32, prototypes=4).eval()
    solution = script("last_layer").solve(network, images, [0, 2, 1, 3])
    assert solution.converged
    assert solution.weights.shape == (2, 4)
