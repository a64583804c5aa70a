"""The modules of one training, as one module, so that one state dict holds them all."""

from __future__ import annotations

from torch import nn

from medproto.networks import PlainClassifier, ProtoPNet

__all__ = ["TrainedModules"]


class TrainedModules(nn.Module):
    """Prototype network, the classifier that shares its features, and the twin if there is one.

    Args:
        network: to be trained.
        with_twin: also make a classifier that shares nothing with the network.
    """

    network: ProtoPNet
    classifier: PlainClassifier
    twin: PlainClassifier | None

    def __init__(self, network: ProtoPNet, *, with_twin: bool) -> None:
        super().__init__()
        self.network = network
        self.classifier = PlainClassifier(network)
        self.twin = PlainClassifier.copy_of(self.classifier) if with_twin else None

    def learning_in(self, segment: str) -> ProtoPNet | PlainClassifier:
        """Return the module that learns in a segment of this name."""
        if segment == "twin" and self.twin is not None:
            return self.twin
        return self.classifier if segment == "features" else self.network
