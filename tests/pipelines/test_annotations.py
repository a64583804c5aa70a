"""Marked regions and patches: how they are read, what they cost, and a run that uses them."""

import hashlib
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import pipelines.cli as cli
from medproto.data import Cohort, check_cohort
from medproto.errors import CohortError
from medproto.losses import ALL_CLASSES, FineAnnotationLoss
from medproto.networks import ProtoPNet
from medproto.records import CellGrid
from pipelines.annotations import MarkedPatch, read_annotations
from pipelines.config import ConfigError, load_config
from pipelines.datasets import ImageSet
from pipelines.mask_cost import MaskCost
from pipelines.objective import prototype_step
from pipelines.patch_cost import PatchCost, cells_under

CLASSES = ("normal", "blob")
SETTINGS = ("data.classes=[normal,blob]", "data.image_size=32")


def save(folder, name, pixels):
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(folder / name)


@pytest.fixture
def marked(tmp_path):
    """Five training images of 64 x 32 with all kinds of marks, and one of the test split."""
    random = np.random.default_rng(0)
    for i in range(6):
        save(tmp_path, f"{i}.png", random.integers(1, 255, (64, 32)))
    one, empty = np.zeros((64, 32)), np.zeros((64, 32))
    one[41, 9] = 255
    save(tmp_path, "one.png", one)
    save(tmp_path, "empty.png", empty)
    columns = ["image", "label", "patient_id", "split", "mask", "box"]
    rows = [
        ("0.png", "blob", "A", "train", "one.png", "0,0,64,32"),
        ("1.png", "blob", "B", "train", "", "8,4,16,12;40,20,64,32"),
        ("2.png", "blob", "C", "train", "", ""),
        ("3.png", "normal", "D", "train", "empty.png", ""),
        ("4.png", "normal", "E", "train", "", ""),
        ("5.png", "blob", "F", "test", "one.png", ""),
    ]
    return Cohort(pd.DataFrame(rows, columns=columns), tmp_path)


def read(cohort, *settings):
    config = load_config(None, [*SETTINGS, *settings])
    return read_annotations(config, cohort, check_cohort(cohort))


def test_without_a_coefficient_nothing_is_read(marked):
    config, annotations = read(marked)
    assert annotations.masks is None
    assert annotations.patches == ()
    assert config == load_config(None, SETTINGS)


