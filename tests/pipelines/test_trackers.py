"""The history in TensorBoard's files and in MLflow's store, read back with their own readers."""

import logging
import os
import sys
import time
import warnings

import pandas as pd
import pytest
import torch

from pipelines.config import ConfigError
from pipelines.crossvalidate import crossvalidate
from pipelines.trackers import EXPERIMENT, Trackers, require_mlflow
from pipelines.train import train

ROWS = [
    {"step": 0, "segment": "features", "epoch": 1, "loss": 0.75, "val_auroc": 0.5},
    {"step": 0, "segment": "features", "epoch": 2, "loss": 0.5, "val_auroc": 0.625},
    {"step": 1, "segment": "joint", "epoch": 1, "loss": 0.25, "val_auroc": 0.875},
]


REQUESTS = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    # Its store of files takes the place of a server, which these tests would have to start.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in REQUESTS:
        monkeypatch.setenv(name, "1")


def curves(folder):
    """Return ``{name: {step: value}}`` of all event files, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


def send(folder, rows, *, done=0, mlflow=None):
    trackers = Trackers(folder, done=done, mlflow=mlflow)
    for row in rows:
        trackers.add(row)
    trackers.close()


EXPECTED = {
    "features/loss": {0: 0.75, 1: 0.5},
    "features/val_auroc": {0: 0.5, 1: 0.625},
    "joint/loss": {2: 0.25},
    "joint/val_auroc": {2: 0.875},
}


def test_tensorboard_shows_every_number_at_its_row(tmp_path):
    send(tmp_path, ROWS)
    assert curves(tmp_path) == EXPECTED


def test_a_resume_goes_on_and_takes_back_what_was_not_kept(tmp_path):
    lost = {**ROWS[1], "loss": 9.0}  # written by a training that was killed before its checkpoint
    Trackers(tmp_path, done=0).add(ROWS[0])
    # TensorBoard reads its files in the order of their names: the second, then a number without
    # leading zeros that counts the files of the process.
    time.sleep(1.1)
    Trackers(tmp_path, done=1).add(lost)
    time.sleep(1.1)
    send(tmp_path, ROWS[1:], done=1)
    assert curves(tmp_path) == EXPECTED


def test_mlflow_gets_the_same_into_one_run(tmp_path):
    from mlflow import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    folder = tmp_path / "first"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own making
        send(folder, ROWS[:1], mlflow=uri)
        send(folder, ROWS[1:], done=1, mlflow=uri)
        client = MlflowClient(uri)
        number = client.get_experiment_by_name(EXPERIMENT).experiment_id
        (run,) = client.search_runs([number])
        assert run.info.run_name == "first"
        found = {
            name: {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
            for name in run.data.metrics
        }
    assert found == EXPECTED


def test_without_mlflow_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'medproto\[tracking\]'"):
        Trackers(tmp_path, done=0, mlflow="runs")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "API request to the URI/api"),
        ("foo://x", "unsupported URI 'the URI'"),
    ],
)
def test_a_server_that_does_not_answer_is_said_before_a_file_is_read(
    tiny_cohort, tiny_config, tmp_path, monkeypatch, uri, reason
):
    monkeypatch.setattr("pipelines.train.usable", lambda *a: pytest.fail("files were read"))
    start = time.monotonic()
    with pytest.raises(ConfigError, match=f"--mlflow must name .* that answers.*{reason}") as error:
        train(tiny_cohort, tmp_path / "run", tiny_config, mlflow=uri)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 30
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="--mlflow must name"):
        crossvalidate(tiny_cohort, tmp_path / "cv", tiny_config, mlflow=uri)


def test_few_retries_unless_the_user_wants_others(tmp_path, monkeypatch):
    monkeypatch.setenv(REQUESTS[0], "5")
    monkeypatch.delenv(REQUESTS[1])
    require_mlflow((tmp_path / "mlruns").as_uri())
    assert [os.environ[name] for name in REQUESTS] == ["5", "10"]


@pytest.mark.parametrize("lost", ["log_metric", "set_terminated"])
def test_a_server_that_goes_away_is_one_warning(tmp_path, monkeypatch, caplog, lost):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    calls = []

    def fail(*arguments, **options):
        calls.append(arguments)
        raise MlflowException("API request failed")

    monkeypatch.setattr(logging.getLogger("medproto"), "propagate", True)
    monkeypatch.setattr(MlflowClient, lost, fail)
    send(tmp_path, ROWS, mlflow=(tmp_path / "mlruns").as_uri())
    assert len(calls) == 1
    # A set: where a test before it has set up the program's log, pytest hears each message twice.
    (said,) = {r.message for r in caplog.records if r.name == "medproto.train"}
    assert said.startswith("MLflow no longer answers (MlflowException); the training goes on")
    assert curves(tmp_path) == EXPECTED


def test_an_epoch_is_saved_before_it_is_told(tiny_cohort, tiny_config, tmp_path, monkeypatch):
    seen = []

    def fail(self, row):
        content = torch.load(tmp_path / "run/checkpoints/progress.pt", weights_only=True)
        seen.append((content["history"], pd.read_csv(tmp_path / "run/history.csv")))
        raise KeyboardInterrupt

    monkeypatch.setattr(Trackers, "add", fail)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_cohort, tmp_path / "run", tiny_config)
    ((history, table),) = seen
    assert [row["epoch"] for row in history] == table["epoch"].tolist() == [1]


def test_a_training_leaves_its_curves(tiny_run):
    names = curves(tiny_run.path)
    table = tiny_run.history
    for segment, rows in table.groupby("segment"):
        places = dict(zip(rows.index, rows["val_auroc"]))
        assert names[f"{segment}/val_auroc"] == pytest.approx(places)
