"""The published procedure [1], plainly: what the project's own is measured against.

Written from the paper and a description of the released code, for one process: distances by three
convolutions, costs with the largest possible distance in place of a mask, a push that takes the
distances of each batch to numpy and looks at one prototype after the other, and passes of Adam over
the last layer with a forward pass of the whole network at each step.

In favor of the published side: the push draws and writes no pictures, an epoch is one pass over
the images (thirty augmented copies in the paper), and what is frozen is in evaluation mode.

Symbols: B batch, D channels, P prototypes, K classes.

References:
    [1] Chen et al., "This Looks Like That", NeurIPS 2019. https://arxiv.org/abs/1806.10574
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

EPSILON = 1e-4
CLUSTER, SEPARATION, L1 = 0.8, 0.08, 1e-4
PASSES = 20  # over the last layer, after each push
LAST_LAYER_RATE = 1e-4


class Published(nn.Module):
    """Features of a network of the project, compared and weighed as published.

    Args:
        network: its backbone, add-on layers, prototypes of one cell and last layer are used as they
            are, not copied.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.vectors = network.prototype_layer.vectors  # [P, D]
        self.weight = network.last_layer.weight  # [K, P], without the bias
        self.owner = network.prototype_class  # [P]
        self.register_buffer("ones", torch.ones(*self.vectors.shape, 1, 1))

    def distances(self, features):
        """[B, P, rows, columns] squared, of features [B, D, rows, columns]."""
        kernel = self.vectors[:, :, None, None]
        squares = functional.conv2d(features**2, self.ones)
        products = functional.conv2d(features, kernel)
        lengths = (kernel**2).sum(dim=(1, 2, 3))[:, None, None]
        return functional.relu(squares - 2 * products + lengths)

    def forward(self, images):
        """Logits [B, K] and smallest distances [B, P]."""
        distances = self.distances(self.network.features(images))
        smallest = -functional.max_pool2d(-distances, distances.shape[2:])[:, :, 0, 0]
        scores = torch.log((smallest + 1) / (smallest + EPSILON))
        return functional.linear(scores, self.weight), smallest

    def loss(self, logits, smallest, labels):
        """Cross-entropy, cluster and separation cost, L1 of the weights to other classes."""
        largest = self.vectors.shape[1]  # of features in [0, 1] and prototypes of one cell
        own = (self.owner[None] == labels[:, None]).float()  # [B, P]
        cluster = (largest - ((largest - smallest) * own).amax(dim=1)).mean()
        apart = (largest - ((largest - smallest) * (1 - own)).amax(dim=1)).mean()
        other = self.owner[None] != torch.arange(len(self.weight))[:, None]  # [K, P]
        size = (self.weight * other).abs().sum()
        entropy = functional.cross_entropy(logits, labels)
        return entropy + CLUSTER * cluster - SEPARATION * apart + L1 * size

    def train_only(self, *parameters):
        """Let these learn and nothing else."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)

    def joint_optimizer(self):
        """Adam of backbone, add-on layers and prototypes, which alone learn from now on."""
        backbone = list(self.network.backbone.parameters())
        add_on = list(self.network.add_on.parameters())
        self.train_only(*backbone, *add_on, self.vectors)
        groups = [
            {"params": backbone, "lr": 1e-4, "weight_decay": 1e-3},
            {"params": add_on, "lr": 3e-3, "weight_decay": 1e-3},
            {"params": [self.vectors], "lr": 3e-3},
        ]
        return torch.optim.Adam([group for group in groups if group["params"]])

    def warm_optimizer(self):
        """Adam of add-on layers and prototypes, which alone learn from now on."""
        add_on = list(self.network.add_on.parameters())
        self.train_only(*add_on, self.vectors)
        groups = [
            {"params": add_on, "lr": 3e-3, "weight_decay": 1e-3},
            {"params": [self.vectors], "lr": 3e-3},
        ]
        return torch.optim.Adam([group for group in groups if group["params"]])

    def last_layer_optimizer(self):
        """Adam of the last layer, which alone learns from now on."""
        self.train_only(self.weight)
        return torch.optim.Adam([self.weight], lr=LAST_LAYER_RATE)


def training_step(published, optimizer, images, labels):
    """One step of what learns; the modes of the modules are the caller's."""
    loss = published.loss(*published(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def last_layer_passes(published, batches, passes, optimizer=None):
    """Passes over the images with the last layer learning; `batches()` starts each of them."""
    optimizer = published.last_layer_optimizer() if optimizer is None else optimizer
    published.eval()
    for _ in range(passes):
        for images, labels, *_ in batches():
            training_step(published, optimizer, images, torch.tensor(labels))


@torch.no_grad()
def push(published, batches):
    """Replace each prototype by the nearest patch of its class; returns (position, cell) of each.

    Args:
        batches: `(images, labels, positions, ...)`, not augmented. Of equal distances the first
            seen counts.
    """
    published.eval()
    owners = published.owner.tolist()
    best = np.full(len(owners), np.inf)
    patches = np.zeros(tuple(published.vectors.shape), np.float32)
    sources = [None] * len(owners)
    for images, labels, positions, *_ in batches:
        features = published.network.features(images)
        distances = published.distances(features).numpy()
        features = features.numpy()
        for p, owner in enumerate(owners):
            shown = [b for b, label in enumerate(labels) if label == owner]
            if not shown:
                continue
            found = distances[shown, p]  # [shown, rows, columns]
            if found.min() < best[p]:
                best[p] = found.min()
                b, *cell = (int(i) for i in np.unravel_index(found.argmin(), found.shape))
                patches[p] = features[(shown[b], slice(None), *cell)]
                sources[p] = (positions[shown[b]], tuple(cell))
    published.vectors.copy_(torch.from_numpy(patches))
    return sources
