"""What a file can do to a decoder, and what is left of it outside: one line."""

import io
import json
import os
import signal
import threading
import time
from contextlib import closing

import nibabel
import numpy as np
import pytest

from medproto.data import ImageFrame, isolated, read_image, read_mask, reader_worker
from medproto.data.isolated import IsolatedReader, ReaderPool, readers
from medproto.errors import ImageReadError, MedProtoError

READY = "print('ready', flush=True)\n"
RAMP = np.arange(96, dtype=np.uint8).reshape(8, 12)


@pytest.fixture
def reader():
    with closing(IsolatedReader()) as reader:
        yield reader


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Put a program of one's own in place of the worker."""

    def put(text):
        (tmp_path / "fake_worker.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(isolated, "_WORKER", "fake_worker")

    return put


def test_images_frames_volumes_and_masks_come_as_they_are_read_here(
    tmp_path, write_dicom, write_png, reader
):
    place = {
        "PixelSpacing": [2, 3],
        "ImagePositionPatient": [-10, -20, 5],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "WindowCenter": 40,
        "WindowWidth": 60,
    }
    frames = np.stack([RAMP, RAMP + 100])
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 3), np.int16), np.eye(4)), tmp_path / "v.nii")
    sources = [
        write_dicom(tmp_path / "a", RAMP, **place),
        ImageFrame(write_dicom(tmp_path / "b", frames, NumberOfFrames=2, Rows=8, Columns=12), 1),
        write_png(tmp_path / "c.png", RAMP),
        tmp_path / "v.nii",
    ]
    for source in sources:
        expected = read_image(source, voi="percentile")
        found = reader.image(source, voi="percentile")
        assert found.reference == expected.reference
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert reader.reference(source, voi="percentile") == expected.reference
    assert reader.image(sources[0]).reference.window == (40.0, 60.0)
    mask = read_mask(sources[2])
    assert reader.mask(sources[2]) == (mask.shape, mask.sum())


def test_a_refused_file_keeps_its_reason_and_the_process(tmp_path, write_png, reader):
    good = write_png(tmp_path / "a.png", RAMP)
    reader.image(good)
    process = reader._process
    with pytest.raises(ImageReadError, match="does not exist"):
        reader.image(tmp_path / "gone.png")
    reader.image(good)
    assert reader._process is process


@pytest.mark.parametrize(
    "deed",
    ["os.abort()", "os.kill(os.getpid(), 11)", "sys.exit()", "print('{', flush=True); sys.exit()"],
)
def test_a_crash_costs_one_file(tmp_path, write_png, worker, monkeypatch, deed):
    path = write_png(tmp_path / "a.png", RAMP)
    with closing(IsolatedReader()) as reader:
        worker(f"{READY}import os, sys\nsys.stdin.readline()\n{deed}\n")
        with pytest.raises(ImageReadError, match="the decoder crashed on this file"):
            reader.image(path)
        monkeypatch.undo()
        assert reader.image(path).pixels.shape == (8, 12)


