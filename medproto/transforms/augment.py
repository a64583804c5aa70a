"""Random part of the training transforms: small, without flips, and replayable.

A flipped chest has its heart on the right, so nothing is mirrored. Each call leaves the parameters
it drew behind; applied again to the same image they give the same tensor.

A batch is changed as a whole, on the device it lies on, each image by its own parameters; the
numbers are those of one image after the other.

Symbols: ``B`` batch, ``C`` channels, ``*S`` spatial axes in array order.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Randomizable, Transform
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

__all__ = [
    "Augmentation",
    "RandRadiograph",
    "RandRadiographd",
    "apply_augmentations",
    "apply_augmentations_to_masks",
    "augmentation",
]

TRACE_SUFFIX = "_augmentation"


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One drawn change of an image; apply it again to replay.

    Args:
        rotation: radians in the plane of rows and columns; positive turns rows towards columns.
        scale: above 1 enlarges, about the centre of the image.
        shift: displacement along each axis as a share of that side.
        gamma: exponent of the gray values in [0, 1].
    """

    rotation: float
    scale: float
    shift: tuple[float, ...]
    gamma: float

    def apply(self, image: Tensor) -> Tensor:
        """Return the changed image ``[C, *S]``, float32; outside of the original it is 0.

        Raises:
            ValueError: if the image has not as many spatial axes as ``shift``.
        """
        return apply_augmentations(_plain(image)[None], [self])[0]

    def apply_mask(self, mask: Tensor) -> Tensor:
        """Return the mask ``[C, *S]``, bool, moved as the image is; its gray values do not count.

        See :func:`apply_augmentations_to_masks`.

        Raises:
            ValueError: if the mask has not as many spatial axes as ``shift``.
        """
        return apply_augmentations_to_masks(_plain(mask)[None], [self])[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as plain numbers; ``Augmentation(**…)`` is the inverse."""
        return {**asdict(self), "shift": list(self.shift)}

    def matrix(self, sides: Sequence[int]) -> Tensor:
        """Return the map from an output place to its source, ``[n, n + 1]`` for ``n`` axes.

        It is what torch's ``affine_grid`` takes: coordinates run from -1 to 1 along each side, last
        axis first.
        """
        axes = len(sides)
        turn = torch.eye(axes, dtype=torch.float64)
        cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
        turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = cosine, sine, -sine, cosine
        half = torch.tensor([side / 2 for side in sides], dtype=torch.float64)
        shift = torch.tensor([2 * s for s in self.shift], dtype=torch.float64)
        # In pixels the map is a rotation; in sides of unequal length it is not.
        linear = turn / self.scale * half / half[:, None]
        matrix = torch.cat([linear, -(linear @ shift)[:, None]], dim=1)
        order = list(reversed(range(axes)))
        return matrix[order][:, [*order, axes]].float()


def apply_augmentations(images: Tensor, drawn: Sequence[Augmentation]) -> Tensor:
    """Return changed images ``[B, C, *S]``, float32, the i-th by the i-th change.

    Outside of the original they are 0.

    Raises:
        ValueError: if there is not one change an image, or the images have other axes than these.
    """
    moved = _move(images, drawn).clamp(0, 1)
    gamma = torch.tensor([change.gamma for change in drawn], dtype=moved.dtype)
    return moved ** gamma.to(moved.device).reshape(-1, *[1] * (moved.ndim - 1))


def apply_augmentations_to_masks(masks: Tensor, drawn: Sequence[Augmentation]) -> Tensor:
    """Return masks ``[B, C, *S]``, bool, moved as the images are.

    A pixel is inside where interpolation gives more than half of the largest value of its mask:
    half for a region of several pixels, while a region of one pixel keeps one unless it leaves the
    image.

    Raises:
        ValueError: as of :func:`apply_augmentations`.
    """
    moved = _move(masks, drawn)
    largest = moved.flatten(2).amax(dim=2).reshape(*moved.shape[:2], *[1] * (moved.ndim - 2))
    return moved > largest / 2


def _move(images: Tensor, drawn: Sequence[Augmentation]) -> Tensor:
    """Turn, scale and shift ``[B, C, *S]``."""
    if len(drawn) != len(images):
        raise ValueError(f"each of {len(images)} images needs one change, got {len(drawn)}.")
    sides = images.shape[2:]
    for change in drawn:
        axes = len(change.shift)
        if len(sides) != axes:
            raise ValueError(f"image must have {axes} spatial axes, got {list(images.shape[1:])}.")
    matrices = torch.stack([change.matrix(sides) for change in drawn]).to(images.device)
    grid = affine_grid(matrices, list(images.shape), False)
    return grid_sample(images.float(), grid, align_corners=False)


def _plain(image: Tensor) -> Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else image


class RandRadiograph(Randomizable, Transform):
    """Draw a small rotation, scale, shift and contrast, and apply them.

    Args:
        rotation: largest angle, radians.
        scale: largest relative change of size.
        shift: largest displacement, share of a side.
        contrast: largest change of the logarithm of gamma.

    Raises:
        ValueError: if a range is negative, or ``scale`` not below 1.
    """

    def __init__(
        self,
        *,
        rotation: float = math.radians(8),
        scale: float = 0.1,
        shift: float = 0.05,
        contrast: float = 0.2,
    ) -> None:
        if min(rotation, scale, shift, contrast) < 0 or scale >= 1:
            raise ValueError(
                "rotation, scale, shift and contrast must be >= 0 and scale < 1, got "
                f"{rotation}, {scale}, {shift}, {contrast}."
            )
        self.ranges = (rotation, scale, shift, contrast)
        self.drawn: Augmentation | None = None

    def draw(self, axes: int) -> Augmentation:
        """Return new parameters from ``self.R`` for an image of so many spatial axes."""
        rotation, scale, shift, contrast = self.ranges
        uniform = self.R.uniform
        return Augmentation(
            rotation=float(uniform(-rotation, rotation)),
            scale=float(uniform(1 - scale, 1 + scale)),
            shift=tuple(float(uniform(-shift, shift)) for _ in range(axes)),
            gamma=math.exp(uniform(-contrast, contrast)),
        )

    def randomize(self, data: Any = None) -> None:
        """Draw new parameters for an image of as many axes as ``data`` ``[C, *S]``."""
        self.drawn = self.draw(data.ndim - 1)

    def __call__(self, image: Tensor, randomize: bool = True) -> Tensor:
        """Return the changed image ``[C, *S]``; ``randomize=False`` repeats the last change.

        Raises:
            ValueError: if there is no last change.
        """
        if randomize:
            self.randomize(image)
        if self.drawn is None:
            raise ValueError("randomize=False needs an earlier call that drew parameters.")
        return self.drawn.apply(image)


class RandRadiographd(Randomizable, MapTransform):
    """Dictionary form of `RandRadiograph`: one change for all keys.

    ``data[key + "_augmentation"]`` becomes the list of what was applied, oldest first, each as
    `Augmentation.to_dict` gives it.

    Args:
        keys: of the images, all with the same number of axes.
        mask_keys: of masks, which move with the images and become bool; they leave no trace of
            their own, and draw no numbers.
        ranges: as in `RandRadiograph`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        mask_keys: Sequence[Hashable] = (),
        allow_missing_keys: bool = False,
        **ranges: float,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.mask_keys = tuple(mask_keys)
        self.random = RandRadiograph(**ranges)

    def set_random_state(self, seed: int | None = None, state: Any = None) -> RandRadiographd:
        """Seed this transform; see MONAI's ``Randomizable``."""
        super().set_random_state(seed, state)
        self.random.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with changed images and their parameters."""
        out = dict(data)
        drawn: Augmentation | None = None
        for key in self.key_iterator(dict(data)):
            drawn = drawn or self.random.draw(out[key].ndim - 1)
            out[key] = drawn.apply(out[key])
            trace = f"{key}{TRACE_SUFFIX}"
            out[trace] = [*out.get(trace, []), drawn.to_dict()]
        if drawn is not None:
            out |= {key: drawn.apply_mask(out[key]) for key in self.mask_keys}
        return out


def augmentation(*, seed: int, key: str = "image", mask_keys: Sequence[str] = ()) -> Compose:
    """Return the random part of the training transforms, seeded.

    Rotation up to 8 degrees, scale and shift up to 10 and 5 percent, gamma between 0.82 and 1.22;
    no flips. Masks move with the image, and the numbers drawn are the same with and without them.
    For projection and prediction use `preprocessing` alone.
    """
    return Compose([RandRadiographd(key, mask_keys=mask_keys)]).set_random_state(seed)
