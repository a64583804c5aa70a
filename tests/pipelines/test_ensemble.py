import json

import numpy as np
import pytest
from typer.testing import CliRunner

from audit import AuditLog
from audit.verify import verify
from medproto.errors import CohortError, ModelFileError
from medproto.metrics import auroc
from pipelines.cases import explain_case
from pipelines.cli import app
from pipelines.config import load_config
from pipelines.ensemble import Ensemble
from pipelines.evaluate import load_split
from pipelines.inference import infer_logits
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
    assert payload["calibrated"] is False


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
    arguments = ["ensemble", "predict", *runs, str(blob_image), "--audit", log, "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document[0]["record"] == 1
    assert RunFolder(tiny_run.path).card.model_digest in [
        member["model_digest"] for member in document[0]["members"]
    ]
