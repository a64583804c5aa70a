"""Prototypes of a finished run: listed, looked up in all images, pruned into a new run."""

import hashlib
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import pipelines.cli as cli
from audit import AuditLog, verify
from medproto.errors import ModelFileError
from medproto.networks import tensor_digest
from medproto.projection import PatchHit
from pipelines.case_report import write_case
from pipelines.cases import explain_case
from pipelines.evaluate import evaluate_run, load_split
from pipelines.global_report import label_agrees, label_name, write_prototypes
from pipelines.pages import CasePage, case_page
from pipelines.predict import predict_recorded
from pipelines.prototypes import PruningError, list_prototypes, nearest_labels, prune_run
from pipelines.runs import RunFolder
from pipelines.strongest_weight import strongest_elsewhere


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def contents(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def own_by_hand(run, k):
    """Count the own-class images among the k with the smallest distance, with one sort."""
    rows = run.cohort.table.index[run.cohort.table["split"] == "train"].tolist()
    images = load_split(run, run.cohort, rows)
    stack = torch.stack([images.image(i) for i in range(len(images))])
    with torch.no_grad():
        distances = run.network.evidence(stack).distances.flatten(2).amin(dim=2)  # [N, P]
    nearest = distances.argsort(dim=0)[:k]
    labels = torch.tensor(images.labels)[nearest]  # [k, P]
    return (labels == run.network.prototype_class).sum(dim=0).tolist()


@pytest.fixture(scope="module")
def pruned(tiny_run, tmp_path_factory):
    """A pruned run; tau is one above the smallest count, so that at least one prototype goes."""
    base = tmp_path_factory.mktemp("pruned")
    before = contents(tiny_run.path)
    own = own_by_hand(tiny_run, 6)
    tau = min(min(own) + 1, 6)
    with AuditLog.create(base / "log.db") as log:
        record = prune_run(tiny_run, base / "runs" / "new", tau=tau, log=log, actor="tester")
    assert contents(tiny_run.path) == before
    return RunFolder(base / "runs" / "new"), record, own, tau, base / "log.db"


def test_the_decision_is_the_rule(pruned, tiny_run):
    run, record, own, tau, _ = pruned
    classes = tiny_run.network.prototype_class.tolist()
    expected = {p for p, count in enumerate(own) if count < tau}
    for k in set(classes):
        members = [p for p, c in enumerate(classes) if c == k]
        if expected.issuperset(members):
            expected.remove(max(members, key=lambda p: (own[p], -p)))
    assert expected
    assert [entry["was"] for entry in record["pruned"]] == sorted(expected)
    assert {entry["was"]: entry["own"] for entry in record["pruned"] + record["kept"]} == dict(
        enumerate(own)
    )
    assert json.loads((run.path / "pruning.json").read_text()) == record
    assert record["k"] == 6
    assert record["tau"] == tau


def test_the_new_run_is_a_version_of_its_own(pruned, tiny_run):
    run, record, *_ = pruned
    kept = [entry["was"] for entry in record["kept"]]
    assert run.card.model_digest == record["model_digest"] != tiny_run.card.model_digest
    assert tensor_digest(run.network.state_dict()) == run.card.model_digest
    assert record["parent_model_digest"] == tiny_run.card.model_digest
    assert run.metrics["pruning"]["parent_model_digest"] == tiny_run.card.model_digest
    assert run.card.cohort_digest == run.cohort.content_digest
    assert run.config == tiny_run.config
    vectors = tiny_run.network.prototype_layer.vectors[kept]
    assert torch.equal(run.network.prototype_layer.vectors, vectors)
    assert [s.prototype for s in run.sources] == list(range(len(kept)))
    assert run.sources == tuple(
        replace(tiny_run.sources[old], prototype=new) for new, old in enumerate(kept)
    )
    for new, old in enumerate(kept):
        for name in ("p{:03d}.png", "p{:03d}_source.png"):
            copied = (run.path / "prototypes" / name.format(new)).read_bytes()
            assert copied == (tiny_run.path / "prototypes" / name.format(old)).read_bytes()
    assert len(list((run.path / "prototypes").iterdir())) == 2 * len(kept)
    report = (run.path / "report.html").read_text()
    assert "Pruned from the model" in report
    assert f"{len(tiny_run.sources)} and {len(kept)}" in report
    assert not (run.path / "checkpoints").exists()


def test_the_scores_are_the_old_columns_and_the_layer_is_optimal(pruned, tiny_run):
    run, record, *_ = pruned
    kept = [entry["was"] for entry in record["kept"]]
    with (
        np.load(run.path / "scores.npz") as new,
        np.load(tiny_run.path / "scores.npz") as old,
    ):
        for split in ("train", "val"):
            np.testing.assert_allclose(
                new[f"{split}_scores"], old[f"{split}_scores"][:, kept], atol=1e-4
            )
        assert new["source_positions"].tolist() == old["source_positions"][kept].tolist()
    assert run.metrics["last_layer"]["residual"] <= 1e-6
    # fewer prototypes cannot fit better: the optimum over fewer columns is no smaller
    old_optimum = tiny_run.metrics["last_layer"]["objective"]
    assert run.metrics["last_layer"]["objective"] >= old_optimum - 1e-9


def test_metrics_are_those_of_evaluate(pruned):
    run = pruned[0]
    stored = {k: v for k, v in run.metrics.items() if k not in ("last_layer", "pruning")}
    assert json.loads(json.dumps(evaluate_run(run).summary)) == stored


def test_the_pruned_run_predicts_with_complete_evidence(pruned, tmp_path):
    run, *_, log_path = pruned
    row = int(run.cohort.table.index[run.cohort.table["split"] == "test"][0])
    image = run.cohort.image_path(row)
    assert explain_case(run, image).explanation.completeness_error < 1e-4
    with AuditLog.open(log_path) as log:
        recorded = predict_recorded(run, image, log, actor="tester")
    assert recorded.payload["model_digest"] == run.card.model_digest


def test_the_log_knows_the_new_version(pruned):
    run, record, *_, log_path = pruned
    with AuditLog.open(log_path, read_only=True) as log:
        entry = log.get(1)
    assert (entry.kind, entry.subject) == ("model.pruned", run.card.model_digest)
    assert entry.actor == "tester"
    assert entry.payload == record
    assert verify(log_path).ok
    assert str(run.path.parent) not in entry.body.decode()


def test_without_a_record_the_new_run_stays_unfinished(tiny_run, tmp_path):
    class Broken:
        def append(self, *arguments, **options):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        prune_run(tiny_run, tmp_path / "new", tau=6, log=Broken(), actor="tester")
    assert not (tmp_path / "new" / "model.json").exists()


def test_what_cannot_be_pruned(tiny_run, tmp_path):
    with pytest.raises(PruningError, match="no prototype falls under the rule"):
        prune_run(tiny_run, tmp_path / "a", tau=0)
    assert not (tmp_path / "a").exists()
    with pytest.raises(PruningError, match="tau 0 to k, got k = 2 and tau = 3"):
        prune_run(tiny_run, tmp_path / "a", k=2, tau=3)
    with pytest.raises(PruningError, match=r"k must be 1 to \d+ \(the training images\)"):
        prune_run(tiny_run, tmp_path / "a", k=1000)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ModelFileError, match="not empty"):
        prune_run(tiny_run, tmp_path / "taken")


