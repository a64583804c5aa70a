"""Each backbone once through all that the prototype network does with it, from random weights.

Forward, backward, projection, evidence; 64 px in 2-D, 32 voxels a side in 3-D, 224 px when slow.
"""

import json
import math

import pytest
import torch
from torch import nn

from medproto.explain import explain, source_box
from medproto.networks import ProtoPNet
from medproto.networks.backbones import BACKBONES, build_backbone
from medproto.projection import project_prototypes
from medproto.records import ImageReference, Placement, PrototypeSource

# Trainable parameters of the networks in torchvision's model table, and of their classifiers.
PARAMETERS = {
    "vgg16": 138_357_544 - (25_088 * 4096 + 4096) - (4096 * 4096 + 4096) - 4_097_000,
    "vgg19": 143_667_240 - (25_088 * 4096 + 4096) - (4096 * 4096 + 4096) - 4_097_000,
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
    "densenet121": 7_978_856 - 1_025_000,
    "densenet161": 28_681_000 - 2_209_000,
    # Less the 1x1 convolution with BatchNorm in front of the classifier, too.
    "efficientnet_b0": 5_288_548 - 1_281_000 - (320 * 1280 + 2 * 1280),
    "efficientnet_b1": 7_794_184 - 1_281_000 - (320 * 1280 + 2 * 1280),
    "efficientnet_b2": 9_109_994 - 1_409_000 - (352 * 1408 + 2 * 1408),
    "efficientnet_b3": 12_233_232 - 1_537_000 - (384 * 1536 + 2 * 1536),
}
IN_3D = [name for name in BACKBONES if not name.startswith("vgg")]
BOUNDS = {"log": 9.2103, "cosine": 10.0}
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def build(name, dims, side, similarity, **options):
    """A network whose last layer is random, too, and images of a coarse pattern each."""
    torch.manual_seed(0)
    size = (side,) * dims
    arguments = {"prototypes_per_class": 1, "similarity": similarity, **options}
    network = ProtoPNet(dims, 1, 2, image_size=size, backbone=name, **arguments)
    nn.init.normal_(network.last_layer.weight)
    nn.init.normal_(network.last_layer.bias)
    for module in network.modules():
        if isinstance(module, NORMS):
            # Statistics of the last batch: from none, features of deep networks are all alike.
            module.momentum = 1.0
    return network, nn.functional.interpolate(torch.rand(3, 1, *(8,) * dims), size=size)


def check_forward_and_backward(network, x):
    backbone = network.backbone
    features = backbone(x)
    assert features.shape == (len(x), backbone.out_channels, *backbone.grid.shape)
    network.last_layer(network.scores_from_features(network.add_on(features))).sum().backward()
    for gradient in (next(backbone.parameters()).grad, network.prototype_layer.vectors.grad):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def check_projection(network, images, similarity):
    """Each prototype knows its source, and that cell of that image alone."""
    batch = (images, [0, 1, 0], range(3), list("abc"))
    matches = project_prototypes(network, [batch], lambda row: images[row]).matches
    assert [m.row % 2 for m in matches] == [0, 1]
    assert network.prototype_layer.bound == pytest.approx(BOUNDS[similarity], abs=1e-4)
    with torch.no_grad():
        everywhere = network.evidence(images).similarities
        alone = [network.evidence(images[m.row][None]) for m in matches]
    for p, (match, output) in enumerate(zip(matches, alone, strict=True)):
        assert match.similarity == pytest.approx(BOUNDS[similarity], abs=1e-3)
        score = output.scores[0, p].item()
        assert score == pytest.approx(BOUNDS[similarity], abs=1e-3)
        assert output.locations[0, p].tolist() == list(match.cell)
        others = everywhere[:, p].clone()
        others[(match.row, *match.cell)] = -math.inf
        assert others.max() < score - 1e-3
    return matches


def check_evidence(network, images, matches):
    """Evidence of an image that no prototype was taken from; stored pixels are half as large."""
    dims, side = images.ndim - 2, images.shape[-1]
    stored = (2 * side,) * dims
    placement = Placement(stored, (side,) * dims, (0.5,) * dims, (0.0,) * dims)
    sources = tuple(
        PrototypeSource(
            m.prototype, m.prototype, "ab"[m.prototype], m.row, m.group, "sha256:1", m.cell,
            source_box(network, images[m.row], placement, m.prototype, m.cell),
            m.distance, m.similarity,
        )
        for m in matches
    )  # fmt: skip
    image = images[({0, 1, 2} - {m.row for m in matches}).pop()]
    result = explain(
        network,
        image,
        reference=ImageReference("sha256:0", stored, "OT", 8),
        placement=placement,
        classes=("a", "b"),
        sources=sources,
        model_digest="sha256:2",
        faithfulness=1,
    )
    with torch.no_grad():
        logits = network(image[None])[0].tolist()
    for k in range(2):
        parts = [e.contributions[k] for e in result.evidence]
        assert sum(parts) + result.bias[k] == pytest.approx(logits[k], abs=1e-4)
    assert result.completeness_error < 1e-4
    for box in (*(e.box for e in result.evidence), *(s.box for s in sources)):
        assert all(0 <= a < b <= n for a, b, n in zip(box.start, box.stop, stored, strict=True))
    assert all(len(e.cell) == dims for e in result.evidence)
    assert sum(e.faithfulness is not None for e in result.evidence) == 1


def check_all(network, images, similarity):
    check_forward_and_backward(network, images)
    network.eval()
    check_evidence(network, images, check_projection(network, images, similarity))


def check_rebuild(network):
    with torch.device("meta"):
        again = build_backbone(**json.loads(json.dumps(network.arguments)))
    assert again.grid == network.grid
    assert again.arguments == network.arguments
    shapes = {k: v.shape for k, v in network.state_dict().items()}
    assert {k: v.shape for k, v in again.state_dict().items()} == shapes


@pytest.mark.parametrize("name", BACKBONES)
def test_2d(name):
    network, images = build(name, 2, 64, "log")
    backbone = network.backbone
    assert backbone.grid.shape == (2, 2)
    assert backbone.weights_digest is None
    assert backbone.whole_image == name.startswith("efficientnet_b")
    if name in PARAMETERS:
        assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]
    check_rebuild(backbone)
    check_all(network, images, "log")


@pytest.mark.parametrize("name", IN_3D)
def test_3d(name):
    network, images = build(name, 3, 32, "cosine")
    assert network.grid.shape == (1, 1, 1)
    # Gradients of the stem only: the large ones would need gigabytes.
    network.backbone.requires_grad_(False)
    next(network.backbone.parameters()).requires_grad_(True)
    check_all(network, images, "cosine")


# [name, stage, cells an axis, similarity]: several cells in 3-D, and what is missing above.
SHALLOW = [
    ("efficientnet_lite0", 3, 4, "log"),
    ("efficientnet_b0", 2, 8, "log"),
    ("resnet18", 2, 4, "log"),
    ("densenet121", 3, 2, "log"),
]


@pytest.mark.parametrize(("name", "stage", "cells", "similarity"), SHALLOW)
def test_3d_with_several_cells(name, stage, cells, similarity):
    network, images = build(name, 3, 32, similarity, stage=stage)
    assert network.grid.shape == (cells,) * 3
    check_all(network, images, similarity)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_at_224(name):
    network, images = build(name, 2, 224, "cosine")
    assert network.grid.shape == (7, 7)
    check_all(network, images, "cosine")
