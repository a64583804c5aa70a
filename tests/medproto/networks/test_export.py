"""Exports compute the network's own logits, in onnxruntime and in a process without medproto."""

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import medproto
from medproto.errors import ExportError
from medproto.networks import ModelCard, ProtoPNet, export, tensor_digest
from medproto.networks.export import export_onnx, export_program
from medproto.networks.export_card import check_export

CARD = ModelCard(("normal", "nodule"), {"spatial_size": [64, 64], "voi": "window"}, synthetic=True)
FLAT = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "image_size": (64, 64)}
CASES = {
    "log": {
        **FLAT,
        "stage": 2,
        "similarity": "log",
        "add_on": "regular",
        "prototype_channels": 16,
        "top_k": 3,
        "prototypes_per_class": [2, 5],
    },
    "volume": {
        "spatial_dims": 3,
        "in_channels": 2,
        "out_channels": 2,
        "image_size": (32, 32, 32),
        "stage": 2,
        "similarity": "cosine",
    },
}

# Nothing but torch; prints what was loaded of medproto.
FRESH = """
import sys, torch
for name in sys.argv[1:]:
    program = torch.export.load(name + ".pt2").module()
    images = torch.load(name + ".images", weights_only=True)
    torch.save([program(x) for x in images], name + ".logits")
print("medproto" in sys.modules)
"""


def make(name="small", **changes):
    """A network whose parts are all random, the last layer too."""
    small = {**FLAT, "image_size": (32, 32), "stage": 1, "prototypes_per_class": 1}
    with torch.random.fork_rng():
        torch.manual_seed(11)
        network = ProtoPNet(**{**CASES.get(name, small), **changes}).eval()
        torch.nn.init.normal_(network.last_layer.weight)
        torch.nn.init.normal_(network.last_layer.bias)
    return network


def images(network, count):
    shape = (network.arguments["in_channels"], *network.arguments["image_size"])
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(100 + count))


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """By case: network, the paths of its two exports, and their cards."""
    made = {}
    for name in CASES:
        folder = tmp_path_factory.mktemp(name)
        network = make(name)
        paths = {"torch": folder / "net.pt2", "onnx": folder / "net.onnx"}
        cards = {
            "torch": export_program(network, paths["torch"], card=CARD),
            "onnx": export_onnx(network, paths["onnx"], card=CARD),
        }
        made[name] = network, paths, cards
    return made


@pytest.fixture(params=CASES)
def exported(request, exports):
    return exports[request.param]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_onnx_gives_the_same_logits(exported, count):
    network, paths, _ = exported
    x = images(network, count)
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(paths["onnx"], x), network(x), rtol=1e-4, atol=1e-4)