def test_list(tiny_run, pruned):
    entries = list_prototypes(tiny_run)
    similarities = np.load(tiny_run.path / "scores.npz")["train_scores"]
    scores = np.maximum(similarities - tiny_run.network.floor.numpy(), 0)
    weights = tiny_run.network.last_layer.weight.detach().double().numpy()
    mean = [
        max(abs(w) for w in weights[:, p]) * sum(abs(s) for s in scores[:, p]) / len(scores)
        for p in range(len(entries))
    ]
    assert [e["contribution"] for e in entries] == pytest.approx(mean, rel=1e-4)
    assert sorted(e["rank"] for e in entries) == list(range(1, len(entries) + 1))
    assert next(e for e in entries if e["rank"] == 1)["contribution"] == pytest.approx(
        max(mean), rel=1e-4
    )
    assert {e["own_share"] for e in entries} == {None}
    run, record, *_ = pruned
    shares = [e["own_share"] for e in list_prototypes(run)]
    assert shares == [entry["own"] / 6 for entry in record["kept"]]


def test_list_as_text_and_json(tiny_path, tiny_run):
    shown = json.loads(command("prototypes", "list", tiny_path, "--json").stdout)
    assert shown == {"prototypes": list_prototypes(tiny_run)}
    lines = command("prototypes", "list", tiny_path).stdout.splitlines()
    assert len(lines) == 1 + len(tiny_run.sources)
    assert "not known" in lines[1]
    assert tiny_run.sources[0].group in lines[1]


