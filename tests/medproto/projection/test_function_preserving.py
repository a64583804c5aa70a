"""The choice that keeps a prototype's scores, against loops that hold everything in memory."""

import copy
import itertools

import numpy as np
import pytest
import torch

from medproto.errors import ProjectionError
from medproto.networks import ProtoPNet
from medproto.networks.prototype_layer import PrototypeLayer
from medproto.projection import project_prototypes
from medproto.projection.patch_scores import PatchScorer
from medproto.projection.shortlist import PER_IMAGE

CHOICE = "function-preserving"
CANDIDATES = 12


@pytest.fixture(scope="module")
def shells():
    """A small network for each number of axes, whose features the tests replace."""
    return {
        axes: ProtoPNet(axes, 1, 2, image_size=(32,) * axes, stage=2, prototypes_per_class=2).eval()
        for axes in (2, 3)
    }


def over_features(shell, grid, *, channels=3, count=14, seed=0, size=(), top_k=1, kind="cosine"):
    """A network whose images are their features ``[channels, *grid]``, and such images."""
    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(shell)
    network.prototype_layer = PrototypeLayer(
        4, channels, size=size, similarity=kind, scale=10.0 if kind == "cosine" else channels
    )
    network.top_k = top_k
    network.features = lambda x: x
    images = torch.rand(count, channels, *grid, generator=generator)
    vectors = torch.rand(network.prototype_layer.vectors.shape, generator=generator)
    network.prototype_layer.vectors.data.copy_(vectors)
    return network, images, [i % 2 for i in range(count)]


def batches(images, labels, groups, size=5):
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        rows = list(range(start, min(start + size, len(images))))
        yield images[part], labels[part], rows, groups[part]


def project(network, images, labels, groups, *, size=5, **options):
    return project_prototypes(
        network,
        lambda: batches(images, labels, groups, size),
        lambda row: images[row],
        **{"choice": CHOICE, "candidates": CANDIDATES, **options},
    )


@torch.no_grad()
def naive_candidates(network, images, labels, groups, p):
    """``(correlation, row, cell, group)`` of each patch that may be chosen for a prototype."""
    distances = network.evidence(images).distances[:, p]
    near = []
    for row, label in enumerate(labels):
        if label == network.prototype_class[p]:
            own = [(float(d), row, cell) for cell, d in np.ndenumerate(distances[row].numpy())]
            near += sorted(own)[:PER_IMAGE]
    near.sort()
    kept, seen = [], set()
    for rank, (_, row, cell) in enumerate(near):
        first = groups[row] not in seen and len(seen) < len(network.prototype_class)
        if rank < CANDIDATES or first:
            kept.append((row, cell))
        seen.add(groups[row])
    other = copy.deepcopy(network)
    own = network.evidence(images).scores[:, p].numpy()
    found = []
    for row, cell in kept:
        patch = network.prototype_layer.patches(images)[(row, slice(None), *cell)]
        other.prototype_layer.vectors[p] = patch.reshape(network.prototype_layer.vectors[p].shape)
        scores = other.evidence(images).scores[:, p].numpy()
        found.append((np.corrcoef(own, scores)[0, 1], row, cell, groups[row]))
    return found


@pytest.mark.parametrize("kind", ["cosine", "focal", "linear", "log"])
@pytest.mark.parametrize(
    ("grid", "size", "top_k"),
    [((4, 5), (), 1), ((4, 5), (2, 2), 3), ((3, 2, 4), (), 3), ((3, 3, 4), (2, 1, 2), 1)],
)
def test_equals_the_loops(shells, kind, grid, size, top_k):
    network, images, labels = over_features(
        shells[len(grid)], grid, size=size, top_k=top_k, kind=kind
    )
    groups = [f"g{i // 3}" for i in range(len(images))]
    options = [naive_candidates(network, images, labels, groups, p) for p in range(4)]
    best = [{} for _ in options]
    for p, own in enumerate(options):
        for correlation, *_, group in own:
            best[p][group] = max(correlation, best[p].get(group, -1.0))
    total = max(
        sum(table[g] for table, g in zip(best, taken, strict=True))
        for taken in itertools.permutations(sorted(set(groups)), 4)
        if all(g in table for table, g in zip(best, taken, strict=True))
    )
    patches = network.prototype_layer.patches(images)
    result = project(network, images, labels, groups)
    assert sum(m.correlation for m in result.matches) == pytest.approx(total, abs=1e-4)
    assert len({m.group for m in result.matches}) == 4
    for own, match in zip(options, result.matches, strict=True):
        known = {(row, cell): correlation for correlation, row, cell, _ in own}
        assert match.correlation == pytest.approx(known[match.row, match.cell], abs=1e-4)
        vector = network.prototype_layer.vectors[match.prototype].detach().flatten()
        assert torch.equal(vector, patches[(match.row, slice(None), *match.cell)])
        assert match.similarity == pytest.approx(network.prototype_layer.bound, abs=1e-3)


