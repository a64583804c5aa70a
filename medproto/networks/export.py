"""Export the logits of a network for other runtimes: ``torch.export`` and ONNX, checked equal.

Symbols: ``B`` batch, ``C`` image channels, ``*S`` spatial axes of the image, ``K`` logits, ``P``
prototypes, ``N`` feature cells, ``D`` feature channels.

What is exported is ``forward`` alone, in float32: ``image`` ``[B, C, *S]`` with values in [0, 1]
to ``logits`` ``[B, K]``. There is no evidence in it, and nothing that it computes is recorded: use
an export for timing and integration, and a run folder for predictions that must be explained.

Each file is read back and run beside the network before it gets its name. Beside it lies
``<file>.json`` with what identifies it; the same stands inside the file.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from ..errors import ExportError
from .export_card import ExportCard, card_path, file_digest
from .model_file import ModelCard, tensor_digest, write_atomically
from .protopnet import ProtoPNet

__all__ = ["OPSET", "export_onnx", "export_program"]

METADATA_NAME = "medproto.json"
"""Name of the extra file inside a ``.pt2`` that holds the same values as the file beside it."""

OPSET = 20
"""Operator set of the ONNX files."""

TOLERANCE = 1e-4
"""Largest difference of a logit, in units of ``max(1, |logit|)``."""

CHECKED_BATCHES = (1, 3)
TRACED_BATCH = 2  # torch.export takes a traced size of 1 for a constant
DIFFERENCE_SIZE = 2**24  # values of one block of differences [P', N, D], 64 MiB an image
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Runner = Callable[[Tensor], Tensor]


def export_program(
    network: ProtoPNet,
    path: Path,
    *,
    card: ModelCard,
    batch: int | Literal["dynamic"] = "dynamic",
) -> ExportCard:
    """Write ``forward`` as a ``torch.export`` program (``.pt2``); torch alone can run it.

    Args:
        network: left as it is; a float32 copy in ``eval`` mode on the CPU is exported.
        path: file to write; an older one is replaced.
        card: of the network, for the metadata.
        batch: images a call, or ``"dynamic"`` for any number from 1.

    Raises:
        ExportError: if the program does not compute the network's logits, or ``card`` is of
            another model. ``path`` is then left as it was.

    Example:
        >>> net = ProtoPNet(2, 1, 2, image_size=(64, 64), prototypes_per_class=3)
        >>> card = ModelCard(("normal", "nodule"), {})
        >>> export_program(net, Path("net.pt2"), card=card).batch  # doctest: +SKIP
        'dynamic'
    """
    plain = _plain_copy(network)
    done = _describe(network, card, kind="torch", batch=batch)

    def write(target: Path) -> Runner:
        program = _trace(plain, batch)
        extra = {METADATA_NAME: json.dumps(done.identity(), sort_keys=True)}
        torch.export.save(program, target, extra_files=extra)
        runner: Runner = torch.export.load(target).module()
        return runner

    return _finish(path, done, write, plain)


def export_onnx(network: ProtoPNet, path: Path, *, card: ModelCard) -> ExportCard:
    """Write ``forward`` as ONNX: input ``image``, output ``logits``, the batch axis dynamic.

    Args:
        network: left as it is; a float32 copy in ``eval`` mode on the CPU is exported.
        path: file to write; an older one is replaced.
        card: of the network, for the metadata (JSON values in ``metadata_props``).

    Raises:
        ExportError: if a package of the extra ``export`` is missing, the file does not compute the
            network's logits in onnxruntime, or ``card`` is of another model. ``path`` is then left
            as it was.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX export needs the packages {', '.join(PACKAGES)}; missing: {', '.join(missing)}. "
            "Install them with: pip install 'medproto[export]'"
        )
    plain = _plain_copy(network)
    done = _describe(network, card, kind="onnx", batch="dynamic")

    def write(target: Path) -> Runner:
        # The form that ONNX can express; the program of export_program keeps torch's own kernel.
        table: dict[Any, Any] = {torch.ops.aten.cdist.default: _pairwise_distances}
        program = _trace(plain, "dynamic")
        with _quiet_exporter():
            onnx_program = torch.onnx.export(
                program.run_decompositions(table),
                input_names=["image"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        if onnx_program is None:
            raise ExportError("torch made no ONNX program of the network.")
        model = onnx_program.model
        for key, value in done.identity().items():
            model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
        onnx_program.save(target, external_data=False)
        return _onnx_runner(target)

    return _finish(path, done, write, plain)


def _plain_copy(network: ProtoPNet) -> ProtoPNet:
    return copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)


def _describe(
    network: ProtoPNet,
    card: ModelCard,
    *,
    kind: Literal["onnx", "torch"],
    batch: int | Literal["dynamic"],
) -> ExportCard:
    digest = tensor_digest(network.state_dict())
    if card.model_digest not in ("", digest):
        raise ExportError(
            f"card must be of the network to export ({digest}), got one of {card.model_digest}."
        )
    return ExportCard(
        kind=kind,
        model_digest=digest,
        classes=card.classes,
        preprocessing=card.preprocessing,
        architecture=dict(network.arguments),
        synthetic=card.synthetic,
        medproto=version("medproto"),
        torch=torch.__version__,
        opset=OPSET if kind == "onnx" else None,
        batch=batch,
    )


def _trace(network: ProtoPNet, batch: int | Literal["dynamic"]) -> ExportedProgram:
    """Trace without ``strict``: it runs the module's own Python, also of a person's own backbone.

    Where the lines of code lie on this machine is taken out of the program.
    """
    dynamic = batch == "dynamic"
    example = _images(network, TRACED_BATCH if dynamic else int(batch))
    shapes = ({0: Dim("batch", min=1)},) if dynamic else None
    program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def _images(network: ProtoPNet, batch: int) -> Tensor:
    """Return random images ``[B, C, *S]`` in [0, 1), the same at each call."""
    arguments = network.arguments
    shape = (batch, arguments["in_channels"], *arguments["image_size"])
    return torch.rand(shape, generator=torch.Generator().manual_seed(batch))


def _pairwise_distances(
    vectors: Tensor, patches: Tensor, p: float, compute_mode: int | None = None
) -> Tensor:
    """Return ``|v - z|`` of shape ``[B, P, N]`` for ``[1, P, D]`` and ``[B, N, D]``.

    Differences first, as torch's ``cdist`` without matrix products; a block of prototypes at a
    time, since the differences of all of them can be gigabytes.
    """
    if p != 2.0:
        raise ExportError(f"only Euclidean distances (p=2) can be exported, got p={p}.")
    rows = max(1, DIFFERENCE_SIZE // int(patches.shape[1] * patches.shape[2]))
    blocks = [
        (vectors[:, first : first + rows].unsqueeze(2) - patches.unsqueeze(1)).square().sum(3)
        for first in range(0, vectors.shape[1], rows)  # each [B, P', N]
    ]
    return torch.cat(blocks, dim=1).sqrt()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what a user can do nothing about: torch's own deprecated call, absent torchvision."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Raised where torch copies its own pytree specifications.
            warnings.filterwarnings("ignore", r".*LeafSpec.*is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])

    return run


def _finish(
    path: Path, card: ExportCard, write: Callable[[Path], Runner], network: ProtoPNet
) -> ExportCard:
    """Write into a folder of its own, check, and only then give the file its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        target = Path(folder) / path.name
        try:
            runner = write(target)
        except ExportError:
            raise
        except RuntimeError as error:  # what torch's exporters raise, on many lines
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(f"torch cannot export this network: {reason}") from error
        difference = _difference(runner, network, card.batch)
        card = replace(
            card,
            max_difference=difference,
            size=target.stat().st_size,
            file_digest=file_digest(target),
        )
        target.replace(path)
    text = json.dumps(asdict(card), indent=2, sort_keys=True, allow_nan=False)
    write_atomically(card_path(path), (text + "\n").encode())
    return card


@torch.no_grad()
def _difference(run: Runner, network: ProtoPNet, batch: int | Literal["dynamic"]) -> float:
    """Return the largest absolute difference of a logit; raise if one is above the tolerance."""
    largest = 0.0
    for count in CHECKED_BATCHES if batch == "dynamic" else (int(batch),):
        images = _images(network, count)
        expected = network(images)
        difference = (run(images) - expected).abs()
        relative = float((difference / expected.abs().clamp_min(1.0)).max())
        if not relative <= TOLERANCE:  # NaN too
            raise ExportError(
                f"the export must give the network's logits to {TOLERANCE:g} of max(1, |logit|), "
                f"got a difference of {relative:.3g} on {count} random images. No file was written."
            )
        largest = max(largest, float(difference.max()))
    return largest
