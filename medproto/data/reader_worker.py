"""Child process that reads images, so that a crash or a hang there costs one file.

Run as a module by :mod:`medproto.data.isolated`. Its first line is `READY`. Each request is a line
of JSON: ``kind`` (``"image"``, ``"reference"`` or ``"mask"``), ``path``, ``frame``, ``voi``. Each
answer is a line of JSON (``reference``, or ``shape`` and ``inside`` of a mask, or ``error``) and,
for an image, the bytes of its float32 pixels.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from medproto.data.channels import ImageFrame
from medproto.data.images import read_image, read_mask
from medproto.data.isolated import READY
from medproto.errors import ImageReadError

__all__ = ["MAX_MEMORY", "serve"]

LONGEST = 3600
"""Seconds after which the process ends by itself, should nobody be left to end it."""

MAX_MEMORY = 2**33
"""Address space of the process: 8 GiB, four times what the largest volume takes as it is read."""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until they end."""
    for line in requests:
        pixels = b""
        signal.alarm(LONGEST)
        try:
            answer, pixels = _answer(json.loads(line))
        except ImageReadError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": "the image takes more memory than is allowed to read one."}
        except OSError as error:  # its text names the file
            answer = {"error": f"the file cannot be opened: {os.strerror(error.errno or 0)}."}
        signal.alarm(0)
        answers.write(json.dumps(answer).encode() + b"\n" + pixels)
        answers.flush()


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    path, frame = Path(request["path"]), request["frame"]
    source = path if frame is None else ImageFrame(path, frame)
    if request["kind"] == "mask":
        mask = read_mask(source)
        return {"shape": list(mask.shape), "inside": int(mask.sum())}, b""
    image = read_image(source, voi=request["voi"])
    pixels = image.pixels.tobytes() if request["kind"] == "image" else b""
    return {"reference": asdict(image.reference)}, pixels


def _main() -> None:
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Libraries print to the standard output, which would come between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        answers.write(READY)
        answers.flush()
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
