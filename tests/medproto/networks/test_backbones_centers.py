"""The stated centre and field of cells, against the input gradient of a linear thin copy.

Each convolution is replaced by the mean over its input channels and a constant kernel with one
output channel; norms and activations by the identity, maximum by average pooling, and
squeeze-and-excite left out. Kernels, strides, paddings and the order of the modules stay. The
gradient of one cell is then positive exactly where the cell sees, in float64 also at the far ends.
"""

import pytest
import torch
from torch import nn

from medproto.networks.backbones import BACKBONES, build_backbone

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU)
POOLS = {nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}


class Thin(nn.Module):
    def __init__(self, conv):
        super().__init__()
        shapes = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        self.windows = list(zip(*shapes, strict=True))

    def forward(self, x):
        x = x.mean(dim=1, keepdim=True)
        # A constant kernel is a product: one axis after the other, which is quicker in 3-D.
        for axis, (size, stride, padding, dilation) in enumerate(self.windows, start=2):
            kernel = torch.full((1, 1, size), 1 / size, dtype=torch.float64)
            lines = x.movedim(axis, -1)
            y = torch.conv1d(lines.flatten(0, -2)[:, None], kernel, None, stride, padding, dilation)
            x = y[:, 0].unflatten(0, lines.shape[:-1]).movedim(-1, axis)
        return x


def make_linear(module):
    if getattr(module, "has_se", False):
        module.has_se = False
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.Conv2d, nn.Conv3d)):
            setattr(module, name, Thin(child))
        elif isinstance(child, (*NORMS, *ACTIVATIONS)) or name == "normalization":
            setattr(module, name, nn.Identity())
        elif type(child) in POOLS:
            pool = POOLS[type(child)](child.kernel_size, child.stride, child.padding)
            setattr(module, name, pool)
        else:
            make_linear(child)
    return module


def check_inner_cell(name, dims, *, stage=None, axis=0, side=32, rest=0, **options):
    with torch.device("meta"):
        field = build_backbone(name, dims, 1, image_size=(64,) * dims, stage=stage, **options)
        # Long enough that the field of an inner cell ends inside.
        length = 64 * (int(field.grid.receptive_field[axis]) // 64 + 2) + rest
        network = build_backbone(name, dims, 1, image_size=(length,) * dims, stage=stage, **options)
    linear = make_linear(network).eval()
    # Short on the other axes: the padding of EfficientNets is the same for equal rests of 32.
    size = [length if a == axis else side + rest for a in range(dims)]
    image = torch.zeros(1, 1, *size, dtype=torch.float64, requires_grad=True)
    features = linear(image)
    cell = tuple((n - 1) // 2 for n in features.shape[2:])
    # All channels: those of a dense block come by ways of unequal length.
    features.sum(dim=1)[(0, *cell)].backward()
    others = [a for a in range(image.ndim) if a != axis + 2]
    seen = image.grad.sum(dim=others).nonzero().flatten()
    first, last = int(seen[0]), int(seen[-1])
    assert first > 0
    assert last < length - 1
    assert last - first + 1 == network.grid.receptive_field[axis]
    assert (first + last + 1) / 2 == pytest.approx(network.grid.center(cell)[axis], abs=0.5)
    assert features.shape[axis + 2] == network.grid.shape[axis]


@pytest.mark.parametrize("name", BACKBONES)
def test_deepest_stage(name):
    check_inner_cell(name, 2)


@pytest.mark.parametrize("name", [n for n in BACKBONES if not n.startswith("vgg")])
def test_deepest_stage_in_3d(name):
    check_inner_cell(name, 3, axis=1)


STAGED = [
    *(("vgg16", stage) for stage in range(1, 5)),
    *(("resnet18", stage) for stage in range(1, 4)),
    *(("resnet50", stage) for stage in range(1, 4)),
    *(("densenet121", stage) for stage in range(1, 4)),
    *(("efficientnet_lite0", stage) for stage in range(1, 7)),
    *(("efficientnet_b0", stage) for stage in range(1, 7)),
]


@pytest.mark.parametrize(("name", "stage"), STAGED)
def test_earlier_stages(name, stage):
    check_inner_cell(name, 2, stage=stage, axis=1)


@pytest.mark.parametrize("rest", [4, 28])
@pytest.mark.parametrize("stage", [2, 3, 5, 7])
def test_sides_that_are_no_multiple_of_32(stage, rest):
    check_inner_cell("efficientnet_lite0", 2, stage=stage, rest=rest)


@pytest.mark.parametrize("stage", [2, 5, 7])
def test_torchvision_layout(stage):
    check_inner_cell("efficientnet_b3", 2, stage=stage, layout="torchvision")


def test_the_layouts_differ_by_the_padding_of_the_strides():
    with torch.device("meta"):
        uneven = build_backbone("efficientnet_b0", 2, 1, image_size=(64, 64)).grid
        even = build_backbone(
            "efficientnet_b0", 2, 1, image_size=(64, 64), layout="torchvision"
        ).grid
    # Even padding leaves cell 0 at the first pixel; uneven moves it by j/2 at each stride of 2.
    assert even.first_center == (0.5, 0.5)
    # Trailing zeros only for kernel 3, (1, 2) for kernel 5: 1 + 2 + 4 + 8 + 16 on the kernels.
    assert uneven.first_center == (31.5, 31.5)
