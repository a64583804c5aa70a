"""The crop to the lungs: it holds all of them, and leaves alone what has none."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medproto.data.phantom import draw_phantom
from medproto.data.phantom_anatomy import Anatomy
from medproto.data.phantom_volume import draw_volume
from medproto.records import ImageReference
from medproto.transforms import CropLungs, CropLungsd
from medproto.transforms.lungs import lung_mask


def film(seed, shown="nodule"):
    rng = np.random.default_rng(seed)
    image = draw_phantom(Anatomy.draw(rng), shown, size=256, seed=[seed, 0])
    return image, torch.from_numpy(image.pixels.astype(np.float32) / 4095)[None]


def holds(window, positions):
    low, high = np.min(positions, axis=0), np.max(positions, axis=0)
    return bool((low >= window.start).all() and (high < window.stop).all())


def discs(*centers, size=64, radius=9):
    """A bright body with dark discs."""
    rows, cols = np.mgrid[:size, :size]
    image = np.zeros((size, size), np.float32)
    image[4:-4, 4:-4] = 0.8
    for row, col in centers:
        image[(rows - row) ** 2 + (cols - col) ** 2 < radius**2] = 0.2
    return image


@pytest.mark.parametrize("seed", range(12))
def test_the_crop_of_a_radiograph_holds_lungs_and_findings(seed):
    image, tensor = film(seed)
    window = CropLungs().window(tensor)
    corners = [place for name, place in image.points.items() if "apex" in name or "angle" in name]
    assert holds(window, corners)
    assert holds(window, np.argwhere(image.mask))
    assert window.size < 0.9 * tensor.numel()


@pytest.mark.parametrize("seed", range(3))
def test_the_crop_of_a_volume_holds_lungs_and_masses(seed):
    chest = draw_volume("mass", seed=[seed, 5])
    pixels = np.clip((chest.values + 1000) / 1300, 0, 1).astype(np.float32)
    window = CropLungs().window(torch.from_numpy(pixels)[None])
    assert holds(window, np.argwhere(chest.mask))
    assert window.size < 0.5 * pixels.size


def test_two_lungs_by_hand():
    mask = lung_mask(discs((30, 20), (30, 44)))
    assert mask[30, 20]
    assert mask[30, 44]
    assert not mask[30, 32]
    window = CropLungs(margin=0.0).window(torch.from_numpy(discs((30, 20), (30, 44)))[None])
    assert window.start == pytest.approx((22, 12), abs=1)
    assert window.stop == pytest.approx((39, 53), abs=1)


def test_a_bright_finding_inside_a_lung_belongs_to_it():
    image = discs((30, 20), (30, 44))
    image[28:32, 18:22] = 0.9
    assert lung_mask(image)[30, 20]


def test_a_small_dark_spot_is_no_second_lung():
    image = discs((30, 20))
    image[50:54, 50:54] = 0.2
    mask = lung_mask(image)
    assert mask[30, 20]
    assert not mask[52, 52]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.float32),
        np.full((64, 64), 0.7, np.float32),
        discs((30, 30), radius=3),
        np.random.default_rng(0).random((64, 64), np.float32) * 0.04,
    ],
    ids=["black", "even", "a small spot", "noise in black"],
)
def test_what_has_no_lungs_stays_whole(image):
    assert lung_mask(image) is None
    assert CropLungs().window(torch.from_numpy(image)[None]).stop == (64, 64)


def test_the_placement_leads_back():
    pixels = torch.from_numpy(discs((30, 20), (30, 44)))[None]
    reference = ImageReference("sha256:0", (64, 64), "DX", 12)
    cropped = CropLungsd("image")({"image": MetaTensor(pixels, meta={"reference": reference})})
    placement = cropped["image"].meta["placement"]
    row, col = (int(v) for v in placement.to_network((30.5, 20.5)))
    assert cropped["image"][0, row, col] == pixels[0, 30, 20]
    assert tuple(cropped["image"].shape[1:]) == placement.network_shape
