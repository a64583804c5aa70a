import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Transform
from PIL import Image

from medproto.data import read_image
from medproto.errors import ImageReadError
from medproto.records import ImageReference
from medproto.transforms import FitImage, LoadRadiograph

torch.set_num_threads(1)


def centroid(image):
    """Return the centre of mass of ``[1, *S]`` as a position: index i lies at i + 0.5."""
    weights = image[0].double()
    return tuple(
        float((weights.movedim(axis, 0).flatten(1).sum(1) * (torch.arange(n) + 0.5)).sum())
        / float(weights.sum())
        for axis, n in enumerate(weights.shape)
    )


SIDES = st.integers(20, 90)
MODES = st.sampled_from(["letterbox", "stretch"])


@settings(max_examples=80, deadline=None)
@given(data=st.data(), stored=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES), mode=MODES)
def test_a_bright_square_maps_back_to_its_place(data, stored, size, mode):
    # Away from the border, where the filter's tail would be cut off.
    start = [data.draw(st.integers(n // 4, n // 2)) for n in stored]
    stop = [a + data.draw(st.integers(2, max(2, n // 4 - 1))) for a, n in zip(start, stored)]
    image = torch.zeros(1, *stored)
    image[0, start[0] : stop[0], start[1] : stop[1]] = 1
    fitted = FitImage(size, mode)(image)
    found = fitted.meta["placement"].to_stored(centroid(fitted.as_tensor()))
    expected = [(a + b) / 2 for a, b in zip(start, stop)]
    assert found == pytest.approx(expected, abs=0.5)
    # Linear weights sum to the same on both sides: brightness times area is kept.
    area = float(fitted.as_tensor().sum()) / math.prod(fitted.meta["placement"].scale)
    assert area == pytest.approx(float(image.sum()), rel=0.15)


@settings(max_examples=15, deadline=None)
@given(
    stored=st.tuples(*[st.integers(16, 40)] * 3),
    size=st.tuples(*[st.integers(16, 40)] * 3),
    mode=MODES,
)
def test_a_bright_cube_maps_back_to_its_place(stored, size, mode):
    start = [n // 3 for n in stored]
    stop = [a + 4 for a in start]
    image = torch.zeros(1, *stored)
    image[(0, *(slice(a, b) for a, b in zip(start, stop)))] = 1
    fitted = FitImage(size, mode)(image)
    assert fitted.shape == (1, *size)
    found = fitted.meta["placement"].to_stored(centroid(fitted.as_tensor()))
    assert found == pytest.approx([a + 2 for a in start], abs=0.5)


def spaced(shape, spacing):
    """An image of the shape that was read from a file with this spacing."""
    reference = ImageReference("sha256:0", shape, "CT", 12, spacing_mm=spacing)
    return MetaTensor(torch.rand(1, *shape), meta={"reference": reference})


def test_resampled_by_hand():
    """Ten rows a millimetre apart and twenty columns two apart, to 2 mm: 5 x 20, of which 8 x 8."""
    image = spaced((10, 20), (1.0, 2.0))
    fitted = FitImage((8, 8), "spacing", spacing_mm=2.0)(image)
    placement = fitted.meta["placement"]
    assert placement.scale == (0.5, 1.0)
    assert placement.offset == (1.0, -6.0)
    rows = torch.nn.functional.interpolate(
        image.as_tensor()[None], size=(5, 20), mode="bilinear", antialias=True, align_corners=False
    )[0]
    torch.testing.assert_close(fitted.as_tensor()[:, 1:6], rows[:, :, 6:14])
    assert not fitted[:, 0].any()
    assert not fitted[:, 6:].any()


@settings(max_examples=60, deadline=None)
@given(
    stored=st.tuples(*[st.integers(16, 60)] * 3),
    spacing=st.tuples(*[st.floats(0.6, 3)] * 3),
    target=st.floats(0.8, 2.5),
)
def test_a_resampled_cube_maps_back_and_has_its_size(stored, spacing, target):
    """A cube of 12 mm in the middle: in millimetres it is as large behind, wherever it lies."""
    middle = [n / 2 * s for n, s in zip(stored, spacing)]
    axes = [(np.arange(n) + 0.5) * s - m for n, s, m in zip(stored, spacing, middle)]
    inside = np.ones(stored, bool)
    for axis, places in enumerate(axes):
        shape = [-1 if k == axis else 1 for k in range(3)]
        inside &= (np.abs(places) < 6).reshape(shape)
    image = spaced(stored, spacing)
    image[0] = torch.from_numpy(inside.astype(np.float32))
    fitted = FitImage((40, 40, 40), "spacing", spacing_mm=target)(image)
    if not inside.any():
        return
    found = fitted.meta["placement"].to_stored(centroid(fitted.as_tensor()))
    expected = [axis.mean() + 0.5 for axis in np.nonzero(inside)]
    assert found == pytest.approx(expected, abs=0.5)
    volume = float(fitted.as_tensor().sum()) * target**3
    assert volume == pytest.approx(inside.sum() * math.prod(spacing), rel=0.25)


def test_resampling_needs_a_spacing_of_the_file():
    with pytest.raises(ImageReadError, match="resampled to 2 mm must say how far its pixels lie"):
        FitImage((8, 8), "spacing", spacing_mm=2.0)(torch.rand(1, 9, 9))


def test_resampling_to_far_too_many_pixels_is_refused():
    fit = FitImage((8, 8, 8), "spacing", spacing_mm=0.001)
    with pytest.raises(ImageReadError, match="take a larger spacing"):
        fit.placement((100, 100, 100), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("mode", "spacing"), [("spacing", None), ("letterbox", 1.0), ("spacing", 0.0)]
)
def test_a_spacing_goes_with_its_mode(mode, spacing):
    with pytest.raises(ValueError, match="spacing_mm must be above 0 with mode 'spacing'"):
        FitImage((8, 8), mode, spacing_mm=spacing)


@given(stored=st.tuples(*[st.integers(1, 3000)] * 2), size=st.tuples(*[st.integers(1, 300)] * 2))
def test_letterbox_has_whole_sizes_inside_and_touches_one_side(stored, size):
    placement = FitImage(size).placement(stored)
    inner = [n * s for n, s in zip(stored, placement.scale)]
    for length, offset, side in zip(inner, placement.offset, size):
        assert length == pytest.approx(round(length), abs=1e-9)
        assert round(length) >= 1
        assert offset == int(offset)
        assert 0 <= offset <= side - round(length) - offset <= offset + 1
    assert any(round(length) == side for length, side in zip(inner, size))
    factor = min(t / s for t, s in zip(size, stored))
    for length, n in zip(inner, stored):
        assert abs(length - n * factor) <= 0.5 or round(length) == 1
    assert placement.to_stored(placement.offset) == pytest.approx((0, 0), abs=1e-9)


def test_letterbox_of_a_tall_image_by_hand():
    fitted = FitImage((64, 64))(torch.ones(1, 100, 50))
    placement = fitted.meta["placement"]
    assert placement.scale == (0.64, 0.64)
    assert placement.offset == (0.0, 16.0)
    plain = fitted.as_tensor()
    torch.testing.assert_close(plain[0, :, 16:48], torch.ones(64, 32))
    assert (plain[0, :, :16] == 0).all()
    assert (plain[0, :, 48:] == 0).all()
    assert placement.to_network((100.0, 50.0)) == (64.0, 48.0)


def test_the_scale_is_that_of_the_whole_size_on_each_axis():
    # 10 x 7 into 8 x 8: 0.8 * 7 = 5.6 becomes 6 columns, so columns are scaled by 6/7.
    placement = FitImage((8, 8)).placement((10, 7))
    assert placement.scale == (0.8, 6 / 7)
    assert placement.offset == (0.0, 1.0)


def test_halving_averages_with_the_triangle_filter():
    """Antialiased linear, factor 2: weights 1, 3, 3, 1 over 8; at a border what is left of them."""
    line = torch.tensor([0.0, 8.0, 16.0, 0.0, 0.0, 0.0, 8.0, 8.0])
    fitted = FitImage((4, 1), "stretch")(line[None, :, None]).as_tensor()[0, :, 0]
    expected = [
        (3 * 0 + 3 * 8 + 1 * 16) / 7,
        (1 * 8 + 3 * 16 + 3 * 0 + 1 * 0) / 8,
        (0 + 0 + 0 + 1 * 8) / 8,
        (1 * 0 + 3 * 8 + 3 * 8) / 7,
    ]
    torch.testing.assert_close(fitted, torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.bfloat16])
def test_an_image_of_the_right_size_is_a_float_copy(dtype):
    image = torch.arange(12).reshape(1, 3, 4).to(dtype)
    before = image.clone()
    fitted = FitImage((3, 4))(image)
    assert fitted.dtype == torch.float32
    torch.testing.assert_close(fitted.as_tensor(), before.float())
    fitted.as_tensor()[0, 0, 0] = 99
    assert torch.equal(image, before)


def test_metadata_is_kept_and_the_affine_tells_the_placement():
    image = MetaTensor(torch.rand(1, 30, 20), meta={"reference": "kept"})
    fitted = FitImage((12, 12))(image)
    assert fitted.meta["reference"] == "kept"
    placement = fitted.meta["placement"]
    index = fitted.affine @ torch.tensor([3.0, 5.0, 0.0, 1.0], dtype=torch.float64)
    expected = [p - 0.5 for p in placement.to_stored((3.5, 5.5))]
    assert index[:2].tolist() == pytest.approx(expected)
    twice = FitImage((24, 24), "stretch")(fitted)
    index = twice.affine @ torch.tensor([7.0, 11.0, 0.0, 1.0], dtype=torch.float64)
    expected = [p - 0.5 for p in placement.to_stored((7.5 / 2, 11.5 / 2))]
    assert index[:2].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (((8,),), r"2 or 3 sides of at least 1, got \[8\]"),
        (((8, 0),), r"2 or 3 sides of at least 1, got \[8, 0\]"),
        (((8, 8), "crop"), "mode must be one of .*, got 'crop'"),
    ],
)
def test_wrong_arguments(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        FitImage(*arguments)


def test_wrong_number_of_axes():
    with pytest.raises(ValueError, match=r"with 2 spatial axes, got \[1, 4, 4, 4\]"):
        FitImage((8, 8))(torch.rand(1, 4, 4, 4))


def test_load_gives_the_readers_pixels_and_reference(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12)).save(path)
    image = LoadRadiograph()(str(path))
    expected = read_image(path)
    assert isinstance(image, MetaTensor)
    assert image.shape == (1, 8, 12)
    np.testing.assert_array_equal(image.numpy()[0], expected.pixels)
    assert image.meta["reference"] == expected.reference
    assert str(tmp_path) not in repr(image.meta)


def test_load_refuses_bad_files_and_policies(tmp_path):
    with pytest.raises(ImageReadError, match="does not exist"):
        LoadRadiograph()(tmp_path / "none.png")
    with pytest.raises(ValueError, match="voi must be one of"):
        LoadRadiograph("auto")


@pytest.mark.parametrize("transform", [LoadRadiograph(), FitImage((8, 8))])
def test_monai_contract(transform):
    assert isinstance(transform, Transform)
    assert type(transform).__doc__


def weights_by_definition(stored, size):
    """Triangle of half-width max(1, stored / size) around each new centre, as a matrix."""
    step = stored / size
    rows = [
        [max(0.0, 1 - abs(j + 0.5 - (i + 0.5) * step) / max(step, 1.0)) for j in range(stored)]
        for i in range(size)
    ]
    matrix = torch.tensor(rows, dtype=torch.float64)
    return matrix / matrix.sum(1, keepdim=True)


@settings(max_examples=40, deadline=None)
@given(
    stored=st.tuples(*[st.integers(1, 12)] * 3),
    size=st.tuples(*[st.integers(1, 12)] * 3),
    axes=st.sampled_from([2, 3]),
)
def test_resizing_equals_the_definition_down_to_a_single_column(stored, size, axes):
    stored, size = stored[:axes], size[:axes]
    expected = image = torch.rand(2, *stored, generator=torch.Generator().manual_seed(0))
    expected = expected.double()
    for axis, (n, m) in enumerate(zip(stored, size), start=1):
        matrix = weights_by_definition(n, m)
        expected = torch.tensordot(matrix, expected, ([1], [axis])).movedim(0, axis)
    fitted = FitImage(size, "stretch")(image).as_tensor()
    torch.testing.assert_close(fitted.double(), expected, atol=1e-5, rtol=0)


def test_a_very_long_image_keeps_its_rows():
    image = torch.zeros(1, 3000, 10)
    image[:, 1500:] = 1
    fitted = FitImage((224, 224))(image).as_tensor()
    column = fitted[0].sum(1)
    assert column[0].item() == 0
    assert column[-1].item() == pytest.approx(1, abs=1e-5)
