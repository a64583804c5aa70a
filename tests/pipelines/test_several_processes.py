"""Training in several processes: shares of a batch, the same result, a lost process, a resume."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler
from typer.testing import CliRunner

import pipelines.loader as loader_module
import pipelines.processes as processes_module
from medproto.errors import MedProtoError
from pipelines.cli import app
from pipelines.config import ConfigError, load_config
from pipelines.datasets import ImageSet
from pipelines.loader import Shares, loader
from pipelines.processes import ProcessLostError, average, joined, spread, synchronize
from pipelines.runs import RunFolder
from pipelines.train import train

ORDER = [5, 3, 8, 1, 9, 2, 7]


def shares(count, rank):
    return Shares(BatchSampler(ORDER, 3, False), rank=rank, count=count)


def test_the_shares_of_two_processes_by_hand():
    first, second = shares(2, 0), shares(2, 1)
    assert list(first) == [[5, 8], [1, 2], [7]]
    assert list(second) == [[3], [9], [7]]
    assert len(first) == len(second) == 3
    # Of three images one process has two: its mean counts 4/3, the other's 2/3; a half of each.
    assert [first.weight(i) for i in range(3)] == pytest.approx([4 / 3, 4 / 3, 2])
    assert [second.weight(i) for i in range(3)] == pytest.approx([2 / 3, 2 / 3, 0])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_weighted_means_of_the_shares_are_the_mean_of_the_batch(count):
    for i, batch in enumerate(BatchSampler(ORDER, 3, False)):
        means = []
        for rank in range(count):
            own = list(shares(count, rank))[i]
            means.append(shares(count, rank).weight(i) * sum(own) / len(own))
        assert sum(means) / count == pytest.approx(sum(batch) / len(batch))


def test_one_process_takes_whole_batches():
    assert list(shares(1, 0)) == [[5, 3, 8], [1, 9, 2], [7]]
    assert [shares(1, 0).weight(i) for i in range(3)] == [1.0, 1.0, 1.0]


def test_the_union_of_the_shares_is_the_batch_of_one_process(tiny_cohort, monkeypatch):
    steps = {"spatial_size": (32, 32), "voi": "voi", "mode": "letterbox"}
    images = ImageSet.load(tiny_cohort, range(17), ("normal", "blob"), steps)

    def seen(count, rank):
        with monkeypatch.context() as patch:
            patch.setattr(loader_module, "count", lambda: count)
            patch.setattr(loader_module, "rank", lambda: rank)
            batches, sampler, _ = loader(images, batch_size=6, augment=False, seed=0)
        sampler.epoch = 2
        return [batch["image"] for batch in batches]

    whole = seen(1, 0)
    parts = [seen(3, rank) for rank in range(3)]
    assert [len(batch) for batch in whole] == [6, 6, 5]
    for i, batch in enumerate(whole):
        own = torch.cat([part[i] for part in parts]).flatten(1).tolist()
        assert sorted(own) == sorted(batch.flatten(1).tolist())


def test_one_process_speaks_to_nobody():
    module = torch.nn.Linear(2, 1)
    before = module.weight.clone()
    synchronize(module)
    assert torch.equal(module.weight, before)
    assert spread(lambda x: 2 * x, [1, 2, 3]) == [2, 4, 6]
    assert average({"loss": torch.tensor(1.5)}, 1.0) == {"loss": 1.5}
    with joined("cpu"):
        assert processes_module.count() == 1


@pytest.fixture
def started(monkeypatch):
    """Look as if torchrun had started this process as number ``rank`` of two."""

    def be(rank):
        for name in processes_module.STARTED:
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        monkeypatch.setattr(torch.distributed, "init_process_group", lambda *a, **k: None)
        monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
        waits = []
        monkeypatch.setattr(processes_module.time, "sleep", waits.append)
        return waits

    return be


@pytest.mark.parametrize(
    ("rank", "error", "waits"),
    [(0, MedProtoError("bad"), 0), (1, MedProtoError("bad"), 1), (0, ValueError("bad"), 1)],
)
def test_who_may_not_be_the_cause_waits_before_it_speaks(started, rank, error, waits):
    waited = started(rank)
    with pytest.raises(type(error), match="bad"), joined("cpu"):
        raise error
    assert len(waited) == waits


def test_a_lost_connection_is_a_known_error(started):
    started(0)
    with pytest.raises(ProcessLostError, match=r"another process .* --resume"), joined("cpu"):
        raise RuntimeError("gloo/transport/tcp/pair.cc:537 Connection reset by peer")


def test_two_processes_need_two_devices(started, monkeypatch):
    started(0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    wanted = "one GPU a process, 2 here, this machine has 1"
    with pytest.raises(ConfigError, match=wanted), joined("cuda"):
        pytest.fail("started with too few devices")


def test_no_process_is_no_training(tmp_path):
    arguments = ["train", "--cohort", "c.csv", "--out", str(tmp_path), "--nproc", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--nproc" in result.output


# Nothing random but the shuffles, so that one process and two can be compared; and one step an
# epoch, so that the history has the loss of the first one. 7 images are shared out as 4 and 3.
# Adam takes whole steps along gradients that are all but zero, whose signs are rounding errors.
SETTINGS = (
    "data.augment=false",
    "training.features_epochs=0",
    "training.joint_epochs=4",
    "training.learning_rate_joint=1e-6",
    "training.steps_per_epoch=1",
    "training.batch_size=7",
)

# As started by torchrun; each process writes the digest of all its tensors after each step.
TOLD = """
import sys
from pathlib import Path
from medproto.networks.model_file import tensor_digest
from pipelines import cli, processes, steps
take, folder = steps.StepRunner.take, Path(sys.argv.pop(1))
def told(self, step):
    take(self, step)
    digest = tensor_digest(self.modules.state_dict())
    (folder / f"{step.name}-{processes.rank()}").write_text(digest)
