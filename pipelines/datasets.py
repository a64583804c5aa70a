"""From a cohort to the images of a split, read and preprocessed once.

They are held in a file, see :mod:`.image_file`: what a training needs of memory does not grow with
the cohort.

Symbols: ``N`` images, ``B`` batch, ``*S`` axes of the network's input.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medproto.data import Cohort
from medproto.errors import ImageReadError
from medproto.records import ImageReference, Placement
from medproto.transforms import preprocessing

from .content_cache import CACHE_VARIABLE, ContentCache, Prepared, prepared
from .image_file import hold

__all__ = ["ImageSet", "check_command"]

READERS = 2
"""Images read and preprocessed at a time."""


def check_command(cohort: Cohort, voi: str) -> str:
    """Return the command that names all problems of a cohort that is read with a gray policy."""
    return cohort.check_command + ("" if voi == "voi" else f" --voi {shlex.quote(voi)}")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some rows of a cohort, preprocessed once.

    Args:
        cohort: the table.
        rows: zero-based rows of ``cohort`` in this set.
        labels: ``[N]`` class or grade of each of them, zero-based; for a cohort of findings
            ``[N, K]``, 1 shown, 0 not shown, NaN uncertain.
        groups: patient or group of each.
        pixels: ``[N, C, *S]`` float32, the network's inputs; do not change them.
        references: what is known of each stored image.
        placements: where each stored image lies in the network's input.
        voi: gray policy the images were read with.
    """

    cohort: Cohort
    rows: tuple[int, ...]
    labels: NDArray[Any]
    groups: tuple[str, ...]
    pixels: Tensor
    references: tuple[ImageReference, ...]
    placements: tuple[Placement, ...]
    voi: str = "voi"

    @classmethod
    def load(
        cls,
        cohort: Cohort,
        rows: Sequence[int],
        classes: Sequence[str],
        steps: dict[str, Any],
    ) -> ImageSet:
        """Read and preprocess ``rows``; ``steps`` are the arguments of ``preprocessing``.

        Where the environment variable MEDPROTO_CACHE names a folder, what was read before is taken
        from there, see :mod:`.content_cache`.

        Raises:
            ImageReadError: if an image cannot be read; its row is named.
            OSError: if there is no room for the preprocessed images.
        """
        groups = cohort.groups()
        transform = preprocessing(**steps)
        references: list[ImageReference] = []
        placements: list[Placement] = []

        folder = os.environ.get(CACHE_VARIABLE)
        kept = ContentCache(Path(folder), steps) if folder else None

        def decode(row: int) -> Prepared:
            return prepared(transform({"image": cohort.image_source(row)})["image"])

        def read(row: int) -> Prepared:
            if kept is None:
                return decode(row)
            return kept.image(cohort.image_source(row), lambda: decode(row))

        def images() -> Iterator[Tensor]:
            with ThreadPool(READERS) as pool:
                for image in pool.imap(read, rows):
                    references.append(image.reference)
                    placements.append(image.placement)
                    yield image.pixels

        try:
            channels = 1 + len(cohort.channels)
            pixels = hold(images(), len(rows), (channels, *steps["spatial_size"]))
        except (RuntimeError, ImageReadError) as error:  # MONAI wraps the error of a reader
            if isinstance(error, ImageReadError) or isinstance(error.__cause__, ImageReadError):
                _name_bad_row(cohort, rows, read, steps.get("voi", "voi"))
            raise
        return cls(
            cohort,
            tuple(rows),
            _labels(cohort, rows, classes),
            tuple(groups[row] for row in rows),
            pixels,
            tuple(references),
            tuple(placements),
            steps.get("voi", "voi"),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Tensor:
        """Return the preprocessed image ``[C, *S]`` at a position of this set."""
        return self.pixels[index]

    def placement(self, index: int) -> Placement:
        """Return where the stored image lies in the network's input."""
        return self.placements[index]

    def reference(self, index: int) -> ImageReference:
        """Return what is known of the stored image."""
        return self.references[index]

    def batches(self, size: int) -> Iterator[tuple[Tensor, list[Any], list[int], list[str]]]:
        """Yield ``(images [B, C, *S], labels, positions, groups)`` in order, not augmented.

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


def _name_bad_row(
    cohort: Cohort, rows: Sequence[int], read: Callable[[int], Any], voi: str
) -> None:
    """Raise the error of the first image that cannot be read, with its row."""
    # A run groups by a column of its own, which the table that a person has may lack.
    command = check_command(replace(cohort, group_column=None), voi)
    table = cohort.table
    for row in rows:
        try:
            read(row)
        except (RuntimeError, ImageReadError) as error:
            reason = error if isinstance(error, ImageReadError) else error.__cause__
            number = int(table["row"].iloc[row]) if "row" in table.columns else row
            raise ImageReadError(
                f"row {number}: {reason} See all problems with `{command}`."
            ) from error
