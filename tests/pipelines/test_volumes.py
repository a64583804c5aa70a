"""The whole way on volumes: training, evidence in millimetres, record, pages and viewer."""

import base64
import io
import json
import re

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from audit import AuditLog, verify
from dashboards.figures import case_data
from dashboards.queries import read_case, read_run
from medproto.data import (
    Cohort,
    check_cohort,
    from_dicom,
    from_nifti,
    join_cohorts,
    read_mask,
    split_cohort,
)
from medproto.data.phantom_volume import make_volume_phantoms
from medproto.errors import CohortError
from medproto.transforms import upright
from pipelines.case_report import write_case
from pipelines.cases import rebuild_case
from pipelines.compare import compare_run
from pipelines.config import ConfigError, load_config
from pipelines.evaluate import load_split
from pipelines.gallery import read_pictures
from pipelines.global_report import write_prototypes
from pipelines.placed_alike import PlacedAlike
from pipelines.predict import predict_recorded
from pipelines.prototypes import prune_run
from pipelines.runs import RunFolder
from pipelines.train import train

SETTINGS = (
    "data.image_size=32",
    "training.features_epochs=1",
    "training.joint_epochs=1",
    "training.batch_size=4",
    "training.patches_in_masks=true",
    "model.prototypes_per_class=2",
)


@pytest.fixture(scope="module")
def volume_cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("volumes")
    series, files = make_volume_phantoms(root / "data", patients=16, seed=0)
    parts = [
        from_dicom(series, series=True, key="k", copy_to=root / "ct").cohort,
        from_nifti(files, key="k", copy_to=root / "nifti").cohort,
    ]
    split_cohort(join_cohorts(parts, root), folds=None, seed=0).save(root / "cohort.csv")
    return Cohort.read(root / "cohort.csv")


@pytest.fixture(scope="module")
def volume_run(volume_cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("volume_run") / "run"
    return train(volume_cohort, out, load_config(None, list(SETTINGS)))


@pytest.fixture(scope="module")
def recorded(volume_run, tmp_path_factory):
    """Log and prediction of a test volume with a mass."""
    table = volume_run.cohort.table
    row = table.index[(table["split"] == "test") & (table["label"] == "mass")][0]
    log = str(tmp_path_factory.mktemp("log") / "audit.db")
    with AuditLog.create(log) as store:
        source = volume_run.cohort.image_source(row)
        return log, int(row), predict_recorded(volume_run, source, store, actor="reader")


def pictures(page):
    for code in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(code))) as picture:
            yield picture.size


def test_what_the_data_settle(volume_run):
    config = volume_run.config
    assert config.data.image_size == (32, 32, 32)
    assert (config.model.backbone, config.model.stage, config.model.weights) == (
        "resnet18",
        1,
        None,
    )
    assert len(volume_run.network.grid.shape) == 3
    assert volume_run.card.preprocessing["spatial_size"] == [32, 32, 32]
    assert volume_run.card.synthetic


def test_prototypes_are_patches_of_volumes(volume_run):
    assert volume_run.network.grid.stride == (4.0, 4.0, 4.0)
    for source in volume_run.sources:
        assert len(source.cell) == len(source.box.start) == 3
        assert source.similarity == pytest.approx(10, abs=1e-3)


def test_masks_lie_in_the_input_as_their_images_do(volume_cohort):
    """In both forms, whose axes differ; the middle of the mask by its own way and by arithmetic."""
    report = check_cohort(volume_cohort)
    data = load_config(None, ["data.image_size=[64,64,64]"]).data
    alike = PlacedAlike(data, volume_cohort, report.references)
    marked = [row for row in range(len(volume_cohort)) if volume_cohort.mask_path(row)]
    assert {report.references[row].modality for row in marked} == {"CT", "NIFTI"}
    for row in marked:
        mask = read_mask(volume_cohort.mask_path(row))
        fitted = alike(row, torch.from_numpy(mask)[None]).as_tensor()[0].numpy()
        places = np.indices(fitted.shape) + 0.5
        found = [(fitted * axis).sum() / fitted.sum() for axis in places]
        stored = np.argwhere(mask).mean(axis=0) + 0.5
        assert found == pytest.approx(alike.placement(row).to_network(stored), abs=0.1)


