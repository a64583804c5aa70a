"""Training as a whole: what it leaves, what it refuses, and how it goes on after a kill."""

import copy
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

import pipelines.steps as steps_module
import pipelines.train as train_module
from medproto.data import Cohort
from medproto.errors import CohortError, ModelFileError
from medproto.explain import measure_shifts
from pipelines.checkpoint import Checkpoint
from pipelines.config import ConfigError, load_config
from pipelines.config_sections import LastLayerConfig
from pipelines.engine import TrainingError
from pipelines.evaluate import load_split
from pipelines.last_layer_fit import fit_last_layer
from pipelines.runs import RunFolder, sources_from_table, sources_to_table
from pipelines.train import train

FILES = (
    "config.yaml",
    "cohort.csv",
    "history.csv",
    "metrics.json",
    "model.json",
    "model.safetensors",
    "prototypes.parquet",
    "report.html",
    "scores.npz",
    "twin.safetensors",
    "checkpoints/progress.pt",
)


def test_the_run_folder_holds_what_it_promises(tiny_path):
    for name in FILES:
        assert (tiny_path / name).stat().st_size > 0, name
    for p in range(6):
        assert (tiny_path / "prototypes" / f"p{p:03d}.png").is_file()
        assert (tiny_path / "prototypes" / f"p{p:03d}_source.png").is_file()
    assert not [p.name for p in tiny_path.rglob("*") if p.name.startswith(".")]


def test_the_model_keeps_where_its_evidence_rests(tiny_run):
    cohort = tiny_run.cohort
    training = [row for row, split in enumerate(cohort.table["split"]) if split == "train"]
    images = load_split(tiny_run, cohort, training)
    shown = [images.image(i) for i in range(len(images)) if images.labels[i] == 1]
    shifts = measure_shifts(tiny_run.network, [torch.stack(shown)])  # fewer than the 64 of a run
    network = tiny_run.network
    torch.testing.assert_close(network.center_shift, shifts.cells, rtol=0, atol=1e-3)
    torch.testing.assert_close(network.prototype_shift, shifts.prototypes, rtol=0, atol=1e-3)
    assert shifts.prototypes.any()


def test_the_card_and_the_configuration_are_complete(tiny_run, tiny_config):
    card, config = tiny_run.card, tiny_run.config
    assert card.classes == config.data.classes == ("normal", "blob")
    assert card.preprocessing == {
        "spatial_size": [64, 64],
        "voi": "voi",
        "mode": "letterbox",
        "spacing_mm": None,
        "crop": "none",
        "blacken_outside": False,
    }
    assert card.config_digest == config.digest() != tiny_config.digest()
    assert card.cohort_digest == tiny_run.cohort.content_digest
    assert card.synthetic is False
    assert card.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert card.backbone_weights.startswith("sha256:")


def test_the_snapshot_keeps_row_digest_and_group(tiny_run, tiny_cohort):
    table = tiny_run.cohort.table
    assert table["row"].tolist() == list(range(48))
    assert table["group"].tolist() == tiny_cohort.table["patient_id"].tolist()
    assert table["pixel_digest"].str.startswith("sha256:").all()
    assert table["pixel_digest"].is_unique
    assert tiny_run.cohort.image_path(0).is_file()


def test_the_history_has_one_row_an_epoch(tiny_run):
    history = tiny_run.history
    assert list(zip(history["segment"], history["epoch"])) == [
        ("features", 1),
        ("features", 2),
        ("twin", 1),
        ("twin", 2),
        ("warm", 1),
        ("joint", 1),
    ]
    assert history["val_auroc"].between(0, 1).all()
    assert (history["loss"] > 0).all()
    assert history.loc[history["segment"] == "joint", "cluster"].notna().all()
    assert history.loc[history["segment"] == "twin", "cluster"].isna().all()


