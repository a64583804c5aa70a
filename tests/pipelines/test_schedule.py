"""Which steps there are, which parts learn in each, and what a frozen backbone means."""

import pytest
import torch

from medproto.networks import PlainClassifier, ProtoPNet
from pipelines.config import load_config
from pipelines.config_sections import TrainingConfig
from pipelines.datasets import ImageSet
from pipelines.engine import SegmentRun, SegmentState, SegmentTask
from pipelines.objective import prototype_step
from pipelines.schedule import Step, ThreePhaseSchedule
from pipelines.trained_modules import TrainedModules

STEPS = {"spatial_size": (64, 64), "voi": "voi", "mode": "letterbox"}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ProtoPNet(
        2, 1, 2, image_size=(64, 64), stage=2, prototypes_per_class=2, add_on="regular"
    )


def schedule(*settings, preset="clinical", twin=False):
    return ThreePhaseSchedule.from_config(load_config(None, settings, preset=preset), twin=twin)


def names(schedule):
    return [(s.index, s.name, s.epochs) for s in schedule]


EPOCHS = ("training.features_epochs=4", "training.warm_epochs=2", "training.joint_epochs=3")


def test_steps_in_order_and_the_twin_as_long_in_all():
    assert names(schedule(*EPOCHS, twin=True)) == [
        (0, "features", 4),
        (1, "twin", 5),
        (2, "warm", 2),
        (3, "joint", 3),
        (4, "projection", 0),
        (5, "solve", 0),
    ]
    without = [s.name for s in schedule(*EPOCHS)]
    assert without == ["features", "warm", "joint", "projection", "solve"]


def test_training_of_no_epochs_is_left_out_and_numbers_stay_dense():
    none = ("training.features_epochs=0", "training.warm_epochs=0", "training.joint_epochs=1")
    assert names(schedule(*none)) == [(0, "joint", 1), (1, "projection", 0), (2, "solve", 0)]


def test_the_prototypes_start_in_the_first_step_that_learns_them():
    steps = schedule(*EPOCHS)
    assert [s.name for s in steps if steps.starts_prototypes(s)] == ["warm"]
    cycles = schedule("training.warm_epochs=0", preset="paper")
    assert [s.index for s in cycles if cycles.starts_prototypes(s)] == [0]


def test_the_published_steps_with_a_projection_after_epochs_10_20_and_30():
    cycle = ["joint", "projection", "last_layer", "choice"]
    steps = list(schedule(preset="paper"))
    assert [s.name for s in steps] == ["warm", *cycle, *cycle, *cycle]
    # Epochs 0 to 4 are warm; 5 to 10, 11 to 20 and 21 to 30 are joint.
    assert [s.epochs for s in steps if s.name == "joint"] == [6, 10, 10]
    assert [s.done for s in steps if s.name == "joint"] == [0, 6, 16]
    assert [s.epochs for s in steps if s.name == "last_layer"] == [20, 20, 20]
    assert [s.done for s in steps if s.name == "last_layer"] == [0, 20, 40]
    assert steps[0].epochs == 5


def test_epochs_behind_the_last_projection_are_left_out():
    assert names(schedule("training.epochs=40", preset="paper")) == names(schedule(preset="paper"))


def test_the_linear_similarity_leaves_the_last_layer_as_it_is():
    steps = schedule("model.similarity=linear", preset="paper")
    assert "last_layer" not in [s.name for s in steps]
    assert [s.name for s in steps][-3:] == ["joint", "projection", "choice"]


def test_the_twin_of_the_published_schedule_is_trained_as_long():
    steps = list(schedule(preset="paper", twin=True))
    assert (steps[0].name, steps[0].epochs) == ("twin", 31)
    assert steps[0].optimizer is torch.optim.AdamW


def test_only_phases_that_come_again_keep_their_optimizer():
    steps = schedule(preset="paper")
    again = [s.index for s in steps if steps.goes_on(s)]
    assert {steps.steps[i].name for i in again} == {"joint", "projection", "last_layer", "choice"}
    assert max(again) == 8
    assert not any(schedule(*EPOCHS).goes_on(s) for s in schedule(*EPOCHS))


