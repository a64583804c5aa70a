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
from medproto.transforms.dictionary import FitImaged, LoadRadiographd, preprocessing

__all__ = [
    "Augmentation",
    "FitImage",
    "FitImaged",
    "LoadRadiograph",
    "LoadRadiographd",
    "RandRadiograph",
    "RandRadiographd",
    "apply_augmentations",
    "apply_augmentations_to_masks",
    "augmentation",
    "preprocessing",
]
