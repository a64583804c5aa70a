"""The benchmark of the projection runs, on a few small images."""

import importlib
import json
import sys
from pathlib import Path

import torch

# Benchmarks are scripts, found beside each other.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
projection = importlib.import_module("projection")
sys.path.pop()


def test_it_measures_both_choices_and_stamps_the_result(tmp_path, monkeypatch, capsys):
    options = {"images": 12, "size": 64, "prototypes": 4, "repetitions": 1}
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    words += ["--threads", str(torch.get_num_threads()), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["projection.py", *words])
    projection.main()
    written = capsys.readouterr()
    result = json.loads((tmp_path / "projection.json").read_text())
    assert result == json.loads(written.out)
    assert options.items() <= result.items()
    assert {"commit", "date", "cpu"} <= result.keys()
    assert result["forward_s"] > 0
    for choice, limit in (("nearest", 1.1), ("function-preserving", 2.3)):
        row = result["choices"][choice]
        assert row["limit"] == limit
        assert row["ratio_min"] == row["ratio_median"] == row["ratio_max"] > 0
        assert choice in written.err
