"""What identifies an exported file, and whether it still belongs to a network.

Beside each export lies ``<file>.json``; see :mod:`medproto.networks.export`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ExportError
from .model_file import tensor_digest
from .protopnet import ProtoPNet

__all__ = ["ExportCard", "card_path", "check_export", "file_digest"]

FORMAT = "medproto-export/1"


@dataclass(frozen=True, slots=True)
class ExportCard:
    """What ``<file>.json`` says of an export.

    Args:
        kind: ``"onnx"`` or ``"torch"``.
        model_digest: identity of the network, over its tensors, as in ``model.json``.
        classes: names of the classes.
        preprocessing: what makes an image ready for the network, as in ``model.json``.
        architecture: arguments of :class:`ProtoPNet`; with the head they say what the logits mean.
        synthetic: the training cohort is not of patients.
        medproto: version that exported.
        torch: version that exported.
        opset: of ONNX; ``None`` for ``"torch"``.
        batch: number of images, or ``"dynamic"``.
        max_difference: largest absolute difference of a logit to the network; filled when checked.
        size: bytes of the file; filled when written.
        file_digest: of the file; filled when written.
    """

    kind: Literal["onnx", "torch"]
    model_digest: str
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    architecture: dict[str, Any]
    synthetic: bool
    medproto: str
    torch: str
    opset: int | None
    batch: int | Literal["dynamic"]
    max_difference: float = 0.0
    size: int = 0
    file_digest: str = ""
    dtype: str = "float32"
    format: str = FORMAT

    def identity(self) -> dict[str, Any]:
        """Return what also stands inside the file: all but the figures of the file itself."""
        own = ("max_difference", "size", "file_digest")
        return {key: value for key, value in asdict(self).items() if key not in own}


def check_export(path: Path, network: ProtoPNet) -> ExportCard:
    """Return the card of an export after checking that it is of this network, and unaltered.

    Raises:
        ExportError: if a file is missing, was altered, or was exported from another state of the
            network; export again then.
    """
    try:
        values = json.loads(card_path(path).read_text(encoding="utf-8"))
        values["classes"] = tuple(values["classes"])
        card = ExportCard(**values)
        found = file_digest(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{path.name} and {path.name}.json must be an export and its card; one is missing or "
            "damaged. Export again."
        ) from error
    if found != card.file_digest:
        raise ExportError(
            f"{path.name} must have the digest {card.file_digest} that stands in {path.name}.json, "
            f"got {found}. Export again."
        )
    current = tensor_digest(network.state_dict())
    if current != card.model_digest:
        raise ExportError(
            f"{path.name} was exported from the model {card.model_digest}, but this network is "
            f"{current}. Export again."
        )
    return card


def card_path(path: Path) -> Path:
    """Return the path of the card of an export."""
    return path.with_name(path.name + ".json")


def file_digest(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