def test_prototypes_come_from_different_patients_and_know_themselves(tiny_run):
    quality = tiny_run.metrics["prototypes"]
    assert quality["unique_groups"] == quality["total"] == 6
    assert quality["self_similarity_min"] >= 0.9999 * 10
    table = tiny_run.cohort.table
    for source in tiny_run.sources:
        row = table.loc[source.row]
        assert row["split"] == "train"
        assert row["label"] == source.class_name == tiny_run.card.classes[source.class_index]
        assert row["group"] == source.group
        assert row["pixel_digest"] == source.pixel_digest


def test_the_pictures_are_the_pixels_of_the_sources(tiny_run):
    for source in tiny_run.sources:
        with Image.open(tiny_run.cohort.image_path(source.row)) as original:
            whole = np.asarray(original)
        folder = tiny_run.path / "prototypes"
        with Image.open(folder / f"p{source.prototype:03d}_source.png") as picture:
            assert np.array_equal(np.asarray(picture), whole)
        (top, left), (bottom, right) = source.box.start, source.box.stop
        with Image.open(folder / f"p{source.prototype:03d}.png") as picture:
            assert np.array_equal(np.asarray(picture), whole[top:bottom, left:right])


def test_the_table_of_prototypes_comes_back(tiny_run, tmp_path):
    sources_to_table(tiny_run.sources).to_parquet(tmp_path / "p.parquet")
    assert sources_from_table(pd.read_parquet(tmp_path / "p.parquet")) == tiny_run.sources
    before = sources_to_table(tiny_run.sources).drop(columns="floor")  # as once written
    without = tuple(replace(source, floor=None) for source in tiny_run.sources)
    assert sources_from_table(before) == without
    sources_to_table(without).to_parquet(tmp_path / "q.parquet")
    assert sources_from_table(pd.read_parquet(tmp_path / "q.parquet")) == without


@pytest.mark.parametrize("name", ["class_name", "group"])
def test_a_table_of_prototypes_that_steers_a_terminal_is_refused(tiny_run, name):
    table = sources_to_table(tiny_run.sources)
    table.loc[2, name] = "a\x1b[31m"
    with pytest.raises(ModelFileError, match=r"must name classes and groups in printable text"):
        sources_from_table(table)


def test_a_last_layer_without_any_weight_is_said(tiny_run, tmp_path, caplog, monkeypatch):
    rows = tiny_run.cohort.table.groupby("split").indices
    train_set, val = (
        load_split(tiny_run, tiny_run.cohort, rows[name].tolist()) for name in ("train", "val")
    )
    # Similarities that are the same in every image speak for no class.
    monkeypatch.setattr(
        "pipelines.last_layer_fit.infer_similarities",
        lambda network, images: np.full((len(images), len(tiny_run.sources)), 3.0),
    )
    network = copy.deepcopy(tiny_run.network)
    positions = [train_set.rows.index(source.row) for source in tiny_run.sources]
    monkeypatch.setattr(logging.getLogger("medproto"), "propagate", True)
    fit_last_layer(
        network,
        train_set,
        val,
        positions,
        LastLayerConfig(),
        weighted=False,
        scores_path=tmp_path / "scores.npz",
    )
    assert not network.last_layer.weight.any()
    assert "all weights of the last layer are zero" in caplog.text


def test_the_last_layer_is_solved_and_its_scores_give_the_logits(tiny_run):
    assert tiny_run.metrics["last_layer"]["residual"] <= 1e-6
    with np.load(tiny_run.path / "scores.npz") as scores:
        assert scores["train_scores"].shape == (32, 6)
        assert scores["val_scores"].shape == (6, 6)
        positions = scores["source_positions"]
        rows = scores["train_rows"][positions]
        own = scores["train_scores"][positions, np.arange(6)]
        train_scores, labels = scores["train_scores"], scores["train_labels"]
    assert rows.tolist() == [source.row for source in tiny_run.sources]
    floor = tiny_run.network.floor.numpy()
    assert [source.floor for source in tiny_run.sources] == floor.tolist()
    # On its own source image a prototype has its bound, which is 10.
    assert own == pytest.approx([10.0] * 6, abs=1e-3)
    for p, k in enumerate(tiny_run.network.prototype_class.tolist()):
        lacking = np.quantile(train_scores[labels != k, p], 0.1)
        assert floor[p] == pytest.approx(lacking, rel=1e-6)
    weights = tiny_run.network.last_layer.weight.detach().numpy()
    classes = tiny_run.network.prototype_class.numpy()
    assert (weights[classes, np.arange(6)] >= 0).all()


