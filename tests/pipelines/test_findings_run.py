"""A whole run of the multi-label head, from the commands: train, evaluate, predict, prune."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from torch import nn

from audit import AuditLog
from medproto.data import Cohort
from medproto.errors import CohortError
from pipelines.cases import explain_case
from pipelines.engine import validate
from pipelines.ensemble import Ensemble
from pipelines.evaluate import evaluate_run, load_split
from pipelines.inference import infer_logits
from pipelines.last_layer_fit import class_weights
from pipelines.localization import locate_evidence
from pipelines.runs import RunFolder

FINDINGS = ("blob", "hole", "nothing")
MULTILABEL = {"head": "multilabel", "device": "cpu"}


@pytest.fixture(scope="module")
def trained(train_head):
    return train_head("findings")


@pytest.fixture(scope="module")
def run(trained):
    return trained[1]


@pytest.fixture(scope="module")
def split_of(run, load_part):
    return partial(load_part, run)


@pytest.fixture(scope="module")
def judged(run, split_of):
    """The test images and the calibrated probabilities."""
    images = split_of("test")
    return images, 1 / (
        1 + np.exp(-infer_logits(run.network, images) / run.doubt.temperature.value)
    )


def area(scores, labels):
    """Share of the pairs of a positive and a negative case in the right order; NaN is no case."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    return np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])


def test_the_labels_are_those_of_the_table(run, split_of):
    # every 8th image from the 6th is uncertain about the hole: 5, 13, 21 in training
    train = split_of("train")
    assert train.labels.dtype == np.float64
    assert train.labels.shape == (24, 3)
    assert np.flatnonzero(np.isnan(train.labels[:, 1])).tolist() == [5, 13, 21]
    assert train.labels[:4].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert run.card.classes == run.cohort.label_columns == FINDINGS
    assert run.config.model.head == run.network.head == "multilabel"


def test_weights_count_certain_labels_alone(split_of):
    # 12 of 24 with a blob; of 21 certain ones 12 with a hole; 6 with neither
    assert class_weights(split_of("train").labels, 3) == pytest.approx([12 / 12, 9 / 12, 18 / 6])


def test_prototypes_come_from_images_that_certainly_show_the_finding(run):
    assert [source.class_name for source in run.sources] == ["blob"] * 3 + ["hole"] * 3
    targets = run.cohort.targets()
    assert all(targets[source.row, source.class_index] == 1 for source in run.sources)
    weights = run.network.last_layer.weight.detach().numpy()
    own = [weights[k, p] for p, k in enumerate(run.network.prototype_class.tolist())]
    assert min(own) >= 0
    assert run.metrics["last_layer"]["residual"] <= 1e-6


def test_the_figures_of_each_finding_by_hand(run, judged):
    summary, (images, chances) = run.metrics, judged
    labels = images.labels
    assert (summary["n"], summary["groups"], summary["classes"]) == (12, 12, list(FINDINGS))
    for key in ("balanced_accuracy", "operating_point", "confusion"):
        assert summary[key] is None
    areas = []
    for k, name in enumerate(FINDINGS):
        entry = summary["findings"][name]
        assert entry["n"] == (~np.isnan(labels[:, k])).sum()
        assert entry["positives"] == (labels[:, k] == 1).sum()
        areas.append(area(chances[:, k], labels[:, k]))
        assert entry["auroc"]["value"] == pytest.approx(areas[-1])
    assert summary["auroc"]["value"] == pytest.approx(np.mean(areas))
    assert summary["findings"]["hole"]["n"] == 10


def test_thresholds_are_the_best_on_validation(run, judged, split_of):
    val = split_of("val")
    logits = infer_logits(run.network, val) / run.doubt.temperature.value
    chances = 1 / (1 + np.exp(-logits))
    for k, name in enumerate(FINDINGS):
        point = run.metrics["findings"][name]["operating_point"]
        truth = val.labels[:, k]

        def youden(threshold, scores=chances[:, k], truth=truth):
            called = scores >= threshold
            return called[truth == 1].mean() - called[truth == 0].mean()

        best = max(youden(threshold) for threshold in chances[:, k])
        assert youden(point["threshold"]) == pytest.approx(best)
        called = judged[1][:, k] >= point["threshold"]
        shown = judged[0].labels[:, k] == 1
        assert point["sensitivity"]["value"] == pytest.approx(called[shown].mean())


def test_subgroups_are_of_the_macro_figure(run, judged):
    images, chances = judged
    women = (images.cohort.table["sex"].iloc[list(images.rows)] == "F").to_numpy()
    areas = [area(chances[women, k], images.labels[women, k]) for k in range(3)]
    part = run.metrics["subgroups"]["sex"]["F"]
    assert part["n"] == women.sum() == 6
    assert part["auroc"]["value"] == pytest.approx(np.mean(areas))


def test_validation_masks_what_is_uncertain(run, split_of):
    images = split_of("val")
    logits, labels = infer_logits(run.network, images), images.labels
    scores = validate(run.network, images, **MULTILABEL)
    areas = [area(logits[:, k], labels[:, k]) for k in range(3)]
    assert scores["auroc"] == pytest.approx(np.mean(areas))
    losses = np.where(labels == 1, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits)))
    losses = np.where(np.isnan(labels), np.nan, losses)
    assert scores["loss"] == pytest.approx(np.nanmean(losses, axis=1).mean(), rel=1e-5)


def test_one_finding_alone_is_validated(run, split_of):
    class First(nn.Module):
        def forward(self, images):
            return run.network(images)[:, :1]

    images = split_of("val")
    alone = validate(First(), replace(images, labels=images.labels[:, :1]), **MULTILABEL)
    logits = infer_logits(run.network, images)
    assert alone["auroc"] == pytest.approx(area(logits[:, 0], images.labels[:, 0]))


