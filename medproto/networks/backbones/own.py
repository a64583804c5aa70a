"""A person's own network as a backbone: ``"package.module:factory"``.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``*S``, ``*G`` image and cells.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...records import CellGrid
from .base import Backbone
from .measured_grid import measure_grid

__all__ = ["TRUSTED_VARIABLE", "OwnBackbone"]

TRUSTED_VARIABLE = "MEDPROTO_TRUSTED_BACKBONES"
"""Environment variable: names that may be imported, separated by commas."""


class OwnBackbone(Backbone):
    """The network that ``factory(spatial_dims, in_channels)`` returns, measured by a dry forward.

    It maps ``[B, C, *S]`` with values in [0, 1] to ``[B, D, *G]``, normalizes by itself and brings
    its own weights. Its name may stand in a foreign model file, and importing it runs code; so it
    is imported only when trusted.

    Args:
        name: ``"package.module:factory"``.
        spatial_dims: 2 or 3.
        in_channels: ``C``.
        image_size: ``*S``.
        trusted: the caller wants this code to run. Otherwise the name must stand in the environment
            variable :data:`TRUSTED_VARIABLE`.
        measured: centre, stride and field of the cells from ``arguments`` of an earlier build;
            ``None`` measures them, see :mod:`.measured_grid`.

    Raises:
        ValueError: if the name is not trusted, cannot be imported, or the network does not fit.
    """

    STAGES: ClassVar[int] = 1

    def __init__(
        self,
        name: str,
        spatial_dims: int,
        in_channels: int,
        *,
        image_size: Sequence[int],
        trusted: bool = False,
        measured: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            name, spatial_dims, in_channels, image_size=image_size, stage=None, weights=None
        )
        if not trusted and name not in _trusted_names():
            raise ValueError(
                f"backbone {name!r} must be trusted before its code is imported. Pass "
                f"trusted=True, or set the environment variable {TRUSTED_VARIABLE}={name}."
            )
        self.network = _build(name, spatial_dims, in_channels)
        self.out_channels, shape = _dry_forward(self.network, name, in_channels, image_size)
        if measured is None:
            self.grid, self.whole_image = self._measure(image_size, shape)
        else:
            self.grid, self.whole_image = _stated_grid(measured, shape)
        self.arguments["measured"] = {
            "first_center": list(self.grid.first_center),
            "stride": list(self.grid.stride),
            "receptive_field": list(self.grid.receptive_field),
            "whole_image": self.whole_image,
        }

    def _measure(self, image_size: Sequence[int], shape: tuple[int, ...]) -> tuple[CellGrid, bool]:
        in_channels = int(self.arguments["in_channels"])
        try:
            return measure_grid(self.network, in_channels, image_size, shape)
        except Exception as error:  # whatever a person's own code raises
            raise ValueError(
                f"{_raised(self.arguments['name'], error)} That was while its cells were measured, "
                "on a copy in float64: the forward must not cast its input, and must let gradients "
                "reach it (to freeze weights, take requires_grad_(False) in place of no_grad)."
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[B, D, *G]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        return self.network(x)


def _trusted_names() -> set[str]:
    return {name.strip() for name in os.environ.get(TRUSTED_VARIABLE, "").split(",")}


def _build(name: str, spatial_dims: int, in_channels: int) -> nn.Module:
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"backbone must be an importable 'package.module:factory', got {name!r} ({error}). "
            "Is the package installed in this environment?"
        ) from error
    try:
        network = factory(spatial_dims, in_channels)
    except Exception as error:  # whatever a person's own code raises
        raise ValueError(_raised(name, error)) from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} must return a torch module, got {type(network).__name__}.")
    return network


def _raised(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{name} must work, it raised {type(error).__name__}: {text}"


def _stated_grid(measured: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[CellGrid, bool]:
    try:
        values = [
            tuple(float(v) for v in measured[key])
            for key in ("first_center", "stride", "receptive_field")
        ]
        whole = bool(measured["whole_image"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"measured must be as in arguments, got {dict(measured)}.") from error
    if any(len(value) != len(shape) for value in values):
        raise ValueError(f"measured must have {len(shape)} values a key, got {dict(measured)}.")
    return CellGrid(shape, *values), whole


def _dry_forward(
    network: nn.Module, name: str, in_channels: int, image_size: Sequence[int]
) -> tuple[int, tuple[int, ...]]:
    """Return ``D`` and ``*G``."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            features = network(torch.full((1, in_channels, *image_size), 0.5))
    except Exception as error:  # likewise
        size = [1, in_channels, *image_size]
        raise ValueError(f"{_raised(name, error)} Its input was {size}.") from error
    network.train(training)
    wanted = 2 + len(image_size)
    found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(features, Tensor) or features.ndim != wanted or features.numel() == 0:
        raise ValueError(
            f"{name} must return features of {wanted} axes, [B, D, *G], got {found}. Leave out "
            "its pooling and its classifier."
        )
    return features.shape[1], tuple(features.shape[2:])
