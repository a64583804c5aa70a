"""The prototypes after projection: their sources as records, their pictures as files."""

from __future__ import annotations

import json
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
from medproto.records import PixelBox, PrototypeSource

from .datasets import ImageSet
from .pictures import PrototypePicture
from .raster import read_gray
from .runs import write_json
from .views import view_of

__all__ = ["describe_sources", "read_pictures", "renumber_boxes", "write_pictures"]

BOXES = "boxes.json"


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
    """Write each prototype's patch and its whole source image as 8-bit PNG.

    Of several channels it is the first. Of volumes these are three planes through the middle of the
    patch, and ``boxes.json`` says where the patch lies on them: by prototype, the boxes as
    ``[row0, col0, row1, col1]``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    boxes = {}
    for source in sources:
        image = read_image(images.cohort.image_source(source.row), voi=images.voi)
        pixels, reference = image.channels[0], image.reference
        view = view_of(reference, source.box.center)
        _write_gray(folder / f"p{source.prototype:03d}.png", view.patch(pixels, source.box))
        _write_gray(folder / f"p{source.prototype:03d}_source.png", view.image(pixels))
        if len(reference.shape) == 3:
            boxes[source.prototype] = [box.to_list() for box in view.boxes(source.box)]
    if boxes:
        write_json(folder / BOXES, boxes)


def read_pictures(folder: Path, sources: Sequence[PrototypeSource]) -> dict[int, PrototypePicture]:
    """Read what :func:`write_pictures` left in ``RUN/prototypes``.

    Raises:
        OSError: if a file is missing.
    """
    path = folder / BOXES
    planes = json.loads(path.read_text()) if path.exists() else {}
    pictures = {}
    for source in sources:
        name, boxes = f"p{source.prototype:03d}", planes.get(str(source.prototype))
        if boxes is None and len(source.box.start) == 3:
            raise FileNotFoundError(f"{BOXES} must say where prototype {source.prototype} lies.")
        pictures[source.prototype] = PrototypePicture(
            crop=read_gray(folder / f"{name}.png"),
            source=read_gray(folder / f"{name}_source.png"),
            boxes=tuple(map(PixelBox.from_list, boxes)) if boxes else (source.box,),
        )
    return pictures


def renumber_boxes(folder: Path, target: Path, kept: Sequence[int]) -> None:
    """Take over where the prototypes ``kept`` lie, by new numbers; planes have no such file."""
    if not (folder / BOXES).exists():
        return
    boxes = json.loads((folder / BOXES).read_text())
    write_json(target / BOXES, {new: boxes[str(old)] for new, old in enumerate(kept)})


def _write_gray(path: Path, pixels: NDArray[np.float32]) -> None:
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(path, optimize=False)