def test_masks_lie_where_their_image_lies(marked):
    _, annotations = read(marked, "training.fine_annotation=0.1")
    masks = annotations.masks
    assert len(masks) == 5
    assert all(mask.shape == (1, 32, 32) and mask.dtype == torch.bool for mask in masks)
    # 64 x 32 becomes 32 x 16, with 8 columns of padding on either side.
    assert masks[0].nonzero().tolist() == [[0, 41 // 2, 8 + 9 // 2]]
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[4:8, 8 + 2 : 8 + 6] = True
    expected[20:32, 8 + 10 : 8 + 16] = True
    assert torch.equal(masks[1][0], expected)
    assert not any(mask.any() for mask in masks[2:])
    _, stretched = read(marked, "training.fine_annotation=0.1", "data.mode=stretch")
    assert stretched.masks[0].nonzero().tolist() == [[0, 20, 9]]


def test_masks_and_patches_follow_the_crop_of_their_image(marked):
    for i in range(6):
        bright = np.zeros((64, 32))
        bright[20:60, 4:28] = 200
        save(marked.root, f"{i}.png", bright)
    table = write_patches(marked, '0.png,"19,4,61,28",blob,forbid')
    settings = ("training.fine_annotation=0.1", "training.forbid=1", "data.crop=body", table)
    _, annotations = read(marked, *settings)
    # Cropped to rows 19..60 (one of margin) and columns 4..27; 42 x 24 becomes 32 x 18, with 7
    # columns of padding. The pixel at (41, 9) is then at ((41.5 - 19) / 42 * 32, 7 + 5.5 * 0.75).
    found = annotations.masks[0].nonzero().tolist()
    assert [0, 17, 11] in found
    assert all(abs(row - 17) <= 1 and abs(column - 11) <= 1 for _, row, column in found)
    (patch,) = annotations.patches
    assert patch.start == pytest.approx((0, 7))
    assert patch.stop == pytest.approx((32, 25))
    images = ImageSet.load(
        marked, [0], CLASSES, {"spatial_size": (32, 32), "crop": "body", "blacken_outside": True}
    )
    assert images.placement(0).to_network((19, 4)) == pytest.approx((0, 7))


def test_no_mark_in_the_training_split_is_an_error(marked):
    table = marked.table[marked.table["image"].isin(["2.png", "3.png", "4.png", "5.png"])]
    with pytest.raises(ConfigError, match=r"fine_annotation .*none of the 3 has a marked region"):
        read(Cohort(table, marked.root), "training.fine_annotation=0.1")


def write_patches(cohort, *rows, columns="image,box,class,verdict"):
    path = cohort.root / "patches.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return f"data.patches={path}"


GOOD = '0.png,"16,8,32,16",blob,forbid'


def test_patches_are_placed_and_the_table_is_in_the_digest(marked):
    table = write_patches(marked, GOOD, '4.png,"0,0,64,32",,keep')
    config, annotations = read(marked, table, "training.forbid=2", "training.keep=1")
    assert annotations.patches == (
        MarkedPatch(0, (8.0, 12.0), (16.0, 16.0), 1, "forbid"),
        MarkedPatch(4, (0.0, 8.0), (32.0, 24.0), ALL_CLASSES, "keep"),
    )
    content = (marked.root / "patches.csv").read_bytes()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    assert config.data.patches_digest == digest
    again = read(marked, table, f"data.patches_digest={digest}", "training.forbid=2")
    assert [p.verdict for p in again[1].patches] == ["forbid"]
    write_patches(marked, GOOD)
    with pytest.raises(ConfigError, match=r"must have the digest sha256:.*Take the same table"):
        read(marked, table, f"data.patches_digest={digest}", "training.forbid=2")
    other, _ = read(marked, table, "training.forbid=2")
    assert other.digest() != again[0].digest()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('9.png,"0,0,8,8",blob,forbid', "its image is none of the cohort's"),
        ('5.png,"0,0,8,8",blob,forbid', "must be one of the split train, got 'test'"),
        ('0.png,"0,0,8,8",blob,skip', r"verdict must be one of .*'keep'\], got 'skip'"),
        ('0.png,"0,0,8,8",lump,forbid', r"class must be one of .* got 'lump'"),
        ('0.png,"0,0,8",blob,forbid', "box must be 'row0,col0,row1,col1', got '0,0,8'"),
        ('0.png,"8,0,8,8",blob,forbid', "box must be 'row0,col0,row1,col1', got '8,0,8,8'"),
        ('0.png,"0,0,8,33",blob,forbid', r"box must lie in the image of \[64, 32\] pixels"),
    ],
)
def test_a_bad_row_is_named_with_its_reason(marked, row, reason):
    table = write_patches(marked, GOOD, row)
    with pytest.raises(CohortError, match=f"^row 1 of the table of patches: .*{reason}") as caught:
        read(marked, table, "training.forbid=1")
    assert str(marked.root) not in str(caught.value)


def test_a_class_without_prototypes_cannot_be_meant(marked):
    table = write_patches(marked, '0.png,"0,0,8,8",normal,forbid')
    with pytest.raises(CohortError, match=r"one of \['blob'\], the classes with prototypes"):
        read(marked, table, "training.forbid=1", "model.head=binary")


def test_tables_and_coefficients_that_do_not_fit(marked):
    table = write_patches(marked, GOOD)
    with pytest.raises(ConfigError, match=r"forbid above 0 needs a table .*there is none"):
        read(marked, "training.forbid=1")
    with pytest.raises(ConfigError, match=r"keep above 0 needs .*verdict 'keep'"):
        read(marked, table, "training.keep=1")
    with pytest.raises(ConfigError, match="both are 0"):
        read(marked, table)
    with pytest.raises(CohortError, match=r"data\.patches\) is unusable: the table does not exist"):
        read(marked, "data.patches=/nowhere/patches.csv", "training.forbid=1")
    table = write_patches(marked, "0.png,blob", columns="image,class")
    with pytest.raises(CohortError, match=r"columns image, box.*\['box', 'verdict'\] missing"):
        read(marked, table, "training.forbid=1")


def test_cells_under_a_box_by_hand():
    grid = CellGrid((4, 3), (2.0, 5.0), (8.0, 10.0), (9.0, 9.0))  # rows 2 10 18 26, cols 5 15 25
    expected = torch.zeros(4, 3, dtype=torch.bool)
    expected[1:3, 1] = True
    assert torch.equal(cells_under(grid, (10.0, 9.0), (25.0, 24.0)), expected)
    # No column lies between 17 and 19; the nearest to 18 is that at 15.
    assert torch.equal(cells_under(grid, (10.0, 17.0), (25.0, 19.0)), expected)
    only = torch.zeros(4, 3, dtype=torch.bool)
    only[3, 2] = True
    assert torch.equal(cells_under(grid, (30.0, 30.0), (31.0, 31.0)), only)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ProtoPNet(2, 1, 2, image_size=(64, 64), stage=3, prototypes_per_class=2).train()


