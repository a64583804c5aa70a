"""Thousands of damaged files through check and prediction: all accounted for, nothing broken."""

import random
import resource
import struct
import time
import warnings
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom.data
import pytest
from pydicom import dcmread

from audit import AuditLog, verify
from medproto.data import Cohort, check_cohort, readers
from medproto.data.reader_worker import MAX_MEMORY
from pipelines.predict import predict_batch

GROWTH = 400 * 2**20  # of the process itself; a file is 300 kB at most
LONGEST = 10.0

SOURCES = [
    path
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
    if path.stat().st_size < 300_000 and b"DICM" in path.read_bytes()[:132]
]
LIES = {
    "Rows": [0, 1, 7, 65535],
    "Columns": [0, 3, 65535],
    "NumberOfFrames": [-1, 0, 2, 10**9],
    "SamplesPerPixel": [0, 2, 3, 4],
    "BitsAllocated": [0, 1, 7, 8, 16, 32, 64],
    "BitsStored": [0, 1, 12, 32],
    "PixelRepresentation": [0, 1, 9],
    "PlanarConfiguration": [0, 1, 5],
    "PhotometricInterpretation": ["MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL_422", "XYZ", ""],
    "RescaleSlope": [0, -1, 1e300],
    "WindowWidth": [0, -5, 1e300],
    "PixelSpacing": [[0, 0], [1e9, -1]],
    "PixelPaddingValue": [0, 65535],
}
SYNTAXES = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
]


def damaged_dicom(draw: random.Random) -> bytes:
    content = draw.choice(SOURCES).read_bytes()
    return draw.choice([flipped, flipped, cut, swapped, lying])(content, draw)


def damaged_nifti(draw: random.Random) -> bytes:
    shape = [draw.randint(8, 24) for _ in range(3)]
    kind = draw.choice([np.int16, np.uint8, np.float32])
    values = np.random.default_rng(draw.randrange(2**32)).integers(0, 200, shape).astype(kind)
    image = draw.choice([nibabel.Nifti1Image, nibabel.Nifti2Image])(values, np.diag([1, 2, 3, 1]))
    content = bytearray(image.to_bytes())
    how = draw.choice(["flip", "cut", "shape", "type", "offset"])
    first = isinstance(image, nibabel.Nifti2Image) is False
    if how == "shape" and first:
        struct.pack_into("<8h", content, 40, *(draw.choice([-1, 0, 3, 30000]) for _ in range(8)))
    elif how == "type" and first:
        struct.pack_into("<2h", content, 70, draw.choice([0, 1, 128, 2048, 999]), 8)
    elif how == "offset" and first:
        struct.pack_into("<f", content, 108, draw.choice([-1.0, 0.0, 1e9, float("nan")]))
    elif how == "cut":
        return cut(bytes(content), draw)
    else:
        # Mostly in the header: a changed voxel is nothing to notice.
        for _ in range(draw.randint(1, 12)):
            content[draw.randrange(600)] = draw.randrange(256)
    return bytes(content)


def flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    end = draw.choice([min(len(changed), 2000), len(changed)])
    for _ in range(draw.randint(1, 30)):
        changed[draw.randrange(132, end)] = draw.randrange(256)
    return bytes(changed)


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def swapped(content: bytes, draw: random.Random) -> bytes:
    """Write zeros, ones or another part over a part."""
    changed, size = bytearray(content), draw.randint(1, 400)
    start, other = (draw.randrange(132, max(len(changed) - size, 133)) for _ in range(2))
    filler = draw.choice([bytes(size), b"\xff" * size, bytes(changed[other : other + size])])
    changed[start : start + size] = filler
    return bytes(changed)


def lying(content: bytes, draw: random.Random) -> bytes:
    """Say something else in one to three elements than the pixels are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(BytesIO(content))
            for keyword in draw.sample(sorted(LIES), draw.randint(1, 3)):
                setattr(dataset, keyword, draw.choice(LIES[keyword]))
            if draw.random() < 0.3:
                dataset.file_meta.TransferSyntaxUID = draw.choice(SYNTAXES)
            out = BytesIO()
            dataset.save_as(out)
        except Exception:  # not everything can be written
            return flipped(content, draw)
        return out.getvalue()


def write(folder, dicom, nifti, seed):
    draw = random.Random(seed)
    makers = [damaged_dicom] * dicom + [damaged_nifti] * nifti
    rows = []
    for number, make in enumerate(makers):
        (folder / f"{number:04d}").write_bytes(make(draw))
        rows.append((f"{number:04d}", "ab"[number % 2], f"P{number}"))
    return Cohort(pd.DataFrame(rows, columns=["image", "label", "patient_id"]), folder)


def through_check(cohort):
    """Return the readable rows; time each file by the gaps between reports."""
    gaps, last = [0.0], time.monotonic()
    first = [True]

    def tell(done, count):
        nonlocal last
        now = time.monotonic()
        if not first:
            gaps.append(now - last)
        first.clear()  # the first report waits for the processes to start
        last = now

    report = check_cohort(cohort, voi="percentile", progress=tell)
    bad = {problem.row for problem in report.problems if problem.stage == "image"}
    read = {row for row, reference in enumerate(report.references) if reference is not None}
    assert bad | read == set(range(len(cohort)))
    assert not bad & read
    assert all("\n" not in problem.reason for problem in report.problems)
    assert max(gaps) < LONGEST
    return sorted(read), bad


def through_prediction(cohort, run, url):
    items = [(row, cohort.image_source(row)) for row in range(len(cohort))]
    with AuditLog.create(url) as log:
        found = list(predict_batch(run, items, log, actor="fuzz", batch=cohort.digest))
    assert [item.row for item in found] == list(range(len(cohort)))
    predicted = [item.row for item in found if item.prediction is not None]
    assert all((item.prediction is None) == bool(item.problem) for item in found)
    assert verify(url).ok
    assert verify(url).records == len(predicted)
    return predicted


def fuzz(folder, run, *, dicom, nifti, seed):
    cohort = write(folder, dicom, nifti, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    read, bad = through_check(cohort)
    predicted = through_prediction(cohort, run, f"sqlite:///{folder / 'log.db'}")
    # The network's own gray policy may refuse what percentiles allow; a volume is no plane.
    assert set(predicted) <= set(read)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < GROWTH
    readers().close()  # collected, so that their peak counts below
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < MAX_MEMORY
    return {"read": len(read), "refused": len(bad), "predicted": len(predicted)}


def test_a_hundred_damaged_files(tiny_run, tmp_path):
    counts = fuzz(tmp_path, tiny_run, dicom=80, nifti=20, seed=0)
    assert counts["read"] + counts["refused"] == 100
    assert min(counts.values()) > 5  # both kinds are there


@pytest.mark.slow
def test_two_and_a_half_thousand_damaged_files(tiny_run, tmp_path, capsys):
    counts = fuzz(tmp_path, tiny_run, dicom=2000, nifti=500, seed=1)
    assert counts["read"] + counts["refused"] == 2500
    with capsys.disabled():
        print(counts)
