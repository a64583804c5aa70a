"""Arrays of a whole cohort, held in a file instead of in memory.

The file has no name and goes with the process, however that ends. It is mapped: what is used often
stays in memory as long as there is room, and the system takes the room back when it needs it. So
the peak of a training does not grow with the cohort. The file lies in the folder for temporary
files, which the environment variable TMPDIR names; where that is a disk in memory, nothing is won.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
import torch
from torch import Tensor

__all__ = ["hold"]

TYPES = {torch.float32: np.float32, torch.bool: np.bool_}


def hold(
    items: Iterable[Tensor],
    count: int,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Write tensors one after the other and return them mapped, ``[count, *shape]``.

    Args:
        items: ``count`` tensors of ``shape`` and ``dtype``; gone through once.
        dtype: ``float32`` or ``bool``.

    Raises:
        OSError: if there is no room for them; the message says where and how much is needed.
        ValueError: if an item has another shape or type, or there are not ``count`` of them.
    """
    written = 0
    with tempfile.TemporaryFile() as file:
        for item in items:
            if item.shape != tuple(shape) or item.dtype != dtype:
                raise ValueError(
                    f"items must be {dtype} of shape {list(shape)}, "
                    f"got {item.dtype} of {list(item.shape)}."
                )
            _write(file, item, count)
            written += 1
        if written != count:
            raise ValueError(f"there must be {count} items, got {written}.")
        if not count:
            return torch.empty(0, *shape, dtype=dtype)
        file.flush()
        # Copy on write: nobody writes, and torch takes no array that is read-only.
        mapped = np.memmap(file, TYPES[dtype], mode="c", shape=(count, *shape))
    return torch.from_numpy(mapped)


def _write(file: IO[bytes], item: Tensor, count: int) -> None:
    try:
        file.write(item.contiguous().numpy().tobytes())
    except OSError as error:
        needed = count * math.prod(item.shape) * item.element_size() / 1e9
        raise OSError(
            error.errno,
            f"{error.strerror}: the preprocessed images need {needed:.1f} GB in the folder for "
            "temporary files; free some room there, or name another folder with the environment "
            "variable TMPDIR",
        ) from error
