import re
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DenseNet121, ResNet

from medproto.networks.backbones import BACKBONES, build_backbone

STAGES = {"vgg": 5, "res": 4, "den": 4, "eff": 7}


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "densenet121", "efficientnet_b0"])
def test_every_stage(name):
    sizes = (64, 64) if name.startswith("eff") else (64, 96)
    last = STAGES[name[:3]]
    for stage in range(1, last + 1):
        network = build_backbone(name, 2, 3, image_size=sizes, stage=stage).eval()
        with torch.no_grad():
            features = network(torch.rand(1, 3, *sizes))
        assert features.shape == (1, network.out_channels, *network.grid.shape)
    with torch.device("meta"):
        deepest = build_backbone(name, 2, 3, image_size=sizes)
    assert deepest.arguments["stage"] == last
    assert deepest.grid == network.grid


@pytest.mark.parametrize("name", ["vgg19", "resnet50", "densenet121"])
@pytest.mark.parametrize("size", [(70, 33), (101, 47)])
def test_odd_and_unequal_sizes(name, size):
    network = build_backbone(name, 2, 1, image_size=size).eval()
    with torch.no_grad():
        assert tuple(network(torch.rand(1, 1, *size)).shape[2:]) == network.grid.shape


def stir(network):
    """Give all BatchNorm statistics other values than the start's."""
    for key, value in network.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return network.eval()


def monai_resnet(dims, block, layers):
    return ResNet(
        block,
        layers,
        [64, 128, 256, 512],
        spatial_dims=dims,
        n_input_channels=3,
        conv1_t_size=7,
        conv1_t_stride=2,
        bias_downsample=False,
        num_classes=5,
    )


def densenet_head(network, features):
    return network.class_layers(features)


def resnet_head(network, features):
    return network.fc(network.avgpool(features).flatten(1))


# [name, axes, MONAI's own network, its class head]
WRAPPED = [
    ("densenet121", 2, lambda: DenseNet121(2, 3, 5), densenet_head),
    ("densenet121", 3, lambda: DenseNet121(3, 3, 5), densenet_head),
    ("resnet18", 2, lambda: monai_resnet(2, "basic", [2, 2, 2, 2]), resnet_head),
    ("resnet18", 3, lambda: monai_resnet(3, "basic", [2, 2, 2, 2]), resnet_head),
    ("resnet50", 2, lambda: monai_resnet(2, "bottleneck", [3, 4, 6, 3]), resnet_head),
]


@pytest.mark.parametrize(("name", "dims", "build", "head"), WRAPPED)
def test_monai_logits_are_unchanged(name, dims, build, head):
    torch.manual_seed(1)
    size = (64,) * 2 if dims == 2 else (32,) * 3
    backbone = stir(build_backbone(name, dims, 3, image_size=size))
    network = build().eval()
    missing, unexpected = network.load_state_dict(backbone.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith(("fc.", "class_layers.")) for key in missing)
    x = torch.rand(2, 3, *size)
    # The values as ImageNet classifiers take them; in 3-D the means over the colors.
    colors = dims == 2
    mean = torch.tensor([0.485, 0.456, 0.406] if colors else [(0.485 + 0.456 + 0.406) / 3] * 3)
    std = torch.tensor([0.229, 0.224, 0.225] if colors else [(0.229 + 0.224 + 0.225) / 3] * 3)
    shape = (1, 3, *(1,) * dims)
    with torch.no_grad():
        expected = network((x - mean.reshape(shape)) / std.reshape(shape))
        logits = head(network, backbone(x))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet17"}, "must be one of efficientnet_lite0, .*, got 'resnet17'"),
        ({"stage": 5}, "stage must be 1 to 4 for resnet18, got 5"),
        ({"stage": 0}, "stage must be 1 to 4 for resnet18, got 0"),
        ({"name": "vgg16", "stage": 6}, "stage must be 1 to 5"),
        ({"name": "densenet161", "stage": 5}, "stage must be 1 to 4"),
        ({"name": "efficientnet_b1", "stage": 8}, "stage must be 1 to 7"),
        ({"name": "vgg16", "spatial_dims": 3}, "spatial_dims must be 2 for vgg16"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3"),
        ({"spatial_dims": 3}, "image_size must be 3 values"),
        ({"image_size": (0, 64)}, "image_size must be 2 values >= 1"),
        ({"name": "efficientnet_b0", "image_size": (64, 96)}, "2 equal values >= 8"),
        ({"name": "efficientnet_lite0", "image_size": (4, 4)}, "2 equal values >= 8"),
        ({"name": "vgg16", "image_size": (64, 31)}, "at least one feature cell"),
        ({"name": "densenet121", "image_size": (28, 64)}, "at least one feature cell"),
        ({"in_channels": 0}, "in_channels must be"),
        ({"in_channels": 2, "weights": "x.pth"}, "in_channels must be 1 or 3"),
        (
            {"spatial_dims": 3, "image_size": (32,) * 3, "weights": "x.pth"},
            "exist for spatial_dims=2 only",
        ),
        ({"weights": "package"}, "must be used with efficientnet_lite0"),
        ({"name": "efficientnet_lite0", "weights": "x.pth"}, "must be 'package' or None"),
        ({"name": "densenet161", "weights": "download"}, "one of densenet121, .* got densenet161"),
        ({"layout": "torchvision"}, "layout must be None for resnet18"),
        ({"name": "efficientnet_b0", "layout": "keras"}, "'monai', 'torchvision' or None"),
        (
            {"name": "efficientnet_b0", "layout": "monai", "weights": "x.pth"},
            "layout must be 'torchvision' with these weights",
        ),
        ({"measured": {}}, "measured must be None for resnet18"),
    ],
)
def test_arguments_out_of_range(change, message):
    values = {"name": "resnet18", "spatial_dims": 2, "in_channels": 1, "image_size": (64, 64)}
    with pytest.raises(ValueError, match=message):
        build_backbone(**{**values, **change})


def test_smallest_images():
    with torch.device("meta"):
        assert build_backbone("vgg16", 2, 1, image_size=(32, 32)).grid.shape == (1, 1)
        assert build_backbone("densenet121", 2, 1, image_size=(29, 29)).grid.shape == (1, 1)


def test_torchvision_layout_takes_unequal_sizes():
    network = build_backbone(
        "efficientnet_b0", 2, 1, image_size=(48, 33), stage=5, layout="torchvision"
    ).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, 48, 33)).shape[2:] == network.grid.shape


def test_gradients_pass_the_input_normalization_in_double():
    network = build_backbone("resnet18", 2, 1, image_size=(32, 32), stage=1).double().eval()
    x = torch.rand(1, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    network(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert not [key for key in network.state_dict() if key.startswith("normalization")]


def test_the_table_in_the_docs():
    text = (Path(__file__).parents[3] / "docs" / "backbones.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\| `\w+` \| 2", line)
    ]
    assert [row[0].strip("`") for row in rows] == list(BACKBONES)
    for name, axes, stages, channels, stride, cells, center, field, _ in rows:
        with torch.device("meta"):
            network = build_backbone(name.strip("`"), 2, 3, image_size=(224, 224))
        grid = network.grid
        assert tuple(int(n) for n in axes.split(",")) == network.DIMS
        assert (network.STAGES, network.out_channels) == (int(stages), int(channels))
        assert (grid.stride[0], grid.shape[0]) == (float(stride), int(cells))
        assert (grid.first_center[0], f"{grid.receptive_field[0]:.0f}") == (
            float(center),
            field.partition(",")[0],
        )
        assert network.whole_image == field.endswith("whole image")
