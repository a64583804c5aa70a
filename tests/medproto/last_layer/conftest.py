import numpy as np
import pytest


@pytest.fixture
def make_problem():
    """Scores around ``offset``; a prototype scores ``lift`` more on images of its own class."""

    def build(seed, *, images=80, prototypes=9, classes=2, offset=0.0, scale=1.0, lift=1.0):
        random = np.random.default_rng(seed)
        labels = np.arange(images) % classes
        prototype_class = np.arange(prototypes) % classes
        shared = random.normal(size=(images, 1))
        scores = shared + random.normal(size=(images, prototypes))
        scores += lift * (prototype_class[None, :] == labels[:, None])
        return offset + scale * scores, labels, prototype_class

    return build
