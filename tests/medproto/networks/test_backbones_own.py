import json
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medproto.networks.backbones import build_backbone

FACTORIES = types.ModuleType("own_networks")


class Windows(nn.Sequential):
    """Kernel 3 evenly padded, pooling by 2, then kernel 3 at stride 2 with a zero behind."""

    def __init__(self, dims, channels):
        two = dims == 2
        conv = nn.Conv2d if two else nn.Conv3d
        super().__init__(
            conv(channels, 8, 3, padding=1),
            (nn.BatchNorm2d if two else nn.BatchNorm3d)(8),
            nn.ReLU(inplace=True),
            (nn.MaxPool2d if two else nn.MaxPool3d)(2),
            (nn.ConstantPad2d if two else nn.ConstantPad3d)([0, 1] * dims, 0.0),
            conv(8, 5, 3, stride=2),
            nn.ReLU(),
        )


class Functional(nn.Module):
    """Without layers: what it does cannot be read, only measured."""

    def forward(self, x):
        return F.avg_pool2d(F.pad(x, [2, 0, 0, 0]), 4, 3)


class Gated(nn.Module):
    """Each cell sees 4 pixels of an axis, and the mean of the image."""

    def __init__(self, dims, channels):
        super().__init__()
        self.patches = nn.Conv2d(channels, 6, 4, stride=4)

    def forward(self, x):
        y = self.patches(x)
        return y * torch.sigmoid(y.mean(dim=(2, 3), keepdim=True))


class FixedSize(nn.Module):
    """Positions are learned, so images of one size only."""

    def __init__(self, dims, channels):
        super().__init__()
        self.patches = nn.Conv2d(channels, 6, 8, stride=8)
        self.position = nn.Parameter(torch.zeros(1, 6, 4, 4))
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        y = self.patches(x) + self.position
        y = y + y.mean(dim=(2, 3), keepdim=True)
        return self.norm(y.movedim(1, -1)).movedim(-1, 1)


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_networks", FACTORIES)
    FACTORIES.windows = Windows
    FACTORIES.functional = lambda dims, channels: Functional()
    FACTORIES.gated = Gated
    FACTORIES.fixed = FixedSize
    FACTORIES.resnet = lambda dims, c: build_backbone("resnet18", dims, c, image_size=(64,) * dims)
    FACTORIES.classifier = lambda dims, channels: nn.Flatten()
    FACTORIES.number = lambda dims, channels: 3
    FACTORIES.constant = lambda dims, channels: Constant()


class Constant(nn.Module):
    def forward(self, x):
        return x[:, :, ::4, ::4] * 0.0