def test_a_finished_or_used_folder_is_refused(tiny_cohort, tiny_config, tiny_path, tmp_path):
    for resume in (False, True):
        with pytest.raises(ModelFileError, match="holds a finished run"):
            train(tiny_cohort, tiny_path, tiny_config, twin=True, resume=resume)
    tiny_cohort.save(tmp_path / "cohort.csv")  # somebody's own table
    mine = (tmp_path / "cohort.csv").read_bytes()
    for resume in (False, True):
        with pytest.raises(ModelFileError, match="not empty, and holds no unfinished run"):
            train(tiny_cohort, tmp_path, tiny_config, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["cohort.csv"]
    assert (tmp_path / "cohort.csv").read_bytes() == mine


def test_a_cohort_without_split_is_refused(tiny_cohort, tiny_config, tmp_path):
    bare = Cohort(tiny_cohort.table.drop(columns="split"), tiny_cohort.root)
    with pytest.raises(CohortError, match="medproto cohort split"):
        train(bare, tmp_path / "run", tiny_config)
    assert not (tmp_path / "run").exists()


def test_a_cohort_with_a_problem_is_refused_by_its_own_row(tiny_cohort, tiny_config, tmp_path):
    table = tiny_cohort.table.copy()
    other = pd.DataFrame([{**table.loc[0], "label": "other"}])
    table = pd.concat([other, table], ignore_index=True)
    table.loc[5, "image"] = "gone.png"
    cohort = Cohort(table, tiny_cohort.root)
    config = load_config(None, ["data.classes=[normal,blob]"])
    with pytest.raises(CohortError, match=r"1 problem\(s\), the first: row 5: .*cohort check") as e:
        train(cohort, tmp_path / "run", config)
    assert "gone.png" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_one_class_is_refused(tiny_cohort, tiny_config, tmp_path):
    with pytest.raises(CohortError, match="at least two classes, got 1"):
        train(tiny_cohort.select(["blob"]), tmp_path / "run", tiny_config)


def test_settings_that_do_not_fit_together_are_refused(tiny_cohort, tiny_settings, tmp_path):
    config = load_config(None, [*tiny_settings, "model.top_k=1000"])
    with pytest.raises(ConfigError, match=r"do not fit together: top_k must be 1 to 36"):
        train(tiny_cohort, tmp_path / "run", config)


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_a_device_that_is_not_there_is_refused(
    tiny_cohort, tiny_config, tmp_path, monkeypatch, device
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device .*cpu"):
        train(tiny_cohort, tmp_path / "run", tiny_config, device=device)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_training(
    tiny_cohort, tiny_config, tmp_path, monkeypatch, caplog
):
    def broken(model, head, weights):
        return lambda images, labels: {"loss": model(images).sum() * float("nan")}

    monkeypatch.setattr(steps_module, "classifier_step", broken)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(TrainingError, match=r"must be finite, in the segment 'features'"),
    ):
        train(tiny_cohort, tmp_path / "run", tiny_config)
    assert not [r for r in caplog.records if "terminating" in r.message]
    assert not (tmp_path / "run" / "model.json").exists()


def test_fewer_patients_than_prototypes_drops_the_rest(tiny_cohort, tiny_settings, tmp_path):
    changes = ("model.prototypes_per_class=20", "model.stage=2", "training.features_epochs=0")
    changes += ("training.warm_epochs=0", "model.similarity=log", "model.add_on=regular")
    changes += ("model.initialization=uniform", "training.class_weights=false", "data.mode=stretch")
    changes += ("model.weights=null", "training.patience=1", "data.classes=[blob,normal]")
    run = train(tiny_cohort, tmp_path / "run", load_config(None, [*tiny_settings, *changes]))
    # 16 training patients for 40 prototypes.
    assert run.metrics["prototypes"]["unique_groups"] == run.metrics["prototypes"]["total"] == 16
    assert run.metrics["twin"] is None
    assert run.card.classes == ("blob", "normal")
    assert run.card.backbone_weights is None
    # log((0 + 1) / (0 + 1e-4)) of the published similarity
    assert run.metrics["prototypes"]["self_similarity_min"] == pytest.approx(9.2103, abs=1e-3)
    assert len(run.sources) == 16


class _Killed(BaseException):
    pass


def test_a_folder_in_use_is_refused(tiny_cohort, tiny_config, tmp_path, monkeypatch):
    """Also where the other training began while this one read its files."""
    out, started = tmp_path / "run", []

    def again(self):
        with pytest.raises(ModelFileError, match="must not be in use, another process is working"):
            train(tiny_cohort, out, tiny_config, resume=True)
        started.append(sorted(path.name for path in (out / "checkpoints").iterdir()))
        raise _Killed

    def meanwhile(*arguments):
        (out / "checkpoints").mkdir(parents=True)
        return prepare(*arguments)

    prepare = train_module._prepare
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_prepare", meanwhile)
        with pytest.raises(ModelFileError, match="unfinished run; go on with it by --resume"):
            train(tiny_cohort, out, tiny_config)
    # A batch system that finds the folder starts with --resume, though no epoch was saved.
    (out / "checkpoints" / ".progress.pt.1.2.part").write_bytes(b"half")
    (out / ".config.yaml.1.2.part").write_bytes(b"half")
    monkeypatch.setattr(train_module._Training, "run", again)
    with pytest.raises(_Killed):
        train(tiny_cohort, out, tiny_config, resume=True)
    assert started == [["lock"]]
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "cohort.csv"]


