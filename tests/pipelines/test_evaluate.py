"""Evaluation of a run: the promised keys, the run's own figures again, other cohorts."""

import json
import shutil
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medproto.data import Cohort
from medproto.errors import CohortError, ModelFileError
from pipelines.evaluate import evaluate_run, load_split, load_twin, other_cohort
from pipelines.inference import infer_logits
from pipelines.runs import RunFolder, file_digest, write_json

KEYS = {
    "n",
    "groups",
    "classes",
    "auroc",
    "balanced_accuracy",
    "average_precision",
    "ece",
    "operating_point",
    "confusion",
    "subgroups",
    "twin",
    "prototypes",
    "localization",
}


@pytest.fixture(scope="module")
def evaluation(tiny_run):
    return evaluate_run(tiny_run)


def test_the_document_has_every_promised_key(evaluation, tiny_run):
    summary = evaluation.summary
    assert summary.keys() >= KEYS
    for name in ("auroc", "balanced_accuracy", "average_precision", "ece"):
        entry = summary[name]
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1, name
    assert summary["operating_point"].keys() >= {"threshold", "sensitivity", "specificity"}
    assert summary["twin"].keys() >= {"auroc", "difference"}
    assert summary["prototypes"].keys() == {
        "total",
        "unique_sources",
        "unique_groups",
        "self_similarity_min",
    }
    places = {"pointing_game", "constant_location", "energy_inside", "area"}
    assert summary["localization"].keys() >= places
    assert summary["calibrated"] is tiny_run.doubt.calibrated
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_it_is_what_the_training_wrote(evaluation, tiny_run):
    stored = dict(tiny_run.metrics)
    assert stored.pop("last_layer").keys() == {"objective", "residual", "iterations", "zeros"}
    assert evaluation.summary == stored


