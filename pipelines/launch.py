"""``medproto train --nproc N``: start the processes here, watch them, say what ended them.

torch's elastic agent does the work, as for torchrun; here it never restarts anything: a training
goes on by ``--resume``, when somebody has looked why it ended.
"""

from __future__ import annotations

import logging
import uuid

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from .processes import ProcessLostError

__all__ = ["launch"]


def launch(processes: int) -> int:
    """Run this very command in so many processes, and return its exit status.

    One that failed has said why itself. The others are ended as soon as one is, and all are when
    this process is.

    Raises:
        ProcessLostError: if a signal ended one; its number and the signal are named.
    """
    logging.disable(logging.CRITICAL)  # what the agent logs of an ended process is said below
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, _process)()
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return int(failure.exitcode)
        raise ProcessLostError(
            f"process {number} (of 0 to {processes - 1}) was ended by {failure.signal_name()}, so "
            "all were. If nobody ended it, the machine may lack memory. Go on with --resume."
        ) from error
    except SignalException as error:
        raise KeyboardInterrupt from error
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _process() -> None:
    """Be one of the processes: the arguments are those of the command that started it."""
    from .cli import main

    main()
