"""A synthetic cohort of chest radiographs as DICOM files, for the demo, for tests and for teaching.

Every file says that it is synthetic (ImageType, ImageComments, patient's name), and so does every
table. The same seed gives the same bytes.

Layout: ``dicom/*.dcm``, ``masks/*.png`` (255 inside a finding, whichever it is), ``labels.csv``
(``image``, ``label``, ``mask``, ``box``, ``synthetic``; paths relative to the folder, box as
``row0,col0,row1,col1``, zero-based, end exclusive, one for each finding with ``;`` between) and
``landmarks.json`` (anatomical points and the side marker, ``[row, column]`` positions in stored
pixels; ``shortcut``, where it is burned in, as a box like those of the table). In place of
``label`` a table of several findings has a column for each, ``no_finding``, and
``box_<finding>``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medproto.records import PixelBox

from .phantom_anatomy import Anatomy, Pose, Scene, draw_scene
from .phantom_dicom import write_dicom
from .phantom_findings import plant
from .phantom_tasks import GRADES, Shown, Task, blur_labels, check_classes, deal, label_cells

__all__ = ["PhantomImage", "draw_phantom", "make_phantom_cohort"]

BITS = 12
SHORTCUT_RATE = 0.95
MARKER = "R"
SHORTCUT_MARKER = "PORTABLE"


@dataclass(frozen=True, slots=True, eq=False)
class PhantomImage:
    """One synthetic radiograph.

    Args:
        pixels: ``[rows, cols]`` uint16 of 12 bits, larger = brighter.
        mask: ``[rows, cols]`` bool, all findings; empty for a normal image.
        points: name -> ``(row, column)`` position in stored pixels.
        shortcut: the pixels of the marker that betrays the class, ``None`` without one.
        masks: finding -> ``[rows, cols]`` bool; no two findings overlap.
    """

    pixels: NDArray[np.uint16]
    mask: NDArray[np.bool_]
    points: dict[str, tuple[float, float]]
    shortcut: PixelBox | None = None
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


def draw_phantom(
    anatomy: Anatomy,
    shown: Shown,
    *,
    size: int,
    seed: int | Sequence[int],
    shortcut: bool = False,
) -> PhantomImage:
    """Draw one image of a synthetic patient.

    Pose, exposure and noise depend on ``seed`` alone, so that a normal and a diseased image of one
    seed differ by the finding.

    Args:
        shown: ``"normal"``, one of :data:`medproto.data.phantom_findings.FINDINGS`, one of
            :data:`medproto.data.phantom_tasks.GRADES`, or a tuple of findings, empty for none.
        size: side of the image in pixels.
        seed: of everything that changes from image to image.
        shortcut: burn in the marker that betrays the class.
    """
    streams = np.random.SeedSequence(seed).spawn(4)
    of_pose, of_finding, of_exposure, of_markers = (np.random.default_rng(s) for s in streams)
    scene = draw_scene(anatomy, Pose.draw(of_pose), size)
    density, masks = _plant_all(scene, shown, of_finding)
    film = _expose(density, of_exposure)
    points = {name: (y * size, x * size) for name, (y, x) in scene.landmarks.items()}
    points["side_marker"], box = _burn_markers(film, of_markers, shortcut)
    pixels = np.round(np.clip(film, 0, 1) * (2**BITS - 1)).astype(np.uint16)
    mask = np.any([np.zeros((size, size), dtype=bool), *masks.values()], axis=0)
    return PhantomImage(pixels, mask, points, box, masks)


def _plant_all(
    scene: Scene, shown: Shown, rng: np.random.Generator
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    """Return the density with all findings and the mask of each."""
    density = scene.density
    masks: dict[str, NDArray[np.bool_]] = {}
    names = (shown,) if isinstance(shown, str) else shown
    # Fluid first: it lies where gravity wants it, and what it would hide must lie elsewhere.
    for name in sorted(set(names) - {"normal", GRADES[0]}, key=lambda n: (n != "effusion", n)):
        kind, grade = ("effusion", GRADES.index(name)) if name in GRADES else (name, None)
        added, masks[kind] = plant(kind, scene, rng, grade=grade)
        density = density + added
        scene = replace(scene, lungs=scene.lungs & ~masks[kind])
    return density, masks


def _expose(density: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Unsharpness, scatter, quantum noise, and an exposure that no one reproduces."""
    size = len(density)
    film = ndimage.gaussian_filter(density, 0.9 * size / 512)
    film = 0.9 * film + 0.1 * ndimage.gaussian_filter(film, 0.06 * size, mode="nearest")
    film = (film - 0.05) / 1.0
    gain, level = rng.uniform(0.78, 1.05), rng.uniform(-0.06, 0.08)
    film = np.clip(film * gain + level, 0.0, None) ** rng.uniform(0.8, 1.25)
    tilt = rng.uniform(-0.06, 0.06, 2)
    y, x = np.mgrid[-0.5 : 0.5 : size * 1j, -0.5 : 0.5 : size * 1j]
    film += tilt[0] * y + tilt[1] * x
    noise = ndimage.gaussian_filter(rng.standard_normal(film.shape), 0.5 * size / 512)
    film += rng.uniform(0.012, 0.024) * noise / noise.std() * (1.15 - np.clip(film, 0, 1))
    if rng.random() < 0.35:
        _collimate(film, rng)
    return np.clip(film, 0.0, 0.96)


