import numpy as np
import pytest

from medproto.metrics import (
    bootstrap,
    box_area_share,
    chance_by_area,
    constant_location,
    energy_inside,
    image_center,
    pointing_game,
)
from medproto.records import PixelBox


@pytest.fixture
def make_mask():
    def build(shape, start, stop):
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
        return mask

    return build


def test_pointing_game_by_pencil(make_mask):
    # Pixels 2 and 3 of each axis are marked: positions [2, 4) hit, 4.0 does not.
    mask = make_mask((10, 20), (2, 2), (4, 4))
    centers = [(2.0, 2.0), (3.99, 3.99), (4.0, 3.0), (1.99, 3.0), (-1.0, 3.0), (10.0, 3.0)]
    hits = pointing_game(centers, [mask] * len(centers))
    assert hits.tolist() == [1, 1, 0, 0, 0, 0]
    assert pointing_game([(0.3, 0.15)], [mask], relative=True).tolist() == [1]


def test_pointing_game_takes_one_position_for_masks_of_any_shape(make_mask):
    masks = [make_mask((4, 4), (2, 2), (3, 3)), make_mask((9, 5), (0, 0), (2, 2))]
    assert pointing_game(image_center(), masks, relative=True).tolist() == [1, 0]
    volume = make_mask((4, 4, 4), (1, 1, 1), (3, 3, 3))
    assert pointing_game(image_center(3), [volume], relative=True).tolist() == [1]


def test_hit_rate_has_an_interval_over_patients(make_mask):
    masks = [make_mask((4, 4), (0, 0), (2, 2))] * 4
    centers = [(1, 1), (1, 1), (1, 1), (3, 3)]
    result = bootstrap(pointing_game, centers, masks, groups=["a", "a", "b", "c"])
    assert (result.value, result.n, result.groups) == (0.75, 4, 3)
    assert result.low == 0.0
    assert result.high == 1.0


def test_constant_location_equals_the_search_by_pointing_game(make_mask):
    random = np.random.default_rng(0)
    masks = []
    for _ in range(15):
        shape = random.integers(20, 70, 2)
        start = (shape * random.uniform(0.2, 0.5, 2)).astype(int)
        masks.append(make_mask(shape, start, start + (shape * 0.3).astype(int)))
    grid = (np.arange(16) + 0.5) / 16
    best = max(pointing_game((a, b), masks, relative=True).mean() for a in grid for b in grid)
    position = constant_location(iter(masks), points=16)
    assert pointing_game(position, masks, relative=True).mean() == best > 0


def test_constant_location_is_the_middle_of_equally_good_ones(make_mask):
    position = constant_location([make_mask((64, 64), (10, 40), (21, 51))])
    assert position == pytest.approx((15.5 / 64, 45.5 / 64))


def test_constant_location_of_volumes(make_mask):
    position = constant_location([make_mask((8, 8, 8), (2, 4, 6), (3, 5, 7))], points=8)
    assert position == pytest.approx((2.5 / 8, 4.5 / 8, 6.5 / 8))


def test_chance_is_the_share_of_the_area(make_mask):
    masks = [make_mask((4, 5), (0, 0), (2, 5)), make_mask((10, 10), (0, 0), (1, 1))]
    assert chance_by_area(masks).tolist() == [0.5, 0.01]


def test_energy_inside_by_pencil(make_mask):
    mask = make_mask((2, 2), (0, 0), (1, 2))
    heat = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert energy_inside([heat, np.zeros((2, 2))], [mask, mask]).tolist() == [0.3, 0.0]


def test_box_area_share_by_pencil():
    assert box_area_share([PixelBox((1, 1), (3, 4))], [(6, 10)]).tolist() == [0.1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: pointing_game([(1, 1)], [m, m]), r"\[2, axes\] or \[axes\], got \[1, 2\]"),
        (lambda m: pointing_game([(1, np.nan)], [m]), "centers must be finite"),
        (lambda m: pointing_game([(1, 1, 1)], [m]), "must have 2 axes, got 3"),
        (lambda m: pointing_game([(1, 1)], [m & False]), r"none in shape \[4, 4\]. Leave out"),
        (lambda m: pointing_game([(1, 1)], [m * 1]), "a mask must be boolean, got int64"),
        (lambda m: chance_by_area([m & False]), "must mark at least one pixel"),
        (lambda m: energy_inside([m * 1.0], [m, m]), "as many as masks, got 1 for 2"),
        (lambda m: energy_inside([m[:2] * 1.0], [m]), r"its mask \[4, 4\], got \[2, 4\]"),
        (lambda m: energy_inside([m * -1.0], [m]), "finite and not negative"),
        (lambda m: box_area_share([PixelBox((0, 0), (5, 1))], [(4, 4)]), r"image \[4, 4\], got"),
        (lambda m: box_area_share([PixelBox((0, 0), (5, 1))], []), "as many as shapes"),
        (lambda m: constant_location([]), "at least one mask, got none"),
        (lambda m: constant_location([m, np.ones((2, 2, 2), bool)]), "all have 2 axes, got 3"),
    ],
)
def test_wrong_arguments_are_named(call, message, make_mask):
    with pytest.raises(ValueError, match=message):
        call(make_mask((4, 4), (0, 0), (2, 2)))