@pytest.mark.parametrize("kind", ["cosine", "focal", "linear", "log"])
@pytest.mark.parametrize("top_k", [1, 7])
def test_patches_score_as_prototypes_would(shells, kind, top_k):
    network, images, _ = over_features(shells[2], (6, 6), channels=16, kind=kind, top_k=top_k)
    vectors = torch.rand(50, 16, generator=torch.Generator().manual_seed(1))
    scores = PatchScorer(network, vectors).scores(images)
    network.prototype_layer.vectors = torch.nn.Parameter(vectors)
    network.floor = torch.full((50,), -torch.inf)
    expected = network.scores_from_features(images)
    torch.testing.assert_close(scores, expected.detach(), rtol=0, atol=2e-4)


def test_the_better_correlated_patch_is_taken_though_another_is_nearer(shells):
    # One cell an image, similarity -|z - p|^2, the prototype of class 0 at the origin. The images
    # of class 1 lie on a line through it, at equal distances to both sides. The patch of row 4 is
    # on that line and takes sides; that of row 5 is farther, but square to it: from there the
    # images of class 1 are all at their old distance + 1.
    network, _, _ = over_features(shells[2], (1, 1), channels=2, kind="linear")
    points = [(-2.0, 0.0), (2.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.8, 0.0), (0.0, 1.0)]
    images = torch.tensor(points)[:, :, None, None]
    network.keep_prototypes([0, 2])  # one of each class
    network.prototype_layer.scale = 1.0
    network.prototype_layer.vectors.data.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    labels, groups = [1, 1, 1, 1, 0, 0], list("abcdef")
    z = np.array(points)
    own = -(z**2).sum(axis=1)
    by_row = {r: np.corrcoef(own, -((z - z[r]) ** 2).sum(axis=1))[0, 1] for r in (4, 5)}
    assert by_row[5] > by_row[4] + 0.1
    plain = copy.deepcopy(network)
    nearest = project_prototypes(
        plain, batches(images, labels, groups), lambda row: images[row]
    ).matches[0]
    assert (nearest.row, nearest.correlation) == (4, None)
    chosen = project(network, images, labels, groups).matches[0]
    assert chosen.row == 5
    assert chosen.distance == pytest.approx(1.0)
    assert chosen.correlation == pytest.approx(by_row[5], abs=1e-6)


def test_one_candidate_is_the_nearest_patch(shells):
    network, images, labels = over_features(shells[2], (3, 3))
    other, groups = copy.deepcopy(network), [str(i) for i in range(len(images))]
    nearest = project_prototypes(
        other, batches(images, labels, groups), lambda row: images[row], unique=False
    )
    # Of the groups one a prototype is kept in any case; one group leaves the nearest alone.
    result = project(network, images, labels, ["g"] * len(images), candidates=1, unique=False)
    places = [(m.row, m.cell) for m in result.matches]
    assert places == [(m.row, m.cell) for m in nearest.matches]


def test_without_uniqueness_each_prototype_takes_its_best(shells):
    network, images, labels = over_features(shells[2], (3, 4))
    network.prototype_layer.vectors.data[1] = network.prototype_layer.vectors.data[0]
    groups = [str(i) for i in range(len(images))]
    best = [max(naive_candidates(network, images, labels, groups, p)) for p in range(4)]
    result = project(network, images, labels, groups, unique=False)
    assert [(m.row, m.cell) for m in result.matches] == [(row, cell) for _, row, cell, _ in best]
    assert result.matches[0].row == result.matches[1].row


