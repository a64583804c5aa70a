"""Ten thousand random ways from stored pixels to feature cells, and back."""

import random

import pytest

from medproto.records import CellGrid, PixelBox, Placement
from medproto.transforms import FitImage

CASES = 10_000


def random_way(draw):
    """Return a placement as the transforms make it: turned, cropped, then fitted."""
    dims = draw.choice([2, 2, 3])
    top = 4000 if dims == 2 else 600
    shape = [draw.randint(8, top) for _ in range(dims)]
    spacing = [draw.choice([0.1, 0.5, 0.5, 1, 5]) * draw.uniform(0.5, 2) for _ in range(dims)]
    axes = draw.sample(range(dims), dims)  # readers that exchange rows and columns among them
    placement = Placement.identity(shape).turned(axes, [draw.random() < 0.5 for _ in axes])
    if draw.random() < 0.5:
        sides = placement.network_shape
        start = [draw.randint(0, side // 2) for side in sides]
        stop = [draw.randint(a + 1, side) for a, side in zip(start, sides)]
        part = [b - a for a, b in zip(start, stop)]
        placement = placement.scaled([1.0] * dims, [-float(a) for a in start], part)
    size = [draw.choice([32, 96, 192, 224, 512]) for _ in range(dims)]
    mode = draw.choice(["letterbox", "stretch", "spacing"])
    target = max(spacing) * draw.uniform(1, 3) if mode == "spacing" else None
    fit = FitImage(size, mode, spacing_mm=target)
    own = fit.placement(placement.network_shape, [spacing[axis] for axis in axes])
    return placement.scaled(own.scale, own.offset, size)


def test_corners_and_boxes_return():
    draw = random.Random(0)
    worst_corner, worst_side = 0.0, 0
    for _ in range(CASES):
        placement = random_way(draw)
        shape = placement.stored_shape
        point = [draw.uniform(0, side) for side in shape]
        back = placement.to_stored(placement.to_network(point))
        worst_corner = max(worst_corner, *(abs(a - b) for a, b in zip(point, back)))
        start = [draw.randint(0, side - 1) for side in shape]
        stop = [draw.randint(a + 1, side) for a, side in zip(start, shape)]
        box = placement.box_to_stored(placement.to_network(start), placement.to_network(stop))
        sides = zip((*box.start, *box.stop), (*start, *stop))
        worst_side = max(worst_side, *(abs(a - b) for a, b in sides))
    assert worst_corner < 1e-3
    assert worst_side <= 0.5


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_cell_covers_the_same_stored_pixels_whichever_way_it_came(stride):
    """Turning the stored axes turns the box of a cell with them."""
    draw = random.Random(stride)
    for _ in range(500):
        shape = [draw.randint(40, 900), draw.randint(40, 900)]
        grid = CellGrid((192 // stride,) * 2, (stride / 2,) * 2, (stride,) * 2, (99.0,) * 2)
        cell = [draw.randrange(n) for n in grid.shape]
        start = [c - stride / 2 for c in grid.center(cell)]
        stop = [c + stride / 2 for c in grid.center(cell)]
        plain = Placement.identity(shape)
        turned = Placement.identity(shape[::-1]).turned((1, 0), (False, False))
        fit = FitImage((192, 192)).placement(shape)
        boxes = [
            before.scaled(fit.scale, fit.offset, fit.network_shape).box_to_stored(start, stop)
            for before in (plain, turned)
        ]
        assert boxes[1] == PixelBox(boxes[0].start[::-1], boxes[0].stop[::-1])


def test_by_hand():
    # 10 x 20 stored; columns become rows, turned round: position (2, 5) is (20 - 5, 2).
    placement = Placement.identity((10, 20)).turned((1, 0), (True, False))
    assert placement.network_shape == (20, 10)
    assert placement.to_network((2, 5)) == (15, 2)
    assert placement.to_stored((15, 2)) == (2, 5)
    # The upper two rows there are the last two columns here.
    assert placement.box_to_stored((0, 0), (2, 10)) == PixelBox((0, 18), (10, 20))
    halved = placement.scaled((0.5, 0.5), (1, 0), (12, 5))
    assert halved.to_network((2, 5)) == (8.5, 1)


@pytest.mark.parametrize(("axes", "scale"), [((0, 0), (1.0, 1.0)), (None, (1.0, 0.0))])
def test_what_leads_nowhere_is_refused(axes, scale):
    with pytest.raises(ValueError, match="each of 2 stored axes once, and no scale may be 0"):
        Placement((4, 4), (4, 4), scale, (0.0, 0.0), axes)