def published_rates(network):
    """Learning rates by group for each of the epochs 0 to 30, at the first and last iteration."""
    config, table = load_config(None, preset="paper").training, []
    for step in schedule(preset="paper"):
        if step.name in ("warm", "joint"):
            groups = step.parameter_groups(network, config)
            for epoch in range(step.epochs):
                first, last = step.rate(epoch * 7, 7), step.rate(epoch * 7 + 6, 7)
                assert first == last
                table.append({g["name"]: g["lr"] * first for g in groups})
    return table


def test_learning_rates_of_the_published_epochs_0_to_30(network):
    table = published_rates(network)
    # The scheduler moves before each joint epoch: four at the base rate, then five for each step.
    factors = [1.0] * 4 + [1e-1] * 5 + [1e-2] * 5 + [1e-3] * 5 + [1e-4] * 5 + [1e-5] * 2
    assert len(table) == 31
    for rates in table[:5]:
        assert rates == {"add_on": 3e-3, "prototypes": 3e-3}
    for rates, factor in zip(table[5:], factors, strict=True):
        expected = {"add_on": 3e-3 * factor, "prototypes": 3e-3 * factor, "backbone": 1e-4 * factor}
        assert rates == pytest.approx(expected, rel=1e-12)


def test_the_rates_agree_with_torch_when_its_scheduler_moves_first(network):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.1)
    for rates in published_rates(network)[5:]:
        optimizer.step()
        scheduler.step()
        assert rates["backbone"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_a_clinical_segment_decays_along_a_half_cosine():
    step = Step(0, "joint", 4)
    assert step.optimizer is torch.optim.AdamW
    assert [step.rate(i, 2) for i in (0, 4, 8)] == pytest.approx([1.0, 0.5, 0.0])


def test_groups_decay_and_optimizer_of_the_published_phases(network):
    config = load_config(None, preset="paper").training
    decays = {}
    for step in schedule(preset="paper"):
        if step.epochs:
            assert step.optimizer is torch.optim.Adam
            groups = step.parameter_groups(network, config)
            decays[step.name] = {g["name"]: g["weight_decay"] for g in groups}
    warm = {"add_on": 1e-3, "prototypes": 0.0}
    assert decays == {
        "warm": warm,
        "joint": {**warm, "backbone": 1e-3},
        "last_layer": {"last_layer": 0.0},
    }
    (last,) = Step(0, "last_layer", 1, published=True).parameter_groups(network, config)
    assert last["lr"] == 1e-4
    assert [id(p) for p in last["params"]] == [id(network.last_layer.weight)]


def learning(segment, model):
    groups = segment.parameter_groups(model, TrainingConfig())
    return {id(p): group["lr"] for group in groups for p in group["params"]}


def test_warm_trains_prototypes_and_add_on_but_no_backbone(network):
    rates = learning(Step(0, "warm", 1), network)
    assert id(network.prototype_layer.vectors) in rates
    assert all(id(p) in rates for p in network.add_on.parameters())
    assert not any(id(p) in rates for p in network.backbone.parameters())
    assert Step(0, "warm", 1).frozen(network) == [network.backbone]


def test_joint_trains_all_but_the_last_layer_with_its_own_rates(network):
    rates = learning(Step(0, "joint", 1), network)
    last = {id(p) for p in network.last_layer.parameters()}
    everything = {id(p) for p in network.parameters()}
    assert set(rates) == everything - last
    config = TrainingConfig()
    assert {rates[id(p)] for p in network.backbone.parameters()} == {config.learning_rate_joint}
    assert rates[id(network.prototype_layer.vectors)] == config.learning_rate_head
    assert Step(0, "joint", 1).frozen(network) == []


def test_statistics_of_pretrained_weights_stay_except_as_published(network):
    network.backbone.weights_digest = "sha256:00"
    norms = [m for m in network.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert Step(0, "joint", 1).frozen(network) == norms
    assert Step(0, "features", 1).frozen(PlainClassifier(network)) == norms
    assert Step(0, "joint", 1, published=True).frozen(network) == []


def test_a_pretrained_backbone_learns_while_its_statistics_stay(network, tiny_cohort):
    network.backbone.weights_digest = "sha256:00"
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    run_segment(network, tiny_cohort, "joint")
    after = network.backbone.state_dict()
    for key, value in before.items():
        assert torch.equal(value, after[key]) == ("running" in key or "batches" in key), key


@pytest.mark.parametrize("name", ["features", "twin"])
def test_plain_classifiers_train_whole(network, name):
    classifier = PlainClassifier(network)
    rates = learning(Step(0, name, 1), classifier)
    assert set(rates) == {id(p) for p in classifier.parameters()}
    config = TrainingConfig()
    assert {rates[id(p)] for p in network.backbone.parameters()} == {config.learning_rate_backbone}


def test_prototypes_do_not_decay(network):
    groups = Step(0, "joint", 1).parameter_groups(network, TrainingConfig(weight_decay=0.5))
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(network.prototype_layer.vectors)] == 0.0
    assert {decays[id(p)] for p in network.backbone.parameters()} == {0.5}


def test_a_group_without_parameters_is_left_out():
    bare = ProtoPNet(2, 1, 2, image_size=(64, 64), stage=2, prototypes_per_class=1, add_on="none")
    groups = Step(0, "joint", 1).parameter_groups(bare, TrainingConfig())
    assert [len(g["params"]) > 0 for g in groups] == [True, True]


def test_the_modules_of_a_segment(network):
    modules = TrainedModules(network, with_twin=True)
    assert modules.learning_in("features") is modules.classifier
    assert modules.learning_in("twin") is modules.twin
    assert modules.learning_in("warm") is network
    assert modules.learning_in("joint") is network
    assert modules.learning_in("last_layer") is network
    assert modules.classifier.backbone is network.backbone
    assert modules.twin.backbone is not network.backbone


def run_segment(network, cohort, name, **changes):
    table = cohort.table
    rows = {part: table.index[table["split"] == part].tolist() for part in ("train", "val")}
    sets = [ImageSet.load(cohort, rows[part], ("normal", "blob"), STEPS) for part in rows]
    segment = Step(0, name, 1, published=name == "last_layer")
    task = SegmentTask(
        name=name,
        number=0,
        epochs=1,
        head="multiclass",
        network=network,
        step=prototype_step(network, cluster=0.2, separation=0.05, class_weights=None),
        groups=segment.parameter_groups(network, TrainingConfig()),
        frozen=segment.frozen(network),
        optimizer=segment.optimizer,
        rate=segment.rate,
        patience=1,
    )
    rows = []
    values = {"batch_size": 16, "augment": False, "seed": 0, **changes}
    SegmentRun(
        task, SegmentState(), *sets, device=torch.device("cpu"), after_epoch=rows.append, **values
    ).run()
    return rows


@pytest.mark.parametrize(("name", "moves"), [("warm", False), ("joint", True)])
def test_only_a_learning_backbone_moves(network, tiny_cohort, name, moves):
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    vectors = network.prototype_layer.vectors.detach().clone()
    last = network.last_layer.weight.detach().clone()
    (row,) = run_segment(network, tiny_cohort, name)
    after = network.backbone.state_dict()
    statistics = [key for key in before if "running_mean" in key]
    assert statistics
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert bool(changed) == moves
    assert (set(statistics) <= changed) == moves
    assert not torch.equal(vectors, network.prototype_layer.vectors)
    assert torch.equal(last, network.last_layer.weight)
    assert row["segment"] == name
    assert row["epoch"] == 1
    terms = {"loss", "cross_entropy", "cluster", "separation", "val_auroc", "val_loss", "seconds"}
    assert terms <= row.keys()


@pytest.mark.parametrize(
    ("name", "moving"), [("warm", ("prototype_layer", "add_on")), ("last_layer", ("last_layer",))]
)
def test_frozen_parts_stay_bit_identical_with_their_statistics(network, tiny_cohort, name, moving):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    (row,) = run_segment(network, tiny_cohort, name)
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split(".")[0] for key in changed} == set(moving)
    assert "last_layer.bias" not in changed
    rates = {key for key in row if key.startswith("rate_")}
    expected = {"rate_add_on", "rate_prototypes"} if name == "warm" else {"rate_last_layer"}
    assert rates == expected
