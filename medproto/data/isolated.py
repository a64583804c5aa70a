"""Reading in a process of its own: what a damaged file can end is that process, and no more.

The decoders are written in C and C++ and are fed with files from anywhere. A file on which one of
them crashes, runs for ever or takes all memory is one bad file here, with its reason.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medproto.data.channels import (
    ImageChannels,
    ImageFrame,
    LoadedImage,
    join_images,
    join_references,
)
from medproto.data.images import ImageSource
from medproto.errors import ImageReadError, MedProtoError
from medproto.records import ImageReference

__all__ = ["READY", "IsolatedReader", "ReaderPool", "readers"]

Item = TypeVar("Item")
Result = TypeVar("Result")

SECONDS = 10.0
"""Time for a small file."""

BYTES_PER_SECOND = 2e6
"""Slowest reading of a large one: JPEG 2000 on one core."""

START_SECONDS = 120.0
"""Time for a start of the process, which is no file's fault."""

READY = b"ready\n"
"""What the process says once it takes requests."""

_WORKER = "medproto.data.reader_worker"


class IsolatedReader:
    """One child process, started on first use and again after it died. Not safe for threads.

    Call :meth:`close` in the end, as ``contextlib.closing`` does.

    Args:
        seconds: time for a small file; larger ones get more, see `BYTES_PER_SECOND`.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def image(self, source: ImageSource, *, voi: str = "voi") -> LoadedImage:
        """Read as `medproto.data.read_image` does.

        Raises:
            ImageReadError: likewise, and if the process died of the file or took too long.
            MedProtoError: if the process did not start.
        """
        if isinstance(source, ImageChannels):
            return join_images([self.image(part, voi=voi) for part in source.sources])
        answer, pixels = self._ask("image", source, voi)
        reference = _reference(answer["reference"])
        return LoadedImage(np.frombuffer(pixels, np.float32).reshape(reference.shape), reference)

    def reference(self, source: ImageSource, *, voi: str = "voi") -> ImageReference:
        """Read an image, and return what is known of it without its pixels.

        Raises:
            ImageReadError: as :meth:`image`.
        """
        if isinstance(source, ImageChannels):
            return join_references([self.reference(part, voi=voi) for part in source.sources])
        return _reference(self._ask("reference", source, voi)[0]["reference"])

    def mask(self, source: Path | ImageFrame) -> tuple[tuple[int, ...], int]:
        """Read a mask as `medproto.data.read_mask` does; return its shape and pixels inside.

        Raises:
            ImageReadError: as :meth:`image`.
        """
        answer = self._ask("mask", source, "voi")[0]
        return tuple(answer["shape"]), int(answer["inside"])

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():  # not that of one forked from
            _kill(process)
            process.communicate()

    def _ask(
        self, kind: str, source: str | Path | ImageFrame, voi: str
    ) -> tuple[dict[str, Any], bytes]:
        frame = source.frame if isinstance(source, ImageFrame) else None
        path = Path(source.path if isinstance(source, ImageFrame) else source).absolute()
        request = {"kind": kind, "path": str(path), "frame": frame, "voi": voi}
        process = self._running()
        limit = self._seconds + _bytes(path) / BYTES_PER_SECOND
        with _watched(process, limit) as late:
            try:
                answer, pixels = _exchange(process, request)
            except (OSError, ValueError):
                self.close()
                reason = "crashed on this file: it is damaged, or of an unsupported kind."
                if late.is_set():
                    reason = (
                        f"took longer than {limit:.0f} seconds on this file: it is damaged, of an "
                        "unsupported kind, or the machine has too much else to do."
                    )
                raise ImageReadError(f"the decoder {reason}") from None
        if "error" in answer:
            raise ImageReadError(answer["error"])
        return answer, pixels

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt is for the caller, who ends it
                # Where the modules were found, whatever folder this process is in by now.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self._wait_for(self._process)
        return self._process

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it takes requests, so that no file pays for a slow start."""
        with _watched(process, START_SECONDS):
            line = process.stdout.readline() if process.stdout else b""
        if line != READY:
            self.close()
            raise MedProtoError(
                f"the process that reads images must start within {START_SECONDS:.0f} seconds, "
                "and did not. The machine may be short of memory or have too much else to do; try "
                "again."
            )


class ReaderPool:
    """Several `IsolatedReader`, each worked by a thread; they live on between two uses.

    Args:
        count: of processes; ``None`` takes one a core, at most 8.
        seconds: as of `IsolatedReader`.
    """

    def __init__(self, count: int | None = None, *, seconds: float = SECONDS) -> None:
        self._count = count or _cores()
        self._idle: queue.LifoQueue[IsolatedReader] = queue.LifoQueue()
        for _ in range(self._count):
            self._idle.put(IsolatedReader(seconds))

    def map(
        self, work: Callable[[IsolatedReader, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield ``work(reader, item)`` in the order of the items, done side by side."""

        with ThreadPool(self._count) as pool:
            yield from pool.imap(lambda item: self._run(work, item), items)

    def image(self, source: ImageSource, *, voi: str = "voi") -> LoadedImage:
        """Read one image, as soon as a reader is free.

        Raises:
            ImageReadError: as :meth:`IsolatedReader.image`.
        """
        return self._run(lambda reader, wanted: reader.image(wanted, voi=voi), source)

    def close(self) -> None:
        """End the processes; a later use starts them again."""
        free = [self._idle.get() for _ in range(self._count)]
        for reader in free:
            reader.close()
            self._idle.put(reader)

    def _run(self, work: Callable[[IsolatedReader, Item], Result], item: Item) -> Result:
        reader = self._idle.get()
        try:
            return work(reader, item)
        finally:
            self._idle.put(reader)


_POOLS: dict[int, ReaderPool] = {}


def readers() -> ReaderPool:
    """Return the pool of this process: starting its readers takes a second, once."""
    if os.getpid() not in _POOLS:
        _POOLS.clear()  # those of the process that this one was forked from
        _POOLS[os.getpid()] = pool = ReaderPool()
        atexit.register(pool.close)
    return _POOLS[os.getpid()]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # those that this process may use; not on macOS
        return min(len(os.sched_getaffinity(0)), 8)
    return min(os.cpu_count() or 1, 8)


@contextlib.contextmanager
def _watched(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill a process that takes longer; the event says that this was done."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(process)

    watch = threading.Timer(seconds, stop)
    watch.daemon = True
    watch.start()
    try:
        yield late
    finally:
        watch.cancel()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started to decode."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _exchange(
    process: subprocess.Popen[bytes], request: dict[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """Send a request and return the answer and its pixels.

    Raises:
        OSError: if the process is gone.
        ValueError: if it went while it answered.
    """
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process must have pipes.")
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    if request["kind"] != "image" or "error" in answer:
        return answer, b""
    wanted = 4 * math.prod(answer["reference"]["shape"])
    pixels = process.stdout.read(wanted)
    if len(pixels) != wanted:
        raise ValueError("the pixels must be whole.")
    return answer, pixels


def _bytes(path: Path) -> int:
    """Return the size of a file, or of the files in a folder."""
    try:
        if path.is_dir():
            return sum(entry.stat().st_size for entry in os.scandir(path))
        return path.stat().st_size
    except OSError:
        return 0


def _reference(values: dict[str, Any]) -> ImageReference:
    for name in ("shape", "spacing_mm", "window"):
        values[name] = None if values[name] is None else tuple(values[name])
    if values["affine"] is not None:
        values["affine"] = tuple(tuple(row) for row in values["affine"])
    return ImageReference(**values)
