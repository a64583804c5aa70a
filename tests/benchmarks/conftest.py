"""Benchmarks are scripts, found beside each other."""

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def script(monkeypatch):
    """Import a module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def _same_threads():
    """Benchmarks set the number of torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
