"""Batches of a training: their order, their random changes, and on what both depend."""

import pytest
import torch

from medproto.transforms import augmentation
from pipelines.datasets import ImageSet
from pipelines.loader import SeededSampler, loader, on_device

STEPS = {"spatial_size": (32, 32), "voi": "voi", "mode": "letterbox"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tiny_cohort):
    return ImageSet.load(tiny_cohort, range(17), ("normal", "blob"), STEPS)


def order(seed, epoch, length=40):
    sampler = SeededSampler(length, seed)
    sampler.epoch = epoch
    return list(sampler)


def test_the_shuffle_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = order(3, 5)
    torch.manual_seed(2)
    torch.rand(7)
    assert order(3, 5) == first
    assert order(3, 6) != first
    assert order(4, 5) != first
    assert sorted(first) == list(range(40))
    assert len(SeededSampler(40, 0)) == 40


def drawn(**changes):
    return list(SeededSampler(6, 1, **changes))


def test_repeats_shuffle_all_copies_together():
    order = drawn(repeats=3)
    assert sorted(order) == sorted(list(range(6)) * 3)
    assert any(sorted(order[i : i + 6]) != list(range(6)) for i in (0, 6, 12))
    assert drawn(repeats=1) == drawn()


@pytest.mark.parametrize("draws", [4, 6, 20])
def test_a_length_in_draws_cuts_one_shuffle_after_another(draws):
    order = drawn(draws=draws)
    assert len(order) == len(SeededSampler(6, 1, draws=draws)) == draws
    for start in range(0, draws, 6):
        part = order[start : start + 6]
        assert len(set(part)) == len(part)
    assert drawn(draws=20)[:6] == drawn()


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"repeats": 2}, [8, 8, 8, 8, 2]),
        ({"repeats": 3}, [8] * 6 + [3]),
        ({"steps": 1}, [8]),
        ({"steps": 4}, [8] * 4),
        ({"steps": 4, "repeats": 9}, [8] * 4),
    ],
)
def test_the_length_of_an_epoch_by_repeats_or_steps(images, options, sizes):
    batches, _, _ = loader(images, batch_size=8, augment=False, seed=0, **options)
    assert [len(b["label"]) for b in batches] == sizes
    assert len(batches) == len(sizes)


def test_each_repeat_of_an_image_is_changed_anew(images):
    batches, sampler, random_part = loader(images, batch_size=34, augment=True, seed=0, repeats=2)
    random_part.set_random_state(3)
    order, (batch,) = list(sampler), list(batches)
    first, second = (n for n, i in enumerate(order) if i == 4)
    pixels, _ = on_device(batch, CPU)
    assert not torch.equal(pixels[first], pixels[second])


def test_the_loader_shuffles_and_pairs_images_with_labels(images):
    batches, sampler, _ = loader(images, batch_size=6, augment=False, seed=0)
    sampler.epoch = 2
    expected = list(sampler)
    seen = list(batches)
    assert [tuple(b["image"].shape) for b in seen] == [(6, 1, 32, 32)] * 2 + [(5, 1, 32, 32)]
    pixels = torch.cat([b["image"] for b in seen])
    labels = torch.cat([b["label"] for b in seen])
    assert labels.tolist() == [images.labels[i] for i in expected]
    assert all(torch.equal(pixels[n], images.image(i)) for n, i in enumerate(expected))


def test_masks_travel_with_their_images_and_change_nothing_else(images):
    # A mask is where its image is bright, so each pair can be told by its own pixels.
    masks = torch.stack([images.image(i) > 0.6 for i in range(len(images))])
    seen = []
    for options in ({}, {"masks": masks}):
        batches, sampler, random_part = loader(
            images, batch_size=6, augment=True, seed=0, **options
        )
        sampler.epoch = 3
        random_part.set_random_state(4)
        seen.append((list(sampler), [on_device(batch, CPU) for batch in batches]))
    (order, without), (same, with_masks) = seen
    assert order == same
    assert all(len(batch) == 2 for batch in without)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(without, with_masks))
    moved = torch.cat([mask for _, _, mask in with_masks])
    assert moved.dtype == torch.bool
    assert moved.shape == (17, 32, 32)
    pixels = torch.cat([image for image, _, _ in with_masks])[:, 0]
    assert pixels[moved].mean() > pixels[~moved].mean() + 0.3
    assert moved.flatten(1).any(dim=1).tolist() == [bool(masks[i].any()) for i in order]


def test_a_batch_is_changed_image_by_image_as_the_dictionary_transform_does(images):
    batches, sampler, random_part = loader(images, batch_size=6, augment=True, seed=0)
    random_part.set_random_state(4)
    one_by_one = augmentation(seed=4)
    pixels = torch.cat([on_device(batch, CPU)[0] for batch in batches])
    for n, i in enumerate(sampler):
        assert torch.equal(pixels[n], one_by_one({"image": images.image(i)})["image"])


def test_without_augmentation_masks_lie_as_they_were_given(images):
    masks = torch.rand(len(images), 1, 32, 32) > 0.5
    batches, sampler, _ = loader(images, batch_size=17, augment=False, seed=0, masks=masks)
    (batch,) = batches
    assert torch.equal(on_device(batch, CPU)[2], masks[list(sampler), 0])


@pytest.mark.parametrize(("size", "batches"), [(8, 2), (16, 1), (17, 1), (100, 1)])
def test_a_last_batch_of_one_is_left_out(images, size, batches):
    found = [len(b["label"]) for b in loader(images, batch_size=size, augment=False, seed=0)[0]]
    assert len(found) == batches
    assert min(found) > 1


def test_augmentation_repeats_from_its_seed_and_leaves_the_cache_alone(images):
    kept = images.image(0).clone()

    def epoch(state):
        batches, sampler, random_part = loader(images, batch_size=17, augment=True, seed=0)
        sampler.epoch = 1
        random_part.set_random_state(state)
        return on_device(next(iter(batches)), CPU)[0]

    first = epoch(5)
    assert torch.equal(epoch(5), first)
    assert not torch.equal(epoch(6), first)
    assert torch.equal(images.image(0), kept)
