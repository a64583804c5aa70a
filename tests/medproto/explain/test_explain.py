from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from medproto.errors import CompletenessError
from medproto.explain import (
    GradCam,
    box_faithfulness,
    cells_to_network,
    cells_to_stored,
    explain,
    explain_batch,
    heat_maps,
    source_box,
)
from medproto.networks import PlainClassifier, ProtoPNet
from medproto.records import CellGrid, ImageReference, PixelBox, Placement, PrototypeSource

GRID = CellGrid((4, 4), (15.5, 15.5), (16.0, 16.0), (147.0, 147.0))
PLACEMENT = Placement((128, 64), (64, 64), (0.5, 0.5), (0.0, 16.0))
REFERENCE = ImageReference("sha256:0", (128, 64), "CR", 12, spacing_mm=(0.5, 0.25))


def sources(count, classes=2):
    return tuple(
        PrototypeSource(
            p, p * classes // count, "ab"[p * classes // count], p, f"g{p}", "sha256:1", (0, 0),
            PixelBox((0, 0), (2, 2)), 0.1, 10.0,
        )
        for p in range(count)
    )  # fmt: skip


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ProtoPNet(2, 1, 2, image_size=(64, 64), prototypes_per_class=3, stage=5).eval()


def run(network, image, **changes):
    arguments = {
        "reference": REFERENCE,
        "placement": PLACEMENT,
        "classes": ("a", "b"),
        "sources": sources(6),
        "model_digest": "sha256:2",
        **changes,
    }
    return explain(network, image, **arguments)


def test_contributions_and_bias_sum_to_the_logits(network):
    torch.manual_seed(1)
    torch.nn.init.normal_(network.last_layer.weight)
    torch.nn.init.normal_(network.last_layer.bias)
    image = torch.rand(1, 64, 64)
    result = run(network, image)
    logits = network(image[None])[0].tolist()
    for k in range(2):
        total = sum(e.similarity * e.weights[k] for e in result.evidence) + result.bias[k]
        assert total == pytest.approx(logits[k], abs=1e-4)
    assert result.completeness_error < 1e-4
    assert [e.prototype for e in result.evidence] == list(range(6))
    best = result.ranked(1)[0]
    assert best.contributions[1] == max(e.contributions[1] for e in result.evidence)
    assert sum(e.faithfulness is not None for e in result.evidence) == 5
    assert result.prediction.label == "ab"[int(np.argmax(logits))]
    assert sum(result.prediction.probabilities) == pytest.approx(1.0)


def test_leaving_one_prototype_out_changes_the_logit_by_its_contribution(network):
    image = torch.rand(1, 64, 64)
    result = run(network, image)
    before = network(image[None])[0, 1].item()
    with torch.no_grad():
        network.last_layer.weight[:, 2] = 0.0
    after = network(image[None])[0, 1].item()
    assert before - after == pytest.approx(result.evidence[2].contributions[1], abs=1e-5)


def test_boxes_are_in_stored_pixels_and_millimetres(network):
    for e in run(network, torch.rand(1, 64, 64), faithfulness=0).evidence:
        assert all(0 <= a < b <= n for a, b, n in zip(e.box.start, e.box.stop, (128, 64)))
        expected = [v * s for v, s in zip(e.box.to_list(), (0.5, 0.25, 0.5, 0.25))]
        assert list(e.box_mm) == pytest.approx(expected)
        assert e.faithfulness is None


def test_no_spacing_no_millimetres(network):
    reference = ImageReference("sha256:0", (128, 64), "PNG", 8)
    result = run(network, torch.rand(1, 64, 64), reference=reference)
    assert result.evidence[0].box_mm is None


def test_an_incomplete_sum_is_refused(network):
    network.last_layer = network.last_layer.bfloat16()
    with pytest.raises(CompletenessError, match="must sum to the logit"):
        run(network, torch.rand(1, 64, 64))


def test_wrong_number_of_sources(network):
    with pytest.raises(ValueError, match="must have 2 and 6 entries, got 2 and 4"):
        run(network, torch.rand(1, 64, 64), sources=sources(4))


def test_explaining_leaves_the_network_as_it_was(network):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    run(network, torch.rand(1, 64, 64))
    GradCam(network).attribute(torch.rand(1, 64, 64), 0)
    assert not network.feature_layer._forward_hooks
    assert all(p.grad is None for p in network.parameters())
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (3, 3)])
def test_a_one_hot_cell_peaks_at_its_true_centre(cell):
    values = np.zeros((4, 4), dtype=np.float32)
    values[cell] = 1.0
    heat = cells_to_network(values, GRID, (64, 64))
    peak = np.argwhere(heat == heat.max()) + 0.5
    inside = peak[(peak < 64).all(axis=1)]
    # At the border the value is continued outward, so the true centre is one of the peaks.
    assert np.abs(inside - GRID.center(cell)).sum(axis=1).min() <= 1.0


def test_interpolation_equals_scipy():
    rng = np.random.default_rng(0)
    values = rng.random((4, 4)).astype(np.float32)
    rows, cols = np.mgrid[0:64, 0:64] + 0.5
    cells = [(rows - 15.5) / 16, (cols - 15.5) / 16]
    expected = map_coordinates(values, cells, order=1, mode="nearest")
    np.testing.assert_allclose(cells_to_network(values, GRID, (64, 64)), expected, atol=1e-5)


