"""Gray images drawn from their number, in the project's own image set: no files, no cohort.

Every second image has a bright disc and is of class 1, so that there is something to learn.
"""

import numpy as np
import torch
from torch.nn import functional

from medproto.networks import ProtoPNet
from pipelines.datasets import ImageSet

NETWORKS = {
    # As the preset takes them: Lite0 cut where 224 pixels leave 14 x 14 cells, others whole.
    "efficientnet_lite0": {"backbone": "efficientnet_lite0", "stage": 5, "weights": "package"},
    "densenet121": {"backbone": "densenet121"},
}


class Drawn:
    """Images [1, size, size], drawn when they are asked for."""

    def __init__(self, count, size):
        self.count, self.size = count, size

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        coarse = torch.rand(1, 1, 7, 7, generator=random)
        shape = (self.size, self.size)
        image = functional.interpolate(coarse, shape, mode="bilinear", align_corners=False)[0]
        if index % 2:
            center = (0.2 + 0.6 * torch.rand(2, generator=random)) * self.size
            place = torch.arange(self.size)
            distance = (place[:, None] - center[0]) ** 2 + (place[None] - center[1]) ** 2
            image[0, distance < (self.size / 8) ** 2] = 1.0
        return image


def image_set(count, size, *, held=True):
    """`count` images, one a group; in memory, or drawn again each time."""
    drawn = Drawn(count, size)
    return ImageSet(
        cohort=None,
        rows=tuple(range(count)),
        labels=np.arange(count) % 2,
        groups=tuple(f"P{i}" for i in range(count)),
        pixels=torch.stack([drawn[i] for i in range(count)]) if held else drawn,
        references=(),
        placements=(),
    )


def prototype_network(name, size, *, prototypes=20, similarity="cosine"):
    """A network of two classes, its weights channels-last as in training."""
    torch.manual_seed(0)
    network = ProtoPNet(
        2,
        1,
        2,
        image_size=(size, size),
        prototypes_per_class=prototypes // 2,
        similarity=similarity,
        **NETWORKS[name],
    )
    return network.to(memory_format=torch.channels_last)
