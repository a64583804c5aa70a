"""Cross-validation: the split of a fold, going on after a break, the means over the folds."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from medproto.data import Cohort, split_cohort, split_of_fold
from medproto.errors import CohortError, ModelFileError
from medproto.metrics import auroc
from pipelines import crossvalidate as module
from pipelines.cli import app
from pipelines.config import load_config
from pipelines.crossvalidate import crossvalidate
from pipelines.folder_lock import FolderLock
from pipelines.runs import RunFolder

QUICK = ("training.features_epochs=1", "training.joint_epochs=1", "training.warm_epochs=0")


@pytest.fixture(scope="module")
def folds(tiny_cohort):
    return split_cohort(tiny_cohort, folds=2, seed=1)


@pytest.fixture(scope="module")
def config(tiny_settings):
    return load_config(None, [*tiny_settings, *QUICK])


@pytest.fixture(scope="module")
def done(folds, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("folds") / "cv"
    return out, crossvalidate(folds, out, config, twin=True)


@pytest.mark.parametrize("fold", [0, 1])
def test_the_fold_is_the_test_and_a_grouped_sixth_of_the_rest_validates(folds, fold):
    split = split_of_fold(folds, fold, seed=3).table["split"]
    members = folds.table["fold"] == fold
    assert ((split == "test") == members).all()
    groups = folds.table["patient_id"]
    parts = [set(groups[split == name]) for name in ("train", "val", "test")]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert len(parts[1]) == round((~members).sum() / 2 / 6)  # two images a patient
    again = split_of_fold(folds, fold, seed=3).table
    pd.testing.assert_series_equal(again["split"], split)


def test_a_fold_that_is_not_there_is_refused(folds, tiny_cohort):
    with pytest.raises(CohortError, match="must have a column 'fold' with 7"):
        split_of_fold(folds, 7, seed=0)
    with pytest.raises(CohortError, match="must have a column 'fold' with 0"):
        split_of_fold(tiny_cohort, 0, seed=0)


def test_means_are_those_of_the_folds(done):
    out, summary = done
    assert summary["folds_done"] == 2
    values = [fold["auroc"]["value"] for fold in summary["folds"]]
    twins = [fold["twin"]["value"] for fold in summary["folds"]]
    mean = summary["mean"]
    assert mean["auroc"]["value"] == pytest.approx(np.mean(values))
    assert mean["difference"]["value"] == pytest.approx(np.mean(values) - np.mean(twins))
    assert mean["auroc"]["n"] == 48
    assert mean["auroc"]["groups"] == 24
    hits = [fold["localization"]["pointing_game"]["value"] for fold in summary["folds"]]
    constant = [fold["localization"]["constant_location"]["value"] for fold in summary["folds"]]
    place = mean["localization"]
    assert place["pointing_game"]["value"] == pytest.approx(np.mean(hits))
    assert place["difference"]["value"] == pytest.approx(np.mean(hits) - np.mean(constant))
    assert json.loads((out / "summary.json").read_text()) == summary
    assert {"commit", "date", "torch", "config_digest"} <= summary["folds"][0].keys()
    for number in range(2):
        run = RunFolder(out / f"fold-{number}")
        assert run.metrics["auroc"] == summary["folds"][number]["auroc"]


def test_finished_folds_stay_and_an_unfinished_one_is_taken_again(
    done, folds, config, tmp_path, monkeypatch
):
    out, summary = done
    copy = tmp_path / "cv"
    shutil.copytree(out, copy)
    (copy / "fold-1" / "cases.npz").unlink()  # killed after the training of fold 1
    monkeypatch.setattr(module, "train", lambda *a, **k: pytest.fail("nothing is left to train"))
    # The snapshot of the copy names the images relative to its own place.
    for number in range(2):
        path = f"fold-{number}/cohort.csv"
        Cohort.read(out / path, group="group").save(copy / path)
    seen = []
    again = crossvalidate(folds, copy, config, twin=True, after_fold=seen.append)
    assert [row["fold"] for row in seen] == [0, 1]
    assert again["mean"] == summary["mean"]


def test_images_changed_between_the_folds_are_named(done, folds, config, tmp_path):
    copy = tmp_path / "cv"
    shutil.copytree(done[0], copy)
    shutil.rmtree(copy / "fold-1")
    path = copy / "fold-0" / "cohort.csv"
    table = pd.read_csv(path)
    table.loc[5, "pixel_digest"] = "sha256:of-other-pixels"  # as if the file were replaced since
    table.to_csv(path, index=False)
    with pytest.raises(CohortError, match=r"row 5: .* must be those of the earlier folds, and are"):
        crossvalidate(folds, copy, config, twin=True)
    assert not (copy / "fold-1").exists()


def test_a_folder_in_use_is_refused(done, folds, config):
    lock = done[0] / "lock"
    assert lock.read_bytes() == b""
    with FolderLock(lock) as other:
        assert other.take()
        with pytest.raises(ModelFileError, match="must not be in use, another process is working"):
            crossvalidate(folds, done[0], config, twin=True)


def test_another_cohort_or_configuration_is_refused(done, folds, config, tmp_path):
    out, _ = done
    with pytest.raises(ModelFileError, match="cross-validation with another twin; choose"):
        crossvalidate(folds, out, config)
    other = load_config(None, ["seed=5"])
    with pytest.raises(ModelFileError, match="with another config; choose a new one"):
        crossvalidate(folds, out, other, twin=True)
    grouped = Cohort(folds.table, folds.root, "image")
    with pytest.raises(ModelFileError, match="with another group column; choose a new one"):
        crossvalidate(grouped, out, config, twin=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelFileError, match="the folder is not empty"):
        crossvalidate(folds, tmp_path, config)


def test_a_table_that_was_refused_does_not_keep_the_folder(folds, config, tmp_path):
    one_class = folds.table.assign(fold=(folds.table["label"] == "blob").astype(int))
    with pytest.raises(CohortError, match="fold 0 must have an image of class 'blob' to be tested"):
        crossvalidate(Cohort(one_class, folds.root), tmp_path / "cv", config)
    broken = folds.table.copy()
    broken.loc[0, "image"] = "none.png"
    for table in (broken, broken.iloc[:-1]):  # no longer the cohort that was refused
        with pytest.raises(CohortError, match="problem"):
            crossvalidate(Cohort(table, folds.root), tmp_path / "cv", config)


def test_classes_that_are_not_trained_need_not_be_in_every_fold(folds, config, tmp_path):
    rare = folds.table.iloc[[0]].assign(label="rare")
    cohort = Cohort(pd.concat([folds.table, rare], ignore_index=True), folds.root)
    data = config.data.model_copy(update={"classes": ("normal", "blob")})
    chosen = config.model_copy(update={"data": data})
    summary = crossvalidate(cohort, tmp_path / "cv", chosen)
    assert sum(row["n"] for row in summary["folds"]) == len(folds.table)
    for row in summary["folds"]:
        assert row["trained"]["commit"] == row["commit"]


@pytest.mark.parametrize("part", [b"nothing", b"", "half"], ids=["garbage", "empty", "half"])
def test_a_damaged_fold_is_named(done, folds, config, tmp_path, part):
    copy = tmp_path / "cv"
    shutil.copytree(done[0], copy)
    path = copy / "fold-0" / "cases.npz"
    path.write_bytes(path.read_bytes()[:300] if part == "half" else part)
    with pytest.raises(ModelFileError, match=r"fold-0/cases.npz is damaged; delete it"):
        crossvalidate(folds, copy, config, twin=True)


def test_cohorts_without_folds_are_refused(tiny_cohort, config, tmp_path):
    with pytest.raises(CohortError, match="needs a column `fold`"):
        crossvalidate(tiny_cohort, tmp_path / "cv", config)
    table = tiny_cohort.table.assign(fold=0)
    with pytest.raises(CohortError, match="at least two folds, got 1"):
        crossvalidate(Cohort(table, tiny_cohort.root), tmp_path / "cv", config)


def test_the_command_goes_on_and_prints_a_table(done, folds, tiny_settings, tmp_path):
    out, summary = done
    table = tmp_path / "folds.csv"
    folds.save(table)
    # Paths of the saved table differ, so its digest does; the command starts a folder of its own.
    given = [part for text in (*tiny_settings, *QUICK) for part in ("--set", text)]
    arguments = ["crossvalidate", "--cohort", str(table), "--out", str(out), "--twin", *given]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ModelFileError)
    assert "another cohort" in str(result.exception)
    result = CliRunner().invoke(app, [*arguments[:4], str(tmp_path / "cv"), *given])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["fold", "0"], ["fold", "1"]]
    assert "mean over the folds" in result.stdout
    assert "plain twin" not in result.stdout
    assert summary["twin"] is True


def test_the_mean_ranks_within_folds_only():
    # Two folds on different scales: each is ranked perfectly, together they would not be.
    labels = np.array([0, 1])
    low, high = np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[0.3, 0.7], [0.1, 0.9]])
    together = auroc(np.concatenate([low, high]), np.concatenate([labels, labels]))
    cases = [
        module._Cases("multiclass", p, np.zeros(0), labels, np.array(names), *3 * [np.zeros(0)])
        for p, names in ((low, ["a", "b"]), (high, ["c", "d"]))
    ]
    assert together == 0.75
    assert module._means(cases)["auroc"]["value"] == 1.0