def test_doubt_is_by_finding(run, judged):
    doubt = run.metrics["doubt"]
    assert doubt["validation_groups"] == 12
    truth, chances = judged[0].labels, judged[1]
    known = ~np.isnan(truth)
    assert doubt["accuracy"] == pytest.approx(((chances > 0.5) == (truth == 1))[known].mean())
    assert doubt["coverage"]["value"] is not None
    assert 0 <= doubt["abstained"] <= 1


def test_the_evidence_is_that_of_the_likeliest_true_finding(run, judged):
    images, chances = judged
    cases = locate_evidence(run.network, images)
    assert len(cases) == run.metrics["localization"]["n"] == 9  # 3 of 12 have nothing to mark
    for case in cases:
        shown = [k for k in range(3) if images.labels[case.position, k] == 1]
        likeliest = max(shown, key=lambda k: chances[case.position, k])
        assert case.correct == (chances[case.position, likeliest] > 0.5)
        path = images.cohort.image_path(images.rows[case.position])
        evidence = explain_case(run, path).explanation.ranked(likeliest)[0]
        assert case.box == evidence.box


def test_commands_say_the_findings(trained, command):
    table, run, output = trained
    assert "blob (6 of 12)" in output
    assert "hole (6 of 10)" in output
    external = json.loads(command("evaluate", run.path, "--cohort", table, "--json").stdout)
    assert (external["split"], external["n"]) == ("external", 48)
    report = (run.path / "report.html").read_text()
    for text in ("Each finding by itself", "Finding “nothing”, no prototypes", "is undecided"):
        assert text in report


def test_another_cohort_needs_every_finding(trained):
    table, run, _ = trained
    part = Cohort.read(table, label_columns=("blob", "hole"))
    with pytest.raises(CohortError, match=r"each finding of the run \(blob, hole, nothing\)"):
        evaluate_run(run, cohort=part)


def test_predictions_are_recorded_with_sums_for_each_finding(run, tmp_path, command):
    log = tmp_path / "log.db"
    AuditLog.create(log).close()
    rows = run.cohort.table.index[run.cohort.table["split"] == "test"][:4]
    paths = [run.cohort.image_path(row) for row in rows]
    document = json.loads(command("predict", run.path, *paths, "--audit", log, "--json").stdout)
    for entry in document:
        assert entry["classes"] == entry["logit_names"] == list(FINDINGS)
        assert entry["completeness_error"] < 1e-4
        sums = np.array(entry["bias"])
        for evidence in entry["evidence"]:
            sums = sums + np.array(evidence["contributions"])
        np.testing.assert_allclose(sums, entry["logits"], atol=1e-4)
        present = [name for name, z in zip(FINDINGS, entry["logits"]) if z > 0]
        assert entry["label"] == (", ".join(present) or "none of the findings")
    command("audit", "verify", log)


def test_comparison_of_methods(run, tmp_path, command):
    document = json.loads(command("compare", run.path, "--out", tmp_path / "c", "--json").stdout)
    assert document["n"] == 9
    rows = {row["name"]: row for row in document["rows"]}
    place = run.metrics["localization"]["pointing_game"]
    assert rows["prototype (largest positive contribution)"]["pointing"] == place


@pytest.fixture(scope="module")
def pruned(run, tmp_path_factory, command):
    out = tmp_path_factory.mktemp("pruned") / "run"
    listed = json.loads(command("prototypes", "list", run.path, "--json").stdout)["prototypes"]
    assert [entry["class"] for entry in listed] == ["blob"] * 3 + ["hole"] * 3
    assert all(len(entry["weights"]) == 3 for entry in listed)
    command("prototypes", "prune", run.path, "--out", out, "--k", "12", "--tau", "12")
    return RunFolder(out)


def test_a_pruned_run_is_a_run(run, pruned, tmp_path, command):
    assert set(pruned.network.prototype_class.tolist()) == {0, 1}
    assert len(pruned.sources) < len(run.sources)
    assert pruned.card.cohort_digest == pruned.cohort.content_digest
    assert pruned.metrics["findings"].keys() == set(FINDINGS)
    command("prototypes", "show", pruned.path, "0", "--out", tmp_path)
    document = json.loads((tmp_path / "prototype_000.json").read_text())
    targets = run.cohort.targets()
    expected = {1.0: True, 0.0: False}
    for split in ("train", "test"):
        for hit in document["prototypes"][0][split]:
            assert hit["agrees"] is expected.get(float(targets[hit["row"], 0]))


def test_an_ensemble_of_findings(run, pruned, tmp_path, command):
    runs = ["--run", run.path, "--run", pruned.path]
    document = json.loads(command("ensemble", "evaluate", *runs, "--json").stdout)
    rows = run.cohort.table.index[run.cohort.table["split"] == "test"].tolist()
    images = load_split(run, run.cohort, rows)
    total = infer_logits(run.network, images) + infer_logits(pruned.network, images)
    areas = [area(total[:, k], images.labels[:, k]) for k in range(3)]
    assert document["auroc"]["value"] == pytest.approx(np.mean(areas))
    assert document["findings"]["hole"]["operating_point"] is None
    with AuditLog.create(f"sqlite:///{tmp_path / 'log.db'}") as log:
        path = run.cohort.image_path(rows[0])
        payload = Ensemble((run, pruned)).predict(path, log, actor="tester").payload
    np.testing.assert_allclose(payload["logits"], total[0], atol=1e-4)
    present = [name for name, z in zip(FINDINGS, total[0]) if z > 0]
    assert payload["present"] == present
