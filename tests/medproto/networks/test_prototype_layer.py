import itertools
import math

import pytest
import torch

from medproto.networks import PrototypeLayer


def distances_by_definition(features, vectors, scale):
    """One patch at a time: slow, obvious, and free of the layer's own algebra."""
    patches = features.flatten(2)
    out = torch.empty(len(patches), len(vectors), patches.shape[2], dtype=features.dtype)
    for b, p, n in torch.cartesian_prod(*(torch.arange(size) for size in out.shape)).tolist():
        out[b, p, n] = ((patches[b, :, n] - vectors[p]) ** 2).sum() / scale
    return out.reshape(len(features), len(vectors), *features.shape[2:])


def cosine_by_definition(features, vectors):
    patches = features.flatten(2)
    out = torch.empty(len(patches), len(vectors), patches.shape[2], dtype=features.dtype)
    for b, p, n in torch.cartesian_prod(*(torch.arange(size) for size in out.shape)).tolist():
        z, v = patches[b, :, n], vectors[p]
        out[b, p, n] = 1 - (z * v).sum() / (z.norm() * v.norm())
    return out.reshape(len(features), len(vectors), *features.shape[2:])


@pytest.mark.parametrize("spatial", [(5,), (4, 3), (3, 2, 2)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("kind", ["log", "cosine"])
def test_distances_equal_the_definition(spatial, kind):
    torch.manual_seed(0)
    layer = PrototypeLayer(4, 6, similarity=kind, scale=3.0).double()
    features = torch.rand(2, 6, *spatial, dtype=torch.float64)
    vectors = layer.vectors.detach()
    expected = (
        distances_by_definition(features, vectors, 3.0)
        if kind == "log"
        else cosine_by_definition(features, vectors)
    )
    torch.testing.assert_close(layer(features).detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "spatial"), [((2, 3), (4, 5)), ((2, 1, 2), (3, 2, 3))])
@pytest.mark.parametrize("kind", ["log", "cosine"])
def test_patches_of_several_cells_equal_the_definition(size, spatial, kind):
    torch.manual_seed(0)
    layer = PrototypeLayer(3, 4, size=size, similarity=kind).double()
    features = torch.rand(2, 4, *spatial, dtype=torch.float64)
    distances = layer(features).detach()
    cells = [n - s + 1 for n, s in zip(spatial, size, strict=True)]
    assert distances.shape == (2, 3, *cells)
    for index in itertools.product(range(2), range(3), *map(range, cells)):
        window = tuple(slice(i, i + s) for i, s in zip(index[2:], size, strict=True))
        patch = features[(index[0], slice(None), *window)].flatten()
        vector = layer.vectors.detach()[index[1]].flatten()
        expected = (patch - vector).square().sum()
        if kind == "cosine":
            expected = 1 - (patch * vector).sum() / (patch.norm() * vector.norm())
        assert distances[index].item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_patch_that_is_larger_than_the_features():
    layer = PrototypeLayer(1, 2, size=(3, 3))
    with pytest.raises(ValueError, match=r"at least \[3, 3\] cells, got \[2, 4\]"):
        layer(torch.rand(1, 2, 2, 4))


def test_linear_similarity_is_the_negative_distance():
    layer = PrototypeLayer(1, 1, similarity="linear")
    assert layer.similarity(torch.tensor([0.0, 2.5])).tolist() == [0.0, -2.5]
    assert layer.bound == 0.0


def test_focal_similarity_is_the_log_similarity_minus_its_mean():
    log = PrototypeLayer(1, 1).similarity(torch.tensor([[[0.0, 1.0, 3.0]]]))
    focal = PrototypeLayer(1, 1, similarity="focal").similarity(torch.tensor([[[0.0, 1.0, 3.0]]]))
    torch.testing.assert_close(focal, log - log.mean())
    # Alike everywhere: nothing stands out, whatever the distance.
    assert (
        PrototypeLayer(1, 1, similarity="focal").similarity(torch.full((1, 1, 3), 2.0)).sum() == 0
    )


def test_log_similarity_by_hand():
    layer = PrototypeLayer(1, 1)
    values = layer.similarity(torch.tensor([0.0, 1.0, 128.0]))
    expected = [math.log(1e4), math.log(2 / 1.0001), math.log(129 / 128.0001)]
    assert values.tolist() == pytest.approx(expected, rel=1e-4)


def test_cosine_similarity_by_hand():
    # cos((1, 0), (1, 1)) = 1 / sqrt 2; cos((1, 0), (-1, 0)) = -1.
    layer = PrototypeLayer(1, 2, similarity="cosine", scale=10.0)
    layer.vectors.data = torch.tensor([[1.0, 0.0]])
    features = torch.tensor([[1.0, -1.0], [1.0, 0.0]])[None]
    similarity = layer.similarity(layer(features))[0, 0]
    assert similarity.tolist() == pytest.approx([10 / math.sqrt(2), -10.0], rel=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["log", "cosine"])
def test_a_prototype_scores_the_bound_on_its_own_patch(autocast, kind):
    torch.manual_seed(0)
    layer = PrototypeLayer(3, 1024, similarity=kind)
    features = torch.rand(1, 1024, 4, 4, requires_grad=True)
    layer.vectors.data[0] = features.detach()[0, :, 2, 1]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        score = layer.similarity(layer(features))[0, 0, 2, 1]
    assert score.item() == pytest.approx(layer.bound, abs=1e-5)
    score.backward()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 4, 4)], ids=["no spatial axis", "channels"])
def test_wrong_shape_names_what_was_expected_and_what_came(shape):
    with pytest.raises(ValueError, match=r"\[B, 6, \*spatial\], got \[2, "):
        PrototypeLayer(4, 6)(torch.rand(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_prototypes": 0}, ">= 1, got 0"),
        ({"similarity": "l1"}, "one of cosine, focal, linear, log, got 'l1'"),
        ({"scale": 0.0}, "above 0, got 0.0"),
        ({"epsilon": 1.0}, "between 0 and 1, got 1.0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        PrototypeLayer(**{"num_prototypes": 2, "channels": 3, **arguments})


def test_repr_says_what_it_is():
    assert "similarity='log'" in repr(PrototypeLayer(2, 3))
