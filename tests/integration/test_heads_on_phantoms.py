"""The whole way of every head on synthetic DICOM: train, evaluate, predict, prune, put together."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from audit import AuditLog, verify
from medproto.data import from_dicom, split_cohort
from medproto.data.phantom import make_phantom_cohort
from pipelines.cli import app

FINDINGS = ("nodule", "effusion", "no_finding")
GRADES = ["grade 0", "grade 1", "grade 2", "grade 3"]
SMALL = (
    "data.image_size=64",
    "model.stage=3",
    "model.prototypes_per_class=2",
    "training.batch_size=8",
    "training.features_epochs=1",
    "training.warm_epochs=1",
    "training.joint_epochs=1",
)
HEADS = {
    "binary": ("multiclass", ("model.head=binary",)),
    "multilabel": (
        "multilabel",
        (f"data.label_columns=[{','.join(FINDINGS)}]", "model.prototypes_per_class=[2,2,0]"),
    ),
    "ordinal": ("ordinal", ("model.head=ordinal", f"data.classes={json.dumps(GRADES)}")),
}
LOGITS = {"binary": 2, "multilabel": 3, "ordinal": 3}


def command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Path of the table of a task, made once."""
    made = {}

    def of(task):
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            labels = make_phantom_cohort(
                folder / "data", patients=24, images_per_patient=(1, 1), size=96, task=task, seed=3
            )
            columns = FINDINGS if task == "multilabel" else ()
            cohort = from_dicom(folder / "data", labels=labels, label_columns=columns).cohort
            made[task] = folder / "cohort.csv"
            split_cohort(cohort, seed=0).save(made[task])
        return made[task]

    return of


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """Folder of the run of a head, trained once."""
    made = {}

    def of(head, *settings):
        if (head, settings) not in made:
            task, own = HEADS[head]
            out = tmp_path_factory.mktemp(head) / "run"
            given = [part for text in (*SMALL, *own, *settings) for part in ("--set", text)]
            command("train", "--cohort", table(task), "--out", out, *given)
            made[head, settings] = out
        return made[head, settings]

    return of


def check_sums(payload):
    """Every contribution is weight times similarity, and with the bias they sum to the logits."""
    total = np.array(payload["bias"])
    for item in payload["evidence"]:
        product = item["similarity"] * np.array(item["weights"])
        np.testing.assert_allclose(item["contributions"], product, atol=1e-5)
        total = total + item["contributions"]
    assert np.abs(total - payload["logits"]).max() < 1e-4
    assert payload["completeness_error"] < 1e-4


def test_uncertain_labels_reach_the_training(table):
    content = table("multilabel").read_text()
    assert ",-1" in content


@pytest.mark.parametrize("head", HEADS)
def test_train_evaluate_predict_show(head, run, table, tmp_path):
    folder = run(head)
    summary = json.loads(command("evaluate", folder, "--json"))
    assert 0 <= summary["auroc"]["value"] <= 1
    keys = {"n", "groups", "classes", "auroc", "balanced_accuracy", "average_precision", "ece"}
    keys |= {"operating_point", "confusion", "subgroups", "twin", "prototypes", "localization"}
    assert keys <= summary.keys()
    if head == "multilabel":
        assert list(summary["findings"]) == list(FINDINGS)
        assert summary["findings"]["nodule"]["n"] <= summary["n"]
    if head == "ordinal":
        assert -1 <= summary["quadratic_weighted_kappa"]["value"] <= 1
    external = command("evaluate", folder, "--cohort", table(HEADS[head][0]))
    assert "AUROC" in external
    images = sorted((table(HEADS[head][0]).parent / "data" / "dicom").glob("*.dcm"))[:2]
    log = f"sqlite:///{tmp_path / 'log.db'}"
    AuditLog.create(log).close()
    payloads = json.loads(command("predict", folder, *images, "--audit", log, "--json"))
    assert len(payloads) == 2
    for payload in payloads:
        check_sums(payload)
        assert len(payload["logits"]) == LOGITS[head]
        assert len(payload["probabilities"]) == len(payload["classes"])
        assert payload["head"] == head
    assert verify(log).ok
    assert "Sum for" in command("audit", "show", log, "1")
    page = tmp_path / "page"
    command("explain", folder, images[0], "--out", page)
    assert any(page.glob("*.html"))
    assert "prototype" in command("compare", folder, "--out", tmp_path / "comparison")


@pytest.mark.parametrize("head", HEADS)
def test_pruned(head, run, table, tmp_path):
    folder, pruned = run(head), tmp_path / "pruned"
    before = len(json.loads(command("prototypes", "list", folder, "--json"))["prototypes"])
    # Hardly a prototype has twelve patches of its own class nearest; one a class stays.
    command("prototypes", "prune", folder, "--out", pruned, "--k", 12, "--tau", 12)
    log = f"sqlite:///{tmp_path / 'log.db'}"
    AuditLog.create(log).close()
    image = min((table(HEADS[head][0]).parent / "data" / "dicom").glob("*.dcm"))
    (payload,) = json.loads(command("predict", pruned, image, "--audit", log, "--json"))
    check_sums(payload)
    assert 0 < len(payload["evidence"]) < before


def test_ensemble_sums_to_its_logit(run, table, tmp_path):
    head = "multilabel"
    members = [run(head), run(head, "seed=1")]
    log = f"sqlite:///{tmp_path / 'log.db'}"
    AuditLog.create(log).close()
    image = min((table(HEADS[head][0]).parent / "data" / "dicom").glob("*.dcm"))
    given = (image, "--run", members[0], "--run", members[1], "--audit", log, "--json")
    (payload,) = json.loads(command("ensemble", "predict", *given))
    check_sums(payload)
    assert {item["member"] for item in payload["evidence"]} == {0, 1}
