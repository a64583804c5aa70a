"""Volumes turned to stated axes, so that networks see all patients alike.

Symbols: ``C`` channels, ``*S`` three spatial axes.

A code has a letter for each axis: the side that it runs toward. ``L`` and ``R`` left and right of
the patient, ``P`` and ``A`` back and front, ``S`` and ``I`` head and feet. ``"PLS"`` is an axial
stack as it is looked at: rows toward the back, columns toward the patient's left, slices upward.
"""

from __future__ import annotations

from typing import TypeVar

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import ArrayLike, NDArray

from medproto.errors import ImageReadError
from medproto.records import ImageReference, Placement
from medproto.transforms.array import step_affine

__all__ = ["OrientVolume", "axes_toward", "check_code", "upright"]

Pixel = TypeVar("Pixel", bound=np.generic)

_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}


def check_code(code: str) -> None:
    """Refuse what is no axis code.

    Raises:
        ValueError: if the code is not three letters, one of each pair.
    """
    pairs = {frozenset((letter, _OPPOSITE.get(letter, ""))) for letter in code}
    if len(code) != 3 or len(pairs) != 3 or not set(code) <= set(_OPPOSITE):
        raise ValueError(
            f"an axis code must have one letter of LR, one of PA and one of SI, such as PLS, got "
            f"{code!r}."
        )


class OrientVolume(Transform):
    """Turn a volume ``[C, *S]`` that `LoadRadiograph` read to an axis code; planes stay as is.

    Axes are exchanged and turned round, nothing is interpolated: an oblique volume gets the
    nearest axes. ``meta["placement"]`` leads back to the stored voxels.

    Args:
        code: see the module's head.

    Raises:
        ValueError: if the code is none.
    """

    def __init__(self, code: str = "PLS") -> None:
        check_code(code)
        self.code = code

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Return the turned volume.

        Raises:
            ImageReadError: if the file does not say how the volume lies in the patient.
        """
        reference: ImageReference = image.meta["reference"]
        if len(reference.shape) != 3:
            return image
        if reference.affine is None:
            raise ImageReadError(
                "a volume must say how it lies in the patient, and its file does not: it has no "
                "affine of its own."
            )
        placement = image.meta.get("placement") or Placement.identity(reference.shape)
        directions = np.array(reference.affine)[:, [*placement.order]] * np.sign(placement.scale)
        axes, reverse = axes_toward(directions, self.code)
        step = Placement.identity(image.shape[1:]).turned(axes, reverse)
        pixels = image.as_tensor().permute(0, *(1 + axis for axis in axes))
        pixels = torch.flip(pixels, [1 + k for k, turned in enumerate(reverse) if turned])
        meta = {key: value for key, value in image.meta.items() if key != "affine"}
        return MetaTensor(
            pixels.contiguous(),
            affine=image.affine.to(torch.float64) @ step_affine(step),
            meta={**meta, "placement": placement.turned(axes, reverse)},
        )


def axes_toward(affine: ArrayLike, code: str) -> tuple[list[int], list[bool]]:
    """Return which axis of a volume each axis of a code is, and whether it is turned round.

    Args:
        affine: ``[3, 3]`` or ``[3, 4]``, the way of each axis in DICOM's patient axes, a column an
            axis.
    """
    directions = np.asarray(affine, dtype=np.float64)[:, :3]
    world = np.eye(4)
    world[:3, :3] = np.diag([-1, -1, 1]) @ directions  # nibabel's axes: right, front, head
    found = nibabel.orientations.io_orientation(world)
    wanted = nibabel.orientations.axcodes2ornt(tuple(code))
    change = nibabel.orientations.ornt_transform(found, wanted)
    axes = [int(np.flatnonzero(change[:, 0] == k)[0]) for k in range(3)]
    return axes, [bool(change[axis, 1] < 0) for axis in axes]


def upright(pixels: NDArray[Pixel], placement: Placement) -> NDArray[Pixel]:
    """Turn stored pixels to the axes of a placement, in which all patients stand alike.

    Nothing is scaled or cut. One place of all images means something there alone: files store
    volumes along any axes.

    Args:
        pixels: ``[*S]``, in the axes of the file.
    """
    flips = tuple(slice(None, None, -1 if scale < 0 else 1) for scale in placement.scale)
    turned: NDArray[Pixel] = pixels.transpose(placement.order)[flips]
    return turned
