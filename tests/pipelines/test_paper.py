"""The published schedule as a run: cycles, carried optimizers, the choice, and a kill anywhere."""

import shutil
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from pipelines.checkpoint import Checkpoint, ProjectedState
from pipelines.config import load_config
from pipelines.runs import RunFolder
from pipelines.train import train

TINY_PAPER = (
    "data.image_size=64",
    "data.repeats=2",
    "model.stage=2",
    "model.prototypes_per_class=3",
    "model.prototype_channels=16",
    "training.batch_size=16",
    "training.warm_epochs=1",
    "training.epochs=5",
    "training.projection_start=2",
    "training.projection_every=2",
    "training.last_layer_passes=2",
    "training.learning_rate_last_layer=0.01",
)
"""Epochs 0 warm, 1 to 4 joint, projections after 2 and 4. 32 images, so 4 iterations an epoch."""

# Each save of the run: after an epoch, and again when the step is over.
SAVES = ("warm 1", "warm end", "joint 1", "joint 2", "joint end", "last 1", "last 2", "last end")
SAVES += ("joint 3", "joint 4", "joint end", "last 3", "last 4", "last end")


@dataclass
class Watched:
    """A finished run, and what was seen at each save of its checkpoint."""

    run: RunFolder
    files: list = field(default_factory=list)
    moments: list = field(default_factory=list)
    weights: list = field(default_factory=list)


@pytest.fixture(scope="module")
def paper_config():
    return load_config(None, TINY_PAPER, preset="paper")


