"""Boxes round the peak of a map, against labels on the whole drawn map."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from medproto.explain import cells_to_network, peak_boxes
from medproto.explain.boxes import lattice_step
from medproto.records import CellGrid


def pixel_grid(shape):
    """A cell for each pixel: the drawn map is the map itself."""
    return CellGrid(shape, (0.5,) * len(shape), (1.0,) * len(shape), (1.0,) * len(shape))


def box_of(heat, pixel):
    (box,) = peak_boxes(heat[None], pixel_grid(heat.shape), heat.shape, [pixel])
    return box


def box_by_definition(heat, peak, percentile=95.0):
    """All pixels not below the lattice's percentile, labelled on the whole map."""
    step = lattice_step(heat.shape)
    lattice = heat[(slice(step // 2, None, step),) * heat.ndim]
    level = np.percentile(lattice, percentile, method="higher")
    parts, _ = label(heat >= min(level, heat[peak]))
    part = np.argwhere(parts == parts[peak])
    return tuple(map(float, part.min(axis=0))), tuple(map(float, part.max(axis=0) + 1))


@pytest.mark.parametrize(
    ("shape", "step"),
    [((224, 224), 5), ((64, 64), 1), ((112, 112), 2), ((300, 40), 2), ((96, 96, 96), 7), ((9,), 1)],
    ids=str,
)
def test_the_lattice_holds_at_least_two_thousand_pixels_or_all(shape, step):
    assert lattice_step(shape) == step  # 224 / sqrt(2000) = 5.01, 96 / cbrt(2000) = 7.62


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
    heat[:, 100:112] = 1.0  # border to border: far beyond the first window
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
    heats = cells_to_network(maps, grid, shape)
    for box, heat, cell in zip(found, heats, asked, strict=True):
        pixel = tuple(
            min(max(int(p), 0), n - 1) for p, n in zip(grid.center(cell), shape, strict=True)
        )
        assert box == box_by_definition(heat, pixel)


def test_boxes_by_another_percentile():
    heat = gaussian_filter(np.random.default_rng(0).random((60, 50)), 3.0).astype(np.float32)
    peak = tuple(int(i) for i in np.unravel_index(heat.argmax(), heat.shape))
    (box,) = peak_boxes(heat[None], pixel_grid((60, 50)), (60, 50), [peak], percentile=60.0)
    assert box == box_by_definition(heat, peak, 60.0)


def test_no_maps_no_boxes():
    assert peak_boxes(np.zeros((0, 8, 8), np.float32), pixel_grid((8, 8)), (8, 8), []) == []


def test_maps_of_another_grid():
    with pytest.raises(ValueError, match=r"must have shape \[8, 8\], got \[1, 8, 9\]"):
        peak_boxes(np.zeros((1, 8, 9), np.float32), pixel_grid((8, 8)), (8, 8), [(0, 0)])
