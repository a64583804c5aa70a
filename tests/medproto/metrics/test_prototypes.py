import pytest

from medproto.metrics import prototype_quality
from medproto.records import PixelBox, PrototypeSource


@pytest.fixture
def make_source():
    def build(digest, group, cell):
        box = PixelBox((0, 0), (4, 4))
        return PrototypeSource(0, 0, "a", 0, group, f"sha256:{digest}", cell, box, 0.0, 9.0)

    return build


def test_counts_by_pencil(make_source):
    sources = [
        make_source("1", "p1", (0, 0)),
        make_source("1", "p1", (0, 0)),  # a duplicate
        make_source("1", "p1", (0, 1)),  # the same image, another cell
        make_source("2", "p1", (0, 0)),  # the same patient, another image
        make_source("3", "p2", (0, 0)),
    ]
    quality = prototype_quality(sources, [9.21, 9.2, 9.0, 9.1, 9.3])
    assert quality.total == 5
    assert quality.unique_sources == 4
    assert quality.unique_groups == 2
    assert quality.self_similarity_min == 9.0


def test_wrong_arguments_are_named(make_source):
    source = make_source("1", "p1", (0, 0))
    with pytest.raises(ValueError, match=r"shape \[1\] and at least one entry, got \[2\]"):
        prototype_quality([source], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"shape \[0\] and at least one entry, got \[0\]"):
        prototype_quality([], [])
    with pytest.raises(ValueError, match="similarities must be finite"):
        prototype_quality([source], [float("nan")])