def test_a_hang_is_ended_with_all_that_it_started(tmp_path, write_png, worker, monkeypatch):
    path = write_png(tmp_path / "a.png", RAMP)
    worker(
        f"{READY}import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    with closing(IsolatedReader(seconds=1.0)) as reader:
        begin = time.monotonic()
        with pytest.raises(ImageReadError, match="took longer than 1 seconds on this file"):
            reader.image(path)
    assert time.monotonic() - begin < 10
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = _state(child)
        if state in ("Z", ""):
            break
        time.sleep(0.1)
    assert state in ("Z", "")  # dead, be it not yet collected


@pytest.mark.parametrize("deed", ["time.sleep(600)", "sys.exit()", "print('other', flush=True)"])
def test_a_reader_that_does_not_start_blames_no_file(
    tmp_path, write_png, worker, monkeypatch, deed
):
    path = write_png(tmp_path / "a.png", RAMP)
    with closing(IsolatedReader()) as reader:
        monkeypatch.setattr(isolated, "START_SECONDS", 1.0)
        worker(f"import sys, time\n{deed}\n")
        with pytest.raises(MedProtoError, match="must start within 1 seconds") as found:
            reader.image(path)
        assert not isinstance(found.value, ImageReadError)
        monkeypatch.undo()
        assert reader.image(path).pixels.shape == (8, 12)


def test_a_slow_start_is_not_counted(tmp_path, write_png, worker):
    worker(
        "import time\ntime.sleep(1.5)\nfrom medproto.data import reader_worker as real\n"
        "real._main()\n"
    )
    with closing(IsolatedReader(seconds=1.0)) as reader:
        assert reader.image(write_png(tmp_path / "a.png", RAMP)).pixels.shape == (8, 12)


def test_a_reader_that_nobody_ends_ends_itself(monkeypatch):
    monkeypatch.setattr(reader_worker, "_answer", lambda request: ({"left": signal.alarm(0)}, b""))
    answers = io.BytesIO()
    reader_worker.serve([b"{}\n"], answers)
    assert json.loads(answers.getvalue())["left"] == 3600
    assert signal.alarm(0) == 0


def _state(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""


def test_a_file_that_takes_all_memory_is_one_bad_file(tmp_path, worker):
    (tmp_path / "a.png").write_bytes(b"")
    worker(
        "import resource\n"
        "from medproto.data import reader_worker as real\n"
        "def greedy(request):\n"
        "    bytearray(real.MAX_MEMORY)\n"
        "real._answer = greedy\n"
        "real._main()\n"
    )
    with (
        closing(IsolatedReader()) as reader,
        pytest.raises(ImageReadError, match="more memory than is"),
    ):
        reader.image(tmp_path / "a.png")


def test_what_a_library_prints_does_not_come_between(tmp_path, write_png, worker):
    worker(
        "import os\n"
        "from medproto.data import reader_worker as real\n"
        "answer = real._answer\n"
        "def loud(request):\n"
        "    print('warning: odd file', flush=True)\n"
        "    os.write(1, b'noise')\n"
        "    return answer(request)\n"
        "real._answer = loud\n"
        "real._main()\n"
    )
    with closing(IsolatedReader()) as reader:
        assert reader.image(write_png(tmp_path / "a.png", RAMP)).pixels.shape == (8, 12)


def test_a_pool_keeps_the_order_and_works_side_by_side(tmp_path, write_png):
    paths = [write_png(tmp_path / f"{k}.png", RAMP + k) for k in range(12)]
    pool = ReaderPool(2)
    together = threading.Barrier(2, timeout=60)

    def first_pixel(reader, item):
        number, path = item
        if number < 2:
            together.wait()
        return round(float(reader.image(path).pixels[0, 0]) * 255)

    try:
        assert list(pool.map(first_pixel, enumerate(paths))) == list(range(12))
        assert list(pool.map(lambda _, item: item, range(5))) == list(range(5))
        pool.close()
        assert pool.image(paths[3]).pixels[0, 0] == pytest.approx(3 / 255)
    finally:
        pool.close()


def test_the_pool_of_the_process_is_one():
    assert readers() is readers()
    assert os.getpid() in isolated._POOLS


def test_the_workers_protocol(tmp_path, write_png):
    path = write_png(tmp_path / "a.png", RAMP)
    requests = [
        {"kind": "image", "path": str(path), "frame": None, "voi": "voi"},
        {"kind": "mask", "path": str(path), "frame": None, "voi": "voi"},
        {"kind": "reference", "path": str(path), "frame": 1, "voi": "voi"},
    ]
    answers = io.BytesIO()
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    reader_worker.serve(io.BytesIO(lines.encode()), answers)
    answers.seek(0)
    assert json.loads(answers.readline())["reference"]["shape"] == [8, 12]
    pixels = np.frombuffer(answers.read(4 * 96), np.float32).reshape(8, 12)
    np.testing.assert_allclose(pixels, RAMP / 255.0, atol=1e-7)
    assert json.loads(answers.readline()) == {"shape": [8, 12], "inside": 95}
    assert "no frames to choose from" in json.loads(answers.readline())["error"]


def test_a_name_that_no_system_takes_is_one_bad_file_and_is_not_told(tmp_path, write_png, reader):
    good = write_png(tmp_path / "a.png", RAMP)
    reader.image(good)
    process = reader._process
    reason = r"^the file cannot be opened: File name too long\.$"
    with pytest.raises(ImageReadError, match=reason):
        reader.image(tmp_path / ("x" * 300))
    assert reader.image(good).pixels.shape == (8, 12)
    assert reader._process is process