def _collimate(film: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Darken a border as if the beam had been narrowed."""
    top, bottom, left, right = (rng.uniform(0.005, 0.04, 4) * len(film)).astype(int)
    open_field = np.zeros(film.shape, dtype=bool)
    open_field[top : len(film) - bottom, left : len(film) - right] = True
    film[~open_field] = 0.02


def _burn_markers(
    film: NDArray[np.float64], rng: np.random.Generator, shortcut: bool
) -> tuple[tuple[float, float], PixelBox | None]:
    """Burn in the side marker, and the shortcut if asked; return the former's centre of ink and
    the latter's box."""
    size = len(film)
    y, x = rng.uniform(0.05, 0.12) * size, rng.uniform(0.05, 0.12) * size
    rows, cols = _burn(film, MARKER, y, x, size * 0.055)
    center = (float(rows.mean() + 0.5), float(cols.mean() + 0.5))
    if not shortcut:
        return center, None
    y, x = rng.uniform(0.05, 0.10) * size, rng.uniform(0.74, 0.80) * size
    return center, _box(*_burn(film, SHORTCUT_MARKER, y, x, size * 0.03))


def _burn(
    film: NDArray[np.float64], text: str, row: float, col: float, height: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Write ``text`` into ``film``; return rows and columns of the inked pixels."""
    font = ImageFont.load_default(size=max(6, round(height)))
    picture = Image.new("L", (film.shape[1], film.shape[0]))
    ImageDraw.Draw(picture).text((col, row), text, fill=255, font=font)
    ink = np.asarray(picture) / 255.0
    film[:] = np.maximum(film, ink)
    rows, cols = np.nonzero(ink)
    return rows, cols


def _box(rows: NDArray[np.intp], cols: NDArray[np.intp]) -> PixelBox:
    """Smallest box around pixels."""
    return PixelBox((int(rows.min()), int(cols.min())), (int(rows.max()) + 1, int(cols.max()) + 1))


def make_phantom_cohort(
    out: Path,
    *,
    patients: int = 120,
    images_per_patient: tuple[int, int] = (1, 3),
    classes: Sequence[str] | None = None,
    size: int = 512,
    seed: int = 0,
    shortcut: bool = False,
    task: Task = "multiclass",
) -> Path:
    """Write a cohort into ``out`` and return the path of its ``labels.csv``.

    A patient has one anatomy, one class (or one set of findings) and several images.

    Args:
        patients: number of synthetic patients, at least two a class or set of findings.
        images_per_patient: smallest and largest number, both included.
        classes: of ``multiclass`` ``"normal"`` and findings, by default ``normal`` and ``nodule``;
            of ``multilabel`` findings, by default ``nodule`` and ``effusion``; of ``ordinal``
            grades, by default all.
        size: rows and columns.
        shortcut: plant a marker that goes with the class: burned into 95 % of the images with a
            finding and into 5 % of the normal ones.
        task: ``multiclass``: one class a patient, dealt in turn. ``multilabel``: every set of the
            findings equally often, a column of 1, 0 and -1 (uncertain, 10 % of the images of each
            finding) for each, and ``no_finding``. ``ordinal``: the grades of an effusion's size.
            The last two are dealt in a random order.

    Raises:
        ValueError: if an argument is outside the range given above.
    """
    classes = check_classes(task, classes)
    _check_arguments(images_per_patient, size)
    plan = deal(task, classes, patients, seed=seed)
    for name in ("dicom", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    # A stream of its own: with and without the shortcut the cohort is else the same.
    of_shortcut = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    rows: list[dict[str, Any]] = []
    points: dict[str, Any] = {}
    for patient, shown in enumerate(plan):
        anatomy = Anatomy.draw(rng)
        for number in range(int(rng.integers(images_per_patient[0], images_per_patient[1] + 1))):
            well = shown in ("normal", GRADES[0], ())
            rate = 1 - SHORTCUT_RATE if well else SHORTCUT_RATE
            marked = shortcut and bool(of_shortcut.random() < rate)
            image = draw_phantom(
                anatomy, shown, size=size, seed=[seed, 2, patient, number], shortcut=marked
            )
            name = f"dicom/img_{patient:04d}_{number}.dcm"
            write_dicom(out / name, image.pixels, patient=patient, number=number, seed=seed)
            cells = {"image": name, **label_cells(shown, classes)}
            rows.append(cells | _mask_columns(out, image, patient, number))
            if task == "multilabel":
                rows[-1] |= {f"box_{kind}": _text(image.masks.get(kind)) for kind in classes}
            points[name] = {key: list(place) for key, place in image.points.items()}
            if image.shortcut is not None:
                points[name]["shortcut"] = image.shortcut.to_list()
    (out / "landmarks.json").write_text(json.dumps(points, indent=1, sort_keys=True) + "\n")
    if task == "multilabel":
        blur_labels(rows, classes, seed=seed)
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out / "labels.csv"


def _check_arguments(images_per_patient: tuple[int, int], size: int) -> None:
    low, high = images_per_patient
    if not 1 <= low <= high:
        raise ValueError(f"images_per_patient must be 1 <= low <= high, got {images_per_patient}.")
    if not 64 <= size <= 4096:
        raise ValueError(f"size must be 64 to 4096, got {size}.")


def _mask_columns(out: Path, image: PhantomImage, patient: int, number: int) -> dict[str, Any]:
    if not image.mask.any():
        return {"mask": "", "box": "", "synthetic": 1}
    name = f"masks/img_{patient:04d}_{number}.png"
    Image.fromarray(image.mask.astype(np.uint8) * 255).save(out / name)
    box = ";".join(_text(mask) for mask in image.masks.values())
    return {"mask": name, "box": box, "synthetic": 1}


def _text(mask: NDArray[np.bool_] | None) -> str:
    """Return the box around a mask as the table writes it, empty without a mask."""
    if mask is None:
        return ""
    return ",".join(str(v) for v in _box(*np.nonzero(mask)).to_list())