def test_a_training_killed_before_its_first_epoch_goes_on(
    tiny_cohort, tiny_config, tiny_run, tmp_path
):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    run = train(tiny_cohort, tmp_path / "run", tiny_config, twin=True, resume=True)
    assert run.card.model_digest == tiny_run.card.model_digest


@pytest.mark.parametrize("saves", [1, 3])
def test_a_resumed_run_ends_at_the_same_model(
    tiny_cohort, tiny_config, tiny_run, tmp_path, monkeypatch, saves
):
    done = []
    original = Checkpoint.save

    def interrupted(self, modules):
        original(self, modules)
        done.append(self.step)
        if len(done) == saves:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupted)
        with pytest.raises(_Killed):
            train(tiny_cohort, tmp_path / "run", tiny_config, twin=True)
    assert not (tmp_path / "run" / "model.json").exists()
    with pytest.raises(ModelFileError, match=r"must hold model\.json"):
        _ = RunFolder(tmp_path / "run").card
    run = train(tiny_cohort, tmp_path / "run", tiny_config, twin=True, resume=True)
    assert run.card.model_digest == tiny_run.card.model_digest
    assert run.metrics == tiny_run.metrics
    columns = tiny_run.history.columns.drop("seconds")
    pd.testing.assert_frame_equal(run.history[columns], tiny_run.history[columns])


