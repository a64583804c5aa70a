"""From a cohort to batches: what is cached, what is random, and on what it depends."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medproto.data import Cohort
from medproto.errors import ImageReadError
from pipelines.datasets import ImageSet, SeededSampler, loader

STEPS = {"spatial_size": (32, 32), "voi": "voi", "mode": "letterbox"}
CLASSES = ("normal", "blob")


@pytest.fixture(scope="module")
def images(tiny_cohort):
    return ImageSet.load(tiny_cohort, range(17), CLASSES, STEPS)


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
    assert not torch.equal(batch["image"][first], batch["image"][second])


def test_a_set_knows_its_rows_labels_and_groups(images, tiny_cohort):
    table = tiny_cohort.table
    assert len(images) == 17
    assert images.rows == tuple(range(17))
    assert [CLASSES[k] for k in images.labels] == table["label"].tolist()[:17]
    assert list(images.groups) == table["patient_id"].tolist()[:17]
    assert images.image(3).shape == (1, 32, 32)
    assert type(images.image(3)) is torch.Tensor
    assert images.placement(3).stored_shape == (64, 64)
    assert images.placement(3).scale == (0.5, 0.5)
    assert images.reference(3).modality == "PNG"


def test_batches_come_in_order_and_whole(images):
    batches = list(images.batches(8))
    assert [tuple(pixels.shape) for pixels, *_ in batches] == [
        (8, 1, 32, 32),
        (8, 1, 32, 32),
        (1, 1, 32, 32),
    ]
    assert [p for _, _, positions, _ in batches for p in positions] == list(range(17))
    assert [k for _, labels, _, _ in batches for k in labels] == list(images.labels)
    assert [g for *_, groups in batches for g in groups] == list(images.groups)
    assert torch.equal(batches[1][0][2], images.image(10))


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
    masks = [images.image(i) > 0.6 for i in range(len(images))]
    seen = []
    for options in ({}, {"masks": masks}):
        batches, sampler, random_part = loader(
            images, batch_size=6, augment=True, seed=0, **options
        )
        sampler.epoch = 3
        random_part.set_random_state(4)
        seen.append((list(sampler), list(batches)))
    (order, without), (same, with_masks) = seen
    assert order == same
    assert all(set(b) == {"image", "label"} for b in without)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(without, with_masks))
    moved = torch.cat([b["mask"] for b in with_masks])
    assert moved.dtype == torch.bool
    assert moved.shape == (17, 32, 32)
    pixels = torch.cat([b["image"] for b in with_masks])[:, 0]
    assert pixels[moved].mean() > pixels[~moved].mean() + 0.3
    assert moved.flatten(1).any(dim=1).tolist() == [bool(masks[i].any()) for i in order]


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
        return next(iter(batches))["image"]

    first = epoch(5)
    assert torch.equal(epoch(5), first)
    assert not torch.equal(epoch(6), first)
    assert torch.equal(images.image(0), kept)


def test_an_unreadable_image_is_an_image_error(tmp_path):
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    table = pd.DataFrame({"image": ["a.png", "b.png"], "label": ["normal", "blob"]})
    table["patient_id"] = ["P0", "P1"]
    with pytest.raises(ImageReadError, match=r"^row 1: .*PNG.*cohort check") as caught:
        ImageSet.load(Cohort(table, tmp_path), [0, 1], CLASSES, STEPS)
    assert not isinstance(caught.value, RuntimeError)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_vanished_is_an_image_error(tiny_table, tmp_path):
    copy = tmp_path / "cohort"
    shutil.copytree(tiny_table.parent, copy)
    cohort = Cohort.read(copy / "cohort.csv")
    cohort.image_path(7).unlink()
    with pytest.raises(ImageReadError, match="row 7: the file does not exist"):
        ImageSet.load(cohort, [5, 7], CLASSES, STEPS)
