"""Model files: ``model.safetensors`` and ``model.json``, never a pickle.

A model has two digests. Its *identity* is the digest of its tensors in canonical order: safetensors
may write its metadata in any order, so equal models can have unequal files. The digest of the file
itself stands beside it, so that one altered byte is noticed before anything is parsed.

``model.json`` is written last and atomically: a folder without it is not a finished model.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ..errors import ModelFileError
from .memory_format import use_channels_last
from .protopnet import ProtoPNet

__all__ = ["ModelCard", "load_model", "save_model", "tensor_digest", "write_atomically"]

FORMAT = "medproto-model/1"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.json"

LATER = ("floor", "prototype_shift")
"""Buffers that older files do not have; they stand for none."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What ``model.json`` says: all that is needed to use and to identify the model.

    Args:
        classes: ``[K]`` names, in the order of the logits.
        preprocessing: ``spatial_size``, ``voi`` and ``mode`` of the deterministic transforms.
        dtype: dtype of the backbone at projection, which prediction must share.
        synthetic: the training cohort is not of patients.
        config_digest: of the resolved configuration of the run.
        cohort_digest: of the cohort snapshot of the run, without its paths.
        prototypes_digest: of the file ``prototypes.parquet``.
        doubt_digest: of the file ``doubt.json``; empty in a run without one.
        backbone_weights: digest of the pretrained weight file, ``None`` for a random start.
        versions: of medproto, torch, monai and Python at training.
        architecture: arguments of :class:`ProtoPNet`; filled when saved.
        model_digest: identity, over the tensors; filled when saved.
        file_digest: of ``model.safetensors``; filled when saved.
    """

    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    dtype: str = "float32"
    synthetic: bool = False
    config_digest: str = ""
    cohort_digest: str = ""
    prototypes_digest: str = ""
    doubt_digest: str = ""
    backbone_weights: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    model_digest: str = ""
    file_digest: str = ""
    format: str = FORMAT


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return ``sha256:<hex>`` over names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a crash.

    A crash alone leaves a part, named ``.NAME.*.part``; a failure, such as a full disk, none.
    """
    own = f"{os.getpid()}.{threading.get_ident()}"
    temporary = path.with_name(f".{path.name}.{own}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_model(folder: Path, network: ProtoPNet, card: ModelCard) -> ModelCard:
    """Write both files into ``folder`` and return the card with its digests filled."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    content = save_safetensors(tensors)
    card = replace(
        card,
        architecture=dict(network.arguments),
        model_digest=tensor_digest(tensors),
        file_digest="sha256:" + hashlib.sha256(content).hexdigest(),
    )
    write_atomically(folder / WEIGHTS_NAME, content)
    text = json.dumps(asdict(card), indent=2, sort_keys=True)
    write_atomically(folder / CARD_NAME, (text + "\n").encode())
    return card


def load_model(folder: Path) -> tuple[ProtoPNet, ModelCard]:
    """Read a model from a run folder: in ``eval`` mode, on the CPU, its digests checked.

    Raises:
        ModelFileError: if a file is missing, altered, or of another format.
    """
    card = _read_card(folder)
    content = _read(folder / WEIGHTS_NAME)
    found = "sha256:" + hashlib.sha256(content).hexdigest()
    if found != card.file_digest:
        raise ModelFileError(
            f"{WEIGHTS_NAME} must have the digest {card.file_digest} that stands in {CARD_NAME}, "
            f"got {found}. The file was altered after training; restore it from a copy."
        )
    try:
        tensors = load_safetensors(content)
        network = ProtoPNet(**card.architecture)
        network.load_state_dict({name: getattr(network, name) for name in LATER} | tensors)
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(f"the model cannot be built from its files: {error}") from error
    if tensor_digest(tensors) != card.model_digest:
        raise ModelFileError(f"the tensors do not have the digest {card.model_digest} of the card.")
    use_channels_last(network)
    return network.eval(), card


def _read_card(folder: Path) -> ModelCard:
    try:
        values = json.loads(_read(folder / CARD_NAME))
        if values.get("format") != FORMAT:
            raise ModelFileError(
                f"{CARD_NAME} must have format {FORMAT}, got {values.get('format')!r}. "
                "It was written by another version of medproto."
            )
        values["classes"] = tuple(values["classes"])
        if not all(name.isprintable() for name in values["classes"]):
            raise ModelFileError(f"{CARD_NAME} must name its classes in printable text.")
        return ModelCard(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{CARD_NAME} is not a readable model card: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"the run folder must hold {path.name}, which cannot be read "
            f"({error.strerror or type(error).__name__}). Is it the folder of a finished training?"
        ) from error