def test_independent_of_the_batches_and_of_the_mode(shells):
    found = []
    for size, mode in ((1, True), (5, False), (14, False)):
        network, images, labels = over_features(shells[2], (4, 4), top_k=3)
        network.train(mode)
        groups = [str(i // 2) for i in range(len(images))]
        result = project(network, images, labels, groups, size=size)
        assert network.training is mode
        found.append(([(m.row, m.cell) for m in result.matches], network.prototype_layer.vectors))
    for places, vectors in found[1:]:
        assert places == found[0][0]
        assert torch.equal(vectors, found[0][1])


@pytest.mark.parametrize("kind", ["cosine", "focal"])
def test_constant_scores_leave_the_nearest_patches(shells, kind):
    # All images hold the same cells in another order, so that the largest score is the same.
    network, images, labels = over_features(shells[2], (3, 3), kind=kind)
    generator = torch.Generator().manual_seed(2)
    for image in images:
        order = torch.randperm(9, generator=generator)
        image[:] = images[0].flatten(1)[:, order].reshape(3, 3, 3)
    other, groups = copy.deepcopy(network), [str(i) for i in range(len(images))]
    nearest = project_prototypes(other, batches(images, labels, groups), lambda row: images[row])
    result = project(network, images, labels, groups)
    assert [m.correlation for m in result.matches] == [None] * 4
    assert sum(m.distance for m in result.matches) == pytest.approx(
        sum(m.distance for m in nearest.matches), abs=1e-6
    )


def test_equal_images_go_to_the_first_rows(shells):
    network, images, labels = over_features(shells[2], (3, 3))
    images[:] = images[0]
    result = project(network, images, labels, [str(i) for i in range(len(images))], size=4)
    assert sorted(m.row for m in result.matches) == [0, 1, 2, 3]


def test_as_many_prototypes_stay_as_in_the_plain_projection(shells):
    # The nearest patches are all of one group; the list holds the others' nearest nevertheless.
    network, images, labels = over_features(shells[2], (4, 4), count=20)
    images[8:] += 5
    network.prototype_layer = PrototypeLayer(4, 3, similarity="log")
    groups = ["a"] * 8 + [f"b{i}" for i in range(4)] * 3
    result = project(network, images, labels, groups, candidates=3)
    assert result.dropped == ()
    assert len({m.group for m in result.matches}) == 4


def test_fewer_groups_than_prototypes_leaves_fewer_prototypes(shells):
    network, images, labels = over_features(shells[2], (3, 3))
    groups = ["a" if label == 0 else str(i) for i, label in enumerate(labels)]
    result = project(network, images, labels, groups)
    assert len(result.dropped) == 1
    assert network.prototype_class.tolist() == [0, 1, 1]


def test_a_class_without_images_is_an_error(shells):
    network, images, _ = over_features(shells[2], (3, 3))
    with pytest.raises(ProjectionError, match=r"class 1 \(zero-based"):
        project(network, images, [0] * len(images), [str(i) for i in range(len(images))])
    with pytest.raises(ProjectionError, match="every class must have a patch of a group"):
        project(network, images[:0], [], [])


def test_what_cannot_be_gone_through_twice_is_refused(shells):
    network, images, labels = over_features(shells[2], (3, 3))
    groups = [str(i) for i in range(len(images))]
    vectors = network.prototype_layer.vectors.detach().clone()
    once = batches(images, labels, groups)
    with pytest.raises(ValueError, match=r"batches must be a sequence or a function .* generator"):
        project_prototypes(network, once, lambda row: images[row], choice=CHOICE)
    with pytest.raises(ProjectionError, match=r"same training images, got 14 and then 0"):
        project_prototypes(network, lambda: once, lambda row: images[row], choice=CHOICE)
    assert torch.equal(network.prototype_layer.vectors, vectors)
    as_list = list(batches(images, labels, groups))
    result = project_prototypes(network, as_list, lambda row: images[row], choice=CHOICE)
    assert len(result.matches) == 4


def test_an_unknown_choice_and_no_candidates_are_refused(shells):
    network, images, labels = over_features(shells[2], (3, 3))
    with pytest.raises(ValueError, match=r"choice must be one of nearest, function-preserving"):
        project_prototypes(network, [], lambda row: images[row], choice="best")
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        project(network, images, labels, list("ab") * 7, candidates=0)


@pytest.mark.parametrize("choice", ["nearest", CHOICE])
def test_patches_outside_the_cells_are_not_chosen(shells, choice):
    network, images, labels = over_features(shells[2], (4, 4))
    groups = [f"g{i}" for i in range(len(images))]
    cells = torch.rand(len(images), 4, 4, generator=torch.Generator().manual_seed(1)) > 0.8
    cells[3] = False  # an image without any is not chosen from
    images[3] = network.prototype_layer.vectors[1, :, None, None].detach()
    result = project(network, images, labels, groups, choice=choice, cells=cells)
    assert len(result.matches) == 4
    for match in result.matches:
        assert cells[(match.row, *match.cell)]


def test_with_all_cells_the_choice_is_the_same(shells):
    found = []
    for cells in (None, torch.ones(14, 4, 4, dtype=torch.bool)):
        network, images, labels = over_features(shells[2], (4, 4))
        groups = [f"g{i}" for i in range(len(images))]
        found.append(project(network, images, labels, groups, cells=cells).matches)
    assert found[0] == found[1]


def test_the_nearest_allowed_patch_by_loops(shells):
    network, images, labels = over_features(shells[2], (4, 4), kind="log")
    cells = torch.rand(len(images), 4, 4, generator=torch.Generator().manual_seed(2)) > 0.7
    with torch.no_grad():
        distances = network.prototype_layer(images)  # [N, 4, 4, 4]
    expected = []
    for p, k in enumerate(network.prototype_class.tolist()):
        places = [
            (float(distances[(i, p, *cell)]), i, tuple(cell))
            for i in range(len(images))
            if labels[i] == k
            for cell in cells[i].nonzero().tolist()
        ]
        expected.append(min(places)[1:])
    groups = ["same"] * len(images)
    result = project(network, images, labels, groups, choice="nearest", unique=False, cells=cells)
    assert [(m.row, m.cell) for m in result.matches] == expected
