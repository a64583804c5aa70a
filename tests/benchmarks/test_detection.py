"""The parts of benchmarks/detection.py that need no network."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import beta

from medproto.metrics import OutOfDistribution

# Benchmarks are scripts, found beside each other.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
detection = importlib.import_module("detection")
sys.path.pop()


def test_changed_images():
    image = torch.tensor([[[[0.0, 0.25], [0.5, 0.75]]]])
    kinds = {kind: found[0, 0].tolist() for kind, found in detection.changed(image).items()}
    assert kinds["inverted"] == [[1.0, 0.75], [0.5, 0.25]]
    assert kinds["rotated by 90 degrees"] == [[0.25, 0.75], [0.0, 0.5]]
    assert kinds["upside down"] == [[0.5, 0.75], [0.0, 0.25]]
    assert kinds["mirrored, left to right"] == [[0.25, 0.0], [0.75, 0.5]]
    blank = detection.changed(image)["blank"]
    assert blank.shape == (20, 1, 2, 2)
    assert blank.flatten(1).std(dim=1).max() == 0


def test_a_rate_of_one_has_an_interval():
    # Clopper and Pearson: all of n, low = 0.025 ** (1 / n).
    found = detection.rate(np.ones(20, dtype=bool))
    assert (found["value"], found["high"]) == (1.0, 1.0)
    assert found["low"] == pytest.approx(0.025 ** (1 / 20))
    some = detection.rate(np.arange(20) < 3)
    assert some["low"] == pytest.approx(beta.ppf(0.025, 3, 18))


def test_judgement_and_summary():
    random = np.random.default_rng(0)
    usual, fresh = random.normal(size=(2, 60, 4))
    flag = OutOfDistribution.fit(usual, reference=random.normal(size=(60, 4)))
    own = flag.novelty(fresh)
    found = detection.judge(flag, own, fresh - 50)
    assert found["flagged"]["value"] == found["auroc"]["value"] == 1.0
    assert found["median_novelty_over_threshold"] > 1
    kinds = {"a": found, "b": detection.judge(flag, own, fresh)}
    assert kinds["b"]["auroc"]["value"] == 0.5
    summary = detection.summarize([{"kinds": kinds}, {"kinds": kinds}])
    assert summary["a"]["n"] == 120
    assert summary["a"]["flagged"]["low"] == pytest.approx(0.025 ** (1 / 120))
    assert summary["b"]["flagged"]["value"] == pytest.approx(kinds["b"]["flagged"]["value"])


def test_absent_images_are_named_with_the_reason(tmp_path):
    kinds = detection.other_modalities(SimpleNamespace(), tmp_path, tmp_path, 0)
    assert all(why.startswith("not measured: no ") for why in kinds.values())
    assert kinds == detection.other_modalities(SimpleNamespace(), tmp_path, None, 0)
