"""Planes of volumes, against the same volume stored in every other way, and against drawn masks."""

import base64
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medproto.explain import CellMap
from medproto.records import CellGrid, ImageReference, PixelBox, Placement
from pipelines.views import PlaneView, picture_of, view_of

SHAPE = (6, 8, 5)
SPACING = (1.0, 1.0, 2.0)
# Back, left, head: what the axes of a canonical volume run toward, in DICOM's patient axes.
CANONICAL = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=float)
WAYS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3))
)


def reference(shape=SHAPE, spacing=SPACING, affine=CANONICAL):
    columns = np.asarray(affine) * np.asarray(spacing)
    return ImageReference(
        pixel_digest="sha256:" + "0" * 64,
        shape=tuple(shape),
        modality="CT",
        bits_stored=12,
        spacing_mm=tuple(spacing),
        spacing_kind="affine",
        affine=tuple((*map(float, row), 0.0) for row in columns),
    )


def stored_as(axes, reverse):
    """Return a function that stores a canonical volume so, and the reference of the result."""

    def store(volume):
        turned = volume.transpose(axes)
        return turned[tuple(slice(None, None, -1 if back else 1) for back in reverse)]

    signs = np.where(reverse, -1.0, 1.0)
    of_file = reference(
        [SHAPE[a] for a in axes], [SPACING[a] for a in axes], CANONICAL[:, list(axes)] * signs
    )
    return store, of_file


def plain(view):
    return replace(view, letters=False)


def numbered():
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + 1


def mask_of(box, shape=SHAPE):
    mask = np.zeros(shape, np.float32)
    mask[tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))] = 1
    return mask


def drawn_mask(view, box, shape):
    out = np.zeros(shape, np.float32)
    for part in view.boxes(box):
        out[tuple(slice(a, b) for a, b in zip(part.start, part.stop, strict=True))] = 1
    return out


def test_a_plane_is_shown_as_it_is():
    view = view_of(reference((6, 8), (1.0, 1.0), CANONICAL[:2, :2]))
    pixels = np.random.default_rng(0).random((6, 8), np.float32)
    box = PixelBox((1, 2), (4, 7))
    assert isinstance(view, PlaneView)
    assert view.image(pixels) is pixels
    assert view.boxes(box) == [box]
    np.testing.assert_array_equal(view.patch(pixels, box), pixels[1:4, 2:7])


def test_three_planes_stand_where_they_belong():
    """Six rows to the back, eight columns to the left, five slices of two rows each, a gap of 2."""
    volume = numbered()
    whole = plain(view_of(reference(), (2.5, 3.5, 1.5))).image(volume)
    assert whole.shape == (6 + 2 + 10, 8 + 2 + 6)
    np.testing.assert_array_equal(whole[:6, :8], volume[:, :, 1])
    coronal = volume[2].T[::-1]  # the head above
    np.testing.assert_array_equal(whole[8:, :8], coronal.repeat(2, axis=0))
    sagittal = volume[:, 3].T[::-1]
    np.testing.assert_array_equal(whole[8:, 10:], sagittal.repeat(2, axis=0))
    assert not whole[:6, 8:].any()
    assert not whole[6:8].any()


@pytest.mark.parametrize(("axes", "reverse"), WAYS)
def test_the_way_it_is_stored_makes_no_difference(axes, reverse):
    store, of_file = stored_as(axes, reverse)
    place, box = (4.5, 1.5, 3.5), PixelBox((2, 1, 3), (6, 4, 5))
    marked = np.argwhere(store(mask_of(box)))
    own_box = PixelBox(tuple(marked.min(axis=0).tolist()), tuple((marked.max(axis=0) + 1).tolist()))
    spot = np.zeros(SHAPE)
    spot[4, 1, 3] = 1
    own_place = tuple((np.argwhere(store(spot))[0] + 0.5).tolist())
    expected, found = plain(view_of(reference(), place)), plain(view_of(of_file, own_place))
    np.testing.assert_array_equal(found.image(store(numbered())), expected.image(numbered()))
    assert found.boxes(own_box) == expected.boxes(box)
    patches = found.patch(store(numbered()), own_box), expected.patch(numbered(), box)
    np.testing.assert_array_equal(*patches)


def test_boxes_lie_where_a_drawn_mask_does():
    view = plain(view_of(reference(), (4.5, 1.5, 3.5)))
    for start in itertools.product(range(5), range(7), range(4)):
        for sides in ((1, 1, 1), (2, 1, 3), (6, 8, 5)):
            stop = tuple(min(a + n, side) for a, n, side in zip(start, sides, SHAPE, strict=True))
            box = PixelBox(start, stop)
            shown = view.image(mask_of(box))
            np.testing.assert_array_equal(drawn_mask(view, box, shown.shape), shown)


@pytest.mark.parametrize(("axes", "reverse"), WAYS[::5])
def test_a_map_of_cells_is_drawn_as_the_whole_map_would_be(axes, reverse):
    _, of_file = stored_as(axes, reverse)
    values = np.random.default_rng(1).random((2, 3, 2), np.float32)
    grid = CellGrid((2, 3, 2), (3.0, 2.0, 4.0), (6.0, 5.0, 7.0), (9.0, 9.0, 9.0))
    placement = Placement(of_file.shape, (12, 14, 16), (1.5, 1.2, 2.0), (1.0, 0.0, 2.0), (1, 0, 2))
    cells = CellMap(values, grid, placement)
    view = plain(view_of(of_file, tuple(side / 3 for side in of_file.shape)))
    planes = view.image(np.ones(of_file.shape)) > 0
    expected = view.image(cells.drawn())
    np.testing.assert_allclose(view.heat(cells)[planes], expected[planes], rtol=1e-6)


@pytest.mark.parametrize("values", [(-5.0, -1.0), (3.0, 3.5)])
def test_what_lies_between_the_planes_does_not_change_the_range_of_a_map(values):
    grid = CellGrid((2, 2, 2), (1.5, 2.0, 1.0), (3.0, 4.0, 3.0), (9.0, 9.0, 9.0))
    cells = np.full((2, 2, 2), values[0], np.float32)
    cells[1] = values[1]
    drawn = view_of(reference()).heat(CellMap(cells, grid, Placement.identity(SHAPE)))
    assert drawn.min() == pytest.approx(values[0])
    assert drawn.max() == pytest.approx(values[1])
    assert (drawn[:6, 8:] == drawn.min()).all()


def test_letters_are_drawn_and_planes_stay_in_the_volume():
    volume = np.zeros(SHAPE, np.float32)
    view = view_of(reference(), (99.0, -5.0, 2.0))
    assert plain(view).image(numbered())[:6, :8].max() == numbered()[:, :, 2].max()
    assert view.image(volume).max() > 0.5
    assert plain(view).image(volume).max() == 0


def test_a_volume_without_a_place_in_the_patient_is_refused():
    with pytest.raises(ValueError, match="a volume must have an affine"):
        view_of(replace(reference(), affine=None))


def test_pictures_of_volumes_are_larger():
    volume, box = numbered() / 240, PixelBox((2, 1, 3), (6, 4, 5))
    sizes = []
    for view, pixels, boxes in (
        (view_of(reference(), box.center), volume, [(box, "#4cc3ff")]),
        (PlaneView(), volume[..., 0], []),
    ):
        uri = picture_of(view, pixels, boxes=boxes, side=100)
        with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
            sizes.append(max(picture.size))
    assert sizes == [160, 100]
