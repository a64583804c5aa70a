"""The training step of a segment in several processes, by torch's DistributedDataParallel.

Each process forms the loss of its share of a batch; the gradients are averaged. All losses of the
project are means over images plus terms of the weights alone, so with the weights of
:class:`pipelines.loader.Shares` the average is the gradient of one process over the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .processes import count

__all__ = ["data_parallel"]

Step = Callable[..., dict[str, Tensor]]


class _Objective(nn.Module):
    """A step as a module, so that all the network does in it lies inside one ``forward``."""

    def __init__(self, network: nn.Module, step: Step) -> None:
        super().__init__()
        self.network = network
        self._step = step

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        return self._step(*given)


def data_parallel(network: nn.Module, step: Step) -> Step:
    """Return ``step`` so that its gradients are averaged over the processes; itself for one.

    To be called anew for each segment, once the parameters that learn there are set to.
    """
    if count() == 1:
        return step
    return DistributedDataParallel(_Objective(network, step))
