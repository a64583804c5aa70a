"""Weight files in torchvision's layout, against a second, functional definition of its networks.

Only the names and shapes of a state dict and ``torch.nn.functional`` are used here, with random
values; the published networks are written out from their papers' tables.
"""

import hashlib
import urllib.error

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medproto.errors import ModelFileError
from medproto.networks.backbones import build_backbone

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


class Naive:
    """Runs a network's layers by name; with ``state=None`` it makes them up on the way."""

    def __init__(self, eps=1e-5):
        self.state, self.eps = {}, eps
        self.generator = torch.Generator().manual_seed(0)

    def tensor(self, name, draw):
        if name not in self.state:
            self.state[name] = draw()
        return self.state[name]

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def uniform(self, *shape):
        return 0.5 + torch.rand(shape, generator=self.generator)

    def conv(self, name, x, out, kernel, *, stride=1, padding=0, groups=1, bias=False):
        shape = (out, x.shape[1] // groups, kernel, kernel)
        fan_in = shape[1] * kernel * kernel
        weight = self.tensor(f"{name}.weight", lambda: self.normal(*shape) * (2 / fan_in) ** 0.5)
        offset = self.tensor(f"{name}.bias", lambda: self.normal(out) / 10) if bias else None
        return F.conv2d(x, weight, offset, stride=stride, padding=padding, groups=groups)

    def norm(self, name, x):
        channels = x.shape[1]
        weight = self.tensor(f"{name}.weight", lambda: self.uniform(channels))
        bias = self.tensor(f"{name}.bias", lambda: self.normal(channels) / 10)
        mean = self.tensor(f"{name}.running_mean", lambda: self.normal(channels) / 10)
        # Small variances, so that eps matters.
        var = self.tensor(f"{name}.running_var", lambda: self.uniform(channels) * 0.1)
        self.tensor(f"{name}.num_batches_tracked", lambda: torch.tensor(7))
        return F.batch_norm(x, mean, var, weight, bias, eps=self.eps)


def vgg(net, x, layout):
    number, stages = 0, []
    for block, repeats in zip((64, 128, 256, 512, 512), layout, strict=True):
        for _ in range(repeats):
            x = F.relu(net.conv(f"features.{number}", x, block, 3, padding=1, bias=True))
            number += 2
        x = F.max_pool2d(x, 2, 2)
        number += 1
        stages.append(x)
    net.state["classifier.0.weight"] = torch.zeros(2, 2)
    return stages


def resnet(net, x, layout):
    repeats, bottleneck = layout
    x = F.relu(net.norm("bn1", net.conv("conv1", x, 64, 7, stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    stages = []
    for layer, blocks in enumerate(repeats, start=1):
        width = 32 * 2**layer
        out = width * (4 if bottleneck else 1)
        for j in range(blocks):
            name, stride = f"layer{layer}.{j}", 2 if layer > 1 and j == 0 else 1
            if bottleneck:
                y = F.relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, width, 1)))
                y = net.conv(f"{name}.conv2", y, width, 3, stride=stride, padding=1)
                y = F.relu(net.norm(f"{name}.bn2", y))
                y = net.norm(f"{name}.bn3", net.conv(f"{name}.conv3", y, out, 1))
            else:
                y = net.conv(f"{name}.conv1", x, width, 3, stride=stride, padding=1)
                y = F.relu(net.norm(f"{name}.bn1", y))
                y = net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", y, out, 3, padding=1))
            if stride != 1 or x.shape[1] != out:
                x = net.conv(f"{name}.downsample.0", x, out, 1, stride=stride)
                x = net.norm(f"{name}.downsample.1", x)
            x = F.relu(x + y)
        stages.append(x)
    net.state["fc.weight"] = torch.zeros(2, 2)
    return stages


def densenet(net, x, layout):
    start, growth, blocks = layout
    x = net.conv("features.conv0", x, start, 7, stride=2, padding=3)
    x = F.max_pool2d(F.relu(net.norm("features.norm0", x)), 3, 2, 1)
    stages = []
    for i, layers in enumerate(blocks, start=1):
        for j in range(1, layers + 1):
            name = f"features.denseblock{i}.denselayer{j}"
            y = net.conv(f"{name}.conv1", F.relu(net.norm(f"{name}.norm1", x)), 4 * growth, 1)
            y = net.conv(
                f"{name}.conv2", F.relu(net.norm(f"{name}.norm2", y)), growth, 3, padding=1
            )
            x = torch.cat([x, y], dim=1)
        last = i == len(blocks)
        after = "features.norm5" if last else f"features.transition{i}.norm"
        x = F.relu(net.norm(after, x))
        stages.append(x)
        if not last:
            x = F.avg_pool2d(net.conv(f"features.transition{i}.conv", x, x.shape[1] // 2, 1), 2, 2)
    net.state["classifier.weight"] = torch.zeros(2, 2)
    return stages


# [expansion, kernel, stride, channels, repeats] of B0.
B0 = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]


def pad(x, kernel, stride, even):
    """Evenly, as torchvision does, or as TensorFlow's SAME, with the odd zero behind."""
    if even:
        return F.pad(x, [(kernel - 1) // 2] * 4)
    zeros = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
    return F.pad(x, [zeros // 2, zeros - zeros // 2] * 2)


def torchvision_names(stage, place, number, expanded):
    block = f"features.{stage}.{place}.block"
    first = 1 if expanded else 0
    return {
        "expand": (f"{block}.0.0", f"{block}.0.1"),
        "depthwise": (f"{block}.{first}.0", f"{block}.{first}.1"),
        "squeeze": (f"{block}.{first + 1}.fc1", f"{block}.{first + 1}.fc2"),
        "project": (f"{block}.{first + 2}.0", f"{block}.{first + 2}.1"),
    }


def flat_names(stage, place, number, expanded):
    """Of the files that MONAI fetches: blocks in one row."""
    block = f"_blocks.{number}"
    return {
        "expand": (f"{block}._expand_conv", f"{block}._bn0"),
        "depthwise": (f"{block}._depthwise_conv", f"{block}._bn1"),
        "squeeze": (f"{block}._se_reduce", f"{block}._se_expand"),
        "project": (f"{block}._project_conv", f"{block}._bn2"),
    }


def efficientnet(net, x, even):
    stem = ("features.0.0", "features.0.1") if even else ("_conv_stem", "_bn0")
    x = F.silu(net.norm(stem[1], net.conv(stem[0], pad(x, 3, 2, even), 32, 3, stride=2)))
    stages, number = [], 0
    for stage, (expansion, kernel, stride, out, repeats) in enumerate(B0, start=1):
        for place in range(repeats):
            naming = torchvision_names if even else flat_names
            names = naming(stage, place, number, expansion > 1)
            step, wide = stride if place == 0 else 1, x.shape[1] * expansion
            y = x
            if expansion > 1:
                conv, norm = names["expand"]
                y = F.silu(net.norm(norm, net.conv(conv, y, wide, 1)))
            conv, norm = names["depthwise"]
            y = net.conv(conv, pad(y, kernel, step, even), wide, kernel, stride=step, groups=wide)
            y = F.silu(net.norm(norm, y))
            reduce, expand = names["squeeze"]
            gate = y.mean(dim=(2, 3), keepdim=True)
            gate = F.silu(net.conv(reduce, gate, x.shape[1] // 4, 1, bias=True))
            y = y * torch.sigmoid(net.conv(expand, gate, wide, 1, bias=True))
            conv, norm = names["project"]
            y = net.norm(norm, net.conv(conv, y, out, 1))
            x = x + y if step == 1 and x.shape[1] == out else y
            number += 1
        stages.append(x)
    head = (
        {"features.8.0.weight", "classifier.1.weight"}
        if even
        else {"_conv_head.weight", "_fc.bias"}
    )
    net.state.update({key: torch.zeros(2, 2) for key in head})
    return stages


# [name, network, its layout]
NETWORKS = {
    "vgg16": (vgg, (2, 2, 3, 3, 3)),
    "resnet18": (resnet, ((2, 2, 2, 2), False)),
    "resnet50": (resnet, ((3, 4, 6, 3), True)),
    "densenet121": (densenet, (64, 32, (6, 12, 24, 16))),
    "efficientnet_b0": (efficientnet, True),
}


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def naive_stages(name, images):
    net = Naive()
    network, layout = NETWORKS[name]
    with torch.no_grad():
        return net.state, network(net, (images - MEAN) / STD, layout)


def features(backbone, images):
    with torch.no_grad():
        return backbone.eval()(images)


def relative_difference(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_features_equal_the_second_definition(name, images, tmp_path):
    state, stages = naive_stages(name, images)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    for stage in (2, len(stages)):
        backbone = build_backbone(name, 2, 3, image_size=(64, 64), stage=stage, weights=path)
        found = features(backbone, images)
        assert found.shape == stages[stage - 1].shape
        assert float(found.std()) > 1e-3
        assert relative_difference(found, stages[stage - 1]) < 1e-4
        assert backbone.weights_digest == digest


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0", "vgg16"])
def test_gray_equals_the_image_repeated_three_times(name, images, tmp_path):
    state, _ = naive_stages(name, images)
    save_file(state, tmp_path / "weights.safetensors")
    gray, color = (
        build_backbone(
            name, 2, c, image_size=(64, 64), stage=3, weights=str(tmp_path / "weights.safetensors")
        )
        for c in (1, 3)
    )
    x = images[:, :1]
    assert torch.equal(features(gray, x), features(color, x.repeat(1, 3, 1, 1)))


def test_a_rebuild_needs_no_weight_file(images, tmp_path):
    """The layout is remembered: MONAI's own padding and eps give other features."""
    state, stages = naive_stages("efficientnet_b0", images)
    torch.save(state, tmp_path / "weights.pth")
    backbone = build_backbone(
        "efficientnet_b0", 2, 3, image_size=(64, 64), weights=tmp_path / "weights.pth"
    )
    again = build_backbone(**backbone.arguments)
    again.load_state_dict(backbone.state_dict())
    assert again.weights_digest is None
    torch.testing.assert_close(features(again, images), features(backbone, images))
    other = build_backbone(**{**backbone.arguments, "layout": "monai"})
    other.load_state_dict(backbone.state_dict())
    assert relative_difference(features(other, images), stages[-1]) > 0.01


def test_older_densenet_names(images, tmp_path):
    state, stages = naive_stages("densenet121", images)
    for number in "12":
        state = {
            k.replace(f"norm{number}.", f"norm.{number}.").replace(
                f"conv{number}.", f"conv.{number}."
            )
            if "denselayer" in k
            else k: v
            for k, v in state.items()
            if not k.endswith("num_batches_tracked")
        }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "old.pth")
    backbone = build_backbone(
        "densenet121", 2, 3, image_size=(64, 64), weights=tmp_path / "old.pth"
    )
    assert relative_difference(features(backbone, images), stages[-1]) < 1e-4


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An own folder for torch's downloads, behind a network that is down."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["densenet121", "efficientnet_b1"])
def test_download_without_a_network(name, hub):
    with pytest.raises(ModelFileError, match=f"weights of {name} must be in torch's cache"):
        build_backbone(name, 2, 3, image_size=(64, 64), weights="download")


def test_downloaded_densenet(hub, images):
    state, stages = naive_stages("densenet121", images)
    # The name of the file that MONAI asks for.
    torch.save(state, hub / "densenet121-a639ec97.pth")
    backbone = build_backbone("densenet121", 2, 3, image_size=(64, 64), weights="download")
    assert relative_difference(features(backbone, images), stages[-1]) < 1e-4


def test_downloaded_efficientnet_keeps_the_uneven_padding(hub, images):
    net = Naive(eps=1e-3)
    with torch.no_grad():
        stages = efficientnet(net, (images - MEAN) / STD, False)
    torch.save(net.state, hub / "efficientnet-b0-355c32eb.pth")
    backbone = build_backbone("efficientnet_b0", 2, 3, image_size=(64, 64), weights="download")
    assert relative_difference(features(backbone, images), stages[-1]) < 1e-4
    assert backbone.arguments["layout"] == "monai"
    assert backbone.weights_digest.startswith("sha256:")


@pytest.fixture(scope="module")
def resnet18_state(images):
    return naive_stages("resnet18", images)[0]


def without(state, name):
    return {k: v for k, v in state.items() if k != name}


# [what stands in the file, error]
BROKEN = [
    (lambda s: without(s, "layer1.1.bn2.bias"), "must have layer1.1.bn2.bias .* got nothing"),
    (
        lambda s: {**s, "conv1.weight": torch.zeros(64, 1, 7, 7)},
        r"conv1.weight with shape \[64, 3, 7, 7\], got \[64, 1, 7, 7\]",
    ),
    (
        lambda s: {**s, "layer1.2.conv1.weight": torch.zeros(1)},
        "must not have layer1.2.conv1.weight",
    ),
    (lambda s: {"epoch": 3, **s}, "must hold tensors by name"),
    (lambda s: list(s.values()), "must hold tensors by name, got list"),
    (lambda s: torch.nn.Conv2d(1, 1, 1), "must be a readable state dict"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_files_that_do_not_fit(change, message, resnet18_state, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(change(resnet18_state), path)
    with pytest.raises(ModelFileError, match=message):
        build_backbone("resnet18", 2, 3, image_size=(64, 64), stage=1, weights=path)


@pytest.mark.parametrize(
    "name", ["absent.pth", "broken.pth", "junk.pth", "broken.safetensors", "empty.pth"]
)
def test_unreadable_files(name, tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no tensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    (tmp_path / "junk.pth").write_bytes(b"junk\n")  # torch's reader takes its first byte as a code
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ModelFileError, match=f"weight file {name} must be a readable") as caught:
        build_backbone("vgg16", 2, 3, image_size=(64, 64), weights=tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


def test_a_deeper_sister_is_noticed(images, tmp_path):
    net = Naive()
    with torch.no_grad():
        resnet(net, images, ((3, 4, 6, 3), False))
    torch.save(net.state, tmp_path / "resnet34.pth")
    with pytest.raises(ModelFileError, match=r"resnet18 must not have layer1\.2"):
        build_backbone("resnet18", 2, 3, image_size=(64, 64), weights=tmp_path / "resnet34.pth")
