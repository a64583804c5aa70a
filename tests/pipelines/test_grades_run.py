"""A whole run of the ordinal head, from the commands: train, evaluate, predict, prune."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

from audit import AuditLog
from medproto.data import Cohort
from medproto.errors import CohortError
from pipelines.engine import validate
from pipelines.evaluate import evaluate_run
from pipelines.inference import infer_logits
from pipelines.runs import RunFolder

GRADES = ("none", "mild", "severe")


@pytest.fixture(scope="module")
def trained(train_head):
    return train_head("grades")


@pytest.fixture(scope="module")
def run(trained):
    return trained[1]


@pytest.fixture(scope="module")
def split_of(run, load_part):
    return partial(load_part, run)


@pytest.fixture
def without_twin(run, tmp_path):
    """The run in another place, without its twin, which takes half of an evaluation."""
    shutil.copytree(run.path, tmp_path / "deeper" / "run")
    (tmp_path / "deeper" / "run" / "twin.safetensors").unlink()
    run.cohort.save(tmp_path / "deeper" / "run" / "cohort.csv")
    return RunFolder(tmp_path / "deeper" / "run")


def area(scores, positive):
    wins = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    return np.mean(wins)


def test_one_weight_a_prototype_and_falling_biases(run):
    network = run.network
    weight = network.last_layer.weight.detach().numpy()
    bias = network.last_layer.bias.tolist()
    assert (network.out_channels, network.num_classes) == (2, 3)
    assert (weight[0] == weight[1]).all()
    assert bias[0] >= bias[1]
    owners = network.prototype_class.numpy()
    assert owners.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (weight[0, owners == 0] <= 0).all()
    assert (weight[0, owners == 2] >= 0).all()
    assert run.metrics["last_layer"]["residual"] <= 1e-6


def test_the_figures_by_hand(run, split_of):
    images, summary = split_of("test"), run.metrics
    labels = images.labels
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 2] * 4
    logits = infer_logits(run.network, images)
    grade = (logits > 0).sum(axis=1)
    assert summary["classes"] == list(GRADES)
    for key in ("balanced_accuracy", "average_precision", "operating_point"):
        assert summary[key] is None
    assert summary["grade_error"]["value"] == pytest.approx(np.abs(grade - labels).mean())
    assert summary["grade_accuracy"]["value"] == pytest.approx((grade == labels).mean())
    areas = [area(logits[:, k], labels > k) for k in (0, 1)]
    assert summary["auroc"]["value"] == pytest.approx(np.mean(areas))
    matrix = [[int(((labels == a) & (grade == b)).sum()) for b in range(3)] for a in range(3)]
    assert summary["confusion"]["matrix"] == matrix
    # Cohen: one less the weighted disagreement over that of independent margins
    cost = np.subtract.outer(np.arange(3), np.arange(3)) ** 2
    chance = np.outer(np.sum(matrix, axis=1), np.sum(matrix, axis=0)) / 12
    kappa = 1 - (cost * matrix).sum() / (cost * chance).sum()
    assert summary["quadratic_weighted_kappa"]["value"] == pytest.approx(kappa)
    twin = summary["twin"]
    assert twin["quadratic_weighted_kappa"]["value"] is not None
    own, other = summary["auroc"]["value"], twin["auroc"]["value"]
    assert twin["difference"]["value"] == pytest.approx(own - other)


def test_validation_is_over_the_thresholds(run, split_of):
    images = split_of("val")
    logits, labels = infer_logits(run.network, images), images.labels
    scores = validate(run.network, images, head="ordinal", device="cpu")
    assert scores["auroc"] == pytest.approx(
        np.mean([area(logits[:, k], labels > k) for k in (0, 1)])
    )
    above = labels[:, None] > np.arange(2)
    losses = np.where(above, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits)))
    assert scores["loss"] == pytest.approx(losses.sum(axis=1).mean(), rel=1e-5)


def test_another_cohort_of_some_grades(trained, without_twin):
    table, run, output = trained
    assert "quadratic weighted kappa" in output
    other = Cohort.read(table).select(["mild", "severe"])
    summary = evaluate_run(without_twin, cohort=other).summary
    assert (summary["n"], summary["split"]) == (32, "external")
    assert np.sum(summary["confusion"]["matrix"], axis=1).tolist() == [0, 16, 16]
    flags = Cohort(other.table.assign(mild="1"), other.root, label_columns=("mild",))
    with pytest.raises(CohortError, match=r"must have labels of the run \(none, mild, severe\)"):
        evaluate_run(run, cohort=flags)


def test_predictions_are_recorded_with_sums_for_each_threshold(run, tmp_path, command):
    log = tmp_path / "log.db"
    AuditLog.create(log).close()
    rows = run.cohort.table.index[run.cohort.table["split"] == "test"][:3]
    paths = [run.cohort.image_path(row) for row in rows]
    document = json.loads(command("predict", run.path, *paths, "--audit", log, "--json").stdout)
    for entry in document:
        assert entry["logit_names"] == ["above none", "above mild"]
        assert entry["completeness_error"] < 1e-4
        sums = np.array(entry["bias"])
        for evidence in entry["evidence"]:
            sums = sums + np.array(evidence["contributions"])
        np.testing.assert_allclose(sums, entry["logits"], atol=1e-4)
        assert entry["label"] == GRADES[sum(z > 0 for z in entry["logits"])]
        assert sum(entry["probabilities"]) == pytest.approx(1)
    command("audit", "verify", log)


def test_report_and_comparison(run, tmp_path, command):
    report = (run.path / "report.html").read_text()
    for text in (
        "Grade “mild”, 3 prototypes",
        "Quadratic weighted kappa",
        "median of the predicted",
    ):
        assert text in report
    document = json.loads(command("compare", run.path, "--out", tmp_path / "c", "--json").stdout)
    assert document["n"] == 8  # of 12 test images 4 show nothing


def test_pruned(run, without_twin, tmp_path, command):
    listed = json.loads(command("prototypes", "list", run.path, "--json").stdout)["prototypes"]
    assert {entry["strongest_elsewhere"] for entry in listed} == {None}
    out = tmp_path / "pruned"
    command("prototypes", "prune", without_twin.path, "--out", out, "--k", "8", "--tau", "8")
    pruned = RunFolder(out)
    weight = pruned.network.last_layer.weight
    assert (weight[0] == weight[1]).all()
    assert weight.shape[1] < 9
