import itertools
from operator import attrgetter

import pytest
import torch

from medproto.errors import ProjectionError
from medproto.networks import ProtoPNet
from medproto.projection import project_prototypes
from medproto.projection.project import _assign
from medproto.projection.search import Candidate


def make(count=12, seed=0, **arguments):
    torch.manual_seed(seed)
    arguments = {"prototypes_per_class": 3, "stage": 3, **arguments}
    network = ProtoPNet(2, 1, 2, image_size=(48, 48), **arguments).eval()
    images = torch.rand(count, 1, 48, 48)
    return network, images, [i % 2 for i in range(count)]


def batches(images, labels, groups, size=5):
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        rows = list(range(start, min(start + size, len(images))))
        yield images[part], labels[part], rows, groups[part]


def best_by_brute_force(network, images, labels, groups):
    """Smallest sum of distances over all ways to give prototypes distinct groups."""
    with torch.no_grad():
        distances = network.evidence(images).distances.flatten(2).amin(dim=2)
    classes, total = network.prototype_class.tolist(), None
    for rows in itertools.product(range(len(images)), repeat=len(classes)):
        if any(labels[r] != k for r, k in zip(rows, classes, strict=True)):
            continue
        if len({groups[r] for r in rows}) < len(rows):
            continue
        value = sum(float(distances[r, p]) for p, r in enumerate(rows))
        total = value if total is None else min(total, value)
    return total


@pytest.mark.parametrize("similarity", ["log", "cosine"])
def test_equals_brute_force_and_checks_itself(similarity):
    network, images, labels = make(8, prototypes_per_class=2, similarity=similarity)
    groups = ["a", "b", "c", "d", "a", "e", "c", "f"]
    expected = best_by_brute_force(network, images, labels, groups)
    result = project_prototypes(network, batches(images, labels, groups), lambda row: images[row])
    assert sum(m.distance for m in result.matches) == pytest.approx(expected, rel=1e-4)
    assert len({m.group for m in result.matches}) == len(result.matches) == 4
    lowest = 9.209 if similarity == "log" else 0.9999 * 10
    assert min(m.similarity for m in result.matches) >= lowest
    for match in result.matches:
        assert labels[match.row] == network.prototype_class[match.prototype]
        with torch.no_grad():
            features = network.features(images[match.row][None])[0]
        vector = network.prototype_layer.vectors[match.prototype]
        torch.testing.assert_close(vector.detach(), features[(slice(None), *match.cell)])


@pytest.mark.parametrize("similarity", ["cosine", "focal", "linear", "log"])
@pytest.mark.parametrize("size", [1, 2])
def test_every_similarity_and_size_recognises_its_source(similarity, size):
    network, images, labels = make(12, similarity=similarity, prototype_size=size)
    groups = [str(i) for i in range(12)]
    result = project_prototypes(network, batches(images, labels, groups), lambda row: images[row])
    for match in result.matches:
        with torch.no_grad():
            features = network.features(images[match.row][None])[0]
        window = (slice(None), *(slice(i, i + size) for i in match.cell))
        vector = network.prototype_layer.vectors[match.prototype].detach()
        torch.testing.assert_close(vector, features[window].reshape(vector.shape))
        assert match.similarity == pytest.approx(network.prototype_layer.bound, abs=1e-3)


def test_plain_projection_takes_the_nearest_patch_whoever_has_it():
    network, images, labels = make(8)
    with torch.no_grad():
        network.prototype_layer.vectors[1] = network.prototype_layer.vectors[0]
        distances = network.evidence(images).distances.flatten(2).amin(dim=2)
    result = project_prototypes(
        network, batches(images, labels, list("abcdefgh")), lambda row: images[row], unique=False
    )
    for match in result.matches:
        own = [r for r, k in enumerate(labels) if k == network.prototype_class[match.prototype]]
        assert match.row == min(own, key=lambda r: distances[r, match.prototype])
    first, second = result.matches[:2]
    assert (first.row, first.cell) == (second.row, second.cell)


def test_findings_are_projected_to_images_that_show_them():
    torch.manual_seed(0)
    network = ProtoPNet(
        2, 1, 3, image_size=(48, 48), stage=3, head="multilabel", prototypes_per_class=[0, 1, 1]
    ).eval()
    images, nan = torch.rand(4, 1, 48, 48), float("nan")
    labels = [(1.0, 0.0, 0.0), (0.0, 1.0, nan), (0.0, nan, 1.0), (0.0, 0.0, nan)]
    result = project_prototypes(
        network, batches(images, labels, list("abcd")), lambda row: images[row]
    )
    assert [m.row for m in result.matches] == [1, 2]


