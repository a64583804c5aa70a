"""Marks of an image brought to the network's input in the way of the image itself.

Symbols: ``*S`` axes of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from torch import Tensor

from medproto.data import Cohort
from medproto.records import ImageReference, Placement
from medproto.transforms import (
    CropBody,
    CropLungs,
    FitImage,
    LoadRadiograph,
    OrientVolume,
    crop_to,
)

from .config_sections import DataConfig

__all__ = ["PlacedAlike"]


class PlacedAlike:
    """The geometric part of the preprocessing, for masks and boxes of the same images.

    Args:
        data: resolved.
        cohort: the table.
        references: of its images, by row, as its check found them.
    """

    def __init__(
        self, data: DataConfig, cohort: Cohort, references: Sequence[ImageReference | None]
    ) -> None:
        self._fit = FitImage(data.spatial_size, data.mode, spacing_mm=data.spacing_mm)
        self._orient = OrientVolume()
        self._crop = {"none": None, "body": CropBody(), "lungs": CropLungs()}[data.crop]
        self._load = LoadRadiograph(data.voi)
        self._cohort = cohort
        self._references = references

    @property
    def spatial_size(self) -> tuple[int, ...]:
        """Return ``*S``."""
        return self._fit.spatial_size

    def shape(self, row: int) -> tuple[int, ...]:
        """Return the stored shape of an image; empty where it is not known."""
        reference = self._references[row]
        return () if reference is None else reference.shape

    def placement(self, row: int) -> Placement:
        """Return where an image lies in the network's input."""
        placement: Placement = self(row, torch.zeros(1, *self.shape(row))).meta["placement"]
        return placement

    def __call__(self, row: int, marks: Tensor) -> MetaTensor:
        """Return marks ``[1, *stored]`` as ``[1, *S]`` float32.

        Raises:
            ImageReadError: if the image is needed, to find its crop, and cannot be read.
        """
        found = self._orient(MetaTensor(marks, meta={"reference": self._references[row]}))
        if self._crop is not None:
            image = self._orient(self._load(self._cohort.image_source(row)))
            found = crop_to(found, self._crop.window(image))
        return self._fit(found)
