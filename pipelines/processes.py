"""The processes that train one model together: who takes part, and what they tell each other.

Process 0, the main one, decides and writes; the others help. With one process nothing here does
anything, and ``torch.distributed`` is not even started. What is sent are the project's own records
and tensors, between its own processes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, zip_longest
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medproto.errors import MedProtoError

from .config import ConfigError

__all__ = [
    "ProcessLostError",
    "average",
    "count",
    "from_main",
    "is_main",
    "is_started",
    "joined",
    "rank",
    "spread",
    "synchronize",
]

TIMEOUT = timedelta(hours=2)
"""Longest wait for another process. That of an ended one is over at once; this is for one that
hangs, and must be longer than what process 0 does alone: projection, k-means, the last layer."""

GRACE = 5.0
"""Seconds that a process with an error waits for its launcher, see :func:`joined`."""

STARTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Item = TypeVar("Item")
Result = TypeVar("Result")
_NOTHING = object()


class ProcessLostError(MedProtoError, RuntimeError):
    """A process of a training ended without saying why, or cannot be reached."""


def is_started() -> bool:
    """Whether torchrun, or ``--nproc``, started this process."""
    return all(name in os.environ for name in STARTED)


def count() -> int:
    """Return how many processes train together, 1 where none were joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the zero-based number of this process."""
    return dist.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """Whether this is process 0, the one that decides, writes and speaks."""
    return rank() == 0


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Let the processes that torchrun started train together; without torchrun do nothing.

    ``cuda`` takes NCCL and one device a process, ``cpu`` takes gloo; records always go by gloo.
    Each process gets its share of the machine's cores, unless ``OMP_NUM_THREADS`` is set.

    Only one process should report an error. Most often the others just lost the one that failed, or
    failed alike: whoever is not sure to be the cause waits a little, and the launcher ends it
    before it speaks.

    Raises:
        ConfigError: if the machine has fewer devices than processes.
        ProcessLostError: if another process ended, and no launcher ended this one.
    """
    if not is_started() or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    logger = logging.getLogger("medproto")
    level, first = logger.level, os.environ["RANK"] == "0"
    try:
        _start(device)
        if not first:
            logger.setLevel(logging.CRITICAL)
        yield
        dist.destroy_process_group()
    except Exception as error:
        if not (first and isinstance(error, MedProtoError)):
            time.sleep(GRACE)
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ProcessLostError(
                "another process of the training ended or cannot be reached; its own output says "
                "more. Go on with --resume."
            ) from error
        raise
    finally:
        logger.setLevel(level)


def _start(device: str) -> None:
    here, local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ["LOCAL_RANK"])
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // here))
    backend = "gloo"
    if device == "cuda":
        if torch.cuda.device_count() < here:
            raise ConfigError(
                f"device cuda needs one GPU a process, {here} here, this machine has "
                f"{torch.cuda.device_count()}; start fewer, or train on cpu."
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)


def from_main(compute: Callable[[], Result]) -> Result:
    """Compute something in process 0 alone and return it in all; all must call this."""
    if count() == 1:
        return compute()
    message = [compute() if is_main() else None]
    dist.broadcast_object_list(message, src=0)
    return message[0]  # type: ignore[return-value]


def spread(compute: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Share out the items, every ``count()``-th to a process; all get all results, in order."""
    own = [compute(item) for i, item in enumerate(items) if i % count() == rank()]
    if count() == 1:
        return own
    parts: list[list[Result]] = [[] for _ in range(count())]
    dist.all_gather_object(parts, own)
    rounds = chain.from_iterable(zip_longest(*parts, fillvalue=_NOTHING))
    return [result for result in rounds if result is not _NOTHING]  # type: ignore[misc]


def synchronize(module: nn.Module) -> None:
    """Give the parameters and buffers of process 0 to all."""
    if count() == 1:
        return
    for tensor in module.state_dict().values():
        sent = tensor.contiguous()
        dist.broadcast(sent, src=0)
        tensor.copy_(sent)


def average(terms: Mapping[str, Tensor], weight: float) -> dict[str, float]:
    """Return the mean over the processes of scalars, each times its process's ``weight``."""
    names = list(terms)
    values = torch.stack([terms[name].detach().double() for name in names])
    if count() > 1:
        values = values * (weight / count())
        dist.all_reduce(values)
    return dict(zip(names, values.tolist(), strict=True))
