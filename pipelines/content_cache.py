"""Preprocessed images kept between trainings, found again by what is in their files.

A training, a fold of a cross-validation or an evaluation that wants the same files with the same
steps takes them from here and decodes nothing. The name of an entry is a digest of the files'
bytes, of the steps and of the programs that read them; so an entry never goes stale, and a moved
or renamed file finds it.

Entries hold pixels of patients: the folder is made for its owner alone, and nothing is kept unless
the environment variable MEDPROTO_CACHE names one.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from medproto.data import ImageChannels, ImageFrame, ImageSource
from medproto.errors import ImageReadError
from medproto.networks import tensor_digest
from medproto.networks.model_file import write_atomically
from medproto.records import ImageReference, Placement

from .config import ConfigError

__all__ = ["CACHE_VARIABLE", "ContentCache", "Prepared", "prepared"]

CACHE_VARIABLE = "MEDPROTO_CACHE"
BLOCK = 1 << 20
READERS = (
    *("medproto", "monai", "nibabel", "numpy", "pillow", "pydicom", "pyjpegls", "pylibjpeg"),
    *("pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm", "scipy", "torch"),
)
"""Packages whose versions may change what is read, or how it is fitted."""

SOURCES = ("medproto.data", "medproto.transforms")
"""Own packages of which every line may: their version does not change with each."""


class Prepared(NamedTuple):
    """A preprocessed image.

    Args:
        pixels: ``[C, *S]``.
        reference: what is known of the file.
        placement: where the stored image lies in ``pixels``.
    """

    pixels: Tensor
    reference: ImageReference
    placement: Placement


def prepared(image: MetaTensor) -> Prepared:
    """Return what the preprocessing left in a tensor and its ``meta``."""
    return Prepared(image.as_tensor(), image.meta["reference"], image.meta["placement"])


class ContentCache:
    """A folder of preprocessed images.

    Args:
        folder: made, for its owner alone, when the first image is kept.
        steps: what is done to each image, JSON types; part of the names of its entries.
    """

    def __init__(self, folder: Path, steps: Mapping[str, Any]) -> None:
        self._folder = folder
        self._steps = json.dumps([steps, _programs()], sort_keys=True, default=list).encode()

    def image(self, source: ImageSource, read: Callable[[], Prepared]) -> Prepared:
        """Return what is kept of a file, or read it and keep that.

        A damaged entry is read anew.

        Raises:
            ImageReadError: if a file cannot be read, and whatever ``read`` raises.
            ConfigError: if others may read the folder.
            OSError: if it cannot be written.
        """
        path = self._folder / f"{self._name(source)}.safetensors"
        found = _load(path)
        if found is not None:
            return found
        image = read()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        open_to = stat.S_IMODE(self._folder.stat().st_mode) & 0o077
        if open_to:
            raise ConfigError(
                f"{CACHE_VARIABLE} must name a folder that its owner alone may enter (chmod 700), "
                "since it holds patients' pixels; this one is open to others."
            )
        write_atomically(path, _packed(image))
        return image

    def _name(self, source: ImageSource) -> str:
        digest = hashlib.sha256(self._steps)
        try:
            for part in _content(source):
                digest.update(part)
        except OSError as error:
            raise ImageReadError("the file does not exist, or cannot be read.") from error
        return digest.hexdigest()


@cache
def _programs() -> dict[str, str]:
    """Return versions and digests of all that makes an entry."""
    found = {name: version(name) for name in READERS}
    for package in SOURCES:
        digest = hashlib.sha256()
        for file in sorted(Path(str(files(package))).glob("**/*.py")):
            digest.update(file.read_bytes())
        found[package] = digest.hexdigest()
    return found


def _content(source: ImageSource) -> Iterator[bytes]:
    """Yield what tells an image from others; lengths go before what they are of."""
    if isinstance(source, ImageChannels):
        for part in source.sources:
            yield b"channel"
            yield from _content(part)
        return
    if isinstance(source, ImageFrame):
        yield f"frame {source.frame}".encode()
        source = source.path
    path = Path(source)
    parts = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
    yield f"files {len(parts)}".encode()
    for file in parts:
        yield f"bytes {os.stat(file).st_size}".encode()
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                yield block


def _packed(image: Prepared) -> bytes:
    facts = {"reference": asdict(image.reference), "placement": asdict(image.placement)}
    text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
    parts = {"pixels": image.pixels.contiguous(), "facts": text}
    return save({**parts, "digest": _digest(parts)})


def _digest(parts: Mapping[str, Tensor]) -> Tensor:
    whole = tensor_digest(dict(parts)).removeprefix("sha256:")
    return torch.frombuffer(bytearray.fromhex(whole), dtype=torch.uint8)


def _load(path: Path) -> Prepared | None:
    """Return an entry; ``None`` if there is none that is whole."""
    try:
        parts = load(path.read_bytes())
        digest = parts.pop("digest")
        if not torch.equal(digest, _digest(parts)):
            return None
        facts = json.loads(parts["facts"].numpy().tobytes())
        reference = ImageReference(**_tuples(facts["reference"]))
        return Prepared(parts["pixels"], reference, Placement(**_tuples(facts["placement"])))
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def _tuples(values: Any) -> Any:
    """Turn JSON's lists back into tuples, however deep."""
    if isinstance(values, dict):
        return {name: _tuples(value) for name, value in values.items()}
    return tuple(map(_tuples, values)) if isinstance(values, list) else values
