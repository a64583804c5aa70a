"""What is kept of images between trainings: found by content, never stale, and checked."""

import shutil
import stat

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pipelines.datasets as datasets
from medproto.data import Cohort, ImageChannels, ImageFrame
from medproto.errors import ImageReadError
from pipelines.config import ConfigError
from pipelines.content_cache import ContentCache
from pipelines.datasets import ImageSet

STEPS = {"spatial_size": (24, 24), "voi": "voi", "mode": "letterbox"}
CLASSES = ("a", "b")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MEDPROTO_CACHE", str(folder))
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded."""
    names = []
    original = datasets.preprocessing

    def counting(**steps):
        transform = original(**steps)

        def run(data):
            names.append(data["image"].name)
            return transform(data)

        return run

    monkeypatch.setattr(datasets, "preprocessing", counting)
    return names


@pytest.fixture
def cohort(tmp_path):
    random = np.random.default_rng(0)
    for name in ("x", "y", "z"):
        Image.fromarray(random.integers(0, 255, (40, 30), np.uint8)).save(tmp_path / f"{name}.png")
    table = pd.DataFrame({"image": ["x.png", "y.png", "z.png"], "label": ["a", "b", "a"]})
    return Cohort(table.assign(patient_id=["1", "2", "3"]), tmp_path)


def load(cohort, **steps):
    return ImageSet.load(cohort, range(len(cohort)), CLASSES, {**STEPS, **steps})


def same(one, other):
    assert torch.equal(one.pixels, other.pixels)
    assert one.references == other.references
    assert one.placements == other.placements


def test_nothing_is_decoded_twice(cohort, cache, decoded):
    first = load(cohort)
    assert sorted(decoded) == ["x.png", "y.png", "z.png"]
    same(first, load(cohort))
    assert len(decoded) == 3
    assert len(list(cache.iterdir())) == 3
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_without_the_variable_nothing_is_kept(cohort, cache, decoded, monkeypatch):
    monkeypatch.delenv("MEDPROTO_CACHE")
    same(load(cohort), load(cohort))
    assert len(decoded) == 6
    assert not cache.exists()


def test_a_moved_file_is_found_and_a_changed_one_read(cohort, cache, decoded, tmp_path):
    first = load(cohort)
    shutil.move(tmp_path / "x.png", tmp_path / "w.png")
    moved = Cohort(cohort.table.replace({"image": {"x.png": "w.png"}}), tmp_path)
    same(first, load(moved))
    assert len(decoded) == 3
    Image.fromarray(np.full((40, 30), 7, np.uint8)).save(tmp_path / "w.png")
    changed = load(moved)
    assert decoded[3:] == ["w.png"]
    assert changed.image(0).max() == pytest.approx(7 / 255)


def test_other_steps_are_other_entries(cohort, cache, decoded):
    load(cohort)
    stretched = load(cohort, mode="stretch")
    assert len(decoded) == 6
    assert stretched.placements[0].scale == (24 / 40, 24 / 30)


@pytest.mark.parametrize("damage", ["cut", "pixel", "empty", "facts"])
def test_a_damaged_entry_is_read_anew(cohort, cache, decoded, damage):
    first = load(cohort)
    for entry in cache.iterdir():
        content = bytearray(entry.read_bytes())
        if damage == "cut":
            content = content[:-100]
        elif damage == "pixel":
            content[-2000] ^= 1
        elif damage == "facts":
            place = content.index(b'"modality"')
            content[place + 12 : place + 15] = b"ZZZ"
        entry.write_bytes(b"" if damage == "empty" else bytes(content))
    same(first, load(cohort))
    assert len(decoded) == 6
    load(cohort)
    assert len(decoded) == 6


def test_a_file_that_is_gone_is_named_by_its_row(cohort, cache, tmp_path):
    load(cohort)
    (tmp_path / "y.png").unlink()
    with pytest.raises(ImageReadError, match="row 1: the file does not exist"):
        load(cohort)


def test_a_folder_that_others_may_enter_is_refused(cohort, cache):
    cache.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match=r"its owner alone may enter \(chmod 700\)"):
        load(cohort)
    cache.chmod(0o700)
    load(cohort)
    assert len(list(cache.iterdir())) == 3


def test_frames_channels_and_folders_have_names_of_their_own(tmp_path, cache):
    kept = ContentCache(cache, STEPS)
    (tmp_path / "series").mkdir()
    for name, content in (("p", b"one"), ("q", b"two"), ("series/1", b"one"), ("series/2", b"two")):
        (tmp_path / name).write_bytes(content)
    p, q = tmp_path / "p", tmp_path / "q"
    sources = [
        p,
        q,
        ImageFrame(p, 0),
        ImageFrame(p, 1),
        ImageChannels((p, q)),
        ImageChannels((q, p)),
        tmp_path / "series",
    ]
    assert len({kept._name(source) for source in sources}) == len(sources)