def own(name, size, dims=2, channels=1, **options):
    return build_backbone(
        f"own_networks:{name}", dims, channels, image_size=size, trusted=True, **options
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_windows_are_measured(dims):
    network = own("windows", (32,) * dims, dims)
    # By hand: 0.5; 1.0 behind the pooling, field 4, stride 2; then + 2 * 1, + 2 * 2, times 2.
    assert network.grid.shape == (8,) * dims
    assert network.grid.first_center == (3.0,) * dims
    assert network.grid.stride == (4.0,) * dims
    assert network.grid.receptive_field == (8.0,) * dims
    assert network.out_channels == 5
    assert network.whole_image is False
    x = torch.rand(2, 1, *(32,) * dims)
    assert network(x).shape == (2, 5, *network.grid.shape)


def test_a_network_without_layers():
    grid = own("functional", (40, 31), channels=3).grid
    # Kernel 4, stride 3, and two zeros in front of the last axis only.
    assert grid.shape == (13, 10)
    assert grid.first_center == (2.0, 0.0)
    assert grid.stride == (3.0, 3.0)
    assert grid.receptive_field == (4.0, 4.0)


@pytest.mark.parametrize(("name", "size"), [("gated", (40, 24)), ("fixed", (32, 32))])
def test_the_whole_image(name, size):
    network = own(name, size)
    patch = {"gated": 4.0, "fixed": 8.0}[name]
    assert network.whole_image is True
    assert network.grid.receptive_field == size
    assert network.grid.stride == (patch, patch)
    assert network.grid.first_center == pytest.approx((patch / 2, patch / 2), abs=0.5)


def test_a_field_larger_than_the_image():
    network = own("resnet", (64, 64))
    known = build_backbone("resnet18", 2, 1, image_size=(64, 64)).grid
    assert network.whole_image is True
    assert network.grid.stride == known.stride
    assert network.grid.first_center == pytest.approx(known.first_center, abs=0.5)


def test_measuring_changes_nothing():
    torch.manual_seed(0)
    network = own("windows", (32, 32))
    torch.manual_seed(0)
    untouched = Windows(2, 1)
    for key, value in untouched.state_dict().items():
        assert torch.equal(network.network.state_dict()[key], value)
    assert network.training
    assert all(p.grad is None for p in network.parameters())


def test_a_rebuild_does_not_measure_again(monkeypatch):
    network = own("windows", (32, 32))
    arguments = json.loads(json.dumps(network.arguments))
    monkeypatch.setattr("medproto.networks.backbones.own.measure_grid", None)
    again = build_backbone(**arguments, trusted=True)
    assert again.grid == network.grid
    assert again.whole_image is network.whole_image
    assert again.arguments == network.arguments


def test_code_is_imported_only_when_trusted(tmp_path, monkeypatch):
    (tmp_path / "dangerous_module.py").write_text("raise SystemExit('this code ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "dangerous_module:build"
    with pytest.raises(ValueError, match=r"must be trusted before .* MEDPROTO_TRUSTED_BACKBONES"):
        build_backbone(name, 2, 1, image_size=(32, 32))
    monkeypatch.setenv("MEDPROTO_TRUSTED_BACKBONES", "own_networks:gated")
    with pytest.raises(ValueError, match="must be trusted"):
        build_backbone(name, 2, 1, image_size=(32, 32))
    with pytest.raises(SystemExit, match="this code ran"):
        build_backbone(name, 2, 1, image_size=(32, 32), trusted=True)


def test_trusted_by_the_environment(monkeypatch):
    names = "other:build, own_networks:gated"
    monkeypatch.setenv("MEDPROTO_TRUSTED_BACKBONES", names)
    network = build_backbone("own_networks:gated", 2, 1, image_size=(32, 32))
    assert network.grid.shape == (8, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("absent", {}, "importable 'package.module:factory'"),
        ("", {}, "importable 'package.module:factory'"),
        ("classifier", {}, r"features of 4 axes, \[B, D, \*G\], got \[1, 1024\]"),
        ("number", {}, "must return a torch module, got int"),
        ("constant", {}, "must depend on the image"),
        ("windows", {"stage": 2}, "stage and weights must be None"),
        ("windows", {"weights": "x.pth"}, "stage and weights must be None"),
        ("windows", {"measured": {"stride": [4.0, 4.0]}}, "measured must be as in arguments"),
        (
            "windows",
            {
                "measured": {
                    "first_center": [3.0],
                    "stride": [4.0],
                    "receptive_field": [8.0],
                    "whole_image": False,
                }
            },
            "measured must have 2 values",
        ),
    ],
)
def test_what_does_not_fit(name, options, message):
    with pytest.raises(ValueError, match=message):
        own(name, (32, 32), **options)


def test_a_package_that_is_not_installed():
    with pytest.raises(ValueError, match="Is the package installed in this environment"):
        build_backbone("no_such_module:x", 2, 1, image_size=(32, 32), trusted=True)


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 4, stride=4)

    def forward(self, x):
        return self.patches(x.float())


class Frozen(Single):
    @torch.no_grad()
    def forward(self, x):
        return self.patches(x)


@pytest.mark.parametrize(("module", "kind"), [(Single, "RuntimeError"), (Frozen, "RuntimeError")])
def test_a_network_that_cannot_be_measured_says_what_it_must_allow(module, kind, monkeypatch):
    monkeypatch.setattr(FACTORIES, "windows", lambda dims, channels: module())
    message = f"windows must work, it raised {kind}: .* must not cast its input, .* requires_grad_"
    with pytest.raises(ValueError, match=message):
        own("windows", (32, 32))


def test_errors_of_a_persons_own_code_are_named(monkeypatch):
    def broken(dims, channels):
        raise RuntimeError("own factory\nbroke")

    class Narrow(nn.Module):
        def forward(self, x):
            return x.reshape(7, -1)

    module = types.ModuleType("broken_networks")
    module.broken, module.narrow = broken, lambda dims, channels: Narrow()
    monkeypatch.setitem(sys.modules, "broken_networks", module)
    monkeypatch.setenv(
        "MEDPROTO_TRUSTED_BACKBONES", "broken_networks:broken,broken_networks:narrow"
    )
    message = "broken_networks:broken must work, it raised RuntimeError: own factory broke"
    with pytest.raises(ValueError, match=message):
        build_backbone("broken_networks:broken", 2, 1, image_size=(32, 32))
    with pytest.raises(ValueError, match=r"narrow must work, .* Its input was \[1, 1, 32, 32\]"):
        build_backbone("broken_networks:narrow", 2, 1, image_size=(32, 32))
