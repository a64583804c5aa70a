"""Transforms in array form (X) and dictionary form (Xd), deterministic and random apart."""

from medproto.transforms.array import FitImage, LoadRadiograph
from medproto.transforms.augment import (
    Augmentation,
    RandRadiograph,
    RandRadiographd,
    apply_augmentations,
    apply_augmentations_to_masks,
    augmentation,
)
from medproto.transforms.body import BlackenOutside, CropBody, crop_to
from medproto.transforms.dictionary import (
    BlackenOutsided,
    CropBodyd,
    CropLungsd,
    FitImaged,
    LoadRadiographd,
    OrientVolumed,
    preprocessing,
)
from medproto.transforms.lungs import CropLungs
from medproto.transforms.orient import OrientVolume, axes_toward, upright

__all__ = [
    "Augmentation",
    "BlackenOutside",
    "BlackenOutsided",
    "CropBody",
    "CropBodyd",
    "CropLungs",
    "CropLungsd",
    "FitImage",
    "FitImaged",
    "LoadRadiograph",
    "LoadRadiographd",
    "OrientVolume",
    "OrientVolumed",
    "RandRadiograph",
    "RandRadiographd",
    "apply_augmentations",
    "apply_augmentations_to_masks",
    "augmentation",
    "axes_toward",
    "crop_to",
    "preprocessing",
    "upright",
]
