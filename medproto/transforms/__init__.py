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
    FitImaged,
    LoadRadiographd,
    OrientVolumed,
    preprocessing,
)
from medproto.transforms.orient import OrientVolume

__all__ = [
    "Augmentation",
    "BlackenOutside",
    "BlackenOutsided",
    "CropBody",
    "CropBodyd",
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
    "crop_to",
    "preprocessing",
]
