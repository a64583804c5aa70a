import base64
import io

import numpy as np
import pytest
from PIL import Image

from medproto.records import PixelBox
from pipelines.raster import (
    FOR,
    array_to_png,
    color_map,
    cut,
    data_uri,
    overlay,
    picture_uri,
    read_gray,
    unit_range,
)


def pixels_of(uri):
    png = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)))


def test_png_holds_the_pixels_rounded_to_eight_bits():
    image = np.array([[0.0, 0.5], [1.0, 2.0]])
    expected = [[0, 128], [255, 255]]  # 0.5 * 255 = 127.5, to the even neighbour; 2 is clipped
    assert pixels_of(data_uri(array_to_png(image))).tolist() == expected


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4)])
def test_png_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\[rows, cols, 3\], got \[4"):
        array_to_png(np.zeros(shape))


def test_a_box_is_drawn_on_its_border_and_not_inside():
    uri = picture_uri(np.zeros((20, 20)), boxes=[(PixelBox((5, 4), (15, 16)), FOR)], side=40)
    found = pixels_of(uri)  # twice as large: rows 10 to 30, columns 8 to 32
    blue = tuple(int(FOR[i : i + 2], 16) for i in (1, 3, 5))
    lit = np.argwhere((found == blue).all(axis=2))
    assert lit.min(axis=0).tolist() == [10, 8]
    assert lit.max(axis=0).tolist() == [29, 31]
    assert not found[14:26, 12:28].any()
    assert not found[:10].any()


def test_a_large_image_is_averaged_down():
    image = np.zeros((64, 32))
    image[:, ::2] = 1
    found = pixels_of(picture_uri(image, side=32))
    assert found.shape == (32, 16, 3)
    assert set(np.unique(found)) <= {127, 128}


def test_overlay_leaves_cold_places_and_colors_hot_ones():
    image, heat = np.full((2, 2), 0.5), np.array([[0.0, 1.0], [2.0, 4.0]])
    found = overlay(image, heat, opacity=0.5)
    assert found[0, 0].tolist() == [0.5, 0.5, 0.5]
    np.testing.assert_allclose(found[1, 1], 0.25 + 0.5 * color_map(np.array(1.0)))


def test_overlay_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \[2, 2\], got \[2, 3\]"):
        overlay(np.zeros((2, 2)), np.zeros((2, 3)))


def test_a_constant_map_marks_no_place():
    assert unit_range(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]
    assert unit_range(np.array([1.0, 2.0, 3.0])).tolist() == [0, 0.5, 1]


def test_cut_takes_rows_and_columns_of_the_box():
    image = np.arange(12.0).reshape(3, 4)
    assert cut(image, PixelBox((1, 2), (3, 4))).tolist() == [[6, 7], [10, 11]]


def test_gray_files_come_back_in_unit_range(tmp_path):
    path = tmp_path / "gray.png"
    path.write_bytes(array_to_png(np.array([[0, 51], [255, 102]], dtype=np.uint8)))
    np.testing.assert_allclose(read_gray(path), [[0, 0.2], [1, 0.4]], rtol=1e-6)
