import json
import shutil

import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner

from audit import AuditLog
from audit.verify import verify
from medproto.data import Cohort
from medproto.errors import CohortError, ModelFileError
from medproto.metrics import auroc, fit_temperature
from pipelines.cases import explain_case
from pipelines.cli import app
from pipelines.config import load_config
from pipelines.ensemble import Ensemble
from pipelines.evaluate import load_split
from pipelines.inference import infer_logits, infer_similarities
from pipelines.runs import RunFolder
from pipelines.train import train


@pytest.fixture(scope="module")
def other_run(tiny_cohort, tiny_settings, tmp_path_factory):
    config = load_config(None, [*tiny_settings, "seed=1", "model.similarity=log", "model.stage=2"])
    return train(tiny_cohort, tmp_path_factory.mktemp("other") / "run", config)


def test_evidence_of_all_members_sums_to_the_logit(tiny_run, other_run, blob_image, tmp_path):
    ensemble = Ensemble((tiny_run, other_run))
    with AuditLog.create(f"sqlite:///{tmp_path / 'log.db'}") as log:
        payload = ensemble.predict(blob_image, log, actor="tester").payload
    assert verify(f"sqlite:///{tmp_path / 'log.db'}").ok
    sums = np.array(payload["bias"])
    for entry in payload["evidence"]:
        sums = sums + entry["similarity"] * np.array(entry["weights"])
    np.testing.assert_allclose(sums, payload["logits"], atol=1e-4)
    alone = [explain_case(run, blob_image).explanation for run in (tiny_run, other_run)]
    expected = np.sum([one.prediction.logits for one in alone], axis=0)
    np.testing.assert_allclose(payload["logits"], expected, atol=1e-9)
    counts = [len(tiny_run.sources), len(other_run.sources)]
    assert [e["prototype"] for e in payload["evidence"]] == list(range(sum(counts)))
    assert [e["member"] for e in payload["evidence"]] == [0] * counts[0] + [1] * counts[1]
    assert payload["calibrated"] is ensemble.doubt.calibrated


def second_copy(run, folder, change):
    """The run in another place, its snapshot changed."""
    target = folder / "deeper" / "run"
    shutil.copytree(run.path, target)
    table = Cohort.read(run.path / "cohort.csv", group="group").table
    Cohort(change(table), run.path, "group").save(target / "cohort.csv")
    card = json.loads((target / "model.json").read_text())
    card["cohort_digest"] = Cohort.read(target / "cohort.csv", group="group").content_digest
    (target / "model.json").write_text(json.dumps(card))
    return RunFolder(target)


def test_the_sum_is_calibrated_on_common_validation_images(tiny_run, other_run, tmp_path):
    ensemble = Ensemble((tiny_run, other_run))
    table = tiny_run.cohort.table
    rows = table.index[table["split"] == "val"].tolist()
    sets = [load_split(run, tiny_run.cohort, rows) for run in ensemble.runs]
    pairs = list(zip(ensemble.runs, sets))
    total = sum(infer_logits(run.network, images) for run, images in pairs)
    expected = fit_temperature(total, np.asarray(sets[0].labels), head="multiclass")
    assert ensemble.doubt.temperature.loss_before == pytest.approx(expected.loss_before, rel=1e-4)
    value = 1.0 if expected.bound == "lower" else expected.value
    assert ensemble.doubt.temperature.value == pytest.approx(value, rel=1e-3)
    counts = [len(run.sources) for run in ensemble.runs]
    scores = np.concatenate(
        [infer_similarities(run.network, images) for run, images in pairs], axis=1
    )
    judged = ensemble.doubt.judge(total, scores)
    np.testing.assert_allclose(judged.probabilities, softmax(total / value, axis=1), atol=1e-3)
    assert scores.shape[1] == sum(counts)
    # Where the folder lies does not matter.
    moved = second_copy(other_run, tmp_path, lambda table: table)
    assert Ensemble((tiny_run, moved)).doubt == ensemble.doubt
    summary = ensemble.evaluate()
    assert summary["calibrated"] is ensemble.doubt.calibrated
    assert summary["doubt"]["temperature"] == ensemble.doubt.temperature.value