def project_in_batches(size, mode):
    network, images, labels = make()
    network.train(mode)
    groups = [str(i // 2) for i in range(12)]
    result = project_prototypes(
        network, batches(images, labels, groups, size), lambda row: images[row]
    )
    assert network.training is mode
    return [(m.row, m.cell) for m in result.matches]


def test_independent_of_the_batch_size_and_of_the_mode():
    assert project_in_batches(2, True) == project_in_batches(12, False)


def test_fewer_groups_than_prototypes_leaves_fewer_prototypes():
    network, images, labels = make(6)
    groups = ["a", "b", "a", "c", "a", "d"]  # class 0 has the group a alone
    result = project_prototypes(network, batches(images, labels, groups), lambda row: images[row])
    assert len(result.dropped) == 2
    assert network.prototype_class.tolist() == [0, 1, 1, 1]
    assert network(images).shape == (6, 2)


def test_a_class_without_images_is_an_error():
    network, images, _ = make(4)
    with pytest.raises(
        ProjectionError, match=r"class 1 \(zero-based, in the order of the run's classes\) has none"
    ):
        project_prototypes(network, batches(images, [0] * 4, list("abcd")), lambda row: images[row])


def test_no_images_at_all_is_an_error():
    network, _, _ = make(4)
    with pytest.raises(ProjectionError, match="every class must have a patch of a group"):
        project_prototypes(network, [], lambda row: torch.zeros(1, 48, 48))


def test_a_changed_image_is_noticed_afterwards():
    network, images, labels = make(12, similarity="log")
    original = network.evidence
    network.evidence = lambda x: original(1 - x.flip(-1))  # as if preprocessing had changed
    with pytest.raises(ProjectionError, match=r"must score at least 9\.20"):
        project_prototypes(
            network, batches(images, labels, [str(i) for i in range(12)]), lambda row: images[row]
        )


def test_assignment_prefers_any_complete_one():
    a, b = Candidate(0.0, 0, (0,), "g"), Candidate(9.0, 1, (0,), "h")
    only = Candidate(5.0, 2, (0,), "g")
    assert _assign([[a, b], [only]], attrgetter("distance"), set()) == [b, only]


def test_no_class_goes_without_while_others_have_groups_to_spare():
    """Group g1 alone shows class 0; class 1 likes it better, but could take g2 as well."""

    def patches(**groups):
        return [Candidate(cost, int(g[1:]), (0,), g) for g, cost in groups.items()]

    spare = patches(g3=0.2, g4=0.2, g5=0.2, g6=0.2)
    both = patches(g1=0.1, g2=0.5)
    candidates = [patches(g1=1.0), patches(g1=1.1), both, both, spare, spare]
    chosen = _assign(candidates, attrgetter("distance"), {0, 2, 4})
    groups = [found and found.group for found in chosen]
    assert groups[:4] == ["g1", None, "g2", None]
    assert None not in groups[4:]


def test_ties_go_to_the_first_row_and_cell():
    network, images, labels = make(12)
    images[:] = images[0]  # everything equal
    result = project_prototypes(
        network,
        batches(images, labels, [str(i) for i in range(12)], size=6),
        lambda row: images[row],
    )
    assert sorted(m.row for m in result.matches) == [0, 1, 2, 3, 4, 5]


def test_no_class_goes_without_where_groups_are_few():
    """Two patients, each with an image of each class; class 0 alone would take both."""
    network, images, _ = make(4)
    with torch.no_grad():
        features = network.features(images[[0, 2]])
        network.prototype_layer.vectors[0] = features[0, :, 0, 0]
        network.prototype_layer.vectors[1] = features[1, :, 0, 0]
    given = batches(images, [0, 1, 0, 1], ["a", "a", "b", "b"])
    result = project_prototypes(network, given, lambda row: images[row])
    assert sorted(network.prototype_class.tolist()) == [0, 1]
    assert {m.group for m in result.matches} == {"a", "b"}
    assert len(result.dropped) == 4
    # Each class keeps its best prototype, and they take the nearer of the two ways.
    assert result.matches[0].distance == pytest.approx(0, abs=1e-5)
