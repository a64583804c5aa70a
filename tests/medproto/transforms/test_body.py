import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medproto.transforms import (
    BlackenOutside,
    BlackenOutsided,
    CropBody,
    CropBodyd,
    FitImage,
)
from medproto.transforms.body import body_mask


def breast():
    """Return a bright half disc at the left edge, a dark hole in it, and a letter far off."""
    rows, cols = np.mgrid[:200, :160]
    image = np.zeros((200, 160), np.float32)
    image[(rows - 100) ** 2 + cols**2 < 80**2] = 0.6
    image[90:110, 20:40] = 0.0
    image[10:22, 140:150] = 1.0
    return image


def test_the_region_is_the_largest_one_with_its_holes_filled():
    mask = body_mask(breast())
    rows, cols = np.mgrid[:200, :160]
    disc = (rows - 100) ** 2 + cols**2 < 80**2
    assert (mask != disc).mean() < 0.005  # its edge, by the opening
    assert mask[90:110, 20:40].all()
    assert not mask[:30, 130:].any()


def test_a_thin_bridge_does_not_join_what_lies_beside():
    image = breast()
    image[16, 50:145] = 1.0  # a ruler from the letter to the region
    assert not body_mask(image)[8:24, 130:].any()


def test_the_crop_is_the_box_of_the_region_and_its_margin():
    image = MetaTensor(torch.from_numpy(breast())[None])
    cropped = CropBody(margin=0.1)(image)
    # The disc spans rows 21..179 and columns 0..79; a tenth of 159 is 16, of 80 it is 8.
    assert cropped.shape == (1, 191, 88)
    placement = cropped.meta["placement"]
    assert placement.to_stored((0, 0)) == (5, 0)
    torch.testing.assert_close(cropped.as_tensor()[0], image.as_tensor()[0, 5:196, :88])
    fitted = FitImage((64, 64))(cropped).meta["placement"]
    position = (100.5, 40.5)
    assert fitted.to_stored(fitted.to_network(position)) == pytest.approx(position)
    assert fitted.stored_shape == (200, 160)


@pytest.mark.parametrize("image", [np.zeros((40, 30)), np.eye(60), np.pad([[1.0]], 30)])
def test_where_there_is_no_such_region_nothing_happens(image):
    image = MetaTensor(torch.from_numpy(image.astype(np.float32))[None])
    assert body_mask(image.as_tensor()[0].numpy()) is None
    assert CropBody()(image).shape == image.shape
    torch.testing.assert_close(BlackenOutside()(image), image)


def test_everything_else_becomes_black_and_the_patient_stays():
    image = MetaTensor(torch.from_numpy(breast())[None], meta={"reference": "kept"})
    black = BlackenOutside()(image)
    assert black.meta["reference"] == "kept"
    assert not black[0, :30, 130:].any()
    assert image[0, :30, 130:].any()
    torch.testing.assert_close(black.as_tensor()[0, 90:110, :60], image.as_tensor()[0, 90:110, :60])


def test_a_volume_is_cropped_along_three_axes():
    volume = np.zeros((40, 30, 20), np.float32)
    volume[10:30, 8:20, 5:15] = 0.5
    cropped = CropBody(margin=0)(MetaTensor(torch.from_numpy(volume)[None]))
    assert cropped.shape == (1, 20, 12, 10)
    assert cropped.meta["placement"].to_stored((0, 0, 0)) == (10, 8, 5)


@pytest.mark.parametrize("slices", [1, 2, 9, 40])
def test_a_few_slices_are_cropped_as_many_are(slices):
    volume = np.zeros((240, 200, slices), np.float32)
    volume[60:180, 50:150] = 0.5
    volume[200:202, 20:180] = 0.9  # a ruler
    window = CropBody(margin=0).window(torch.from_numpy(volume)[None])
    assert (window.start, window.stop) == ((60, 50, 0), (180, 150, slices))


def test_dictionary_forms_equal_the_array_forms():
    image = MetaTensor(torch.from_numpy(breast())[None])
    for form, array in ((CropBodyd, CropBody), (BlackenOutsided, BlackenOutside)):
        found = form("image")({"image": image, "label": 1})
        torch.testing.assert_close(found["image"], array()(image))
        assert form("other", allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(ValueError, match=r"margin must lie in \[0, 1\], got -1"):
        CropBody(-1)
