import json
import math

import pytest
import torch
from captum.attr import IntegratedGradients

from medproto.networks import PlainClassifier, ProtoPNet

SMALL = {"image_size": (64, 64), "prototypes_per_class": 2, "stage": 5}

# [arguments, input shape, expected logits, expected distances]
CASES = [
    [{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **SMALL}, (2, 1, 64, 64), (2, 2)],
    [
        {"spatial_dims": 2, "in_channels": 3, "out_channels": 3, **SMALL, "stage": 3},
        (2, 3, 64, 64),
        (2, 3),
    ],
    [
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            **SMALL,
            "similarity": "log",
            "add_on": "regular",
            "prototype_channels": 16,
            "top_k": 3,
        },
        (2, 1, 64, 64),
        (2, 2),
    ],
    [
        {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "image_size": (32, 32, 32),
            "prototypes_per_class": [1, 3],
            "stage": 4,
        },
        (1, 1, 32, 32, 32),
        (1, 2),
    ],
]


@pytest.mark.parametrize(("arguments", "shape", "logits"), CASES)
def test_shapes(arguments, shape, logits):
    network = ProtoPNet(**arguments).eval()
    x = torch.rand(shape)
    output = network.evidence(x)
    prototypes = len(network.prototype_class)
    assert network(x).shape == logits
    assert output.distances.shape == (shape[0], prototypes, *network.grid.shape)
    assert output.scores.shape == (shape[0], prototypes)
    assert output.locations.shape == (shape[0], prototypes, arguments["spatial_dims"])
    torch.testing.assert_close(network(x), output.logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_channels": 1}, "out_channels must be >= 2"),
        ({"prototypes_per_class": 0}, "2 counts, one a class"),
        ({"prototypes_per_class": [1, 2, 3]}, "2 counts, one a class"),
        ({"backbone": "alexnet"}, "backbone must be one of"),
        ({"add_on": "deep"}, "must be one of bottleneck, none, regular"),
        ({"top_k": 17}, "top_k must be 1 to 16"),
        ({"image_size": (64, 32)}, "2 equal values"),
        ({"stage": 8}, "stage must be 1 to 7"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3"),
        ({"in_channels": 2, "weights": "package"}, "in_channels must be 1 or 3"),
        (
            {"spatial_dims": 3, "image_size": (32, 32, 32), "weights": "package"},
            "exist for spatial_dims=2 only",
        ),
    ],
)
def test_arguments_out_of_range(change, message):
    arguments = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **SMALL, **change}
    with pytest.raises(ValueError, match=message):
        ProtoPNet(**arguments)


def test_grid_of_prototypes_of_several_cells():
    """Two by two cells: one place less an axis, half a stride further, one stride wider."""
    one = ProtoPNet(2, 1, 2, **SMALL).grid
    two = ProtoPNet(2, 1, 2, **SMALL, prototype_size=2).grid
    assert two.shape == tuple(n - 1 for n in one.shape)
    assert two.stride == one.stride
    assert two.first_center == tuple(c + s / 2 for c, s in zip(one.first_center, one.stride))
    assert two.receptive_field == tuple(f + s for f, s in zip(one.receptive_field, one.stride))


@pytest.mark.parametrize("similarity", ["cosine", "focal", "linear", "log"])
@pytest.mark.parametrize("size", [1, 2])
def test_every_similarity_and_size_trains(similarity, size):
    network = ProtoPNet(2, 1, 2, **SMALL, similarity=similarity, prototype_size=size)
    network(torch.rand(2, 1, 64, 64)).square().sum().backward()
    assert torch.isfinite(network.prototype_layer.vectors.grad).all()
    assert network.prototype_layer.vectors.grad.abs().sum() > 0


