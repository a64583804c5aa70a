"""The prototypes after projection: their sources as records, their pictures as files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medproto.data import read_image
from medproto.explain import source_box
from medproto.networks import ProtoPNet
from medproto.projection import PrototypeMatch
from medproto.records import PrototypeSource

from .datasets import ImageSet

__all__ = ["describe_sources", "write_pictures"]


def describe_sources(
    network: ProtoPNet,
    matches: Sequence[PrototypeMatch],
    images: ImageSet,
    classes: tuple[str, ...],
) -> tuple[PrototypeSource, ...]:
    """Turn the matches, whose rows are positions in ``images``, into records with boxes."""
    floors = network.floor.tolist()
    sources = []
    for match in matches:
        k = int(network.prototype_class[match.prototype])
        placement = images.placement(match.row)
        sources.append(
            PrototypeSource(
                prototype=match.prototype,
                class_index=k,
                class_name=classes[k],
                row=images.rows[match.row],
                group=match.group,
                pixel_digest=images.reference(match.row).pixel_digest,
                cell=match.cell,
                box=source_box(
                    network, images.image(match.row), placement, match.prototype, match.cell
                ),
                distance=match.distance,
                similarity=match.similarity,
                floor=floors[match.prototype] if math.isfinite(floors[match.prototype]) else None,
            )
        )
    return tuple(sources)


def write_pictures(folder: Path, sources: tuple[PrototypeSource, ...], images: ImageSet) -> None:
    """Write each prototype's patch and its whole source image as 8-bit PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        pixels = read_image(images.cohort.image_source(source.row), voi=images.voi).pixels
        crop = pixels[tuple(slice(a, b) for a, b in zip(source.box.start, source.box.stop))]
        _write_gray(folder / f"p{source.prototype:03d}.png", crop)
        _write_gray(folder / f"p{source.prototype:03d}_source.png", pixels)


def _write_gray(path: Path, pixels: NDArray[np.float32]) -> None:
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(path, optimize=False)
