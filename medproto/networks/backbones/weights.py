"""Pretrained weights: read a state dict, check every tensor of it, copy it into a network.

The layout is torchvision's. Nothing is skipped in silence: a file of another network, a tensor of
another shape or a missing one is an error that names the first.
"""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DenseNet121, EfficientNetBN
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import ModelFileError

__all__ = ["copy_weights", "file_digest", "read_weights", "weight_file"]

_DOWNLOADS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "densenet121": (
        "densenet121-*.pth",
        partial(DenseNet121, 2, 3, 1000, pretrained=True, progress=False),
    ),
    **{
        f"efficientnet_b{i}": (
            f"efficientnet-b{i}-*.pth",
            partial(EfficientNetBN, f"efficientnet-b{i}", pretrained=True, progress=False),
        )
        for i in range(4)
    },
}
"""Name: the file in torch's cache, and MONAI's network that brings it there."""


def file_digest(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a state dict from ``.safetensors`` or from a torch file, never running code in it.

    Returns:
        The tensors by name, and the digest of the file.

    Raises:
        ModelFileError: if the file is missing, unreadable, or holds something else.
    """
    try:
        digest = file_digest(path)
        if path.suffix == ".safetensors":
            values: Any = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises many kinds on bytes that are no state dict
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ModelFileError(
            f"the weight file {path.name} must be a readable state dict (.pth or .safetensors), "
            f"got {reason}. Save one with torch.save(network.state_dict(), FILE), or give None "
            "(null in a configuration) for a random start."
        ) from error
    if not isinstance(values, Mapping) or not all(isinstance(v, Tensor) for v in values.values()):
        raise ModelFileError(
            f"the weight file {path.name} must hold tensors by name, got {type(values).__name__} "
            "with other values. Save one with torch.save(network.state_dict(), FILE)."
        )
    return dict(values), digest


def copy_weights(
    network: nn.Module,
    source: Mapping[str, Tensor],
    rename: Callable[[str], str],
    *,
    name: str,
    ignored: Iterable[str],
) -> None:
    """Copy tensors into all parameters and statistics of ``network``.

    Args:
        network: the whole feature path, all stages, so that a file of a deeper sister is noticed.
        source: tensors by the file's names.
        rename: from a name of ``network`` to the file's.
        name: of the network, for errors.
        ignored: beginnings of the file's names that belong to its classifier.

    Raises:
        ModelFileError: if a tensor is missing, has another shape, or belongs nowhere.
    """
    prefixes = tuple(ignored)
    used: set[str] = set()
    with torch.no_grad():
        for own, target in network.state_dict().items():
            if own.endswith("num_batches_tracked"):
                continue
            key = rename(own)
            used.add(key)
            found = list(source[key].shape) if key in source else "nothing"
            if found != list(target.shape):
                raise ModelFileError(
                    f"the weights of {name} must have {key} with shape {list(target.shape)}, got "
                    f"{found}. Is it the file of another network or layout?"
                )
            target.copy_(source[key])
    for key in source:
        if key not in used and not key.startswith(prefixes) and not key.endswith("_tracked"):
            raise ModelFileError(
                f"the weights of {name} must not have {key}, which this network lacks. Is it the "
                "file of another network or layout?"
            )


def weight_file(name: str, weights: str | Path) -> Path:
    """Return the file that ``weights`` means for a network; fetch it for ``"download"``.

    Raises:
        ValueError: if there is no such file for this network.
        ModelFileError: if the download fails.
    """
    if weights == "package":
        raise ValueError(
            f"weights='package' must be used with efficientnet_lite0, got {name}. For other "
            "networks pass the path of a file in torchvision's layout, or None (null in a "
            "configuration) for a random start."
        )
    return _download(name) if weights == "download" else Path(weights)


def _download(name: str) -> Path:
    """Let MONAI fetch the ImageNet weights of a network into torch's cache; return the file."""
    if name not in _DOWNLOADS:
        raise ValueError(
            f"weights='download' must be used with one of {', '.join(_DOWNLOADS)}, got {name}. "
            "For other networks pass the path of a weight file."
        )
    pattern, build = _DOWNLOADS[name]
    try:
        build()
    except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
        raise ModelFileError(
            f"the weights of {name} must be in torch's cache or within reach of the network, got "
            f"{type(error).__name__}. Copy the file to this machine and pass its path as weights."
        ) from error
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime)
    return files[-1]
