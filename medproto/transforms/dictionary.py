"""Dictionary forms of :mod:`medproto.transforms.array`, and the deterministic part as a whole."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform

from medproto.transforms.array import FitImage, LoadRadiograph

__all__ = ["FitImaged", "LoadRadiographd", "preprocessing"]


class LoadRadiographd(MapTransform):
    """Dictionary form of `LoadRadiograph`: each key holds a path and then the image.

    Args:
        keys: of the paths.
        voi: as in `LoadRadiograph`.
    """

    def __init__(
        self, keys: KeysCollection, voi: str = "voi", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.loader = LoadRadiograph(voi)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images in place of the paths."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.loader(out[key])
        return out


class FitImaged(MapTransform):
    """Dictionary form of `FitImage`.

    Args:
        keys: of the images.
        spatial_size, mode: as in `FitImage`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        mode: str = "letterbox",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fit = FitImage(spatial_size, mode)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images fitted."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.fit(out[key])
        return out


def preprocessing(
    spatial_size: Sequence[int], *, voi: str = "voi", mode: str = "letterbox", key: str = "image"
) -> Compose:
    """Return the deterministic part, the same for training, projection and prediction.

    It takes ``{key: path}`` and gives ``{key: MetaTensor [1, *spatial_size]}`` in [0, 1], with
    ``meta["reference"]`` and ``meta["placement"]``. MONAI's ``Compose`` turns an `ImageReadError`
    into a ``RuntimeError`` whose ``__cause__`` it is.

    Args:
        voi: as in `LoadRadiograph`.
        mode: as in `FitImage`.
    """
    return Compose([LoadRadiographd(key, voi), FitImaged(key, spatial_size, mode)])