def test_no_model_before_the_evaluation_and_a_resume_finishes(
    tiny_cohort, tiny_config, tiny_settings, tiny_run, tmp_path, monkeypatch
):
    out = tmp_path / "run"

    def fail(*arguments, **options):
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate_model", fail)
        with pytest.raises(_Killed):
            train(tiny_cohort, out, tiny_config, twin=True)
    assert not (out / "model.json").exists()
    assert not (out / "model.safetensors").exists()
    written = (out / "config.yaml").read_text()
    table = (out / "cohort.csv").read_bytes()
    with pytest.raises(ModelFileError, match="unfinished run; go on with it by --resume"):
        train(tiny_cohort, out, tiny_config, twin=True)
    less = Cohort(tiny_cohort.table.iloc[:-1], tiny_cohort.root, tiny_cohort.group_column)
    with pytest.raises(ModelFileError, match="started with another cohort"):
        train(less, out, tiny_config, twin=True, resume=True)
    assert (out / "cohort.csv").read_bytes() == table
    other = load_config(None, [*tiny_settings, "seed=1"])
    with pytest.raises(ModelFileError, match="another configuration or cohort"):
        train(tiny_cohort, out, other, twin=True, resume=True)
    with pytest.raises(ModelFileError, match="--twin"):
        train(tiny_cohort, out, tiny_config, resume=True)
    assert (out / "config.yaml").read_text() == written
    run = train(tiny_cohort, out, tiny_config, twin=True, resume=True)
    assert run.card.model_digest == tiny_run.card.model_digest


SCRIPT = """
import sys
from pathlib import Path
import torch
from medproto.data import Cohort
from pipelines.config import load_config
from pipelines.train import train
torch.set_num_threads(1)
table, out, *settings = sys.argv[1:]
cohort, config = Cohort.read(Path(table)), load_config(None, settings)
print("start", flush=True)
train(cohort, Path(out), config, twin=True)
print("end", flush=True)
"""


@pytest.mark.parametrize(
    "moment", [pytest.param(k, marks=[] if k < 3 else pytest.mark.slow) for k in range(13)]
)
def test_a_kill_at_any_moment_ends_at_the_same_model(
    moment, tiny_table, tiny_cohort, tiny_config, tiny_settings, tiny_run, tmp_path
):
    out = tmp_path / "run"
    # As long as the same training took on this machine, from the table to the model file.
    begun, ended = ((tiny_run.path / name).stat().st_mtime for name in ("cohort.csv", "model.json"))
    duration = ended - begun
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tiny_table), str(out), *tiny_settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout.readline() == "start\n"
        time.sleep(random.Random(moment).uniform(0, duration))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    if (out / "model.json").exists():  # it was faster than the kill
        assert RunFolder(out).card.model_digest == tiny_run.card.model_digest
        return
    run = train(tiny_cohort, out, tiny_config, twin=True, resume=True)
    assert run.card.model_digest == tiny_run.card.model_digest


def test_an_altered_configuration_is_noticed(run_copy):
    path = run_copy / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("mode: letterbox", "mode: stretch"))
    with pytest.raises(ModelFileError, match=r"config.yaml must have the digest .* was altered"):
        _ = RunFolder(run_copy).config
    path.write_text(text[:40])
    with pytest.raises(ModelFileError, match=r"must hold config.yaml, which is missing or damaged"):
        _ = RunFolder(run_copy).config


def test_a_run_of_a_version_with_fewer_keys_is_still_read(run_copy):
    """Its configuration lacks a key; the digest in its card is that of what was saved."""
    values = yaml.safe_load((run_copy / "config.yaml").read_text())
    assert RunFolder(run_copy).config.digest() == RunFolder(run_copy).card.config_digest
    del values["model"]["margin"]
    (run_copy / "config.yaml").write_text(yaml.safe_dump(values))
    card = json.loads((run_copy / "model.json").read_text())
    text = json.dumps(values, sort_keys=True)
    card["config_digest"] = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    (run_copy / "model.json").write_text(json.dumps(card))
    assert RunFolder(run_copy).config.model.margin is None


def test_an_altered_cohort_is_noticed_and_a_moved_one_is_not(run_copy):
    assert len(RunFolder(run_copy).cohort) == 48  # its paths were rewritten for the new place
    path = run_copy / "cohort.csv"
    text = path.read_text()
    path.write_text(text.replace(",blob,", ",normal,", 1))
    with pytest.raises(ModelFileError, match=r"cohort.csv must have the digest .* was altered"):
        _ = RunFolder(run_copy).cohort
    path.write_text(text[:20])
    with pytest.raises(ModelFileError, match=r"must hold cohort.csv, which is missing or damaged"):
        _ = RunFolder(run_copy).cohort
