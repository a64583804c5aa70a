"""A synthetic case with numbers to check by hand, and a small cohort with a run trained on it."""

import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid
from typer.testing import CliRunner

from medproto.data import Cohort, split_cohort
from medproto.records import (
    BoxFaithfulness,
    Explanation,
    ImageReference,
    PixelBox,
    Prediction,
    PrototypeEvidence,
    PrototypeSource,
)
from pipelines import cli
from pipelines.config import load_config
from pipelines.evaluate import load_split
from pipelines.pictures import PrototypePicture
from pipelines.runs import RunFolder
from pipelines.train import train

CLASSES = ("normal", "nodule")
# similarity and weights (normal, nodule) of the prototypes; their class.
PROTOTYPES = (
    (8.0, (-0.5, 0.25), 1),
    (4.0, (0.5, -0.75), 0),
    (2.0, (0.25, 0.5), 1),
    (1.0, (0.0, 0.0), 0),
)
BIAS = (0.5, -0.5)


def disc(rows=96, cols=80, center=(40, 50), radius=9):
    """A gradient in [0, 0.6] with a brighter disc."""
    y, x = np.mgrid[:rows, :cols]
    inside = (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2
    return np.clip(0.1 + 0.5 * y / rows + 0.35 * inside, 0, 1).astype(np.float32)


def heat(rows=96, cols=80, center=(40, 50)):
    y, x = np.mgrid[:rows, :cols]
    distance = (y - center[0]) ** 2 + (x - center[1]) ** 2
    return np.exp(-distance / 300).astype(np.float32)


@pytest.fixture
def main(monkeypatch, capsys):
    """Run the whole program in this process; returns status, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medproto", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def command():
    """Run a command that must succeed; returns typer's result."""

    def run(*arguments):
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture(scope="session")
def load_part():
    """Read one split of a run."""

    def load(run, split):
        table = run.cohort.table
        return load_split(run, run.cohort, table.index[table["split"] == split].tolist())

    return load


@pytest.fixture(scope="session")
def image():
    return disc()


@pytest.fixture(scope="session")
def sources():
    return tuple(
        PrototypeSource(
            prototype=p,
            class_index=k,
            class_name=CLASSES[k],
            row=20 + p,
            group=f"G{p}",
            pixel_digest=f"sha256:{p:064x}",
            cell=(p, 2),
            box=PixelBox((10 + p, 12), (40 + p, 44)),
            distance=0.125,
            similarity=9.2103,
        )
        for p, (_, _, k) in enumerate(PROTOTYPES)
    )


@pytest.fixture(scope="session")
def pictures(sources):
    out = {}
    for source in sources:
        whole = disc(center=(26 + source.prototype, 28), radius=8 + source.prototype)
        box = source.box
        crop = whole[box.start[0] : box.stop[0], box.start[1] : box.stop[1]]
        out[source.prototype] = PrototypePicture(crop, whole, (box,))
    return out


@pytest.fixture(scope="session")
def maps(pixel_map):
    drawn = (heat(), heat(center=(80, 20)), heat(center=(38, 52)))
    return {p: pixel_map(values) for p, values in enumerate(drawn)}


@pytest.fixture(scope="session")
def make_explanation(sources):
    """Build an explanation; contributions and logits follow from the table above."""

    def make(classes=CLASSES):
        evidence = tuple(
            PrototypeEvidence(
                prototype=p,
                class_index=k,
                class_name=classes[k],
                similarity=similarity,
                weights=weights,
                contributions=tuple(w * similarity for w in weights),
                cell=(3, 4),
                box=PixelBox((30 + p, 38), (50 + p, 62)),
                box_mm=(6.0, 7.6, 10.0, 12.4),
                source=sources[p],
                faithfulness=BoxFaithfulness(8.0, 6.0, 2.0) if p == 0 else None,
            )
            for p, (similarity, weights, k) in enumerate(PROTOTYPES)
        )
        logits = tuple(b + sum(e.contributions[k] for e in evidence) for k, b in enumerate(BIAS))
        odds = np.exp(logits) / np.exp(logits).sum()
        reference = ImageReference(
            pixel_digest="sha256:" + "ab" * 32,
            shape=(96, 80),
            modality="DX",
            bits_stored=12,
            spacing_mm=(0.2, 0.2),
            spacing_kind="ImagerPixelSpacing",
            voi="window",
            window=(2048.0, 4096.0),
            synthetic=True,
        )
        prediction = Prediction(
            reference, tuple(classes), logits, tuple(odds.tolist()), "sha256:" + "cd" * 32
        )
        return Explanation(prediction, evidence, BIAS, 2.0e-7)

    return make


@pytest.fixture(scope="session")
def explanation(make_explanation):
    return make_explanation()


@pytest.fixture(scope="session")
def history():
    segments = ["features"] * 4 + ["joint"] * 3 + ["twin"] * 3
    count = len(segments)
    return pd.DataFrame(
        {
            "segment": segments,
            "epoch": [1, 2, 3, 4, 1, 2, 3, 1, 2, 3],
            "loss": np.linspace(0.7, 0.2, count),
            "cross_entropy": np.linspace(0.7, 0.2, count),
            "cluster": np.linspace(0.3, 0.1, count),
            "separation": np.linspace(0.3, 0.4, count),
            "val_auroc": np.linspace(0.6, 0.95, count),
            "val_loss": np.linspace(0.69, 0.3, count),
            "seconds": 2.0,
        }
    )


def figure_of(value, width=0.05):
    return {"value": value, "low": round(value - width, 4), "high": round(value + width, 4)}


@pytest.fixture(scope="session")
def metrics():
    own = {
        "n": 60,
        "groups": 31,
        "classes": list(CLASSES),
        "auroc": figure_of(0.931),
        "balanced_accuracy": figure_of(0.875),
        "average_precision": figure_of(0.912),
        "ece": figure_of(0.081),
        "operating_point": {
            "threshold": 0.4375,
            "sensitivity": figure_of(0.9),
            "specificity": figure_of(0.85),
        },
        "confusion": {"labels": list(CLASSES), "matrix": [[26, 4], [3, 27]]},
        "subgroups": {"sex": {"F": {"n": 30, "groups": 15, "auroc": figure_of(0.94)}}},
    }
    place = {
        "n": 30,
        "groups": 16,
        "pointing_game": figure_of(0.8),
        "constant_location": {**figure_of(0.25), "position": [0.4, 0.3]},
        "image_center": figure_of(0.1),
        "energy_inside": figure_of(0.35),
        "area": figure_of(0.06),
        "box_area": {**figure_of(0.08), "median": 0.0725},
    }
    return {
        **own,
        "split": "test",
        "calibrated": False,
        "twin": {**own, "auroc": figure_of(0.925), "difference": figure_of(0.006)},
        "prototypes": {
            "total": 4,
            "unique_sources": 4,
            "unique_groups": 4,
            "self_similarity_min": 9.2103,
        },
        "localization": {**place, "positive_correct": {**place, "n": 27}},
        "last_layer": {
            "objective": 0.12345678,
            "residual": 3.1e-7,
            "iterations": 12,
            "zeros": 2,
        },
    }


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The networks here are too small to share out, and sums keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TINY = (
    "data.image_size=64",
    "model.stage=3",
    "model.prototypes_per_class=3",
    "training.features_epochs=2",
    "training.warm_epochs=1",
    "training.joint_epochs=1",
    "training.batch_size=8",
)


def write_tiny_cohort(folder, *, patients=24, seed=0):
    """Two 64 x 64 images of each patient: noise, and noise with a bright disc and its mask."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        for label in ("normal", "blob"):
            name = f"p{patient:02d}_{label}"
            pixels = random.uniform(0.2, 0.5, (64, 64))
            inside = disc(64, 64, random.integers(14, 50, 2), 7) > disc(64, 64, (0, 0), 0)
            if label == "blob":
                pixels[inside] += 0.45
                Image.fromarray((255 * inside).astype(np.uint8)).save(folder / f"{name}_mask.png")
            Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{name}.png")
            mask = f"{name}_mask.png" if label == "blob" else ""
            sex = "F" if patient % 2 else "M"
            rows.append((f"{name}.png", label, f"P{patient:02d}", sex, mask))
    table = pd.DataFrame(rows, columns=["image", "label", "patient_id", "sex", "mask"])
    path = folder / "cohort.csv"
    split_cohort(Cohort(table, folder), folds=None, seed=seed).save(path)
    return path


FINDINGS = ("blob", "hole", "nothing")
GRADES = ("none", "mild", "severe")
SPLITS = ("train",) * 6 + ("val",) * 3 + ("test",) * 3


def draw(random, marks):
    """Noise of 64 x 64 with a disc for each mark; returns 8-bit pixels and the mask."""
    pixels = random.uniform(0.2, 0.5, (64, 64))
    mask = np.zeros((64, 64), dtype=bool)
    for change, column in marks:
        center = (int(random.integers(14, 50)), column)
        inside = disc(64, 64, center, 7) > disc(64, 64, (0, 0), 0)
        pixels[inside] += change
        mask |= inside
    return (255 * np.clip(pixels, 0, 1)).astype(np.uint8), mask


def write_head_cohort(folder, task):
    """48 fake patients with an image and a mask each: findings, some of them uncertain, or grades.

    A bright disc lies on the left, a dark one on the right; of grades the disc grows brighter.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = []
    for patient in range(48):
        split, name = SPLITS[patient // 4], f"i{patient:02d}"
        row = {"image": f"{name}.png", "patient_id": f"P{patient:02d}", "split": split}
        row |= {"sex": "FM"[patient // 3 % 2], "mask": ""}
        if task == "findings":
            blob, hole = patient % 2, patient // 2 % 2
            row |= dict(zip(FINDINGS, (blob, hole, int(not blob and not hole))))
            if patient % 8 == 5:
                row["hole"] = ("", "-1")[patient % 16 == 5]
            marks = [(0.45, 18)] * blob + [(-0.2, 46)] * hole
        else:
            grade = patient % 3
            row["label"] = GRADES[grade]
            marks = [(0.25 * grade, 18)] * (grade > 0)
        pixels, mask = draw(random, marks)
        Image.fromarray(pixels).save(folder / row["image"])
        if mask.any():
            row["mask"] = f"{name}_mask.png"
            Image.fromarray((255 * mask).astype(np.uint8)).save(folder / row["mask"])
        rows.append(row)
    path = folder / "cohort.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


HEADS = {
    "findings": ("data.label_columns=[blob,hole,nothing]", "model.prototypes_per_class=[3,3,0]"),
    "grades": ("model.head=ordinal", "data.classes=[none,mild,severe]"),
}


@pytest.fixture(scope="session")
def train_head(tmp_path_factory, command):
    """Train on findings or grades by the command; returns the table, the run and the output."""
    done = {}

    def run(task):
        if task not in done:
            folder = tmp_path_factory.mktemp(task)
            table = write_head_cohort(folder / "cohort", task)
            settings = [part for value in (*TINY, *HEADS[task]) for part in ("--set", value)]
            arguments = ["--cohort", str(table), "--out", str(folder / "run"), *settings]
            arguments += ["--twin"] * (task == "grades")
            result = command("train", *arguments)
            done[task] = (table, RunFolder(folder / "run"), result.output)
        return done[task]

    return run


@pytest.fixture(scope="session")
def tiny_settings():
    return TINY


@pytest.fixture(scope="session")
def tiny_config():
    return load_config(None, TINY)


@pytest.fixture(scope="session")
def tiny_table(tmp_path_factory):
    """Path of the table of 48 images of 24 fake patients; read only."""
    return write_tiny_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def tiny_cohort(tiny_table):
    return Cohort.read(tiny_table)


@pytest.fixture(scope="session")
def tiny_path(tiny_cohort, tiny_config, tmp_path_factory):
    """Folder of a finished run with twin; read only, copy it to change it."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    train(tiny_cohort, out, tiny_config, twin=True)
    return out


@pytest.fixture(scope="session")
def tiny_run(tiny_path):
    return RunFolder(tiny_path)


@pytest.fixture
def run_copy(tiny_path, tmp_path):
    """The tiny run, to be altered; its cohort still names the images of the original."""
    target = tmp_path / "copy" / "run"
    shutil.copytree(tiny_path, target)
    Cohort.read(tiny_path / "cohort.csv", group="group").save(target / "cohort.csv")
    return target


@pytest.fixture
def blob_image(tiny_run):
    """Path of a test image with a blob."""
    table = tiny_run.cohort.table
    rows = table.index[(table["split"] == "test") & (table["label"] == "blob")]
    return tiny_run.cohort.image_path(int(rows[0]))


@pytest.fixture
def write_frames():
    """Write a DICOM file of three frames, the gray image of ``image`` in the middle."""

    def write(path, image, **tags):
        gray = np.asarray(Image.open(image).convert("L"))
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        values = {
            "SOPClassUID": meta.MediaStorageSOPClassUID,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "Modality": "US",
            "NumberOfFrames": 3,
            "Rows": gray.shape[0],
            "Columns": gray.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 8,
            "BitsStored": 8,
            "HighBit": 7,
            "PixelRepresentation": 0,
            "PixelData": np.stack([gray * 0, gray, 255 - gray]).tobytes(),
        } | tags
        for name, value in values.items():
            setattr(dataset, name, value)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write