def test_stored_map_is_the_network_map_moved():
    rng = np.random.default_rng(0)
    values = rng.random((4, 4)).astype(np.float32)
    rows, cols = (np.arange(128) + 0.5) * 0.5, (np.arange(64) + 0.5) * 0.5 + 16
    grid = np.meshgrid((rows - 15.5) / 16, (cols - 15.5) / 16, indexing="ij")
    expected = map_coordinates(values, grid, order=1, mode="nearest")
    np.testing.assert_allclose(cells_to_stored(values, GRID, PLACEMENT), expected, atol=1e-5)


def test_volumes_too():
    grid = CellGrid((2, 2, 2), (1.0,) * 3, (2.0,) * 3, (3.0,) * 3)
    values = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    heat = cells_to_network(values, grid, (4, 4, 4))
    # Linear in each axis: 4 i + 2 j + k at the cells, clamped outside; pixel 1 is at 1.5 -> 0.25.
    assert heat[1, 1, 1] == pytest.approx(7 * 0.25)
    assert heat[3, 3, 3] == 7


def test_wrong_map_shape():
    with pytest.raises(ValueError, match=r"must have shape \[4, 4\], got \[3, 4\]"):
        cells_to_network(np.zeros((3, 4), np.float32), GRID, (64, 64))


def test_faithfulness_by_hand():
    """A network that scores the mean gray of the image: only what is inside the box can change."""

    class Mean(torch.nn.Module):
        def evidence(self, x):
            from medproto.networks import ProtoPNetOutput

            return ProtoPNetOutput(x, x, x, x.mean(dim=(1, 2, 3))[:, None], x)

    image = torch.zeros(1, 32, 32)
    image[0, 10:14, 10:14] = 1.0
    out = box_faithfulness(Mean(), image, [(0, ((0.0, 0.0), (32.0, 32.0)))])[0]
    assert out.similarity == pytest.approx(16 / 1024)
    assert out.outside_changed == pytest.approx(out.similarity)  # nothing outside the box
    assert box_faithfulness(Mean(), image, []) == {}


def test_heat_maps_and_source_box(network):
    image = torch.rand(1, 64, 64)
    maps = heat_maps(network, image, [0, 4], PLACEMENT)
    assert set(maps) == {0, 4}
    assert maps[0].drawn().shape == (128, 64)
    box = source_box(network, image, PLACEMENT, 0, (2, 2))
    assert all(b <= n for b, n in zip(box.stop, (128, 64)))


def test_grad_cam_on_the_twin_is_the_class_activation_map(network):
    """For pooling and a linear layer Grad-CAM is ReLU(CAM) / cells (explanations, section 3.1)."""
    twin = PlainClassifier(network).eval()
    image = torch.rand(1, 64, 64)
    with torch.no_grad():
        cam = twin.class_activation(twin.features(image[None]))[0, 1]
    expected = cam.relu() / cam.numel()
    found = GradCam(twin).attribute(image, 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_evidence_of_a_volume():
    torch.manual_seed(0)
    size = (32, 32, 32)
    network = ProtoPNet(3, 1, 2, image_size=size, prototypes_per_class=2, stage=3).eval()
    stored = (64, 64, 16)
    placement = Placement(stored, size, (0.5, 0.5, 2.0), (0.0, 0.0, 0.0))
    reference = ImageReference("sha256:0", stored, "CT", 12, spacing_mm=(1.0, 1.0, 4.0))
    owned = tuple(
        PrototypeSource(
            p, p // 2, "ab"[p // 2], p, f"g{p}", "sha256:1", (0, 0, 0),
            PixelBox((0, 0, 0), (2, 2, 2)), 0.1, 10.0,
        )
        for p in range(4)
    )  # fmt: skip
    result = run(
        network, torch.rand(1, *size), sources=owned, placement=placement, reference=reference
    )
    assert result.completeness_error < 1e-4
    for e in result.evidence:
        assert all(0 <= a < b <= n for a, b, n in zip(e.box.start, e.box.stop, stored))
        assert len(e.box_mm) == 6
        assert len(e.cell) == 3
    assert GradCam(network).attribute(torch.rand(1, *size), 1).shape == network.grid.shape


def test_equal_cells_give_equal_pixels_to_the_last_bit():
    heat = cells_to_network(np.full((4, 4), 0.7, np.float32), GRID, (64, 64))
    assert (heat == np.float32(0.7)).all()


def test_many_maps_at_once():
    maps = np.random.default_rng(0).random((3, 2, 4, 4), np.float32)
    heats = cells_to_network(maps, GRID, (64, 64))
    assert heats.shape == (3, 2, 64, 64)
    np.testing.assert_array_equal(heats[1, 0], cells_to_network(maps[1, 0], GRID, (64, 64)))


def test_a_batch_is_explained_as_its_images_one_by_one(network):
    images = torch.rand(3, 1, 64, 64)
    given = {"classes": ("a", "b"), "sources": sources(6), "model_digest": "sha256:2"}
    references = [replace(REFERENCE, pixel_digest=f"sha256:{i}") for i in range(3)]
    batch = explain_batch(
        network, images, references=references, placements=[PLACEMENT] * 3, **given
    )
    assert [e.prediction.reference for e in batch] == references
    for image, reference, found in zip(images, references, batch, strict=True):
        alone = run(network, image, reference=reference)
        assert found.prediction.logits == pytest.approx(alone.prediction.logits, abs=1e-4)
        assert found.bias == alone.bias
        for mine, other in zip(found.evidence, alone.evidence, strict=True):
            assert (mine.cell, mine.box, mine.box_mm) == (other.cell, other.box, other.box_mm)
            assert mine.contributions == pytest.approx(other.contributions, abs=1e-4)
            assert (mine.faithfulness is None) == (other.faithfulness is None)
