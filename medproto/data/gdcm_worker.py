"""Child process that decodes DICOM files with gdcm, so that a crash there ends no more than it.

Run as a script by :mod:`medproto.data.decoding`, not imported there: it needs pydicom and gdcm
only. Each request is a line of JSON, path and zero-based frame; each answer a line of JSON
(``dtype``, ``shape``, ``photometric``, or ``error``) and, without an error, the bytes of the
pixels.
"""

from __future__ import annotations

import json
import sys
from typing import Any, BinaryIO

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit

__all__ = ["serve"]


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until they end."""
    for line in requests:
        pixels = b""
        try:
            path, frame = json.loads(line)
            dataset = dcmread(path)
            syntax = dataset.file_meta.TransferSyntaxUID
            decode = _decode_12_bits if syntax == JPEGExtended12Bit else _decode
            stored, photometric = decode(dataset, path, frame)
            answer = {
                "dtype": stored.dtype.str,
                "shape": stored.shape,
                "photometric": photometric,
            }
            pixels = stored.tobytes()
        except Exception as cause:  # decoders raise anything; the parent needs the kind alone
            answer = {"error": type(cause).__name__}
        answers.write(json.dumps(answer).encode() + b"\n" + pixels)
        answers.flush()


def _decode(dataset: Dataset, path: str, frame: int) -> tuple[NDArray[Any], str]:
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    stored, properties = decoder.as_array(dataset, index=frame, decoding_plugin="gdcm")
    return stored, str(properties["photometric_interpretation"])


def _decode_12_bits(dataset: Dataset, path: str, frame: int) -> tuple[NDArray[Any], str]:
    """Decode lossy JPEG of 12 bits, which gdcm reads and pydicom's plug-in of it refuses."""
    reader = gdcm.ImageReader()
    reader.SetFileName(path)
    if not reader.Read():
        raise ValueError("gdcm must read the file, and does not.")
    image = reader.GetImage()
    sides = [image.GetDimension(axis) for axis in range(image.GetNumberOfDimensions())]
    columns, rows, frames = (*sides, 1)[:3]
    pixels = image.GetBuffer().encode("utf-8", "surrogateescape")
    stored = np.frombuffer(pixels, np.uint16).reshape(frames, rows, columns)
    return stored[frame], str(dataset.PhotometricInterpretation)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
