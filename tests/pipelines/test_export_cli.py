"""``medproto model export``, and the example of docs/export.md on its result."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from medproto.networks import export
from medproto.networks.export_card import check_export

TEXT = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
EXAMPLE, CHECK = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def main(main):
    """Run ``medproto model export``; returns status, stdout and stderr."""
    return partial(main, "model", "export")


def test_onnx_and_the_example_of_the_docs(tiny_run, tmp_path, monkeypatch, main):
    status, out, err = main(tiny_run.path, "--format", "onnx", "--out", tmp_path / "first.onnx")
    assert status == 0, err
    assert "ONNX, opset 20" in out
    assert tiny_run.card.model_digest in out
    size = (tmp_path / "first.onnx").stat().st_size / 1e6
    assert f"({size:.1f} MB)" in out
    difference = re.search(r"largest difference +(\d\.\de-\d+) of a logit", out)
    assert float(difference[1]) < 1e-4
    assert "no evidence and no record" in err
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(EXAMPLE, names)
    with torch.no_grad():
        expected = tiny_run.network(torch.from_numpy(names["image"])).numpy()
    assert names["image"].shape == (1, 1, 64, 64)
    np.testing.assert_allclose(names["logits"], expected, rtol=1e-4, atol=1e-4)
    exec(CHECK.replace("runs/first", str(tiny_run.path)), {})


def test_torch_as_json(tiny_run, tmp_path, main):
    path = tmp_path / "new" / "first.pt2"
    status, out, err = main(tiny_run.path, "--format", "torch", "--out", path, "--json")
    assert (status, err) == (0, "")
    card = json.loads(out)
    assert card == json.loads(path.with_name("first.pt2.json").read_text())
    assert card["model_digest"] == tiny_run.card.model_digest
    assert card["classes"] == list(tiny_run.card.classes)
    assert card["preprocessing"] == tiny_run.card.preprocessing
    assert card["opset"] is None
    assert check_export(path, tiny_run.network).size == path.stat().st_size


def test_errors_are_one_line(tiny_run, tmp_path, monkeypatch, main):
    status, out, err = main(tmp_path, "--format", "torch", "--out", tmp_path / "x.pt2")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "folder of a finished training" in err
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    status, out, err = main(tiny_run.path, "--format", "onnx", "--out", tmp_path / "x.onnx")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "pip install 'medproto[export]'" in err
    status, _, err = main(tiny_run.path, "--format", "torch", "--out", tmp_path)
    assert status == 2
    assert "must be a file" in " ".join(err.split())
    assert main(tiny_run.path, "--format", "tflite", "--out", tmp_path / "x")[0] == 2