def test_the_figures_by_hand(evaluation, tiny_run):
    labels, chances = evaluation.images.labels, evaluation.probabilities
    summary = evaluation.summary
    assert summary["n"] == len(labels) == 10
    assert summary["groups"] == 5
    assert chances.sum(axis=1) == pytest.approx(np.ones(10))
    positive, negative = chances[labels == 1, 1], chances[labels == 0, 1]
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert summary["auroc"]["value"] == pytest.approx(np.mean(wins))
    guess = chances.argmax(axis=1)
    matrix = [[int(((labels == a) & (guess == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert summary["confusion"] == {"labels": ["normal", "blob"], "matrix": matrix}
    recalls = [matrix[k][k] / sum(matrix[k]) for k in (0, 1)]
    assert summary["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))
    assert set(summary["subgroups"]["sex"]) == {"F", "M"}
    assert sum(part["n"] for part in summary["subgroups"]["sex"].values()) == 10
    own, other = summary["auroc"]["value"], summary["twin"]["auroc"]["value"]
    assert summary["twin"]["difference"]["value"] == pytest.approx(own - other)


def test_localization_counts_the_images_with_a_mask(evaluation):
    assert len(evaluation.located) == evaluation.summary["localization"]["n"] == 5
    for case in evaluation.located:
        row = evaluation.images.rows[case.position]
        assert evaluation.images.cohort.table.loc[row, "label"] == "blob"
        assert case.heat.shape == case.mask.shape == (64, 64)
        assert case.heat.min() == pytest.approx(0, abs=1e-6)
        assert case.heat.max() == pytest.approx(1, abs=1e-6)
    hits = [bool(case.mask[tuple(int(v) for v in case.center)]) for case in evaluation.located]
    assert evaluation.summary["localization"]["pointing_game"]["value"] == pytest.approx(
        np.mean(hits)
    )


def test_another_split_and_one_that_is_not_there(tiny_run):
    assert evaluate_run(tiny_run, split="val").summary["n"] == 6
    with pytest.raises(CohortError, match=r"split 'none' has none.*train, val and test"):
        evaluate_run(tiny_run, split="none")


def test_an_image_that_was_replaced_is_named_by_its_row(run_copy, tmp_path):
    run = RunFolder(run_copy)
    table = run.cohort.table
    first, *_ = table.index[table["split"] == "test"]
    other = int(table.index[table["split"] == "val"][0])
    moved = table.copy()
    moved["image"] = [str(run.cohort.image_path(row)) for row in table.index]
    with Image.open(moved.loc[first, "image"]) as image:
        image.save(tmp_path / "again.png", compress_level=1)  # other bytes, the same pixels
    moved.loc[first, "image"] = str(tmp_path / "again.png")
    moved.to_csv(run_copy / "cohort.csv", index=False)
    evaluated = evaluate_run(RunFolder(run_copy)).summary
    assert evaluated["auroc"] == RunFolder(run_copy).metrics["auroc"]
    shutil.copy(moved.loc[other, "image"], tmp_path / "again.png")
    with pytest.raises(CohortError, match=rf"row {first}: .*must be those of the training.*Rest"):
        evaluate_run(RunFolder(run_copy))


def test_another_cohort_is_taken_whole(tiny_run, tiny_cohort):
    summary = evaluate_run(tiny_run, cohort=tiny_cohort).summary
    assert summary["split"] == "external"
    assert summary["known_images"] == tiny_run.cohort.table["split"].value_counts().to_dict()
    assert summary["other_labels"] == {}
    assert summary["n"] == 48
    assert summary["groups"] == 24


def test_labels_the_run_does_not_know_are_left_out(tiny_run, tiny_cohort):
    table = tiny_cohort.table.copy()
    table.loc[:9, "label"] = "fracture"
    summary = evaluate_run(tiny_run, cohort=Cohort(table, tiny_cohort.root)).summary
    assert summary["n"] == 38
    assert summary["other_labels"] == {"fracture": 10}


def test_another_cohort_of_one_class_has_no_auroc(tiny_run, tiny_cohort):
    normal = tiny_cohort.select(["normal"])
    summary = evaluate_run(tiny_run, cohort=normal).summary
    assert summary["n"] == 24
    assert summary["auroc"]["value"] is None
    assert summary["localization"] is None
    json.dumps(summary, allow_nan=False)


def test_another_cohort_without_the_classes_is_refused(tiny_run, tiny_cohort):
    table = tiny_cohort.table.assign(label="fracture")
    with pytest.raises(CohortError, match=r"normal, blob.*fracture"):
        evaluate_run(tiny_run, cohort=Cohort(table, tiny_cohort.root))


def test_a_bad_image_of_another_cohort_is_named_by_its_row(tiny_run, tiny_cohort):
    table = tiny_cohort.table.copy()
    table.loc[0, "label"] = "fracture"
    table.loc[12, "image"] = "gone.png"
    with pytest.raises(CohortError, match=r"the first: row 12: the file does not exist"):
        evaluate_run(tiny_run, cohort=Cohort(table, tiny_cohort.root))


def test_an_image_that_cannot_be_resampled_is_named_before_all_are_loaded(tmp_path):
    for k, step in enumerate((1, 100)):  # 9 voxels of 100 mm are 900 of 1 mm along each axis
        values = np.random.default_rng(k).integers(0, 99, (9, 9, 9)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([step] * 3 + [1])), tmp_path / f"{k}.nii")
    steps = {"voi": "percentile", "mode": "spacing", "spacing_mm": 1.0}
    run = SimpleNamespace(
        config=SimpleNamespace(data=SimpleNamespace(channels=())),
        card=SimpleNamespace(classes=("a", "b"), preprocessing=steps),
        network=SimpleNamespace(head="multiclass"),
    )
    table = pd.DataFrame({"image": ["0.nii", "1.nii"], "label": ["a", "b"]})
    reason = r"the first: row 1: .*has \[900, 900, 900\] at 1 mm.*TABLE --voi percentile`"
    with pytest.raises(CohortError, match=reason):
        other_cohort(run, Cohort(table, tmp_path))
    run.card.preprocessing = {"voi": "percentile"}
    assert len(other_cohort(run, Cohort(table, tmp_path))) == 2


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            (50, 64),
            r"row 13: the mask must have the image's shape \[64, 64\], got \[64, 50\]",
        ),
        (
            (90, 90),
            r"row 13: the mask must have the image's shape \[64, 64\], got \[90, 90\]",
        ),
        (None, r"first: row 13: .*the content must be DICOM"),
    ],
    ids=["narrow", "large", "garbage"],
)
def test_a_mask_that_does_not_fit_its_image_is_named(
    tiny_run, tiny_cohort, tmp_path, size, message
):
    bad = tmp_path / "mask.png"
    if size is None:
        bad.write_bytes(b"nothing")
    else:
        Image.new("L", size, 255).save(bad)
    table = tiny_cohort.table.copy()
    table.loc[0, "label"] = "fracture"  # left out; rows keep their numbers
    assert table.loc[13, "label"] == "blob"
    table.loc[13, "mask"] = str(bad)
    with pytest.raises(CohortError, match=message):
        evaluate_run(tiny_run, cohort=Cohort(table, tiny_cohort.root))


def test_the_twin_is_read_back(tiny_run, run_copy):
    twin = load_twin(tiny_run)
    rows = tiny_run.cohort.table.index[tiny_run.cohort.table["split"] == "test"].tolist()
    images = load_split(tiny_run, tiny_run.cohort, rows)
    assert infer_logits(twin, images).shape == (10, 2)
    (run_copy / "twin.safetensors").write_bytes(b"altered")
    with pytest.raises(ModelFileError, match="twin"):
        load_twin(RunFolder(run_copy))
    (run_copy / "twin.safetensors").unlink()
    assert load_twin(RunFolder(run_copy)) is None
    assert evaluate_run(RunFolder(run_copy)).summary["twin"] is None


def test_a_run_folder_that_was_altered_or_is_none(run_copy, tmp_path):
    with pytest.raises(ModelFileError, match=r"must hold model\.json"):
        _ = RunFolder(tmp_path).network
    prototypes = run_copy / "prototypes.parquet"
    table = pd.read_parquet(prototypes)
    table["group"] = "P99"
    table.to_parquet(prototypes)
    with pytest.raises(ModelFileError, match=r"prototypes\.parquet must have the digest"):
        _ = RunFolder(run_copy).sources
    prototypes.unlink()
    with pytest.raises(ModelFileError, match=r"prototypes\.parquet must have the digest"):
        _ = RunFolder(run_copy).sources


def test_a_broken_metrics_file_or_history_is_a_model_file_error(run_copy):
    shutil.rmtree(run_copy / "prototypes")
    (run_copy / "metrics.json").write_text("{")
    (run_copy / "history.csv").unlink()
    run = RunFolder(run_copy)
    with pytest.raises(ModelFileError, match=r"metrics\.json"):
        _ = run.metrics
    with pytest.raises(ModelFileError, match=r"history\.csv"):
        _ = run.history


def test_json_is_written_whole_and_without_nan(tmp_path):
    write_json(tmp_path / "a.json", {"value": 0.1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 0.1}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 0.1}
    # echo -n abc | sha256sum
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc").startswith("sha256:ba7816bf8f01cfea")
