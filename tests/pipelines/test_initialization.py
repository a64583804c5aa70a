"""Start of the prototypes of several findings, by a second definition."""

import pytest
import torch
from torch.nn import functional

from medproto.networks import PlainClassifier, ProtoPNet
from pipelines.evaluate import load_split
from pipelines.initialization import center_logits, start_prototypes


@pytest.fixture(scope="module")
def images(train_head):
    _, run, _ = train_head("findings")
    table = run.cohort.table
    return load_split(run, run.cohort, table.index[table["split"] == "train"].tolist())


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ProtoPNet(
        2, 1, 3, image_size=(64, 64), stage=3, head="multilabel", prototypes_per_class=[1, 1, 0]
    ).eval()


def test_one_center_is_the_mean_of_the_telling_patches(network, images):
    classifier = PlainClassifier(network).eval()
    expected = []
    for k in (0, 1):
        patches = []
        for i in range(len(images)):
            if images.labels[i, k] != 1:  # neither where it is absent nor where it is uncertain
                continue
            with torch.no_grad():
                features = network.features(images.image(i)[None])[0]  # [D, 8, 8]
            activation = torch.einsum("d,dhw->hw", classifier.class_layer.weight[k], features)
            # 3 % of 8 x 8 cells are 2
            for cell in activation.flatten().argsort(descending=True)[:2]:
                patches.append(functional.normalize(features.flatten(1)[:, cell], dim=0))
        expected.append(torch.stack(patches).mean(dim=0))
    start_prototypes(network, classifier, images, seed=0)
    torch.testing.assert_close(
        network.prototype_layer.vectors.data, torch.stack(expected), rtol=1e-4, atol=1e-5
    )


def test_logits_are_centered_on_the_images(network, images):
    center_logits(network, images)
    with torch.no_grad():
        logits = torch.cat([network(batch) for batch, *_ in images.batches(7)])
    torch.testing.assert_close(logits.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-4)
    assert network.last_layer.bias[2] > 0  # what has no prototypes is held down by all of them
