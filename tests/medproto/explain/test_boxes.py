"""Boxes round the peak of a map, against a second definition and pencil and paper."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label, map_coordinates

from medproto.explain import peak_boxes
from medproto.records import CellGrid


def pixel_grid(shape):
    """A cell for each pixel: the drawn map is the map itself."""
    return CellGrid(shape, (0.5,) * len(shape), (1.0,) * len(shape), (1.0,) * len(shape))


def box_of(heat, pixel):
    (box,) = peak_boxes(heat[None], pixel_grid(heat.shape), heat.shape, [pixel])
    return box


def box_by_definition(values, grid, shape, cell, percentile=None):
    """Tiles not below the percentile, labelled one map at a time; drawn by scipy, in pixels."""
    if percentile is None:
        percentile = {1: 95.0, 2: 95.0, 3: 98.9}[len(shape)]
    sides = [max(int(stride // 4), 1) for stride in grid.stride]
    tiles = [
        [(low, min(low + side, n)) for low in range(0, n, side)]
        for side, n in zip(sides, shape, strict=True)
    ]
    middles = np.meshgrid(*[[(a + b) / 2 for a, b in axis] for axis in tiles], indexing="ij")
    inner = [
        (m - first) / stride
        for m, first, stride in zip(middles, grid.first_center, grid.stride, strict=True)
    ]
    heat = map_coordinates(values.astype(float), inner, order=1, mode="nearest")
    center = [min(max(p, 0), n - 1) for p, n in zip(grid.center(cell), shape, strict=True)]
    peak = tuple(int(c // side) for c, side in zip(center, sides, strict=True))
    level = np.percentile(heat, percentile, method="higher")
    parts, _ = label(heat >= min(level, heat[peak]))
    part = np.argwhere(parts == parts[peak])
    low, high = part.min(axis=0), part.max(axis=0)
    start = tuple(float(axis[i][0]) for axis, i in zip(tiles, low, strict=True))
    return start, tuple(float(axis[i][1]) for axis, i in zip(tiles, high, strict=True))


def test_box_takes_the_part_with_the_peak_only():
    heat = np.zeros((40, 40), dtype=np.float32)
    heat[5:15, 5:11] = 1.0  # 60 of 1,600 pixels; the 95th percentile admits 80
    heat[30:37, 30:37] = 0.9
    assert box_of(heat, (6, 6)) == ((5.0, 5.0), (15.0, 11.0))


def test_box_of_a_flat_map_is_the_whole_image():
    assert box_of(np.ones((8, 8), np.float32), (4, 4)) == ((0.0, 0.0), (8.0, 8.0))
    grid = CellGrid((7, 7), (17.0, 13.0), (32.0, 32.0), (64.0, 64.0))
    flat = np.full((1, 7, 7), 0.7, np.float32)
    assert peak_boxes(flat, grid, (224, 200), [(3, 3)]) == [((0.0, 0.0), (224.0, 200.0))]


def test_box_of_a_long_part_reaches_both_ends():
    heat = np.zeros((200, 200), dtype=np.float32)
    heat[:, 100:112] = 1.0
    heat[150, 20:112] = 1.0
    assert box_of(heat, (60, 101)) == ((0.0, 20.0), (200.0, 112.0))


def test_box_round_a_cell_that_is_not_hot():
    """The source of a prototype is drawn round its own cell, be it the largest or not."""
    heat = np.zeros((50, 50), dtype=np.float32)
    heat[10:20, 10:40] = 1.0
    heat[30:34, 20:26] = 0.5
    assert box_of(heat, (32, 23)) == ((30.0, 20.0), (34.0, 26.0))


@pytest.mark.parametrize("smooth", [0.4, 1.5])
@pytest.mark.parametrize(
    ("cells", "stride", "first", "shape"),
    [
        ((14, 14), 16.0, (7.5, 10.0), (224, 224)),
        ((7, 7), 32.0, (15.5, 0.0), (224, 224)),
        ((12, 5), 8.0, (3.5, 3.5), (97, 40)),
        ((4, 4, 5), 8.0, (3.5, 4.0, 6.0), (32, 32, 40)),
    ],
    ids=str,
)
def test_boxes_equal_their_definition(cells, stride, first, shape, smooth):
    dims = len(shape)
    grid = CellGrid(cells, first, (stride,) * dims, (stride,) * dims)
    rng = np.random.default_rng(0)
    maps = gaussian_filter(rng.random((12, *cells)), (0, *[smooth] * dims)).astype(np.float32)
    asked = [np.unravel_index(m.argmax(), cells) for m in maps[:8]]
    asked += [tuple(rng.integers(0, cells)) for _ in maps[8:]]
    found = peak_boxes(maps, grid, shape, asked)
    for box, values, cell in zip(found, maps, asked, strict=True):
        assert box == box_by_definition(values, grid, shape, cell)


def test_a_tile_is_a_quarter_of_a_cell():
    """The cell at position 24 answers 1, its neighbors 16 pixels off 0.

    Tiles are 4 pixels; those with their middles at 18, 22, 26 and 30 have 0.625, 0.875, 0.875 and
    0.625 along an axis. The products are above 0.5 in 12 of these 16 tiles, 0.391 in the corners.
    """
    values = np.zeros((1, 4, 4), np.float32)
    values[0, 1, 1] = 1.0
    grid = CellGrid((4, 4), (8.0, 8.0), (16.0, 16.0), (16.0, 16.0))
    # Of 256 tiles 256 - ceil(0.955 * 255) = 12 are hot.
    ((start, stop),) = peak_boxes(values, grid, (64, 64), [(1, 1)], percentile=95.5)
    assert (start, stop) == ((16.0, 16.0), (32.0, 32.0))


def test_the_last_tile_ends_with_the_image():
    values = np.array([[0.0, 1.0]], np.float32)
    grid = CellGrid((2,), (4.0,), (8.0,), (8.0,))
    assert peak_boxes(values, grid, (13,), [(1,)]) == [((12.0,), (13.0,))]


def test_boxes_by_another_percentile():
    heat = gaussian_filter(np.random.default_rng(0).random((60, 50)), 3.0).astype(np.float32)
    peak = tuple(int(i) for i in np.unravel_index(heat.argmax(), heat.shape))
    grid = pixel_grid((60, 50))
    (box,) = peak_boxes(heat[None], grid, (60, 50), [peak], percentile=60.0)
    assert box == box_by_definition(heat, grid, (60, 50), peak, 60.0)


def test_no_maps_no_boxes():
    assert peak_boxes(np.zeros((0, 8, 8), np.float32), pixel_grid((8, 8)), (8, 8), []) == []


def test_maps_of_another_grid():
    with pytest.raises(ValueError, match=r"must have shape \[8, 8\], got \[1, 8, 9\]"):
        peak_boxes(np.zeros((1, 8, 9), np.float32), pixel_grid((8, 8)), (8, 8), [(0, 0)])
