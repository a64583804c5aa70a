"""Child process that decodes DICOM files with gdcm, so that a crash there ends no more than it.

Run as a script by :mod:`medproto.data.decoding`, not imported there: it needs pydicom only. Each
request is a line of JSON, the path; each answer a line of JSON (``dtype``, ``shape``,
``photometric``, or ``error``) and, without an error, the bytes of the pixels.
"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO

from pydicom import dcmread
from pydicom.pixels import get_decoder

__all__ = ["serve"]


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until they end."""
    for line in requests:
        pixels = b""
        try:
            dataset = dcmread(json.loads(line))
            decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
            stored, properties = decoder.as_array(dataset, decoding_plugin="gdcm")
            answer = {
                "dtype": stored.dtype.str,
                "shape": stored.shape,
                "photometric": str(properties["photometric_interpretation"]),
            }
            pixels = stored.tobytes()
        except Exception as cause:  # decoders raise anything; the parent needs the kind alone
            answer = {"error": type(cause).__name__}
        answers.write(json.dumps(answer).encode() + b"\n" + pixels)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
