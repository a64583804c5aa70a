"""Dictionary forms of :mod:`medproto.transforms.array`, and the deterministic part as a whole."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform

from medproto.data import LoadedImage, read_image
from medproto.transforms.array import FitImage, LoadRadiograph
from medproto.transforms.body import BlackenOutside, CropBody
from medproto.transforms.lungs import CropLungs
from medproto.transforms.orient import OrientVolume

__all__ = [
    "CROPS",
    "BlackenOutsided",
    "CropBodyd",
    "CropLungsd",
    "FitImaged",
    "LoadRadiographd",
    "OrientVolumed",
    "preprocessing",
]

CROPS = ("none", "body", "lungs")


class _Eachd(MapTransform):
    """Apply one array transform, ``transform``, to each key."""

    transform: Callable[[Any], Any]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with what the transform makes of each key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.transform(out[key])
        return out


class LoadRadiographd(_Eachd):
    """Dictionary form of `LoadRadiograph`: each key holds a path and then the image.

    Args:
        keys: of the paths.
        voi, read: as in `LoadRadiograph`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        voi: str = "voi",
        allow_missing_keys: bool = False,
        *,
        read: Callable[..., LoadedImage] = read_image,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = LoadRadiograph(voi, read=read)


class FitImaged(_Eachd):
    """Dictionary form of `FitImage`.

    Args:
        keys: of the images.
        spatial_size, mode, spacing_mm: as in `FitImage`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        mode: str = "letterbox",
        allow_missing_keys: bool = False,
        *,
        spacing_mm: float | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = FitImage(spatial_size, mode, spacing_mm=spacing_mm)


class OrientVolumed(_Eachd):
    """Dictionary form of `OrientVolume`.

    Args:
        keys: of the images.
        code: as in `OrientVolume`.
    """

    def __init__(
        self, keys: KeysCollection, code: str = "PLS", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = OrientVolume(code)


class CropBodyd(_Eachd):
    """Dictionary form of `CropBody`.

    Args:
        keys: of the images.
        margin: as in `CropBody`.
    """

    def __init__(
        self, keys: KeysCollection, margin: float = 0.02, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = CropBody(margin)


class CropLungsd(_Eachd):
    """Dictionary form of `CropLungs`.

    Args:
        keys: of the images.
        margin: as in `CropLungs`.
    """

    def __init__(
        self, keys: KeysCollection, margin: float = 0.08, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = CropLungs(margin)


class BlackenOutsided(_Eachd):
    """Dictionary form of `BlackenOutside`.

    Args:
        keys: of the images.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = BlackenOutside()


def preprocessing(
    spatial_size: Sequence[int],
    *,
    voi: str = "voi",
    mode: str = "letterbox",
    spacing_mm: float | None = None,
    crop: str = "none",
    blacken_outside: bool = False,
    key: str = "image",
    read: Callable[..., LoadedImage] = read_image,
) -> Compose:
    """Return the deterministic part, the same for training, projection and prediction.

    It takes ``{key: path}`` and gives ``{key: MetaTensor [1, *spatial_size]}`` in [0, 1], with
    ``meta["reference"]`` and ``meta["placement"]``. MONAI's ``Compose`` turns an `ImageReadError`
    into a ``RuntimeError`` whose ``__cause__`` it is.

    Args:
        voi, read: as in `LoadRadiograph`.
        mode, spacing_mm: as in `FitImage`.
        crop: ``"body"`` crops to the part that shows the patient, see `CropBody`; ``"lungs"`` to
            the lungs of a chest image, see `CropLungs`.
        blacken_outside: make everything else black, see `BlackenOutside`.

    Raises:
        ValueError: if ``crop`` is unknown.
    """
    if crop not in CROPS:
        raise ValueError(f"crop must be one of {list(CROPS)}, got {crop!r}.")
    steps: list[MapTransform] = [LoadRadiographd(key, voi, read=read)]
    if len(spatial_size) == 3:
        steps.append(OrientVolumed(key))
    if crop != "none":
        steps.append({"body": CropBodyd, "lungs": CropLungsd}[crop](key))
    if blacken_outside:
        steps.append(BlackenOutsided(key))
    return Compose([*steps, FitImaged(key, spatial_size, mode, spacing_mm=spacing_mm)])