def test_evidence_is_complete_and_in_millimetres(recorded):
    payload = recorded[2].payload
    for k, logit in enumerate(payload["logits"]):
        parts = sum(e["contributions"][k] for e in payload["evidence"])
        assert parts + payload["bias"][k] == pytest.approx(logit, abs=1e-4)
    spacing = payload["image"]["spacing_mm"]
    assert spacing == [3.75, 3.75, 5.0]
    for e in payload["evidence"]:
        expected = [value * step for value, step in zip(e["box_px"], spacing * 2, strict=True)]
        assert e["box_mm"] == pytest.approx(expected)
        limits = [*payload["image"]["shape"]]
        assert all(0 <= a < b <= n for a, b, n in zip(e["box_px"][:3], e["box_px"][3:], limits))


def test_the_case_page_shows_three_planes(volume_run, recorded, tmp_path):
    _, row, prediction = recorded
    source = volume_run.cohort.image_source(row)
    page = write_case(volume_run, source, tmp_path, recorded=prediction).read_text()
    assert re.search(r"columns . slices, by the file's pixel spacing", page)
    sizes = list(pictures(page))
    # 96 x 96 x 48 voxels of 3.75 and 5 mm: 96 + gap + 64 rows, 96 + gap + 96 columns.
    assert max(size[0] for size in sizes) == round(1.6 * 520)
    assert len(list(tmp_path.glob("*_reasoning.png"))) == 1


def test_the_record_rebuilds_the_case(volume_run, recorded):
    log, row, prediction = recorded
    assert verify(log).ok
    rebuilt = rebuild_case(volume_run.path, prediction.payload, row)
    assert rebuilt.largest_difference < 1e-5
    assert rebuilt.image.shape == (96, 96, 48)


def test_the_viewer_has_planes_through_each_box(volume_run, recorded):
    log, row, prediction = recorded
    case, run = read_case(log, read_run(volume_run.path), 1), read_run(volume_run.path)
    rebuilt = rebuild_case(volume_run.path, prediction.payload, row)
    data = case_data(case, rebuilt, run, volume_run.path)
    assert [line["view"] for line in data["evidence"]] == list(range(len(case.lines)))
    assert len(data["views"]) == len(case.lines)
    for number, view in enumerate(data["views"]):
        assert len(base64.b64decode(view["pixels"])) == 2 * data["rows"] * data["cols"]
        assert len(view["boxes"][number]) == 3  # its own box on all planes
        assert all(0 <= v <= 1 for part in view["boxes"][number] for v in part)
    size = data["size"].replace("\N{MULTIPLICATION SIGN}", "x")
    assert size == "96 x 96 x 48 voxels, three planes"
    json.dumps(data)


def test_comparison_and_prototypes_have_their_pages(volume_run, tmp_path):
    result = compare_run(
        volume_run, split="test", methods=["prototype", "gradcam"], out=tmp_path / "comparison"
    )
    assert result["n"] >= 1
    assert list(pictures((tmp_path / "comparison" / "comparison.html").read_text()))
    path, _ = write_prototypes(volume_run, tmp_path / "prototypes")
    assert len(list(pictures(path.read_text()))) > 4 * len(volume_run.sources)


