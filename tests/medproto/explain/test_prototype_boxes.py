"""Boxes and maps moved by what was measured, against pencil and paper."""

import numpy as np
import pytest
import torch

from medproto.explain import heat_maps, network_box, prototype_boxes, prototype_grid, source_box
from medproto.networks import ProtoPNet
from medproto.records import Placement


@pytest.fixture
def network():
    """Eight by eight cells, 8 pixels apart."""
    torch.manual_seed(0)
    arguments = {"image_size": (64, 64), "prototypes_per_class": 2, "stage": 3}
    return ProtoPNet(2, 1, 2, **arguments).eval()


def peaks(network, *cells):
    values = np.zeros((len(cells), *network.grid.shape), dtype=np.float32)
    for one, cell in zip(values, cells, strict=True):
        one[cell] = 1
    return values


def boxes(network, cells, prototypes):
    return prototype_boxes(network, peaks(network, *cells), prototypes, cells, (64, 64))


def test_each_box_is_moved_by_both_shifts(network):
    ((start, stop),) = boxes(network, [(4, 4)], [2])
    network.center_shift.copy_(torch.tensor([-5.0, 2.0]))
    network.prototype_shift[2] = torch.tensor([1.0, 0.5])
    common, own = boxes(network, [(4, 4), (4, 4)], [0, 2])
    assert common[0] == pytest.approx((start[0] - 5, start[1] + 2))
    assert common[1] == pytest.approx((stop[0] - 5, stop[1] + 2))
    assert own[0] == pytest.approx((start[0] - 4, start[1] + 2.5))
    assert own[1] == pytest.approx((stop[0] - 4, stop[1] + 2.5))


def test_a_box_stops_at_the_border_and_keeps_its_size(network):
    before = boxes(network, [(1, 7)], [1])[0]
    network.prototype_shift[1] = torch.tensor([-40.0, 40.0])
    start, stop = boxes(network, [(1, 7)], [1])[0]
    assert (start[0], stop[1]) == (0, 64)
    sides = np.subtract(before[1], before[0])
    np.testing.assert_allclose(np.subtract(stop, start), sides)


def test_all_ways_to_a_box_and_a_map_agree(network):
    """``network_box``, ``source_box`` and the map: 4 rows down, with whole pixels."""
    image, placement = torch.rand(1, 64, 64), Placement((64, 64), (64, 64), (1.0, 1.0), (0.0, 0.0))
    network.prototype_shift[3] = torch.tensor([4.0, 0.0])
    with torch.no_grad():
        output = network.evidence(image[None])
    cell = output.locations[0, 3].tolist()
    moved = network_box(network, output, 3, (64, 64))
    assert source_box(network, image, placement, 3, cell) == placement.box_to_stored(*moved)
    maps = heat_maps(network, image, [2, 3], placement)
    network.prototype_shift.zero_()
    before = heat_maps(network, image, [2, 3], placement)
    np.testing.assert_array_equal(maps[2].drawn(), before[2].drawn())
    np.testing.assert_allclose(maps[3].drawn()[4:], before[3].drawn()[:-4], atol=1e-5)
    still = network_box(network, output, 3, (64, 64))
    assert moved[0][0] == min(still[0][0] + 4, 64 - (still[1][0] - still[0][0]))


def test_the_grid_of_a_prototype_lies_beside_that_of_all(network):
    network.center_shift.copy_(torch.tensor([1.0, 2.0]))
    network.prototype_shift[1] = torch.tensor([0.5, -1.0])
    first = network.grid.first_center
    assert prototype_grid(network, 0).first_center == first
    assert prototype_grid(network, 1).first_center == (first[0] + 0.5, first[1] - 1)


def test_kept_prototypes_keep_their_shifts(network):
    network.prototype_shift.copy_(torch.arange(8.0).reshape(4, 2))
    network.keep_prototypes([1, 2])
    assert network.prototype_shift.tolist() == [[2, 3], [4, 5]]
