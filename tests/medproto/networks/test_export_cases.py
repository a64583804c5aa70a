"""Exports of every head, similarity, prototype size and pooling, and of whole backbones."""

import itertools

import onnxruntime
import pytest
import torch
from torch import nn

from medproto.networks import ModelCard, ProtoPNet
from medproto.networks.export import export_onnx, export_program
from medproto.projection import project_prototypes

pytestmark = pytest.mark.slow

# [logits, prototypes a class or finding]
HEADS = {
    "multiclass": (3, [2, 1, 2]),
    "binary": (2, [0, 4]),
    "multilabel": (3, [0, 2, 3]),
    "ordinal": (2, [1, 2, 1]),
}
SIMILARITIES = ["cosine", "focal", "linear", "log"]
# Each similarity with both sizes and poolings, and once with each head.
CASES = [
    (list(HEADS)[(i + 2 * size + (top_k > 1)) % 4], similarity, size, top_k)
    for (i, similarity), size, top_k in itertools.product(enumerate(SIMILARITIES), (1, 2), (1, 3))
]


def make(*args, **options):
    """A network with statistics of images, and random weights throughout."""
    torch.manual_seed(3)
    network = ProtoPNet(*args, **options)
    nn.init.normal_(network.last_layer.weight)
    nn.init.normal_(network.last_layer.bias)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            module.momentum = 1.0
    arguments = network.arguments
    dims = arguments["spatial_dims"]
    coarse = torch.rand(4, arguments["in_channels"], *(8,) * dims)
    images = nn.functional.interpolate(coarse, size=tuple(arguments["image_size"]))
    # The noise that an export is checked on, too: far from its statistics a random network gives
    # features of 1e5, and float32 itself errs by 5e-4 of a logit.
    with torch.no_grad():
        network(torch.cat([images, torch.rand(images.shape)]))
    return network.eval(), images


def logits_of_exports(network, images, folder):
    """The logits of both files, one image at a time and all at once."""
    card = ModelCard(tuple("abcd"[: network.num_classes]), {}, synthetic=True)
    export_program(network, folder / "net.pt2", card=card)
    export_onnx(network, folder / "net.onnx", card=card)
    program = torch.export.load(folder / "net.pt2").module()
    session = onnxruntime.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])

    def run_onnx(x):
        return torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])

    for run in (program, run_onnx):
        yield torch.cat([run(x[None]) for x in images])
        yield run(images)


def difference_of_exports(network, images, folder):
    """The largest of a logit to the network's, one image at a time, in units of the largest."""
    with torch.no_grad():
        expected = torch.cat([network(x[None]) for x in images])
    found = list(logits_of_exports(network, images, folder))
    return max(float((f - expected).abs().max()) for f in found) / float(expected.abs().max())


@pytest.mark.parametrize(("head", "similarity", "size", "top_k"), CASES)
def test_heads(head, similarity, size, top_k, tmp_path):
    logits, counts = HEADS[head]
    network, images = make(
        2, 1, logits, image_size=(32, 32), stage=2, head=head, prototypes_per_class=counts,
        similarity=similarity, prototype_size=size, top_k=top_k,
    )  # fmt: skip
    assert difference_of_exports(network, images, tmp_path) < 1e-4


# [name, axes, side, stage]
BACKBONES = [
    ("efficientnet_lite0", 2, 64, None),
    ("efficientnet_b0", 2, 64, None),
    ("vgg16", 2, 64, None),
    ("resnet18", 2, 64, None),
    ("resnet50", 2, 64, None),
    ("densenet121", 2, 64, None),
    ("efficientnet_lite0", 3, 32, 3),
    ("efficientnet_b0", 3, 32, 5),
    ("resnet18", 3, 32, None),
    ("densenet121", 3, 32, 2),
]


@pytest.mark.parametrize("similarity", ["cosine", "log"])
@pytest.mark.parametrize(("name", "dims", "side", "stage"), BACKBONES)
def test_backbones(name, dims, side, stage, similarity, tmp_path):
    """The images that prototypes were taken from, too: their scores are steepest there."""
    network, images = make(
        dims, 1, 2, image_size=(side,) * dims, backbone=name, stage=stage, similarity=similarity,
        prototypes_per_class=1,
    )  # fmt: skip
    batch = (images, [0, 1, 0, 1], range(4), list("abcd"))
    project_prototypes(network, [batch], lambda row: images[row])
    assert difference_of_exports(network, images, tmp_path) < 1e-3