def test_a_pruned_run_keeps_where_its_prototypes_lie(volume_run, tmp_path):
    """Zero weights go; pictures and boxes follow the new numbers, and pages are drawn."""
    with torch.no_grad():
        weights = volume_run.network.last_layer.weight
        kept_weights = weights.clone()
        weights[:, 0] = 0
    try:
        prune_run(volume_run, tmp_path / "pruned", k=1, tau=0, zero_weight=True)
    finally:
        with torch.no_grad():
            weights.copy_(kept_weights)
    pruned = RunFolder(tmp_path / "pruned")
    before = read_pictures(volume_run.path / "prototypes", volume_run.sources)
    after = read_pictures(pruned.path / "prototypes", pruned.sources)
    first = next(s for s in volume_run.sources if s.row == pruned.sources[0].row)
    assert 0 < first.prototype == len(before) - len(after)
    assert after[0].boxes == before[first.prototype].boxes
    assert len(after[0].boxes) == 3
    row = int(volume_run.cohort.table.index[0])
    write_case(pruned, pruned.cohort.image_source(row), tmp_path)
    (pruned.path / "prototypes" / "boxes.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"boxes\.json must say where prototype 0 lies"):
        read_pictures(pruned.path / "prototypes", pruned.sources)


def test_a_constant_place_is_one_place_of_the_patient(volume_run):
    """Masks of both forms, turned: where they lie follows from the affine of each file."""
    table = volume_run.cohort.table
    rows = table.index[table["mask"] != ""].tolist()
    images = load_split(volume_run, volume_run.cohort, rows)
    for position, row in enumerate(rows):
        mask = read_mask(volume_run.cohort.mask_path(row))
        reference = images.reference(position)
        standing = upright(mask, images.placement(position))
        world = np.array(reference.affine) @ np.append(np.argwhere(mask).mean(axis=0), 1)
        # Axes back, left, head; the middle of a phantom is at 0, its voxels 3.75 and 5 mm.
        middle = (np.array(standing.shape) - 1) / 2
        found = (np.argwhere(standing).mean(axis=0) - middle) * (3.75, 3.75, 5.0)
        assert found == pytest.approx(world[[1, 0, 2]], abs=1e-3)


def test_the_model_file_is_read_back(volume_run):
    again = RunFolder(volume_run.path)
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        np.testing.assert_array_equal(again.network(image), volume_run.network(image))


def test_planes_and_volumes_are_not_mixed(volume_cohort, tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "plane.png")
    table = volume_cohort.table.copy()
    table["image"] = [str(volume_cohort.image_path(row)) for row in range(len(table))]
    table["mask"] = [str(volume_cohort.mask_path(row) or "") for row in range(len(table))]
    table.loc[3, ["image", "mask"]] = [str(tmp_path / "plane.png"), ""]
    mixed = Cohort(table, tmp_path)
    problems = [p for p in check_cohort(mixed).problems if p.stage == "axes"]
    assert [(p.row, p.reason) for p in problems] == [
        (3, "the image must be a volume, as most of the cohort are, and is a plane of [16, 16].")
    ]
    with pytest.raises(CohortError, match="row 3: the image must be a volume"):
        train(mixed, tmp_path / "run", load_config(None, list(SETTINGS)))


def test_a_volume_without_a_place_is_a_problem_of_the_check(volume_cohort, tmp_path):
    bare = nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), None)
    bare.header["cal_max"] = 100
    nibabel.save(bare, tmp_path / "bare.nii")
    table = pd.DataFrame({"image": ["bare.nii"] * 2, "label": ["a", "b"]})
    (first, *_) = [p for p in check_cohort(Cohort(table, tmp_path)).problems if p.row is not None]
    assert (first.stage, first.row) == ("axes", 0)
    assert "must say how it lies in the patient" in first.reason


def test_resampling_without_a_spacing_is_found_before_the_training(tiny_cohort, tmp_path):
    config = load_config(None, ["data.mode=spacing", "data.spacing_mm=1"])
    with pytest.raises(CohortError, match=r"row 0: data\.mode=spacing needs the distance"):
        train(tiny_cohort, tmp_path / "run", config)


def test_three_sides_are_for_volumes(tiny_cohort, tmp_path):
    config = load_config(None, ["data.image_size=[32,32,32]"])
    with pytest.raises(ConfigError, match=r"data\.image_size must be one side for planes"):
        train(tiny_cohort, tmp_path / "run", config)
