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


@pytest.fixture
def make_head_problem(make_problem):
    """Arguments of ``solve_head`` for any head: head, scores, targets, owners, num_classes."""

    def build(head, seed, *, classes=3, unknown=0.2, **options):
        if head == "binary":
            scores, labels, _ = make_problem(seed, classes=2, **options)
            return head, scores, labels, np.ones(scores.shape[1], dtype=int), 2
        scores, labels, owners = make_problem(seed, classes=classes, **options)
        if head == "ordinal":
            return head, scores, labels, owners, classes
        random = np.random.default_rng(seed + 1000)
        findings = np.eye(classes)[labels]
        findings[random.random(findings.shape) < unknown] = np.nan
        # The last finding stays without prototypes of its own, as "no finding" does.
        return head, scores, findings, owners % (classes - 1), classes

    return build
