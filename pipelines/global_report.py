"""Fill and write the page of the prototypes: the nearest training and test patches of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medproto.data import read_image
from medproto.errors import CohortError
from medproto.explain import source_box
from medproto.networks.model_file import write_atomically
from medproto.projection import PatchHit

from .datasets import ImageSet
from .evaluate import load_split
from .gallery import read_pictures
from .pages import NearestPatch, PrototypeCard, PrototypePage, prototype_page
from .prototypes import nearest_of
from .raster import FOR, picture_uri
from .report import now
from .runs import RunFolder, write_json
from .strongest_weight import strongest_elsewhere
from .views import picture_of, view_of

__all__ = ["label_agrees", "label_name", "write_prototypes"]

NEAREST = {"train": 6, "test": 5}
"""Patches shown of each split; the first training patch is the prototype, as published."""

TAU = 3
CROP_SIDE = 96
WHERE_SIDE = 128
OWN_SIDE = 150

Hits = list[list[PatchHit]]


def write_prototypes(
    run: RunFolder, out: Path, prototypes: Sequence[int] | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write ``prototypes.html`` (``prototype_003.html`` for a single one) and the same as JSON.

    Args:
        prototypes: those shown; ``None`` for all.

    Returns:
        The page's path, and the document beside it.

    Raises:
        CohortError: if the run's cohort has no test images, or an image is gone.
        ModelFileError: if the run is unfinished or altered.
        ValueError: if the run has no such prototype.
    """
    count = len(run.sources)
    shown = list(range(count)) if prototypes is None else list(prototypes)
    if not shown or not all(0 <= p < count for p in shown):
        raise ValueError(f"prototypes must be 0 to {count - 1}, got {shown}.")
    splits = {name: _load(run, name) for name in NEAREST}
    hits = {
        name: nearest_of(run.network, images, k=NEAREST[name]) for name, images in splits.items()
    }
    patches = {name: _patches(run, splits[name], hits[name], shown) for name in NEAREST}
    cards = _cards(run, patches, shown)
    name = f"prototype_{shown[0]:03d}" if len(shown) == 1 else "prototypes"
    document = _document(run, cards)
    page = PrototypePage(
        title=" / ".join(run.card.classes),
        outputs=_outputs(run.card.classes, run.network.last_layer.out_features),
        prototypes=cards,
        images={split: len(images) for split, images in splits.items()},
        tau=TAU,
        model_digest=run.card.model_digest,
        synthetic=run.card.synthetic,
        created=now(),
        head=run.network.head,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", document)
    path = out / f"{name}.html"
    write_atomically(path, prototype_page(page).encode())
    return path, document


def _load(run: RunFolder, split: str) -> ImageSet:
    table = run.cohort.table
    rows = table.index[table["split"] == split].tolist()
    if not rows:
        raise CohortError(f"there must be images to search; the split {split!r} has none.")
    return load_split(run, run.cohort, rows)


def _cards(
    run: RunFolder, patches: dict[str, dict[int, list[NearestPatch]]], shown: Sequence[int]
) -> list[PrototypeCard]:
    pictures = read_pictures(run.path / "prototypes", run.sources)
    weights = run.network.last_layer.weight.detach().double().cpu().numpy()  # [K, P]
    cards = []
    for p in shown:
        source, picture = run.sources[p], pictures[p]
        own, boxes = weights[:, p].tolist(), [(box, FOR) for box in picture.boxes]
        stray = strongest_elsewhere(own, source.class_index, len(run.card.classes))
        cards.append(
            PrototypeCard(
                source=source,
                crop=picture_uri(picture.crop, side=OWN_SIDE),
                picture=picture_uri(picture.source, boxes=boxes, side=OWN_SIDE),
                weights=tuple(own),
                stray=None if stray is None else run.card.classes[stray],
                train=patches["train"][p],
                test=patches["test"][p],
            )
        )
    return cards


def _outputs(classes: Sequence[str], count: int) -> list[str]:
    """Name the outputs of the last layer; ordinal grades have one for each threshold."""
    if count == len(classes):
        return list(classes)
    return [f"above {name}" for name in classes[:count]]


def _patches(
    run: RunFolder, images: ImageSet, hits: Hits, shown: Sequence[int]
) -> dict[int, list[NearestPatch]]:
    """Draw the hits of the shown prototypes; each image is read once and let go."""
    wanted = defaultdict(list)
    for p in shown:
        for rank, hit in enumerate(hits[p]):
            wanted[hit.row].append((p, rank, hit))
    drawn: dict[int, dict[int, NearestPatch]] = {p: {} for p in shown}
    for position, entries in sorted(wanted.items()):
        row = images.rows[position]
        pixels = read_image(images.cohort.image_source(row), voi=images.voi).channels[0]
        for p, rank, hit in entries:
            box = source_box(
                run.network, images.image(position), images.placement(position), p, hit.cell
            )
            view = view_of(images.reference(position), box.center)
            source = run.sources[p]
            drawn[p][rank] = NearestPatch(
                row=row,
                group=hit.group,
                label=label_name(hit.label, run.card.classes),
                agrees=label_agrees(hit.label, source.class_index),
                distance=hit.distance,
                similarity=hit.similarity,
                itself=(row, hit.cell) == (source.row, source.cell),
                where=picture_of(view, pixels, boxes=[(box, FOR)], side=WHERE_SIDE),
                crop=picture_uri(view.patch(pixels, box), side=CROP_SIDE),
            )
    return {p: [found[rank] for rank in sorted(found)] for p, found in drawn.items()}


def label_name(label: Any, classes: Sequence[str]) -> str:
    """Name what an image shows: its class, or all its findings."""
    values = np.asarray(label)
    if values.ndim == 0:
        return classes[int(values)]
    return ", ".join(name for name, value in zip(classes, values) if value == 1) or "none"


def label_agrees(label: Any, own: int) -> bool | None:
    """Return whether an image shows a class; ``None`` where the finding is not known."""
    values = np.asarray(label)
    if values.ndim == 0:
        return int(values) == own
    return None if np.isnan(values[own]) else bool(values[own] == 1)


def _document(run: RunFolder, cards: Sequence[PrototypeCard]) -> dict[str, Any]:
    def entry(hit: NearestPatch) -> dict[str, Any]:
        names = ("row", "group", "label", "agrees", "distance", "similarity", "itself")
        return {name: getattr(hit, name) for name in names}

    return {
        "model_digest": run.card.model_digest,
        "recorded": False,
        "prototypes": [
            {
                "prototype": card.source.prototype,
                "class": card.source.class_name,
                "row": card.source.row,
                "group": card.source.group,
                "train": [entry(hit) for hit in card.train],
                "test": [entry(hit) for hit in card.test],
            }
            for card in cards
        ],
    }
