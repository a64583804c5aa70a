"""Where the history of a training also goes: TensorBoard always, MLflow by request.

Both get numbers alone: losses, rates and validation figures by epoch. They can be changed later and
prove nothing; what counts stands in ``history.csv`` and, of predictions, in the log.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .config import ConfigError

__all__ = ["Trackers", "require_mlflow"]

logger = logging.getLogger("medproto.train")

EXPERIMENT = "medproto"

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Of MLflow's requests, the time in seconds, unless the environment says otherwise. Its own are
seven and 120: minutes until a server that is not there is given up."""

_NAMES = ("step", "segment", "epoch")


def require_mlflow(uri: str) -> None:
    """Check that MLflow is there and answers, and keep it from reporting its use to its makers.

    Raises:
        ConfigError: if it is not installed, or nothing answers under the tracking URI.
    """
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", **PATIENCE}.items():
        os.environ.setdefault(name, value)
    try:
        importlib.import_module("mlflow")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "MLflow must be installed for --mlflow: pip install 'medproto[tracking]'."
        ) from error
    with _answering(uri):
        from mlflow import MlflowClient

        MlflowClient(uri).get_experiment_by_name(EXPERIMENT)


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # MLflow's own, or of a database, a file, a package it lacks
        reason = " ".join(str(error).replace(uri, "the URI").split())
        raise ConfigError(
            "--mlflow must name a tracking server or store that answers, such as "
            f"http://host:5000, and MLflow said: {reason or type(error).__name__}"
        ) from error


class Trackers:
    """Sends each row of the history on.

    Args:
        folder: of the run; TensorBoard's files go into ``tensorboard`` below it.
        done: rows of the history before this one, after a resume; what a killed training wrote
            beyond them is left out of TensorBoard's curves.
        mlflow: tracking URI, such as ``http://host:5000``, or ``None``. MLflow's run has the name
            of the run's folder and goes on after a resume.

    Raises:
        ConfigError: if MLflow is asked for and not installed, or does not answer. An error of
            MLflow later on is one warning, and the training goes on without it.
    """

    def __init__(self, folder: Path, *, done: int, mlflow: str | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._rows = done
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=done)
        self._mlflow = None if mlflow is None else _MLflowRun(folder, mlflow)

    def add(self, row: Mapping[str, Any]) -> None:
        """Send a row: each number as ``segment/name``, at the number of its row."""
        figures = {
            f"{row['segment']}/{name}": float(value)
            for name, value in row.items()
            if name not in _NAMES
        }
        for name, value in figures.items():
            self._board.add_scalar(name, value, self._rows)
        self._board.flush()
        self._tell_mlflow(lambda run: run.add(figures, self._rows))
        self._rows += 1

    def close(self) -> None:
        """Finish the files; the training is over."""
        self._board.close()
        self._tell_mlflow(lambda run: run.close())

    def _tell_mlflow(self, say: Callable[[_MLflowRun], None]) -> None:
        if self._mlflow is None:
            return
        try:
            say(self._mlflow)
        except Exception as error:  # as in :func:`_answering`; no training is worth its copy
            self._mlflow = None
            logger.warning(
                "MLflow no longer answers (%s); the training goes on without it. history.csv and "
                "TensorBoard have every row.",
                type(error).__name__,
            )


class _MLflowRun:
    def __init__(self, folder: Path, uri: str) -> None:
        require_mlflow(uri)
        from mlflow import MlflowClient

        self._client = MlflowClient(uri)
        known = folder / "mlflow-run"
        if known.exists():
            self._run = known.read_text(encoding="utf-8").strip()
            return
        with _answering(uri):
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            number = (
                self._client.create_experiment(EXPERIMENT)
                if experiment is None
                else experiment.experiment_id
            )
            self._run = self._client.create_run(number, run_name=folder.name).info.run_id
        known.write_text(self._run + "\n", encoding="utf-8")

    def add(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)
