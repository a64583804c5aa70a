"""Pixels of a DICOM dataset by the safest installed decoder.

pydicom tries its plug-ins in the order gdcm, pylibjpeg, pillow. On damaged streams gdcm ends the
whole process (segmentation fault, uncaught C++ exception); random bytes in pydicom's own test files
show it within a few hundred tries, and none for the other plug-ins. So gdcm comes last, is used
only where no other decoder exists (lossless JPEG), and there in a child process.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit

from medproto.errors import ImageReadError

__all__ = ["decode"]

_PREFERRED = ("pydicom", "pylibjpeg", "pyjpegls", "pillow")
_WORKER = Path(__file__).with_name("gdcm_worker.py")


def decode(dataset: Dataset, path: Path, frame: int = 0) -> tuple[NDArray[Any], str]:
    """Return the stored pixels of a zero-based frame and their photometric interpretation.

    Color comes as RGB wherever pydicom converts to it. Not safe for threads: callers hold the lock
    of `medproto.data.stored.quietly`.

    Args:
        path: file that ``dataset`` was read from.

    Raises:
        ImageReadError: if the transfer syntax is missing, has no decoder, or decoding fails.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ImageReadError("the file must name its transfer syntax, and does not.")
    # Of a private or unknown syntax, pydicom's name is the UID itself.
    name = "an unknown transfer syntax" if syntax.name == str(syntax) else f"'{syntax.name}'"
    try:
        decoder = get_decoder(syntax)
        plugins = decoder.available_plugins
        plugin = next((p for p in _PREFERRED if p in plugins), "")
        if syntax == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
            plugin = ""  # the others read its 8-bit kind alone
        if not plugin and "gdcm" in plugins:
            return _CHILD.decode(path, frame)
        stored, properties = decoder.as_array(dataset, index=frame, decoding_plugin=plugin)
    except Exception as cause:  # each plug-in has its own
        raise ImageReadError(
            f"pixels in {name} cannot be decoded ({type(cause).__name__}): they are damaged or "
            "truncated, or no installed decoder reads this kind; try a copy that is not compressed."
        ) from None
    return stored, str(properties["photometric_interpretation"])


class _Child:
    """The worker process: started on first use, and again after it died or the process forked."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, path: Path, frame: int) -> tuple[NDArray[Any], str]:
        """Return pixels and photometric interpretation.

        Raises:
            ValueError: if the worker could not decode the file, or died of it.
        """
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise ValueError("the worker must have pipes.")
        try:
            process.stdin.write(json.dumps([str(path.absolute()), frame]).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            if "error" in answer:
                raise ValueError(answer["error"])
            dtype = np.dtype(answer["dtype"])
            count = math.prod(answer["shape"])
            pixels = process.stdout.read(count * dtype.itemsize)
            return np.frombuffer(pixels, dtype).reshape(answer["shape"]), answer["photometric"]
        except (OSError, json.JSONDecodeError):
            self.stop()
            raise ValueError("the worker died.") from None

    def stop(self) -> None:
        """End the worker, if this process started one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            # -P: the folder of the script holds our modules, which must not shadow others.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


_CHILD = _Child()
atexit.register(_CHILD.stop)
