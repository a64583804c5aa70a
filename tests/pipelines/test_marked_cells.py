"""Prototypes that are taken from marked regions."""

import pytest
import torch
from torch.nn import functional

from medproto.data import read_mask
from medproto.explain import Shifts
from medproto.networks import PlainClassifier, ProtoPNet
from medproto.records import CellGrid
from pipelines.config import load_config
from pipelines.datasets import ImageSet
from pipelines.initialization import start_prototypes
from pipelines.marked_cells import marked_cells
from pipelines.mask_cost import MaskCost
from pipelines.train import train

# Centres at 2, 6, 10, 14 along both axes of 16 x 16 pixels.
GRID = CellGrid((4, 4), (2.0, 2.0), (4.0, 4.0), (9.0, 9.0))


def mask(*boxes):
    out = torch.zeros(1, 16, 16, dtype=torch.bool)
    for a, b, c, d in boxes:
        out[0, a:c, b:d] = True
    return out


def test_cells_by_hand():
    masks = torch.stack(
        [
            mask((5, 1, 12, 4)),  # rows 6 and 10, column 2
            mask((7, 7, 9, 9)),  # between four centres; its middle is 8, 8
            mask((0, 12, 1, 16)),  # above the centres of row 0
            mask(),
            mask((2, 2, 3, 3), (14, 14, 15, 15)),
        ]
    )
    cells = marked_cells(GRID, masks)
    assert cells.shape == (5, 4, 4)
    assert cells[0].nonzero().tolist() == [[1, 0], [2, 0]]
    assert cells[1].nonzero().tolist() == [[1, 1]]
    assert cells[2].nonzero().tolist() == [[0, 3]]
    assert cells[3].all()
    assert cells[4].nonzero().tolist() == [[0, 0], [3, 3]]


def test_in_3d_and_with_centres_beside_the_image():
    grid = CellGrid((2, 2, 2), (-3.0, 2.0, 6.0), (8.0, 4.0, 4.0), (9.0,) * 3)
    masks = torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    masks[0, 0, 0, 2, 6] = True
    assert marked_cells(grid, masks)[0].nonzero().tolist() == [[0, 0, 0]]


def test_prototypes_start_from_the_allowed_patches(tiny_cohort):
    steps = {"spatial_size": (48, 48), "voi": "voi", "mode": "letterbox"}
    images = ImageSet.load(tiny_cohort, range(12), ("normal", "blob"), steps)
    torch.manual_seed(0)
    network = ProtoPNet(2, 1, 2, image_size=(48, 48), stage=3, prototypes_per_class=1).eval()
    cells = torch.zeros(12, *network.grid.shape, dtype=torch.bool)
    cells[:, 2, 4] = True
    start_prototypes(network, PlainClassifier(network).eval(), images, seed=0, cells=cells)
    for k in (0, 1):
        own = [images.image(i) for i in range(12) if images.labels[i] == k]
        with torch.no_grad():
            patches = network.features(torch.stack(own))[:, :, 2, 4]
        expected = functional.normalize(patches, dim=1).mean(dim=0)
        torch.testing.assert_close(
            network.prototype_layer.vectors.data[k], expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("projection", ["nearest", "function-preserving"])
def test_every_prototype_of_the_finding_lies_in_its_mask(
    tiny_cohort, tiny_settings, tmp_path, projection
):
    settings = [*tiny_settings, f"training.projection={projection}"]
    config = load_config(None, [*settings, "training.patches_in_masks=true"])
    run = train(tiny_cohort, tmp_path / "run", config)
    grid, found = run.network.grid, 0
    for source in run.sources:
        path = run.cohort.mask_path(source.row)
        if path is None:
            continue
        found += 1
        marked = read_mask(path)
        at = [int(v) for v in grid.center(source.cell)]
        side = run.config.data.image_size
        scaled = [int(v * n / side) for v, n in zip(at, marked.shape)]
        near = marked[tuple(slice(max(v - 4, 0), v + 5) for v in scaled)]
        assert near.any()
    assert found == sum(source.class_name == "blob" for source in run.sources) > 0


@pytest.mark.parametrize("setting", ["training.peak_in_masks=0.5", "training.fine_annotation=0.1"])
def test_marks_are_laid_on_the_place_where_cells_look(
    tiny_cohort, tiny_settings, tmp_path, monkeypatch, setting
):
    seen = []

    class Seen(MaskCost):
        def __init__(self, model, **options):
            seen.append((model.grid.first_center, options))
            super().__init__(model, **options)

    monkeypatch.setattr("pipelines.steps.MaskCost", Seen)
    shifts = Shifts(torch.tensor([3.0, -2.0]), torch.zeros(1, 2))
    monkeypatch.setattr("pipelines.steps.measure_shifts", lambda *_: shifts)
    run = train(tiny_cohort, tmp_path / "run", load_config(None, [*tiny_settings, setting]))
    assert run.network.center_shift.tolist() == [3.0, -2.0]
    expected = run.network.grid.first_center  # has that shift
    assert len(seen) == 2  # warm and joint
    name = setting.removeprefix("training.").split("=")[0]
    for first_center, options in seen:
        assert first_center == pytest.approx(expected)
        assert options[name] > 0
    history = run.history.set_index("segment")
    assert (history.loc["joint", name] > 0).all()
