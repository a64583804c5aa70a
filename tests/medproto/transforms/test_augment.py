import math

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable

from medproto.transforms import (
    Augmentation,
    RandRadiograph,
    RandRadiographd,
    apply_augmentations,
    apply_augmentations_to_masks,
    augmentation,
)

torch.set_num_threads(1)


def dot(shape, *index):
    image = torch.zeros(1, *shape)
    image[(0, *index)] = 1
    return image


def brightest(image):
    flat = int(image[0].argmax())
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), image.shape[1:]))


@pytest.mark.parametrize("shape", [(21, 21), (21, 41), (9, 11, 13)])
def test_nothing_drawn_changes_nothing(shape):
    image = torch.rand(1, *shape)
    same = Augmentation(0.0, 1.0, (0.0,) * len(shape), 1.0).apply(image)
    torch.testing.assert_close(same, image, atol=1e-5, rtol=0)


def test_a_shift_moves_by_its_share_of_the_side():
    moved = Augmentation(0.0, 1.0, (0.1, -0.2), 1.0).apply(dot((20, 30), 10, 15))
    assert brightest(moved) == (12, 9)
    moved = Augmentation(0.0, 1.0, (0.1, -0.2, 0.5), 1.0).apply(dot((20, 30, 8), 10, 15, 2))
    assert brightest(moved) == (12, 9, 6)


def test_a_quarter_turn_in_pixels_even_on_a_long_image():
    # Centre (10, 20); four rows below it becomes four columns to its right, or the reverse.
    image = dot((21, 41), 14, 20)
    turned = Augmentation(math.pi / 2, 1.0, (0.0, 0.0), 1.0).apply(image)
    assert brightest(turned) == (10, 24)
    volume = image[..., None].repeat(1, 1, 1, 3)
    turned = Augmentation(math.pi / 2, 1.0, (0.0, 0.0, 0.0), 1.0).apply(volume)
    assert brightest(turned)[:2] == (10, 24)


def test_a_scale_above_one_enlarges_about_the_centre():
    enlarged = Augmentation(0.0, 2.0, (0.0, 0.0), 1.0).apply(dot((21, 41), 12, 26))
    assert brightest(enlarged) == (14, 32)


def test_turn_and_shift_together_turn_first():
    both = Augmentation(math.pi / 2, 1.0, (2 / 21, 0.0), 1.0).apply(dot((21, 41), 14, 20))
    assert brightest(both) == (12, 24)


def test_gamma_is_an_exponent_and_the_outside_stays_black():
    image = torch.full((1, 16, 16), 0.25)
    changed = Augmentation(0.0, 1.0, (0.5, 0.0), 2.0).apply(image)
    assert changed[0, -1, 8].item() == pytest.approx(0.0625, abs=1e-6)
    assert changed[0, 0, 8].item() == 0


def test_what_was_drawn_replays_and_survives_json():
    transform = RandRadiograph()
    transform.set_random_state(5)
    image = torch.rand(1, 16, 20)
    before = image.clone()
    out = transform(image)
    assert torch.equal(image, before)
    assert out.dtype == torch.float32
    assert torch.equal(transform(image, randomize=False), out)
    again = Augmentation(**transform.drawn.to_dict())
    assert torch.equal(again.apply(image), out)
    assert not torch.equal(transform(image), out)


def test_the_trace_replays_from_the_dictionary():
    image = torch.rand(1, 16, 20)
    data = {"image": image, "label": 3}
    out = augmentation(seed=7)(data)
    assert set(data) == {"image", "label"}
    (step,) = out["image_augmentation"]
    assert torch.equal(Augmentation(**step).apply(image), out["image"])
    assert out["label"] == 3


def test_all_keys_move_together():
    transform = RandRadiographd(("image", "mask"), contrast=0.0)
    transform.set_random_state(1)
    image = torch.rand(1, 16, 16)
    out = transform({"image": image, "mask": image.clone()})
    assert torch.equal(out["image"], out["mask"])


def test_a_marked_pixel_and_its_mask_move_together():
    transform = RandRadiographd("image", mask_keys=("mask",))
    transform.set_random_state(3)
    places = set()
    for _ in range(60):
        image = dot((24, 32), 9, 21)
        out = transform({"image": image, "mask": image.bool()})
        assert out["mask"].dtype == torch.bool
        assert out["mask"].shape == (1, 24, 32)
        place = brightest(out["image"])
        assert out["mask"][(0, *place)]
        assert out["mask"].sum() <= 4
        (step,) = out["image_augmentation"]
        assert torch.equal(Augmentation(**step).apply_mask(image.bool()), out["mask"])
        places.add(place)
    assert len(places) > 10


