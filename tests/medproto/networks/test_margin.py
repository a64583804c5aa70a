"""The margin: outer feature cells that no prototype looks at."""

import json

import pytest
import torch

from medproto.explain import GradCam
from medproto.networks import PlainClassifier, ProtoPNet

SHAPES = {2: (64, 64), 3: (32, 32, 32)}


def network(dims=2, **arguments):
    torch.manual_seed(0)
    given = {"image_size": SHAPES[dims], "prototypes_per_class": 2, "stage": 3}
    return ProtoPNet(dims, 1, 2, **{**given, **arguments}).eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_features_are_those_of_the_inner_cells(dims):
    whole, inner = network(dims), network(dims, margin=1)
    x = torch.rand(2, 1, *SHAPES[dims])
    index = (slice(None), slice(None), *[slice(1, -1)] * dims)
    assert torch.equal(inner.features(x), whole.features(x)[index])
    assert inner.evidence(x).similarities.shape[2:] == inner.grid.shape
    assert inner(x).shape == (2, 2)


def test_cells_lie_where_they_lay():
    # Lite0 cut at stage 3: 8 x 8 cells at stride 8.
    whole, inner = network().grid, network(margin=2).grid
    assert (whole.shape, inner.shape) == ((8, 8), (4, 4))
    assert whole.stride == inner.stride == (8, 8)
    assert inner.center((0, 1)) == whole.center((2, 3))
    assert inner.first_center == tuple(c + 16 for c in whole.first_center)
    assert network(margin=2, prototype_size=2).grid.shape == (3, 3)


def test_the_brightest_corner_is_no_evidence():
    """A prototype that is the corner cell itself looks elsewhere."""
    whole, inner = network(), network(margin=1)
    x = torch.rand(1, 1, 64, 64)
    x[..., :6, :6] = 1
    with torch.no_grad():
        corner = whole.features(x)[0, :, 0, 0]
        for own in (whole, inner):
            own.prototype_layer.vectors[0] = corner
        found, without = whole.evidence(x), inner.evidence(x)
    assert found.locations[0, 0].tolist() == [0, 0]
    assert float(found.scores[0, 0]) == pytest.approx(10, abs=1e-4)
    assert float(without.scores[0, 0]) < 10 - 1e-3


@pytest.mark.parametrize(("side", "stage", "margin"), [(56, 3, 1), (48, 3, 0), (192, 5, 1)])
def test_left_to_the_network_five_cells_stay(side, stage, margin):
    found = network(image_size=(side, side), stage=stage, margin=None)
    assert found.margin == found.arguments["margin"] == margin
    assert found.grid.shape[0] >= 5


@pytest.mark.parametrize("margin", [-1, 4])
def test_cells_must_be_left(margin):
    with pytest.raises(ValueError, match=rf"margin must be 0 to 3.* \[8, 8\] .*got {margin}"):
        network(margin=margin)


def test_the_margin_is_part_of_the_architecture():
    first = network(margin=None)
    again = ProtoPNet(**json.loads(json.dumps(first.arguments))).eval()
    again.load_state_dict(first.state_dict())
    x = torch.rand(1, 1, 64, 64)
    assert torch.equal(again(x), first(x))
    assert again.grid == first.grid
    older = {name: value for name, value in first.arguments.items() if name != "margin"}
    assert ProtoPNet(**older).margin == 0


def test_grad_cam_lies_on_the_same_cells_and_the_twin_sees_all():
    inner = network(margin=1)
    x = torch.rand(1, 64, 64)
    assert GradCam(inner).attribute(x, 0).shape == inner.feature_grid.shape == (6, 6)
    assert PlainClassifier(inner).eval().features(x[None]).shape[2:] == (8, 8)
