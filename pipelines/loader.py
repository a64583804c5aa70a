"""Batches for training: shuffled, shared out to the processes, changed at random on the device.

The random changes of a batch are drawn in the order of its images and applied to all of them
together, where the training takes place. On a GPU the processor only stacks what is held.

Symbols: ``N`` images, ``B`` batch, ``*S`` axes of the network's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from monai.data import DataLoader
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from medproto.transforms import (
    RandRadiograph,
    apply_augmentations,
    apply_augmentations_to_masks,
)

from .datasets import ImageSet
from .processes import count, rank

__all__ = ["SeededSampler", "Shares", "loader", "on_device"]


class SeededSampler(Sampler[int]):
    """A shuffle that depends on seed and epoch alone, so that a resumed epoch repeats exactly.

    Args:
        length: number of images.
        seed: of the shuffles.
        repeats: how often an epoch takes each image; all copies are shuffled together.
        draws: length of an epoch instead; one such shuffle after another, cut off there.
    """

    def __init__(
        self, length: int, seed: int, *, repeats: int = 1, draws: int | None = None
    ) -> None:
        self._images = length
        self._copies = length * repeats
        self._draws = draws or self._copies
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._draws

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 100_003 + self.epoch)
        left = self._draws
        while left > 0:
            order = torch.randperm(self._copies, generator=generator) % self._images
            yield from order[:left].tolist()
            left -= len(order)


class Shares(Sampler[list[int]]):
    """The share that one process takes of each batch; together they take the whole batch.

    Shares differ by one image at most. Where a batch has fewer images than there are processes,
    those left over take its last image too, with weight 0.

    Args:
        batches: of all processes.
        rank: number of this process, zero-based.
        count: of all processes; with one a share is the batch.
    """

    def __init__(self, batches: BatchSampler, *, rank: int, count: int) -> None:
        self._batches = batches
        self._rank = rank
        self._count = count

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield batch[self._rank :: self._count] or batch[-1:]

    def weight(self, index: int) -> float:
        """Return the weight of the share in the zero-based batch ``index`` of an epoch.

        For means over shares: their weighted mean over the processes is the mean over the batch.
        """
        size, order = self._batches.batch_size, cast(Sized, self._batches.sampler)
        whole = min(size, len(order) - index * size)
        return len(range(self._rank, whole, self._count)) * self._count / whole


def loader(
    images: ImageSet,
    *,
    batch_size: int,
    augment: bool,
    seed: int,
    repeats: int = 1,
    steps: int | None = None,
    masks: Tensor | None = None,
) -> tuple[DataLoader, SeededSampler, Compose]:
    """Return a shuffling loader, its sampler and its random transform.

    A batch is what :func:`on_device` takes. The ``batch_sampler`` are the :class:`Shares` of this
    process.

    Args:
        batch_size: of all processes together.
        augment: draw a random change for each image.
        repeats: passes over the images an epoch, see :class:`SeededSampler`.
        steps: batches of an epoch, all full, instead of what ``repeats`` gives.
        masks: ``[N, 1, *S]`` bool, one for each image; they move with the images.
    """
    random = RandRadiograph()
    random_part = Compose([random] if augment else []).set_random_state(seed)
    draws = None if steps is None else steps * batch_size
    sampler = SeededSampler(len(images), seed, repeats=repeats, draws=draws)

    def collate(positions: list[int]) -> dict[str, Any]:
        image = torch.stack([images.image(i) for i in positions])
        batch: dict[str, Any] = {
            "image": image,
            "label": torch.tensor(images.labels[positions].tolist()),
        }
        if masks is not None:
            batch["mask"] = masks[positions]
        if augment:
            batch["changes"] = [random.draw(image.ndim - 2) for _ in positions]
        return batch

    # A last batch of one image would break the statistics of BatchNorm.
    drop_last = len(sampler) % batch_size == 1
    batches = BatchSampler(sampler, min(batch_size, len(sampler)), drop_last)
    shares = Shares(batches, rank=rank(), count=count())
    positions = range(len(images))
    return DataLoader(positions, batch_sampler=shares, collate_fn=collate), sampler, random_part


def on_device(batch: dict[str, Any], device: torch.device) -> list[Tensor]:
    """Return images ``[B, 1, *S]``, labels and, where there are any, masks ``[B, *S]``.

    They lie on the device, changed there as it was drawn.
    """
    images, labels = batch["image"].to(device), batch["label"].to(device)
    masks = batch["mask"].to(device) if "mask" in batch else None
    if "changes" in batch:
        images = apply_augmentations(images, batch["changes"])
        if masks is not None:
            masks = apply_augmentations_to_masks(masks, batch["changes"])
    images = images.contiguous(memory_format=_memory_format(images))
    return [images, labels] if masks is None else [images, labels, masks[:, 0]]


def _memory_format(image: Tensor) -> torch.memory_format:
    """Depthwise convolutions on a CPU are several times faster with the channels last."""
    return torch.channels_last if image.ndim == 4 else torch.channels_last_3d
