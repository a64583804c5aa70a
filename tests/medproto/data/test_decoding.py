import io
import json

import gdcm
import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medproto.data import decoding, gdcm_worker, read_image
from medproto.errors import ImageReadError


@pytest.fixture
def lossless_jpeg(tmp_path):
    """pydicom's MR_small in lossless JPEG, a syntax that only gdcm decodes."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(get_testdata_file("MR_small.dcm", download=False)))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    syntax = gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    change.SetTransferSyntax(syntax)
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return tmp_path / "a.dcm"


def test_lossless_jpeg_gives_the_pixels_of_the_uncompressed_file(lossless_jpeg):
    expected = read_image(get_testdata_file("MR_small.dcm", download=False))
    for _ in range(2):
        found = read_image(lossless_jpeg)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.reference == expected.reference


def test_a_decoder_that_dies_costs_one_image(lossless_jpeg, tmp_path, monkeypatch):
    decoding._CHILD.stop()
    broken = tmp_path / "dies.py"
    broken.write_text("import os, sys\nsys.stdin.readline()\nos.abort()\n")
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_WORKER", broken)
        with pytest.raises(ImageReadError, match=r"JPEG Lossless.* cannot be decoded"):
            read_image(lossless_jpeg)
    assert read_image(lossless_jpeg).pixels.shape == (64, 64)


def test_a_damaged_stream_is_refused(lossless_jpeg):
    content = lossless_jpeg.read_bytes()
    start = content.index(b"\xff\xd8\xff")
    lossless_jpeg.write_bytes(content[: start + 2] + b"\0" * 60 + content[start + 62 :])
    with pytest.raises(ImageReadError, match=r"JPEG Lossless.* cannot be decoded"):
        read_image(lossless_jpeg)


def test_the_workers_protocol(lossless_jpeg, tmp_path):
    paths = (tmp_path / "none", lossless_jpeg)
    requests = "".join(json.dumps([str(path), 0]) + "\n" for path in paths)
    answers = io.BytesIO()
    gdcm_worker.serve(io.BytesIO(requests.encode()), answers)
    answers.seek(0)
    assert json.loads(answers.readline()) == {"error": "FileNotFoundError"}
    answer = json.loads(answers.readline())
    assert answer == {"dtype": "<i2", "shape": [64, 64], "photometric": "MONOCHROME2"}
    assert len(answers.read()) == 64 * 64 * 2