def test_members_with_other_splits_are_not_calibrated(
    tiny_run, other_run, tiny_cohort, blob_image, tmp_path
):
    def swap(table):
        names = {"val": "train", "train": "val", "test": "test"}
        return table.assign(split=[names[name] for name in table["split"]])

    ensemble = Ensemble((tiny_run, second_copy(other_run, tmp_path, swap)))
    assert ensemble.doubt is None
    payload = ensemble.payload(blob_image)
    assert payload["calibrated"] is False
    assert payload["prediction_set"] is payload["out_of_distribution"] is None
    with pytest.raises(CohortError, match="must share cohort and split"):
        ensemble.evaluate()
    summary = ensemble.evaluate(cohort=tiny_cohort)
    assert (summary["calibrated"], summary["doubt"]) == (False, None)
    # What is validation for one member trained the other: 32 training images of both count.
    assert summary["known_images"] == {"train": 32, "val": 32, "test": 10}
    assert summary["other_labels"] == {}


def test_scores_of_another_model_are_refused(tiny_run, other_run, tmp_path):
    moved = second_copy(other_run, tmp_path, lambda table: table)
    stored = dict(np.load(moved.path / "scores.npz"))
    stored["val_scores"] = stored["val_scores"] * 1.5
    np.savez(moved.path / "scores.npz", **stored)
    with pytest.raises(ModelFileError, match=r"scores that its doubt\.json was fitted on"):
        _ = Ensemble((tiny_run, moved)).doubt
    (moved.path / "scores.npz").unlink()
    with pytest.raises(ModelFileError, match=r"scores\.npz of each run"):
        _ = Ensemble((tiny_run, moved)).doubt


def test_figures_are_of_the_sum_of_the_logits(tiny_run, other_run):
    summary = Ensemble((tiny_run, other_run)).evaluate()
    table = tiny_run.cohort.table
    rows = table.index[table["split"] == "test"].tolist()
    sets = [load_split(run, tiny_run.cohort, rows) for run in (tiny_run, other_run)]
    logits = sum(
        infer_logits(run.network, images) for run, images in zip((tiny_run, other_run), sets)
    )
    margin = logits[:, 1] - logits[:, 0]
    odds = np.stack([-margin, margin], axis=1)
    chances = 1 / (1 + np.exp(-odds))
    assert summary["auroc"]["value"] == pytest.approx(auroc(chances, np.array(sets[0].labels)))
    assert len(summary["members"]) == 2


def test_runs_that_do_not_belong_together(
    tiny_run, other_run, tiny_cohort, tiny_settings, tmp_path
):
    with pytest.raises(ModelFileError, match="two or more different models, got 1 in 2"):
        Ensemble((tiny_run, tiny_run))
    binary = train(
        tiny_cohort, tmp_path / "b", load_config(None, [*tiny_settings, "model.head=binary"])
    )
    with pytest.raises(ModelFileError, match="the same classes in the same order and the same"):
        Ensemble((tiny_run, binary))
    with pytest.raises(CohortError, match="the split 'none' has none"):
        Ensemble((tiny_run, other_run)).evaluate(split="none")


def test_commands(tiny_run, other_run, blob_image, tmp_path):
    log = f"sqlite:///{tmp_path / 'log.db'}"
    AuditLog.create(log).close()
    runs = ["--run", str(tiny_run.path), "--run", str(other_run.path)]
    result = CliRunner().invoke(app, ["ensemble", "evaluate", *runs])
    assert result.exit_code == 0, result.output
    assert "AUROC, ensemble" in result.output
    assert "calibrated" in result.output
    arguments = ["ensemble", "predict", *runs, str(blob_image), "--audit", log, "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document[0]["record"] == 1
    assert RunFolder(tiny_run.path).card.model_digest in [
        member["model_digest"] for member in document[0]["members"]
    ]