def test_list_needs_the_scores_of_this_model(run_copy, pruned):
    shapes = run_copy / "scores.npz"
    shapes.write_bytes((pruned[0].path / "scores.npz").read_bytes())
    with pytest.raises(ModelFileError, match="a column for each of 6 prototypes"):
        list_prototypes(RunFolder(run_copy))
    shapes.unlink()
    with pytest.raises(ModelFileError, match=r"must hold scores\.npz"):
        list_prototypes(RunFolder(run_copy))


def test_a_foreign_pruning_record_is_an_error(run_copy, pruned):
    (run_copy / "pruning.json").write_bytes((pruned[0].path / "pruning.json").read_bytes())
    with pytest.raises(ModelFileError, match=r"pruning\.json is damaged or of another model"):
        list_prototypes(RunFolder(run_copy))


@pytest.fixture(scope="module")
def shown(tiny_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("shown") / "pages"
    return command("prototypes", "show", tiny_path, "--out", out), out


def test_the_page_shows_every_prototype(shown, tiny_run):
    result, out = shown
    assert result.exit_code == 0, result.output
    document = json.loads((out / "prototypes.json").read_text())
    assert document["model_digest"] == tiny_run.card.model_digest
    assert [sum(hit["agrees"] for hit in e["train"]) for e in document["prototypes"]] == (
        own_by_hand(tiny_run, 6)
    )
    splits = tiny_run.cohort.table["split"]
    labels = tiny_run.cohort.table["label"]
    for entry in document["prototypes"]:
        assert [len(entry["train"]), len(entry["test"])] == [6, 5]
        assert [hit["itself"] for hit in entry["train"]] == [True] + [False] * 5
        assert entry["train"][0]["row"] == entry["row"]
        for split in ("train", "test"):
            rows = [hit["row"] for hit in entry[split]]
            assert len(set(rows)) == len(rows)
            assert {splits[row] for row in rows} == {split}
            assert [hit["label"] for hit in entry[split]] == [labels[row] for row in rows]
            distances = [hit["distance"] for hit in entry[split]]
            assert distances == sorted(distances)
            for hit in entry[split]:
                assert hit["agrees"] == (hit["label"] == entry["class"])


def test_the_page_is_stamped_and_names_no_file(shown, tiny_run):
    _, out = shown
    page = (out / "prototypes.html").read_text()
    count = len(tiny_run.sources)
    assert page.count('src="data:image/png;base64,') == count * (2 + 2 * (6 + 5))
    assert page.count("the prototype itself") == count
    assert "NOT RECORDED" in page
    assert "How to read this page" in page
    assert tiny_run.card.model_digest in page
    text = re.sub(r'src="data:[^"]*"', "", page)
    assert str(tiny_run.cohort.root) not in text
    assert ".png" not in text
    assert "<script" not in page


def test_one_prototype(tiny_run, tiny_path, tmp_path):
    path, document = write_prototypes(tiny_run, tmp_path, [2])
    assert path.name == "prototype_002.html"
    assert [entry["prototype"] for entry in document["prototypes"]] == [2]
    assert command("prototypes", "show", tiny_path, "6", "--out", tmp_path).exit_code == 2
    with pytest.raises(ValueError, match=r"prototypes must be 0 to 5, got \[6\]"):
        write_prototypes(tiny_run, tmp_path, [6])


def test_prune_by_command(tiny_path, tmp_path):
    AuditLog.create(tmp_path / "log.db").close()
    result = command(
        "prototypes", "prune", tiny_path, "--out", tmp_path / "new", "--k", "4", "--tau", "4",
        "--zero-weight", "--audit", tmp_path / "log.db", "--actor", "tester",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    run = RunFolder(tmp_path / "new")
    assert f"6 prototypes before, {len(run.sources)} after" in result.stdout
    assert "pruned prototype" in result.stdout
    assert set(run.network.prototype_class.tolist()) == {0, 1}
    with AuditLog.open(tmp_path / "log.db", read_only=True) as log:
        assert log.get(1).payload["zero_weight"] is True


@pytest.mark.parametrize(
    ("label", "name", "agrees"),
    [
        (1, "nodule", True),
        (torch.tensor(0), "normal", False),
        (torch.tensor([1.0, 1.0]), "normal, nodule", True),
        ((1.0, math.nan), "normal", None),
        ([0.0, 0.0], "none", False),
    ],
)
def test_classes_and_findings_by_name(label, name, agrees):
    classes = ("normal", "nodule")
    assert label_name(label, classes) == name
    assert label_agrees(label, 1) is agrees
    hits = [[PatchHit(0.0, 0, (0, 0), "g", label, 1.0)]]
    assert nearest_labels(hits).shape in ((1, 1), (1, 1, 2))


@pytest.mark.parametrize("name", ["list", "show", "prune"])
def test_help_has_an_example(name):
    result = command("prototypes", name, "--help")
    assert result.exit_code == 0
    assert f"Example: medproto prototypes {name} runs/first" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("weights", "own", "classes", "expected"),
    [
        ([0.5, 0.2], 0, 2, None),
        ([0.5, 0.6], 0, 2, 1),
        ([0.0, 0.0], 1, 2, None),  # a tie is no other class
        ([-0.1, 0.3, 0.2], 2, 3, 1),
        ([0.7, 0.7], 2, 3, None),  # thresholds of grades, not classes
    ],
)
def test_strongest_elsewhere(weights, own, classes, expected):
    assert strongest_elsewhere(weights, own, classes) == expected


def test_the_case_page_lists_the_most_similar_and_warns(explanation, image, pictures, maps):
    page = case_page(
        CasePage(
            title="x", explanation=explanation, image=image, prototypes=pictures, heat_maps=maps
        )
    )
    # by similarity: 0 (8.0), 1 (4.0), 2 (2.0), 3 (1.0); the weights of all lie on their own class
    table = page.split("The most similar prototypes")[1].split("The sum, to check by hand")[0]
    assert re.findall(r"Prototype (\d)</td>", table) == ["0", "1", "2", "3"]
    assert "speaks more" not in page
    stray = replace(explanation.evidence[0], weights=(0.5, 0.25))  # of class nodule
    page = case_page(
        CasePage(
            title="x",
            explanation=replace(explanation, evidence=(stray, *explanation.evidence[1:])),
            image=image,
            prototypes=pictures,
            heat_maps=maps,
        )
    )
    assert "speaks more for “normal”" in page
    assert "Caution: this prototype is of class “nodule”" in page


def test_ten_prototypes_on_the_page_of_a_case(tiny_run, blob_image, tmp_path):
    page = write_case(tiny_run, blob_image, tmp_path).read_text()
    assert page.count('<article class="row">') == 6  # ten at most; the run has six
