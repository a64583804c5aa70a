"""The resumable state: round trip, and what it refuses."""

import pickle

import pytest
import torch
from torch import nn

from medproto.errors import ModelFileError
from pipelines.checkpoint import Checkpoint
from pipelines.engine import SegmentState


def modules(seed):
    torch.manual_seed(seed)
    return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.BatchNorm1d(2)})


def checkpoint(path, config="sha256:c", cohort="sha256:d"):
    return Checkpoint(path, config, cohort)


def test_no_file_means_a_new_start(tmp_path):
    assert checkpoint(tmp_path / "none.pt").load(modules(0)) is False


def test_everything_comes_back(tmp_path):
    source = modules(0)
    optimizer = torch.optim.AdamW(source.parameters(), lr=0.1)
    source["a"](torch.ones(2, 3)).sum().backward()
    optimizer.step()
    saved = checkpoint(tmp_path / "folder" / "progress.pt")
    saved.step = 2
    saved.history = [{"segment": "joint", "epoch": 1, "loss": 0.1 + 0.2}]
    saved.state = SegmentState(3, 0.875, 2, dict(source.state_dict()), optimizer.state_dict())
    saved.save(source)

    target, loaded = modules(1), checkpoint(saved.path)
    assert loaded.load(target) is True
    assert (loaded.step, loaded.history) == (2, saved.history)
    assert (loaded.state.epoch, loaded.state.best_score, loaded.state.best_epoch) == (3, 0.875, 2)
    assert loaded.state.stale == 1
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)
        assert torch.equal(loaded.state.best[key], value)
    fresh = torch.optim.AdamW(target.parameters(), lr=0.5)
    fresh.load_state_dict(loaded.state.optimizer)
    assert fresh.param_groups[0]["lr"] == 0.1
    assert [p.name for p in saved.path.parent.iterdir()] == ["progress.pt"]


@pytest.mark.parametrize(("config", "cohort"), [("sha256:x", "sha256:d"), ("sha256:c", "sha256:x")])
def test_another_configuration_or_cohort_is_refused_before_anything_is_loaded(
    tmp_path, config, cohort
):
    checkpoint(tmp_path / "p.pt").save(modules(0))
    target = modules(1)
    before = target["a"].weight.detach().clone()
    with pytest.raises(ModelFileError, match="another configuration or cohort"):
        checkpoint(tmp_path / "p.pt", config, cohort).load(target)
    assert torch.equal(target["a"].weight, before)


def test_other_modules_are_refused_with_the_reason(tmp_path):
    checkpoint(tmp_path / "p.pt").save(modules(0))
    target = nn.ModuleDict({"a": nn.Linear(3, 2)})
    with pytest.raises(ModelFileError, match="--twin"):
        checkpoint(tmp_path / "p.pt").load(target)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off", b"\x80\x02."])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "p.pt").write_bytes(content)
    with pytest.raises(ModelFileError, match="cannot be read"):
        checkpoint(tmp_path / "p.pt").load(modules(0))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "p.pt"
    checkpoint(path).save(modules(0))
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ModelFileError, match="cannot be read"):
            checkpoint(path).load(modules(0))


@pytest.mark.parametrize("content", [{"modules": {}}, ["a list"], 3])
def test_foreign_content_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "p.pt")
    with pytest.raises(ModelFileError, match="cannot be read"):
        checkpoint(tmp_path / "p.pt").load(modules(0))


class _Code:
    """Unpickled without care this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, writer):
    trap = _Code(tmp_path / "ran")
    if writer == "torch":
        torch.save({"modules": trap}, tmp_path / "p.pt")
    else:
        (tmp_path / "p.pt").write_bytes(pickle.dumps(trap))
    with pytest.raises(ModelFileError, match="cannot be read"):
        checkpoint(tmp_path / "p.pt").load(modules(0))
    assert not (tmp_path / "ran").exists()
