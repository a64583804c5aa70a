"""From a cohort to batches: deterministic part cached, random part seeded and on top.

Symbols: ``B`` batch, ``*S`` axes of the network's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import Compose, MapTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from medproto.data import Cohort, read_image
from medproto.errors import ImageReadError
from medproto.records import ImageReference, Placement
from medproto.transforms import augmentation, preprocessing

from .processes import count, rank

__all__ = ["ImageSet", "SeededSampler", "Shares", "loader"]


class _Plain(MapTransform):
    """Turn the MetaTensor into a plain tensor and keep what is needed of its metadata."""

    def __call__(self, data: Any) -> dict[str, Any]:
        out = dict(data)
        for key in self.keys:
            image = out[key]
            out["reference"] = image.meta["reference"]
            out["placement"] = image.meta["placement"]
            out[key] = image.as_tensor().contiguous()
        return out


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some rows of a cohort, preprocessed once and held in memory.

    Args:
        cohort: the table.
        rows: zero-based rows of ``cohort`` in this set.
        labels: ``[N]`` class or grade of each of them, zero-based; for a cohort of findings
            ``[N, K]``, 1 shown, 0 not shown, NaN uncertain.
        groups: patient or group of each.
        cache: ``image`` tensors ``[1, *S]`` with their ``reference`` and ``placement``.
        voi: gray policy the images were read with.
    """

    cohort: Cohort
    rows: tuple[int, ...]
    labels: NDArray[Any]
    groups: tuple[str, ...]
    cache: CacheDataset
    voi: str = "voi"

    @classmethod
    def load(
        cls, cohort: Cohort, rows: Sequence[int], classes: Sequence[str], steps: dict[str, Any]
    ) -> ImageSet:
        """Read and preprocess ``rows``; ``steps`` are the arguments of ``preprocessing``.

        Raises:
            ImageReadError: if an image cannot be read; its row is named.
        """
        groups = cohort.groups()
        labels = _labels(cohort, rows, classes)
        data: list[dict[str, Any]] = [
            {"image": str(cohort.image_path(row)), "label": label}
            for row, label in zip(rows, labels.tolist(), strict=True)
        ]
        transform = Compose([*preprocessing(**steps).transforms, _Plain("image")])
        try:
            cache = CacheDataset(data, transform, num_workers=2, progress=False, copy_cache=False)
        except RuntimeError as error:  # MONAI wraps the reader's error, which is the one to show
            if isinstance(error.__cause__, ImageReadError):
                _name_bad_row(cohort, rows, steps.get("voi", "voi"))
            raise
        return cls(
            cohort,
            tuple(rows),
            labels,
            tuple(groups[row] for row in rows),
            cache,
            steps.get("voi", "voi"),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Tensor:
        """Return the preprocessed image ``[1, *S]`` at a position of this set."""
        return self.cache[index]["image"]

    def placement(self, index: int) -> Placement:
        """Return where the stored image lies in the network's input."""
        return self.cache[index]["placement"]

    def reference(self, index: int) -> ImageReference:
        """Return what is known of the stored image."""
        return self.cache[index]["reference"]

    def batches(self, size: int) -> Iterator[tuple[Tensor, list[Any], list[int], list[str]]]:
        """Yield ``(images [B, 1, *S], labels, positions, groups)`` in order, not augmented.

        A label is a number, or a list of ``K`` numbers for findings.
        """
        for start in range(0, len(self), size):
            positions = list(range(start, min(start + size, len(self))))
            images = torch.stack([self.image(i) for i in positions])
            yield (
                images,
                self.labels[positions].tolist(),
                positions,
                [self.groups[i] for i in positions],
            )


def _labels(cohort: Cohort, rows: Sequence[int], classes: Sequence[str]) -> NDArray[Any]:
    if cohort.label_columns:
        columns = [cohort.label_columns.index(name) for name in classes]
        return cohort.targets()[list(rows)][:, columns]
    index = {name: k for k, name in enumerate(classes)}
    names = cohort.table["label"].tolist()
    return np.array([index[names[row]] for row in rows], dtype=np.int64)


def _name_bad_row(cohort: Cohort, rows: Sequence[int], voi: str) -> None:
    """Raise the error of the first image that cannot be read, with its row."""
    table = cohort.table
    for row in rows:
        try:
            read_image(cohort.image_path(row), voi=voi)
        except ImageReadError as error:
            number = int(table["row"].iloc[row]) if "row" in table.columns else row
            raise ImageReadError(
                f"row {number}: {error} See all problems with `{cohort.check_command}`."
            ) from error


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
    masks: Sequence[Tensor] | None = None,
) -> tuple[DataLoader, SeededSampler, Compose]:
    """Return a shuffling loader of ``image``, ``label`` and its sampler and random transform.

    Its ``batch_sampler`` are the :class:`Shares` of this process.

    Args:
        batch_size: of all processes together.
        repeats: passes over the images an epoch, see :class:`SeededSampler`.
        steps: batches of an epoch, all full, instead of what ``repeats`` gives.
        masks: ``[1, *S]`` bool, one for each image; they move with the images, and the batches
            have ``mask`` ``[B, *S]`` in addition.
    """
    keys = ("image", "label")
    moved = () if masks is None else ("mask",)
    random_part = augmentation(seed=seed, mask_keys=moved) if augment else Compose([])
    source: Any = images.cache
    if masks is not None:
        places = range(len(images))
        source = [{**images.cache[i], "mask": mask} for i, mask in zip(places, masks, strict=True)]
    dataset = Dataset(source, Compose([random_part]))
    draws = None if steps is None else steps * batch_size
    sampler = SeededSampler(len(images), seed, repeats=repeats, draws=draws)

    def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        image = torch.stack([torch.as_tensor(item["image"]) for item in items])
        return {
            keys[0]: image.contiguous(memory_format=_memory_format(image)),
            keys[1]: torch.tensor([item["label"] for item in items]),
            **{key: torch.cat([item[key] for item in items]) for key in moved},
        }

    # A last batch of one image would break the statistics of BatchNorm.
    drop_last = len(sampler) % batch_size == 1
    batches = BatchSampler(sampler, min(batch_size, len(sampler)), drop_last)
    shares = Shares(batches, rank=rank(), count=count())
    return (
        DataLoader(dataset, batch_sampler=shares, collate_fn=collate),
        sampler,
        random_part,
    )


def _memory_format(image: Tensor) -> torch.memory_format:
    """Depthwise convolutions on a CPU are several times faster with the channels last."""
    return torch.channels_last if image.ndim == 4 else torch.channels_last_3d
