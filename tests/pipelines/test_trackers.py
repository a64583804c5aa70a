"""The history in TensorBoard's files and in MLflow's store, read back with their own readers."""

import sys
import warnings

import pytest

from pipelines.config import ConfigError
from pipelines.trackers import EXPERIMENT, Trackers

ROWS = [
    {"step": 0, "segment": "features", "epoch": 1, "loss": 0.75, "val_auroc": 0.5},
    {"step": 0, "segment": "features", "epoch": 2, "loss": 0.5, "val_auroc": 0.625},
    {"step": 1, "segment": "joint", "epoch": 1, "loss": 0.25, "val_auroc": 0.875},
]


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


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
    Trackers(tmp_path, done=1).add(lost)
    send(tmp_path, ROWS[1:], done=1)
    assert curves(tmp_path) == EXPECTED


def test_mlflow_gets_the_same_into_one_run(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    # Its store of files takes the place of a server, which this test would have to start.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
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


def test_a_training_leaves_its_curves(tiny_run):
    names = curves(tiny_run.path)
    table = tiny_run.history
    for segment, rows in table.groupby("segment"):
        places = dict(zip(rows.index, rows["val_auroc"]))
        assert names[f"{segment}/val_auroc"] == pytest.approx(places)