def test_torch_gives_the_same_logits_in_a_process_without_medproto(exports, tmp_path):
    batches, names = {}, []
    for case, (network, paths, _) in exports.items():
        names.append(str(paths["torch"].with_suffix("")))
        batches[case] = [images(network, count) for count in (1, 3, 5)]
        torch.save(batches[case], f"{names[-1]}.images")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *names], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "False", done.stderr
    for name, (case, (network, _, _)) in zip(names, exports.items(), strict=True):
        with torch.no_grad():
            expected = [network(x) for x in batches[case]]
        found = torch.load(f"{name}.logits", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_names_shapes_and_operator_set(exported):
    network, paths, _ = exported
    model = onnx.load(paths["onnx"])
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    batch, *rest = image.type.tensor_type.shape.dim
    assert batch.dim_param
    assert not batch.dim_value
    shape = [network.arguments["in_channels"], *network.arguments["image_size"]]
    assert [d.dim_value for d in rest] == shape


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_card_beside_the_file(exported, kind):
    network, paths, cards = exported
    path, card = paths[kind], cards[kind]
    text = path.with_name(path.name + ".json").read_text()
    assert json.loads(text) == json.loads(json.dumps(asdict(card)))
    assert card.model_digest == tensor_digest(network.state_dict())
    assert card.file_digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.size == path.stat().st_size
    assert (card.kind, card.classes, card.synthetic) == (kind, CARD.classes, True)
    assert card.preprocessing == CARD.preprocessing
    assert card.architecture == network.arguments
    assert card.medproto == medproto.__version__
    assert 0 <= card.max_difference < 1e-4
    assert check_export(path, network) == card


def test_the_same_inside_the_files(exported):
    _, paths, cards = exported
    inside = {p.key: p.value for p in onnx.load(paths["onnx"]).metadata_props}
    assert inside["model_digest"] == cards["onnx"].model_digest
    assert json.loads(inside["classes"]) == ["normal", "nodule"]
    assert json.loads(inside["preprocessing"]) == CARD.preprocessing
    assert inside["medproto"] == cards["onnx"].medproto
    extra = {"medproto.json": ""}
    torch.export.load(paths["torch"], extra_files=extra)
    assert json.loads(extra["medproto.json"])["model_digest"] == cards["torch"].model_digest


def test_no_path_of_the_exporting_machine(exported):
    _, paths, _ = exported
    for path in paths.values():
        content = path.read_bytes()
        assert str(Path(medproto.__file__).parents[1]).encode() not in content
        assert str(Path(torch.__file__).parents[1]).encode() not in content
        assert b"protopnet.py" not in content


def test_a_patch_that_equals_its_prototype_scores_the_bound(tmp_path):
    network = make(similarity="log", add_on="regular", prototype_channels=1024)
    x = images(network, 1)
    with torch.no_grad():
        patches = network.features(x).flatten(2)[0].T  # [N, D]
        network.prototype_layer.vectors.copy_(patches[[3, 9]])
        network.last_layer.weight.copy_(torch.eye(2))
        network.last_layer.bias.zero_()
    export_onnx(network, tmp_path / "net.onnx", card=CARD)
    bound = torch.full((1, 2), math.log(1e4))
    torch.testing.assert_close(run_onnx(tmp_path / "net.onnx", x), bound, rtol=0, atol=1e-3)


@pytest.mark.parametrize("block", [1, 2 * 9 * 1024, 2**24])
def test_distances_written_out(monkeypatch, block):
    monkeypatch.setattr(export, "DIFFERENCE_SIZE", block)
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(2, 9, 1024, generator=generator)
    vectors = torch.cat([torch.rand(4, 1024, generator=generator), patches[1, 5:6]])
    found = export._pairwise_distances(vectors[None], patches, 2.0, 2)
    naive = [
        [[math.dist(v.tolist(), z.tolist()) for z in image] for v in vectors] for image in patches
    ]
    torch.testing.assert_close(found, torch.tensor(naive), rtol=1e-5, atol=0)
    assert found[1, 4, 5] == 0


def test_other_distances_are_refused():
    with pytest.raises(ExportError, match=r"only Euclidean distances .* got p=1.0"):
        export._pairwise_distances(torch.rand(1, 2, 3), torch.rand(1, 4, 3), 1.0)


def test_the_network_is_left_as_it_is(tmp_path):
    network = make().double().train()
    before = tensor_digest(network.state_dict())
    export_program(network, tmp_path / "net.pt2", card=CARD)
    assert tensor_digest(network.state_dict()) == before
    assert network.training
    assert all(p.requires_grad for p in network.parameters())


def test_a_fixed_batch(tmp_path):
    network = make()
    card = export_program(network, tmp_path / "net.pt2", card=CARD, batch=4)
    assert card.batch == 4
    program = torch.export.load(tmp_path / "net.pt2").module()
    x = images(network, 4)
    torch.testing.assert_close(program(x), network(x))
    with pytest.raises(AssertionError, match="Guard failed"):
        program(images(network, 3))


@pytest.mark.parametrize("change", [1e-2, math.nan])
def test_an_unequal_export_leaves_no_file(monkeypatch, tmp_path, change):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"older")
    trace = export._trace

    def altered(network, batch):
        other = make()
        with torch.no_grad():
            other.last_layer.bias += change
        return trace(other, batch)

    monkeypatch.setattr(export, "_trace", altered)
    with pytest.raises(ExportError, match=r"logits to 0.0001 .* got a difference of (0.0|nan)"):
        export_program(make(), path, card=CARD)
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt2"]
    assert path.read_bytes() == b"older"


def test_a_network_that_cannot_be_traced(monkeypatch, tmp_path):
    def forward(self, x):
        return self.last_layer.bias if x.sum() > 0 else -self.last_layer.bias

    monkeypatch.setattr(ProtoPNet, "forward", forward)
    with pytest.raises(ExportError, match=r"^torch cannot export this network: [^\n]+$"):
        export_program(make(), tmp_path / "net.pt2", card=CARD)
    assert not list(tmp_path.iterdir())


def test_missing_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    message = r"missing: onnxscript\. Install them with: pip install 'medproto\[export\]'"
    with pytest.raises(ExportError, match=message):
        export_onnx(make(), tmp_path / "net.onnx", card=CARD)


def test_the_card_of_another_model(tmp_path):
    card = ModelCard(("a", "b"), {}, model_digest="sha256:" + "0" * 64)
    with pytest.raises(ExportError, match="card must be of the network to export"):
        export_program(make(), tmp_path / "net.pt2", card=card)


def test_stale_and_altered_exports(tmp_path):
    network, path = make(), tmp_path / "net.pt2"
    with pytest.raises(ExportError, match=r"one is missing or damaged"):
        check_export(path, network)
    export_program(network, path, card=CARD)
    check_export(path, network)
    with torch.no_grad():
        network.prototype_layer.vectors[0, 0] += 1e-6
    with pytest.raises(ExportError, match=r"net.pt2 was exported from the model sha256:\w+, but"):
        check_export(path, network)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ExportError, match=r"net.pt2 must have the digest"):
        check_export(path, network)
    path.with_name("net.pt2.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ExportError, match=r"one is missing or damaged"):
        check_export(path, network)


def test_random_images_are_in_range_and_the_same_each_time():
    first = export._images(make(), 3)
    assert first.shape == (3, 1, 32, 32)
    assert 0 <= first.min() < first.max() < 1
    np.testing.assert_array_equal(first, export._images(make(), 3))
