"""The nearest patches of all classes against a sort of everything at once."""

import pytest
import torch

from medproto.networks import ProtoPNet
from medproto.projection import nearest_patches


def make(count=11, seed=0, **arguments):
    torch.manual_seed(seed)
    arguments = {"prototypes_per_class": 2, "stage": 3, **arguments}
    network = ProtoPNet(2, 1, 2, image_size=(48, 48), **arguments).eval()
    return network, torch.rand(count, 1, 48, 48)


def batches(images, rows, labels=None, size=4):
    labels = labels or [row % 2 for row in rows]
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        groups = [f"g{row}" for row in rows[part]]
        yield images[part], labels[part], rows[part], groups


def naive(network, images, k):
    """All patches of all images in one list, the best of each image, sorted."""
    with torch.no_grad():
        output = network.evidence(images)
    out = []
    for p in range(len(network.prototype_class)):
        best = {}
        for row in range(len(images)):
            for cell in torch.cartesian_prod(*map(torch.arange, output.distances.shape[2:])):
                cell = tuple(cell.tolist())
                value = float(output.distances[(row, p, *cell)])
                entry = (value, row, cell, float(output.similarities[(row, p, *cell)]))
                best[row] = min(best.get(row, entry), entry)
        out.append(sorted(best.values())[:k])
    return out


@pytest.mark.parametrize("similarity", ["log", "cosine"])
def test_equals_a_sort_of_everything(similarity):
    network, images = make(similarity=similarity)
    found = nearest_patches(network, batches(images, list(range(11)), size=11), k=4)
    expected = naive(network, images, 4)
    assert [[(h.row, h.cell) for h in own] for own in found] == [
        [(row, cell) for _, row, cell, _ in own] for own in expected
    ]
    for own, wanted in zip(found, expected, strict=True):
        assert [h.distance for h in own] == pytest.approx([e[0] for e in wanted])
        assert [h.similarity for h in own] == pytest.approx([e[3] for e in wanted])
        assert [h.group for h in own] == [f"g{h.row}" for h in own]
        assert [h.label for h in own] == [h.row % 2 for h in own]


def test_a_prototype_finds_its_own_patch_first():
    network, images = make(6)
    with torch.no_grad():
        features = network.features(images)
        network.prototype_layer.vectors[1] = features[4, :, 2, 3]
    hit = nearest_patches(network, batches(images, list(range(6))), k=1)[1][0]
    assert (hit.row, hit.cell) == (4, (2, 3))
    assert hit.distance == pytest.approx(0, abs=1e-6)
    assert hit.similarity == pytest.approx(network.prototype_layer.bound, abs=1e-4)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]])
def test_ties_go_to_the_first_row_in_any_order_of_the_batches(rows):
    network, images = make(6)
    images[:] = images[0]  # every image is the same
    found = nearest_patches(network, batches(images, rows, size=1), k=3)
    assert [[hit.row for hit in own] for own in found] == [[0, 1, 2]] * 4
    assert len({hit.cell for hit in found[0]}) == 1


def test_ties_within_an_image_go_to_the_first_cell():
    network, images = make(1)
    features = network.features
    network.features = lambda x: torch.zeros_like(features(x)) + 0.5
    assert nearest_patches(network, batches(images, [7]), k=1)[0][0].cell == (0, 0)


def test_findings_come_back_as_they_were_given():
    network, images = make(2)
    labels = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, float("nan")])]
    found = nearest_patches(network, batches(images, [0, 1], labels), k=2)
    assert {id(hit.label) for hit in found[0]} == {id(label) for label in labels}


def test_fewer_images_than_k_and_the_mode():
    network, images = make(3)
    network.train()
    found = nearest_patches(network, batches(images, [0, 1, 2]), k=9)
    assert network.training
    assert [len(own) for own in found] == [3] * 4
    assert nearest_patches(network, [], k=1) == [[]] * 4
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        nearest_patches(network, [], k=0)