steps.StepRunner.take = told
cli.main()
"""


@pytest.fixture(scope="module")
def arguments(tiny_table, tiny_settings):
    settings = [part for value in (*tiny_settings, *SETTINGS) for part in ("--set", value)]
    return ["train", "--cohort", str(tiny_table), *settings]


@pytest.fixture(scope="module")
def alone(tiny_cohort, tiny_settings, tmp_path_factory):
    """A run of one process."""
    config = load_config(None, [*tiny_settings, *SETTINGS])
    return train(tiny_cohort, tmp_path_factory.mktemp("alone") / "run", config)


def workers(launcher):
    """Return the process ids of the trainings that a command started, by number."""
    tasks = Path(f"/proc/{launcher}/task").glob("*/children")
    children = {int(child) for task in tasks for child in task.read_text().split()}
    return sorted(c for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text())


@pytest.fixture(scope="module")
def killed(arguments, tmp_path_factory):
    """Run two processes, kill one after the first checkpoint; returns folder, status, stderr."""
    out = tmp_path_factory.mktemp("killed") / "run"
    command = [sys.executable, "-m", "pipelines.cli", *arguments, "--out", str(out)]
    process = subprocess.Popen([*command, "--nproc", "2"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 90
        while not (out / "checkpoints" / "progress.pt").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.005)
        first, second = workers(process.pid)
        os.kill(second, signal.SIGKILL)
        start = time.monotonic()
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert time.monotonic() - start < 60
    assert not Path(f"/proc/{first}").exists()
    return out, process.returncode, error


@pytest.fixture(scope="module")
def resumed(killed, arguments):
    """The killed run, gone on with by torchrun; and the digests of each process."""
    out, folder = killed[0], killed[0].parent
    assert not (out / "model.json").exists()
    script = folder / "told.py"
    script.write_text(TOLD)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", str(script), str(folder)]
    done = subprocess.run(
        [*torchrun, *arguments, "--out", str(out), "--resume"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "resumed after" in done.stderr
    digests = {path.name: path.read_text() for path in folder.glob("*-[01]")}
    return RunFolder(out), digests, done


on_linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")


@on_linux
def test_a_lost_process_ends_all_with_one_clear_line(killed):
    _, status, error = killed
    assert status == 1
    last = error.strip().splitlines()[-1]
    assert re.search(r"^medproto: process 1 .*SIGKILL.* --resume\.$", last)
    assert error.count("medproto:") == 1
    assert "Traceback" not in error


@on_linux
def test_two_processes_find_what_one_finds(resumed, alone):
    run = resumed[0]
    assert [s.row for s in run.sources] == [s.row for s in alone.sources]
    assert [s.cell for s in run.sources] == [s.cell for s in alone.sources]
    own, other = (r.network.prototype_layer.vectors for r in (run, alone))
    torch.testing.assert_close(own, other, rtol=0, atol=1e-5)
    assert run.history["segment"].tolist() == alone.history["segment"].tolist()
    # Of the warm step BatchNorm is in eval mode: the loss of the very first step.
    for name in ("loss", "cross_entropy", "cluster", "separation"):
        assert run.history[name][0] == pytest.approx(alone.history[name][0], abs=1e-5)


@on_linux
def test_all_processes_hold_the_same_tensors_after_each_step(resumed):
    digests = resumed[1]
    for step in ("joint", "projection", "solve"):
        assert digests[f"{step}-0"] == digests[f"{step}-1"]


@on_linux
def test_only_the_first_process_speaks(resumed):
    done = resumed[2]
    assert done.stderr.count("joint      epoch") == 4
    assert done.stdout.count("images (groups)") == 1


@on_linux
@pytest.mark.slow
def test_the_resumed_model_is_that_of_an_uninterrupted_run(resumed, arguments, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "pipelines.cli", *arguments, "--out", str(out)]
    subprocess.run([*command, "--nproc", "2"], check=True, capture_output=True, timeout=120)
    assert RunFolder(out).card.model_digest == resumed[0].card.model_digest


@pytest.mark.slow
def test_a_problem_of_the_data_is_said_once(tmp_path):
    command = [sys.executable, "-m", "pipelines.cli", "train", "--cohort", str(tmp_path / "none")]
    command += ["--out", str(tmp_path / "run"), "--nproc", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip() == "medproto: the table does not exist or cannot be opened."