def test_bottleneck_halves_in_steps():
    # 112 -> 56 -> 28 -> 20 (not below the prototypes' channels), sigmoid behind the last.
    network = ProtoPNet(2, 1, 2, **SMALL, add_on="bottleneck", prototype_channels=20)
    widths = [m.out_channels for m in network.add_on if isinstance(m, torch.nn.Conv2d)]
    assert widths == [56, 56, 28, 28, 20, 20]
    assert isinstance(network.add_on[-1], torch.nn.Sigmoid)
    assert sum(isinstance(m, torch.nn.Sigmoid) for m in network.add_on) == 1


def test_a_saved_architecture_cannot_declare_itself_trusted():
    with pytest.raises(ValueError, match=r"must be of \['layout', 'measured'\], got \['trusted'\]"):
        ProtoPNet(2, 1, 2, **SMALL, backbone="os:system", backbone_arguments={"trusted": True})


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg16", "efficientnet_b0"])
def test_arguments_rebuild_the_network(name):
    arguments = {"image_size": (32, 32), "prototypes_per_class": 1, "stage": 2, "backbone": name}
    torch.manual_seed(0)
    network = ProtoPNet(2, 1, 2, **arguments).eval()
    again = ProtoPNet(**json.loads(json.dumps(network.arguments))).eval()
    again.load_state_dict(network.state_dict())
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(again(x), network(x))
    assert again.grid == network.grid


# Similarities 0 to 15: the largest; (15 + 14) / 2; (15 + 14 + 13 + 12) / 4.
@pytest.mark.parametrize(("top_k", "largest"), [(1, 15.0), (2, 14.5), (4, 13.5)])
def test_pooling_by_hand(top_k, largest):
    arguments = {"image_size": (64, 64), "prototypes_per_class": 1, "stage": 5}
    network = ProtoPNet(2, 1, 2, **arguments, top_k=top_k)
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(0)).float()
    similarities = shuffled.reshape(1, 1, 4, 4)
    assert network.pool(similarities).item() == largest
    # Of distances the smallest: 0; (0 + 1) / 2; (0 + 1 + 2 + 3) / 4.
    assert network.pool_distances(similarities).item() == 15 - largest


