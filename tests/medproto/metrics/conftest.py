import numpy as np
import pytest


@pytest.fixture
def make_scores():
    """Probabilities that know something of the labels; ``ties`` rounds them to one decimal."""

    def build(seed, *, cases=120, classes=2, ties=False):
        random = np.random.default_rng(seed)
        labels = random.permutation(np.arange(cases) % classes)
        logits = random.normal(size=(cases, classes)) + 1.2 * np.eye(classes)[labels]
        if ties:
            logits = logits.round(0)
        chances = np.exp(logits)
        return chances / chances.sum(axis=1, keepdims=True), labels

    return build