@pytest.fixture(scope="module")
def images(tiny_cohort):
    steps = {"spatial_size": (64, 64), "voi": "voi", "mode": "letterbox"}
    return ImageSet.load(tiny_cohort, range(6), CLASSES, steps)


PATCHES = (
    MarkedPatch(4, (10.0, 10.0), (40.0, 50.0), 1, "forbid"),
    MarkedPatch(2, (0.0, 0.0), (64.0, 64.0), 0, "forbid"),
    MarkedPatch(4, (30.0, 30.0), (31.0, 31.0), ALL_CLASSES, "keep"),
)


def by_definition(network, images, patch):
    """Sum of the largest similarities under the box, of the prototypes concerned."""
    network.eval()
    total = 0.0
    with torch.no_grad():
        maps = network.evidence(images.image(patch.row)[None]).similarities[0]
    under = cells_under(network.grid, patch.start, patch.stop)
    for p, own in enumerate(network.prototype_class.tolist()):
        if patch.class_index in (own, ALL_CLASSES):
            total += maps[p][under].max().item()
    network.train()
    return total


def test_patch_costs_equal_their_definition_and_move_no_statistics(network, images):
    first, second, third = (by_definition(network, images, patch) for patch in PATCHES)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.backbone.eval()
    modes = [module.training for module in network.modules()]
    terms = PatchCost(network, PATCHES, images, forbid=3.0, keep=0.5, at_most=8)()
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert terms["forbid"].item() == pytest.approx((first + second) / 2, rel=1e-5)
    assert terms["keep"].item() == pytest.approx(-third, rel=1e-5)
    expected = 3 * (first + second) / 2 - 0.5 * third
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_a_patch_reaches_the_prototypes_of_its_class_alone(network, images):
    cost = PatchCost(network, PATCHES[:1], images, forbid=1.0, keep=0.0, at_most=8)()
    assert set(cost) == {"forbid", "loss"}
    cost["loss"].backward()
    moved = network.prototype_layer.vectors.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [False, False, True, True]
    assert any(p.grad is not None and p.grad.any() for p in network.backbone.parameters())


def test_a_forbidden_patch_unlike_the_prototypes_costs_nothing(network, images):
    with torch.no_grad():  # all features on one side, all prototypes on the other
        network.prototype_layer.vectors.abs_().neg_()
        network.backbone.register_forward_hook(lambda module, given, out: out.abs())
    terms = PatchCost(network, PATCHES, images, forbid=1.0, keep=1.0, at_most=8)()
    assert terms["forbid"].item() == 0
    assert terms["keep"].item() > 0
    terms["loss"].backward()
    assert network.prototype_layer.vectors.grad.any()


def test_more_images_than_a_step_takes_are_drawn(network, images):
    cost = PatchCost(network, PATCHES[:2], images, forbid=1.0, keep=0.0, at_most=1)
    possible = [by_definition(network, images, patch) for patch in PATCHES[:2]]
    torch.manual_seed(0)
    with torch.no_grad():
        seen = [cost()["forbid"].item() for _ in range(12)]
    assert {min(possible, key=lambda v: abs(v - s)) for s in seen} == set(possible)
    assert all(min(abs(v - s) for v in possible) < 1e-4 for s in seen)


