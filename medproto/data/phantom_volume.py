"""A synthetic cohort of chest CTs, as DICOM series and as NIfTI files, with planted masses.

Every file and table says that it is synthetic. The same seed gives the same voxels and labels.

Layout: ``ct/<series>/<slice>.dcm`` and ``ct/masks/*.nii.gz`` for the patients of even number,
``nifti/<patient>.nii.gz`` and ``nifti/masks/*.nii.gz`` for the others; in each of the two folders a
``labels.csv`` for its builder (``label``, ``mask``, ``synthetic``, and what joins it: ``PatientID``
or ``image``, with ``subject``). File names of slices do not follow their place.

Symbols: volumes are drawn in axes ``(P, L, S)``: rows toward the back, columns toward the patient's
left, slices toward the head. Values are Hounsfield units.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from .phantom_volume_files import write_mask, write_nifti, write_series

__all__ = ["PhantomVolume", "draw_volume", "make_volume_phantoms"]

SHAPE = (96, 96, 48)
SPACING_MM = (3.75, 3.75, 5.0)
"""Of a volume: 36 cm by 36 cm by 24 cm."""

CLASSES = ("normal", "mass")
AIR, LUNG, FAT, TISSUE, BONE = -1000.0, -860.0, -90.0, 40.0, 450.0
NOISE = 18.0
RADII_MM = (20.0, 30.0)


@dataclass(frozen=True, slots=True, eq=False)
class PhantomVolume:
    """One synthetic chest.

    Args:
        values: ``[P, L, S]`` int16, Hounsfield units.
        mask: ``[P, L, S]`` bool, the mass; empty for a normal chest.
    """

    values: NDArray[np.int16]
    mask: NDArray[np.bool_]


def draw_volume(label: str, *, seed: int | Sequence[int]) -> PhantomVolume:
    """Draw one chest; anatomy and noise depend on ``seed`` alone, so two labels differ by it.

    Raises:
        ValueError: if the label is neither ``normal`` nor ``mass``.
    """
    if label not in CLASSES:
        raise ValueError(f"label must be one of {list(CLASSES)}, got {label!r}.")
    anatomy, mass, noise = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    place = _positions()
    body = _inside(place, (0, 0, 0), anatomy.normal((108, 155, 400), (6, 8, 1)))
    rim = _inside(place, (0, 0, 0), anatomy.normal((96, 141, 400), (5, 7, 1)))
    sizes = anatomy.normal((72, 52, 105), (4, 3, 6))
    depth, height = anatomy.normal(-4, 4), anatomy.normal(0, 6)
    lungs = [_inside(place, (depth, side * 66, height), sizes) for side in (-1, 1)]
    heart = _inside(place, (-24, 22, -48), anatomy.normal((46, 52, 46), (3, 4, 4)))
    spine = _inside(place, (72, 0, 0), (19, 19, 500))
    air = (lungs[0] | lungs[1]) & ~heart & ~spine
    values = np.full(SHAPE, AIR)
    for where, value in ((body, FAT), (rim, TISSUE), (air, LUNG), (spine, BONE)):
        values[where] = value
    values = np.where(air, np.maximum(values, _vessels(anatomy)), values)
    values[_ribs(place, body) & ~rim] = BONE
    mask = np.zeros(SHAPE, np.bool_)
    if label == "mass":
        mask = _plant(place, lungs[int(mass.integers(2))] & air, mass)
    values[mask] = TISSUE
    values = ndimage.gaussian_filter(values, [1.5 / step for step in SPACING_MM])
    values += NOISE * noise.standard_normal(SHAPE)
    return PhantomVolume(np.round(values).astype(np.int16), mask)


Axes = tuple[NDArray[np.float64], ...]


def _positions() -> Axes:
    """Millimetres from the middle along each axis, ready to be combined."""
    lines = [
        (np.arange(side) + 0.5 - side / 2) * step
        for side, step in zip(SHAPE, SPACING_MM, strict=True)
    ]
    return tuple(np.meshgrid(*lines, indexing="ij", sparse=True))


def _inside(place: Axes, center: Sequence[float], radii: ArrayLike) -> NDArray[np.bool_]:
    """Return the voxels of an ellipsoid."""
    lengths = np.asarray(radii, dtype=np.float64)
    parts = [((x - c) / r) ** 2 for x, c, r in zip(place, center, lengths, strict=True)]
    return np.asarray(sum(parts[1:], parts[0]) <= 1)


def _vessels(rng: np.random.Generator) -> NDArray[np.float64]:
    """Bright threads: where two smooth random fields are near 0 at once."""
    smooth = [10.0 / step for step in SPACING_MM]
    fields = [ndimage.gaussian_filter(rng.standard_normal(SHAPE), smooth) for _ in range(2)]
    distance = np.sqrt(sum((field / field.std()) ** 2 for field in fields))
    return np.asarray(LUNG + 650 * np.exp(-((distance / 0.25) ** 2)))


def _ribs(place: Axes, body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Slanting bands of the wall of the chest."""
    slant = place[2] + 0.45 * place[0]
    return np.asarray(body & (np.mod(slant, 34) < 11))


def _plant(place: Axes, lung: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a mass that lies wholly in a lung."""
    radius = rng.uniform(*RADII_MM)
    free = ndimage.distance_transform_edt(lung, sampling=SPACING_MM)
    spots = np.argwhere(free > radius + 3)
    index = spots[rng.integers(len(spots))]
    center = [float(axis.ravel()[i]) for axis, i in zip(place, index, strict=True)]
    return _inside(place, center, radius * rng.uniform(0.85, 1.15, 3))


def make_volume_phantoms(out: Path, *, patients: int = 120, seed: int = 0) -> tuple[Path, Path]:
    """Write a cohort into ``out`` and return the folders of the CT series and of the NIfTI files.

    Every second pair of patients, one of each class, comes as NIfTI.

    Args:
        patients: number of synthetic patients, at least four; one volume each.

    Raises:
        ValueError: if there are fewer.
    """
    if patients < 2 * len(CLASSES):
        raise ValueError(f"patients must be at least {2 * len(CLASSES)}, got {patients}.")
    folders = out / "ct", out / "nifti"
    rows: tuple[list[dict[str, str]], ...] = ([], [])
    for folder in folders:
        (folder / "masks").mkdir(parents=True, exist_ok=True)
    for patient in range(patients):
        label = CLASSES[patient % 2]
        volume = draw_volume(label, seed=[seed, 6, patient])
        kind = patient // 2 % 2
        name = f"masks/syn{patient:04d}.nii.gz"
        row = {"label": label, "mask": name if label != "normal" else "", "synthetic": "1"}
        if kind == 0:
            row |= write_series(folders[0], volume.values, SPACING_MM, patient=patient, seed=seed)
        else:
            row |= write_nifti(folders[1], volume.values, SPACING_MM, patient=patient)
        if volume.mask.any():
            write_mask(folders[kind] / name, volume.mask, SPACING_MM, series=kind == 0)
        rows[kind].append(row)
    for folder, table in zip(folders, rows, strict=True):
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return folders