@pytest.mark.parametrize(("add_on", "layers"), [("regular", 2), ("bottleneck", 6)])
def test_initial_weights_of_add_on_and_prototypes(add_on, layers):
    """Published: normal with variance 2 / fan-out and no bias; uniform over [0, 1)."""
    torch.manual_seed(0)
    network = ProtoPNet(2, 1, 2, **SMALL, add_on=add_on, prototype_channels=20)
    convolutions = [m for m in network.add_on if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == layers
    for conv in convolutions:
        std = math.sqrt(2 / conv.out_channels)
        # Five standard errors of a deviation and of a mean.
        count = conv.weight.numel()
        assert conv.weight.std().item() == pytest.approx(std, abs=5 * std / math.sqrt(2 * count))
        assert conv.weight.mean().item() == pytest.approx(0.0, abs=5 * std / math.sqrt(count))
        assert not conv.bias.any()
    vectors = ProtoPNet(2, 1, 2, **{**SMALL, "prototypes_per_class": 50}).prototype_layer.vectors
    assert 0 <= vectors.min() < 0.01
    assert 0.99 < vectors.max() < 1
    assert vectors.mean().item() == pytest.approx(0.5, abs=0.02)
    assert vectors.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_initial_last_layer_has_the_published_weights():
    network = ProtoPNet(2, 1, 2, **SMALL)
    expected = [[1.0, 1.0, -0.5, -0.5], [-0.5, -0.5, 1.0, 1.0]]
    assert network.last_layer.weight.tolist() == expected
    assert network.last_layer.bias.tolist() == [0.0, 0.0]


def test_class_of_a_prototype_is_in_the_state_dict():
    network = ProtoPNet(2, 1, 3, image_size=(64, 64), prototypes_per_class=[1, 2, 1])
    assert network.state_dict()["prototype_class"].tolist() == [0, 1, 1, 2]


def test_keep_prototypes_keeps_what_remains_unchanged():
    torch.manual_seed(0)
    network = ProtoPNet(2, 1, 2, **SMALL).eval()
    x = torch.rand(1, 1, 64, 64)
    before = network.evidence(x).scores[0, [0, 3]]
    network.keep_prototypes([3, 0])
    assert network.arguments["prototypes_per_class"] == [1, 1]
    torch.testing.assert_close(network.evidence(x).scores[0], before)
    with pytest.raises(ValueError, match="at least one prototype"):
        network.keep_prototypes([0])


def test_scores_count_from_the_floor():
    """By hand: none is set at first; then what is above it counts, and nothing is below 0."""
    torch.manual_seed(0)
    network = ProtoPNet(2, 1, 2, **SMALL).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        bare = network.evidence(x)
        floor = torch.tensor([-torch.inf, -1.0, bare.scores[0, 2] - 0.25, 20.0])
        network.floor.copy_(floor)
        found = network.evidence(x)
        logits = network(x)
    expected = [bare.scores[0, 0], bare.scores[0, 1] + 1, 0.25, 0.0]
    torch.testing.assert_close(found.scores[0], torch.tensor(expected))
    torch.testing.assert_close(found.similarities, bare.similarities, rtol=0, atol=0)
    weights, bias = network.last_layer.weight, network.last_layer.bias
    torch.testing.assert_close(logits, found.scores @ weights.T + bias)
    network.keep_prototypes([1, 2])
    assert network.floor.tolist() == floor[1:3].tolist()


@pytest.mark.parametrize("similarity", ["cosine", "log", "linear", "focal"])
def test_prototypes_and_sum_are_a_float32_island_under_autocast(similarity):
    torch.manual_seed(0)
    network = ProtoPNet(2, 1, 2, image_size=(64, 64), stage=2, similarity=similarity).eval()
    image = torch.rand(2, 1, 64, 64)
    seen = []
    network.add_on.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network.evidence(image)
        logits = network(image)
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert {t.dtype for t in (output.distances, output.scores, output.logits)} == {torch.float32}
    weight, bias = network.last_layer.weight.double(), network.last_layer.bias.double()
    expected = output.scores.double() @ weight.T + bias
    torch.testing.assert_close(output.logits.double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits, output.logits, rtol=0, atol=0)


def test_gradient_reaches_prototypes_and_backbone():
    network = ProtoPNet(2, 1, 2, **SMALL)
    network(torch.rand(4, 1, 64, 64)).square().sum().backward()
    assert network.prototype_layer.vectors.grad.abs().sum() > 0
    assert network.backbone.stem.weight.grad.abs().sum() > 0


def test_captum_attributes_through_it():
    network = ProtoPNet(2, 1, 2, image_size=(32, 32), prototypes_per_class=2, stage=3).eval()
    x = torch.rand(1, 1, 32, 32)
    method = IntegratedGradients(network)
    values, delta = method.attribute(x, target=1, n_steps=200, return_convergence_delta=True)
    difference = (network(x) - network(torch.zeros_like(x)))[0, 1]
    # Completeness of integrated gradients: the attributions sum to the change of the logit.
    assert values.sum().item() == pytest.approx(difference.item(), abs=0.05)
    assert abs(delta.item()) < 0.05


def test_twin_shares_features_and_has_a_class_activation_map():
    torch.manual_seed(0)
    network = ProtoPNet(2, 1, 2, **SMALL)
    twin = PlainClassifier(network).eval()
    assert twin.backbone is network.backbone
    assert PlainClassifier.copy_of(twin).backbone is not network.backbone
    features = twin.features(torch.rand(1, 1, 64, 64))
    maps = twin.class_activation(features)
    # CAM: the mean of the map plus the bias is the logit (Zhou et al. 2016, section 2).
    expected = twin.class_layer(features.flatten(2).mean(dim=2))
    torch.testing.assert_close(maps.flatten(2).mean(dim=2) + twin.class_layer.bias, expected)
    assert twin.feature_layer is network.feature_layer