def test_the_step_adds_the_loss_of_the_masks(network):
    torch.manual_seed(1)
    pixels, labels = torch.rand(3, 1, 64, 64), torch.tensor([1, 0, 1])
    mask = torch.zeros(3, 64, 64, dtype=torch.bool)
    mask[0, 10:30, 20:50] = True  # the third image shows its class, but nothing is marked
    network.eval()
    settings = {"cluster": 0.2, "separation": 0.05, "class_weights": None}
    plain = prototype_step(network, **settings)(pixels, labels)
    marks = MaskCost(network, fine_annotation=0.5)
    terms = prototype_step(network, **settings, marks=marks)(pixels, labels, mask)
    expected = FineAnnotationLoss(network.grid, centered=True)(  # its similarity is the cosine
        network.evidence(pixels).similarities,
        torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
        network.prototype_class,
        mask=mask,
        has_mask=torch.tensor([True, False, False]),
    )
    torch.testing.assert_close(terms["fine_annotation"], expected)
    torch.testing.assert_close(terms["loss"], plain["loss"] + 0.5 * expected)
    network.zero_grad()
    terms["fine_annotation"].backward()
    assert (network.prototype_layer.vectors.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_the_cluster_cost_looks_for_the_nearest_patch_in_the_mask(network):
    torch.manual_seed(1)
    pixels, labels = torch.rand(3, 1, 64, 64), torch.tensor([1, 0, 1])
    mask = torch.zeros(3, 64, 64, dtype=torch.bool)
    mask[0, 10:30, 20:50] = True
    mask[1, 40:64, 0:16] = True  # in the third image nothing is marked
    network.eval()
    settings = {"cluster": 0.2, "separation": 0.05, "class_weights": None}
    plain = prototype_step(network, **settings)(pixels, labels, mask)
    marks = MaskCost(network, patches_in_masks=True)
    terms = prototype_step(network, **settings, marks=marks)(pixels, labels, mask)
    distances = network.evidence(pixels).distances
    expected = 0.0
    for image, label in enumerate(labels.tolist()):
        values = []
        for cell in product(*map(range, network.grid.shape)):
            row, column = (int(c) for c in network.grid.center(cell))
            if image == 2 or mask[image, row, column]:
                own = distances[(image, network.prototype_class == label, *cell)]
                values.append(own.min().item())
        expected += min(values) / 3
    assert terms["cluster"].item() == pytest.approx(expected)
    assert terms["cluster"] > plain["cluster"]
    torch.testing.assert_close(terms["separation"], plain["separation"])
    change = 0.2 * (terms["cluster"] - plain["cluster"])
    torch.testing.assert_close(terms["loss"], plain["loss"] + change)


def test_the_step_adds_the_lead_of_the_largest_similarity_outside(network):
    torch.manual_seed(1)
    pixels, labels = torch.rand(2, 1, 64, 64), torch.tensor([1, 0])
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 10:30, 20:50] = True
    network.eval()
    settings = {"cluster": 0.2, "separation": 0.05, "class_weights": None}
    plain = prototype_step(network, **settings)(pixels, labels, mask)
    marks = MaskCost(network, peak_in_masks=0.5)
    terms = prototype_step(network, **settings, marks=marks)(pixels, labels, mask)
    maps, excess = network.evidence(pixels).similarities[0], []
    for prototype in (network.prototype_class == 1).nonzero().flatten().tolist():
        inside, outside = [], []
        for cell in product(*map(range, network.grid.shape)):
            row, column = (int(c) for c in network.grid.center(cell))
            side = inside if mask[0, row, column] else outside
            side.append(maps[(prototype, *cell)].item())
        excess.append(max(max(outside) - max(inside) + 1, 0))
    expected = sum(excess) / len(excess) / 2  # nothing is marked in the second of two images
    assert terms["peak_in_masks"].item() == pytest.approx(expected)
    torch.testing.assert_close(terms["loss"], plain["loss"] + 0.5 * terms["peak_in_masks"])


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_run_from_the_command_line(tiny_table, tiny_settings, tmp_path):
    cohort = Cohort.read(tiny_table)
    row = cohort.table.query("split == 'train' and label == 'blob'").index[0]
    table = tmp_path / "patches.csv"
    header = "image,box,class,verdict\n"
    table.write_text(f'{header}{cohort.image_path(row).resolve()},"0,0,9,9",blob,forbid\n')
    extra = (
        "training.features_epochs=1",
        "training.fine_annotation=0.3",
        "training.forbid=2",
        f"data.patches={table}",
    )
    settings = [part for value in (*tiny_settings, *extra) for part in ("--set", value)]
    arguments = ["train", "--cohort", tiny_table, *settings, "--out"]
    result = command(*arguments, tmp_path / "run")
    assert result.exit_code == 0, result.output
    history = pd.read_csv(tmp_path / "run" / "history.csv").set_index("segment")
    assert history.loc["features", ["fine_annotation", "forbid"]].isna().all(axis=None)
    assert history.loc["warm", "fine_annotation"] > 0
    assert np.isnan(history.loc["warm", "forbid"])
    assert (history.loc["joint", ["fine_annotation", "forbid"]] > 0).all()
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    digest = "sha256:" + hashlib.sha256(table.read_bytes()).hexdigest()
    assert saved["data"]["patches_digest"] == digest

    table.write_text(f"{header}none.png,,,\n")
    result = command(*arguments, tmp_path / "other")
    assert isinstance(result.exception, CohortError)
    assert str(result.exception).startswith("row 0 of the table of patches: its image is none")
    assert not (tmp_path / "other").exists()
