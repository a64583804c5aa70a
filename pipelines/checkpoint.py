"""The resumable state of a training: one file, written atomically after every epoch.

It is not a model: it lives under ``checkpoints/`` and holds weights of unfinished phases. It is
read with ``weights_only=True``, so that a foreign file can do no more than fail.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medproto.errors import ModelFileError
from medproto.networks.model_file import write_atomically
from medproto.projection import PrototypeMatch

from .engine import SegmentState
from .processes import from_main, is_main

__all__ = ["Checkpoint", "ProjectedState"]

UNREADABLE = "the checkpoint of the unfinished run cannot be read. Train into a new folder."


@dataclass(frozen=True)
class ProjectedState:
    """A projected network that may become the run's model.

    Args:
        auroc: on the validation images.
        loss: on the validation images; decides between equal ``auroc``.
        tensors: the network's state dict, a copy.
        matches: where its prototypes came from.
    """

    auroc: float
    loss: float
    tensors: dict[str, Tensor]
    matches: tuple[PrototypeMatch, ...]

    def is_better_than(self, other: ProjectedState | None) -> bool:
        """Whether this one is to be chosen when ``other`` came before."""
        if other is None:
            return True
        return (self.auroc, -self.loss) > (other.auroc, -other.loss)


@dataclass
class Checkpoint:
    """How far a run has come.

    Args:
        path: of the file.
        config_digest: of the run's configuration; a resume under another one is refused.
        cohort_digest: of the run's cohort, likewise.
        step: index of the schedule's step in progress; those before are finished.
        state: how far that step has come, where it is trained by gradient.
        history: one row an epoch, all steps.
        matches: of the latest projection.
        chosen: best projected network so far.
        optimizers: states of optimizers with which a later step of that name goes on.
    """

    path: Path
    config_digest: str
    cohort_digest: str
    step: int = 0
    state: SegmentState = field(default_factory=SegmentState)
    history: list[dict[str, Any]] = field(default_factory=list)
    matches: tuple[PrototypeMatch, ...] = ()
    chosen: ProjectedState | None = None
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, modules: nn.Module) -> None:
        """Write everything together with the weights of ``modules``, in process 0 alone."""
        if not is_main():
            return
        buffer = io.BytesIO()
        content = {
            "config_digest": self.config_digest,
            "cohort_digest": self.cohort_digest,
            "step": self.step,
            "state": asdict(self.state),
            "history": self.history,
            "matches": [asdict(match) for match in self.matches],
            "chosen": self.chosen and asdict(self.chosen),
            "optimizers": self.optimizers,
            "modules": modules.state_dict(),
        }
        torch.save(content, buffer)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, buffer.getvalue())

    def load(self, modules: nn.Module) -> bool:
        """Read the file into this object and ``modules``; ``False`` when there is none yet.

        Process 0 reads it for all, so that all go on from the same state.

        Raises:
            ModelFileError: if it is unreadable or belongs to another configuration, cohort or
                ``--twin``.
        """
        stored = from_main(lambda: self.path.read_bytes() if self.path.exists() else None)
        if stored is None:
            return False
        content = _read(stored)
        try:
            expected = (self.config_digest, self.cohort_digest)
            if (content["config_digest"], content["cohort_digest"]) != expected:
                raise ModelFileError(
                    "the unfinished run was started with another configuration or cohort; resume "
                    "with the same ones, or train into a new folder."
                )
            if content["modules"].keys() != modules.state_dict().keys():
                raise ModelFileError(
                    "the unfinished run has other parts than this one; resume with the same "
                    "setting of --twin, or train into a new folder."
                )
            state, chosen = SegmentState(**content["state"]), content["chosen"]
            matches = _matches(content["matches"])
            if chosen is not None:
                chosen = ProjectedState(**{**chosen, "matches": _matches(chosen["matches"])})
            modules.load_state_dict(content["modules"])
            self.step, self.state, self.history = content["step"], state, content["history"]
            self.matches, self.chosen = matches, chosen
            self.optimizers = content["optimizers"]
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(UNREADABLE) from error
        return True


def _matches(rows: list[dict[str, Any]]) -> tuple[PrototypeMatch, ...]:
    return tuple(PrototypeMatch(**row) for row in rows)


def _read(stored: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader makes of damaged bytes
        raise ModelFileError(UNREADABLE) from error
