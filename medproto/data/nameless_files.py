"""Copies of NIfTI, PNG and JPEG files without the places where a text may stand.

Pixels are copied as they are coded.

References:
    [1] NIfTI-1, https://nifti.nimh.nih.gov/nifti-1, and NIfTI-2: fields ``descrip``, ``aux_file``,
        ``db_name``, ``intent_name``, and extensions.
    [2] PNG, https://www.w3.org/TR/png-3/, section 11: ancillary chunks.
    [3] JPEG, ITU-T T.81, B.2.4: application segments and comments.
"""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO, cast

from medproto.data.stored import MAX_BYTES, refusing
from medproto.errors import ImageReadError

__all__ = ["copy_nameless"]

# Of the header of each version: fields of text as (start, end), place and form of the data's start.
_NIFTI_1 = ([(4, 14), (14, 32), (148, 228), (228, 252), (328, 344)], 348, 108, "f")
_NIFTI_2 = ([(240, 320), (320, 344), (508, 524)], 540, 168, "q")
_MOST = 2**26  # of extensions, which are left out all the same
_PART = 2**20
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"sBIT", b"gAMA"}
_ADOBE = 0xEE  # says how colors are coded
_JFIF = 0xE0
_COMMENT = 0xFE
_SCAN = 0xDA


def copy_nameless(source: Path, target: Path, *, kind: str) -> None:
    """Write a copy; a file that is there is replaced.

    Args:
        kind: ``"NIfTI"``, ``"PNG"`` or ``"JPEG"``.

    Raises:
        ImageReadError: if the file is damaged, of another kind, or unpacks to more than 4 GiB.
    """
    copy = {"NIfTI": _copy_nifti, "PNG": _copy_png, "JPEG": _copy_jpeg}[kind]
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with refusing(f"the {kind} file"):
            copy(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _copy_nifti(source: Path, target: Path) -> None:
    with source.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open if packed else open
    with opened(source, "rb") as reader, target.open("wb") as plain:
        writer = cast(BinaryIO, plain)
        if packed:  # without the name and the time that gzip writes into its own header
            writer = cast(BinaryIO, gzip.GzipFile("", "wb", fileobj=plain, mtime=0))
        _copy_nifti_stream(reader, writer)
        if packed:
            writer.close()


def _copy_nifti_stream(reader: BinaryIO, writer: BinaryIO) -> None:
    size = reader.read(4)
    order = "<" if int.from_bytes(size, "little") in (348, 540) else ">"
    (length,) = struct.unpack(f"{order}i", size)
    fields, end, place, form = _NIFTI_2 if length == 540 else _NIFTI_1
    header = bytearray(size + reader.read(end - 4))
    for start, stop in fields:
        header[start:stop] = bytes(stop - start)
    offset = int(struct.unpack_from(f"{order}{form}", header, place)[0])
    if len(header) != end or not 0 <= offset - end <= _MOST:
        raise ImageReadError("the header of the NIfTI file must be whole, and is not.")
    reader.read(offset - end)
    writer.write(bytes(header) + bytes(offset - end))
    _copy_bounded(reader, writer, MAX_BYTES)


def _copy_bounded(reader: BinaryIO, writer: BinaryIO, most: int) -> None:
    """Copy the rest of a file, which may unpack to any size."""
    while part := reader.read(min(most + 1, _PART)):
        most -= len(part)
        if most < 0:
            raise ImageReadError(
                f"the voxels of a NIfTI file may have at most {MAX_BYTES} bytes unpacked, and have "
                "more; cut it into files of fewer volumes."
            )
        writer.write(part)


def _copy_png(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(reader.read(8))
        while True:
            head = reader.read(8)
            if len(head) < 8:
                raise ImageReadError("a PNG file must end with its last chunk; it is truncated.")
            length, name = struct.unpack(">I4s", head)
            content = reader.read(length + 4)
            if name in _PNG_CHUNKS:
                writer.write(head + content)
            if name == b"IEND":
                return


def _copy_jpeg(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(reader.read(2))
        while True:
            marker = reader.read(2)
            if len(marker) < 2 or marker[0] != 0xFF:
                raise ImageReadError("a JPEG file must be a row of segments; it is damaged.")
            length = reader.read(2)
            content = reader.read(int.from_bytes(length, "big") - 2)
            kind = marker[1]
            if not (kind == _COMMENT or (0xE0 <= kind <= 0xEF and kind not in (_JFIF, _ADOBE))):
                # Of JFIF the version, the density and no thumbnail.
                body = content[:12] + b"\0\0" if kind == _JFIF else content
                writer.write(marker + (len(body) + 2).to_bytes(2, "big") + body)
            if kind == _SCAN:
                shutil.copyfileobj(reader, writer)
                return