def test_a_region_is_cut_where_half_of_a_pixel_is_inside():
    region = torch.zeros(1, 20, 20, dtype=torch.bool)
    region[0, 5:12, 6:15] = True
    drawn = Augmentation(0.1, 1.08, (0.03, -0.04), 1.2)
    shares = Augmentation(0.1, 1.08, (0.03, -0.04), 1.0).apply(region.float())
    assert torch.equal(drawn.apply_mask(region), shares > 0.5)


def test_an_empty_mask_stays_empty_and_a_region_can_leave_the_image():
    away = Augmentation(0.0, 1.0, (0.5, 0.0), 1.0)
    assert not away.apply_mask(torch.zeros(1, 8, 8, dtype=torch.bool)).any()
    assert not away.apply_mask(dot((8, 8), 6, 3).bool()).any()
    assert away.apply_mask(dot((8, 8), 2, 3).bool()).nonzero().tolist() == [[0, 6, 3]]


def test_masks_take_no_random_numbers():
    image, mask = torch.rand(1, 16, 16), dot((16, 16), 3, 3).bool()
    alone, together = augmentation(seed=5), augmentation(seed=5, mask_keys=("mask",))
    for _ in range(3):
        expected = alone({"image": image})
        out = together({"image": image, "mask": mask})
        assert torch.equal(out["image"], expected["image"])
        assert set(out) == {*expected, "mask"}


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 8, 8, 8)])
def test_the_seed_decides(shape):
    image = MetaTensor(torch.rand(shape))
    one, other = augmentation(seed=3), augmentation(seed=3)
    first = [one({"image": image})["image"] for _ in range(3)]
    assert all(torch.equal(a, other({"image": image})["image"]) for a in first)
    assert not torch.equal(first[0], first[1])
    one.set_random_state(3)
    assert torch.equal(one({"image": image})["image"], first[0])
    assert not torch.equal(augmentation(seed=4)({"image": image})["image"], first[0])


def test_draws_stay_within_their_ranges_and_never_flip():
    transform = RandRadiograph()
    transform.set_random_state(0)
    drawn = [transform.draw(2) for _ in range(500)]
    assert all(abs(d.rotation) <= math.radians(8) for d in drawn)
    assert all(0.9 <= d.scale <= 1.1 for d in drawn)
    assert all(abs(s) <= 0.05 for d in drawn for s in d.shift)
    assert all(math.exp(-0.2) <= d.gamma <= math.exp(0.2) for d in drawn)


def test_wrong_use():
    with pytest.raises(ValueError, match=r">= 0 and scale < 1"):
        RandRadiograph(scale=1.0)
    with pytest.raises(ValueError, match="needs an earlier call"):
        RandRadiograph()(torch.rand(1, 8, 8), randomize=False)
    with pytest.raises(ValueError, match=r"must have 2 spatial axes, got \[8, 8\]"):
        Augmentation(0.0, 1.0, (0.0, 0.0), 1.0).apply(torch.rand(8, 8))


def test_monai_contract():
    assert isinstance(RandRadiograph(), Randomizable)
    assert isinstance(RandRadiographd("image"), MapTransform)
    assert isinstance(RandRadiographd("image"), Randomizable)


@pytest.mark.parametrize("shape", [(1, 16, 20), (2, 6, 8, 10)])
def test_a_batch_is_changed_as_its_images_one_by_one(shape):
    random = RandRadiograph()
    random.set_random_state(2)
    images = torch.rand(5, *shape)
    masks = images > 0.7
    drawn = [random.draw(len(shape) - 1) for _ in images]
    changed = apply_augmentations(images, drawn)
    moved = apply_augmentations_to_masks(masks, drawn)
    assert moved.dtype == torch.bool
    for i, change in enumerate(drawn):
        assert torch.equal(changed[i], change.apply(images[i]))
        assert torch.equal(moved[i], change.apply_mask(masks[i]))


def test_a_change_for_each_image_of_its_axes():
    change = Augmentation(0.0, 1.0, (0.0, 0.0), 1.0)
    with pytest.raises(ValueError, match="each of 3 images needs one change, got 2"):
        apply_augmentations(torch.rand(3, 1, 8, 8), [change] * 2)
    with pytest.raises(ValueError, match=r"image must have 2 spatial axes, got \[1, 8, 8, 8\]"):
        change.apply(torch.rand(1, 8, 8, 8))
    with pytest.raises(ValueError, match="image must have 2 spatial axes"):
        change.apply_mask(torch.zeros(1, 8, 8, 8, dtype=torch.bool))
