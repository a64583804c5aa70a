"""Where the history of a training also goes: TensorBoard always, MLflow by request.

Both get numbers alone: losses, rates and validation figures by epoch. They can be changed later and
prove nothing; what counts stands in ``history.csv`` and, of predictions, in the log.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import ConfigError

__all__ = ["Trackers", "require_mlflow"]

EXPERIMENT = "medproto"

_NAMES = ("step", "segment", "epoch")


def require_mlflow() -> None:
    """Check that MLflow is there, and keep it from reporting its use to its makers.

    Raises:
        ConfigError: if it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        importlib.import_module("mlflow")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "MLflow must be installed for --mlflow: pip install 'medproto[tracking]'."
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
        ConfigError: if MLflow is asked for and not installed.
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
        if self._mlflow is not None:
            self._mlflow.add(figures, self._rows)
        self._rows += 1

    def close(self) -> None:
        """Finish the files; the training is over."""
        self._board.close()
        if self._mlflow is not None:
            self._mlflow.close()


class _MLflowRun:
    def __init__(self, folder: Path, uri: str) -> None:
        require_mlflow()
        from mlflow import MlflowClient

        self._client = MlflowClient(uri)
        known = folder / "mlflow-run"
        if known.exists():
            self._run = known.read_text(encoding="utf-8").strip()
            return
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
