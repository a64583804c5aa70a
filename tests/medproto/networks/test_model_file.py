import json
import os

import pytest
import torch

from medproto.errors import ModelFileError
from medproto.networks import ModelCard, ProtoPNet, load_model, save_model, tensor_digest
from medproto.networks.memory_format import use_channels_last
from medproto.networks.model_file import write_atomically

CARD = ModelCard(classes=("a", "b"), preprocessing={"spatial_size": [64, 64]})


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    network = ProtoPNet(2, 1, 2, image_size=(64, 64), prototypes_per_class=[2, 1], stage=5).eval()
    use_channels_last(network)  # as loaded ones are: another order of sums has other last bits
    return network, save_model(tmp_path, network, CARD), tmp_path


def test_round_trip(saved):
    network, card, folder = saved
    loaded, read = load_model(folder)
    assert read == card
    assert not loaded.training
    strides = {p.stride()[1] for p in loaded.parameters() if p.ndim == 4}
    assert strides == {1}  # channels last, as in training
    x = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=0)
    assert tensor_digest(loaded.state_dict()) == card.model_digest


LATER = ("floor", "prototype_shift")


def test_a_file_of_before_there_were_floors_and_shifts_of_prototypes(saved):
    network, _, folder = saved
    state = network.state_dict()
    expected = network(torch.ones(1, 1, 64, 64))
    network.state_dict = lambda: {k: v for k, v in state.items() if k not in LATER}
    card = save_model(folder, network, CARD)
    content = (folder / "model.safetensors").read_bytes()
    assert not any(name.encode() in content for name in LATER)
    loaded, read = load_model(folder)
    assert read == card
    assert loaded.floor.tolist() == [-float("inf")] * 3
    assert loaded.prototype_shift.tolist() == [[0, 0]] * 3
    torch.testing.assert_close(loaded(torch.ones(1, 1, 64, 64)), expected, rtol=0, atol=0)


def test_digest_depends_on_content_not_on_order():
    a, b = torch.arange(3.0), torch.ones(2, dtype=torch.int64)
    assert tensor_digest({"a": a, "b": b}) == tensor_digest({"b": b, "a": a})
    assert tensor_digest({"a": a, "b": b}) != tensor_digest({"a": a + 1, "b": b})
    assert tensor_digest({"a": a}) != tensor_digest({"a": a.reshape(1, 3)})
    assert tensor_digest({"a": a}) != tensor_digest({"b": a})


@pytest.mark.parametrize("position", [0, 9, 100, -1])
def test_one_altered_byte_is_noticed(saved, position):
    path = saved[2] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="altered after training"):
        load_model(saved[2])


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_missing_file(saved, name):
    (saved[2] / name).unlink()
    with pytest.raises(ModelFileError, match=f"must hold {name}"):
        load_model(saved[2])


def edit(folder, **values):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "medproto-model/9"}, "another version of medproto"),
        ({"model_digest": "sha256:0"}, "do not have the digest"),
        ({"unknown": 1}, "not a readable model card"),
        ({"classes": ["a", 1]}, "not a readable model card"),
        ({"classes": ["a", "b\x1b[2J"]}, "name its classes in printable text"),
        ({"architecture": {"spatial_dims": 7}}, "cannot be built"),
    ],
)
def test_altered_card(saved, values, message):
    edit(saved[2], **values)
    with pytest.raises(ModelFileError, match=message):
        load_model(saved[2])


def test_card_that_is_no_json(saved):
    (saved[2] / "model.json").write_text("[1, 2")
    with pytest.raises(ModelFileError, match="not a readable model card"):
        load_model(saved[2])


def test_a_full_disk_leaves_neither_part_nor_change(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_nothing_but_the_two_files_is_left(saved):
    assert {p.name for p in saved[2].iterdir()} == {"model.json", "model.safetensors"}
