"""Read the files that a cohort names, each once, side by side and in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from medproto.data.channels import ImageChannels, ImageFrame
from medproto.data.cohort import Cohort
from medproto.data.isolated import IsolatedReader, readers
from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = ["FilesRead", "read_files"]

Source = Path | ImageFrame | ImageChannels


class FilesRead(NamedTuple):
    """What the files hold, or the reason why that is not known.

    Args:
        images: by file, or frame.
        masks: by file: shape and number of pixels inside.
    """

    images: dict[Source, ImageReference | str]
    masks: dict[Path, tuple[tuple[int, ...], int] | str]


def read_files(
    cohort: Cohort, voi: str, progress: Callable[[int, int], None] | None = None
) -> FilesRead:
    """Read all images and masks of a cohort; a file that many rows name is read once.

    Args:
        voi: gray policy, see `read_image`.
        progress: called with ``(files done, files)`` after each file.
    """
    rows = range(len(cohort))
    columns = [cohort.table[name].tolist() for name in ("image", *cohort.channels)]
    named = [all(cells) for cells in zip(*columns, strict=True)]
    images = list(dict.fromkeys(cohort.image_source(row) for row in rows if named[row]))
    masks = list(dict.fromkeys(path for path in map(cohort.mask_path, rows) if path is not None))
    count, done = len(images) + len(masks), FilesRead({}, {})

    def image(reader: IsolatedReader, source: Source) -> ImageReference | str:
        try:
            return reader.reference(source, voi=voi)
        except ImageReadError as error:
            return str(error)

    def mask(reader: IsolatedReader, path: Path) -> tuple[tuple[int, ...], int] | str:
        try:
            return reader.mask(path)
        except ImageReadError as error:
            return str(error)

    def tell() -> None:
        if progress is not None:
            progress(len(done.images) + len(done.masks), count)

    for source, reference in zip(images, readers().map(image, images), strict=True):
        done.images[source] = reference
        tell()
    for path, found in zip(masks, readers().map(mask, masks), strict=True):
        done.masks[path] = found
        tell()
    return done