@pytest.fixture(scope="module")
def watched(tiny_cohort, paper_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    seen = Watched(RunFolder(folder / "run"))
    original = Checkpoint.save

    def save(self, modules):
        original(self, modules)
        copy = folder / f"{len(seen.files)}.pt"
        shutil.copy(self.path, copy)
        seen.files.append(copy)
        state = self.state.optimizer.get("state", {})
        seen.moments.append({int(s["step"]) for s in state.values()})
        seen.weights.append(modules.network.last_layer.weight.detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", save)
        train(tiny_cohort, folder / "run", paper_config)
    assert len(seen.files) == len(SAVES)
    return seen


def at(watched, name, *, nth=0):
    return [n for n, save in enumerate(SAVES) if save == name][nth]


def test_the_history_has_every_epoch_pass_and_projection(watched):
    history = watched.run.history
    assert list(zip(history["step"], history["segment"], history["epoch"])) == [
        (0, "warm", 1),
        (1, "joint", 1),
        (1, "joint", 2),
        (2, "projection", 1),
        (3, "last_layer", 1),
        (3, "last_layer", 2),
        (5, "joint", 3),
        (5, "joint", 4),
        (6, "projection", 2),
        (7, "last_layer", 3),
        (7, "last_layer", 4),
    ]
    assert history[["val_auroc", "val_loss"]].notna().all(axis=None)
    trained = history[history["segment"] != "projection"]
    total = trained["cross_entropy"] + 0.8 * trained["cluster"] - 0.08 * trained["separation"]
    assert trained["loss"].to_numpy() == pytest.approx((total + 1e-4 * trained["l1"]).to_numpy())
    # 6 prototypes with a weight of -0.5 to the other class, until the last layer learns.
    assert trained["l1"].to_numpy()[:3] == pytest.approx([3.0] * 3)
    joint, last = history["segment"] == "joint", history["segment"] == "last_layer"
    assert (history.loc[joint, "rate_backbone"] == 1e-4).all()
    assert (history.loc[joint, "rate_prototypes"] == 3e-3).all()
    assert (history.loc[last, "rate_last_layer"] == 0.01).all()
    assert (
        history.loc[last, ["rate_backbone", "rate_add_on", "rate_prototypes"]].isna().all(axis=None)
    )


def test_moments_of_adam_go_on_behind_a_projection(watched):
    # Number of updates that each parameter's moments have seen; 4 an epoch.
    assert watched.moments[at(watched, "warm 1")] == {4}
    assert watched.moments[at(watched, "joint 2")] == {8}
    assert watched.moments[at(watched, "last 2")] == {8}
    assert watched.moments[at(watched, "joint 3")] == {12}
    assert watched.moments[at(watched, "last 3")] == {12}


def test_the_last_layer_learns_in_its_passes_only_and_is_not_reset(watched):
    own = torch.tensor([[1.0, -0.5]]).repeat_interleave(3, dim=1)
    initial = torch.cat([own, own.flip(1)])
    weights = watched.weights
    assert torch.equal(weights[at(watched, "joint end")], initial)
    assert not torch.equal(weights[at(watched, "last 1")], initial)
    assert torch.equal(weights[at(watched, "joint 4")], weights[at(watched, "last 2")])
    assert not torch.equal(weights[at(watched, "last 3")], weights[at(watched, "last 2")])


def test_the_model_is_the_best_projected_state_and_everything_belongs_to_it(watched):
    run = watched.run
    ends = run.history[run.history["segment"] == "last_layer"].groupby("step").last()
    best = ends.sort_values(["val_auroc", "val_loss"], ascending=[False, True]).iloc[0]
    weight, bias = (p.detach().double().numpy() for p in run.network.last_layer.parameters())
    with np.load(run.path / "scores.npz") as scores:
        logits = scores["val_scores"] @ weight.T + bias
        labels, positions = scores["val_labels"], scores["source_positions"]
        own = scores["train_scores"][positions, np.arange(6)]
        rows = scores["train_rows"][positions]
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert roc_auc_score(labels, odds[:, 1]) == pytest.approx(best["val_auroc"])
    assert log_loss(labels, odds) == pytest.approx(best["val_loss"], rel=1e-5)
    assert (bias == 0).all()
    assert own == pytest.approx([np.log(1e4)] * 6, abs=1e-3)
    assert rows.tolist() == [source.row for source in run.sources]
    assert [source.class_index for source in run.sources] == [0, 0, 0, 1, 1, 1]
    assert run.metrics["last_layer"] is None


def test_validation_decides_and_the_loss_between_equals():
    first = ProjectedState(0.8, 0.5, {}, ())
    assert first.is_better_than(None)
    assert not first.is_better_than(first)
    assert ProjectedState(0.81, 0.9, {}, ()).is_better_than(first)
    assert not ProjectedState(0.79, 0.1, {}, ()).is_better_than(first)
    assert ProjectedState(0.8, 0.4, {}, ()).is_better_than(first)
    assert not ProjectedState(0.8, 0.6, {}, ()).is_better_than(first)


@pytest.mark.parametrize(
    ("save", "nth"),
    [
        pytest.param("warm 1", 0, marks=pytest.mark.slow),
        ("joint 1", 0),
        ("joint end", 0),  # a kill in the projection
        ("last 1", 0),
        ("last end", 0),  # a kill in the choice
        pytest.param("joint 3", 0, marks=pytest.mark.slow),
        pytest.param("joint end", 1, marks=pytest.mark.slow),
        ("last end", 1),  # a kill while results are written
    ],
)
def test_a_kill_anywhere_ends_at_the_same_model(
    watched, tiny_cohort, paper_config, tmp_path, save, nth
):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    shutil.copy(watched.files[at(watched, save, nth=nth)], out / "checkpoints" / "progress.pt")
    shutil.copy(watched.run.path / "history.csv", out)
    run = train(tiny_cohort, out, paper_config, resume=True)
    expected = watched.run
    assert run.card.model_digest == expected.card.model_digest
    assert run.sources == expected.sources
    assert run.metrics == expected.metrics
    columns = expected.history.columns.drop("seconds")
    pd.testing.assert_frame_equal(run.history[columns], expected.history[columns])


def test_the_plain_projection_keeps_every_prototype(tiny_cohort, tmp_path):
    changes = ("model.prototypes_per_class=20", "training.epochs=3", "training.steps_per_epoch=1")
    changes += ("training.last_layer_passes=0", "model.weights=null")
    config = load_config(None, [*TINY_PAPER, *changes], preset="paper")
    run = train(tiny_cohort, tmp_path / "run", config)
    # 20 prototypes for the 16 images of a class: without sharing, four a class would be dropped.
    assert run.metrics["prototypes"]["total"] == len(run.sources) == 40
    assert run.metrics["prototypes"]["self_similarity_min"] == pytest.approx(9.2103, abs=1e-3)
    labels = run.cohort.table["label"]
    assert all(labels[source.row] == source.class_name for source in run.sources)
    assert list(run.history["segment"]) == ["warm", "joint", "joint", "projection"]
