"""Which parts learn in which segment, and what a frozen backbone means."""

import pytest
import torch

from medproto.networks import PlainClassifier, ProtoPNet
from pipelines.config import TrainingConfig
from pipelines.datasets import ImageSet
from pipelines.engine import SegmentRun, SegmentState, SegmentTask
from pipelines.objective import prototype_step
from pipelines.schedule import Segment, ThreePhaseSchedule
from pipelines.trained_modules import TrainedModules

STEPS = {"spatial_size": (64, 64), "voi": "voi", "mode": "letterbox"}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ProtoPNet(
        2, 1, 2, image_size=(64, 64), stage=2, prototypes_per_class=2, add_on="regular"
    )


def names(schedule):
    return [(s.index, s.name, s.epochs) for s in schedule]


def test_segments_in_order_and_the_twin_as_long_in_all():
    config = TrainingConfig(features_epochs=4, warm_epochs=2, joint_epochs=3)
    with_twin = ThreePhaseSchedule.from_config(config, twin=True)
    assert names(with_twin) == [
        (0, "features", 4),
        (1, "twin", 5),
        (2, "warm", 2),
        (3, "joint", 3),
    ]
    without = ThreePhaseSchedule.from_config(config, twin=False)
    assert [s.name for s in without] == ["features", "warm", "joint"]


def test_segments_of_no_epochs_are_left_out_and_numbers_stay_dense():
    config = TrainingConfig(features_epochs=0, warm_epochs=0, joint_epochs=1)
    assert names(ThreePhaseSchedule.from_config(config, twin=False)) == [(0, "joint", 1)]


def learning(segment, model):
    groups = segment.parameter_groups(model, TrainingConfig())
    return {id(p): group["lr"] for group in groups for p in group["params"]}


def test_warm_trains_prototypes_and_add_on_but_no_backbone(network):
    rates = learning(Segment(0, "warm", 1), network)
    assert id(network.prototype_layer.vectors) in rates
    assert all(id(p) in rates for p in network.add_on.parameters())
    assert not any(id(p) in rates for p in network.backbone.parameters())
    assert Segment(0, "warm", 1).frozen(network) == [network.backbone]


def test_joint_trains_all_but_the_last_layer_with_its_own_rates(network):
    rates = learning(Segment(0, "joint", 1), network)
    last = {id(p) for p in network.last_layer.parameters()}
    everything = {id(p) for p in network.parameters()}
    assert set(rates) == everything - last
    config = TrainingConfig()
    assert {rates[id(p)] for p in network.backbone.parameters()} == {config.learning_rate_joint}
    assert rates[id(network.prototype_layer.vectors)] == config.learning_rate_head
    assert Segment(0, "joint", 1).frozen(network) == []


@pytest.mark.parametrize("name", ["features", "twin"])
def test_plain_classifiers_train_whole(network, name):
    classifier = PlainClassifier(network)
    rates = learning(Segment(0, name, 1), classifier)
    assert set(rates) == {id(p) for p in classifier.parameters()}
    config = TrainingConfig()
    assert {rates[id(p)] for p in network.backbone.parameters()} == {config.learning_rate_backbone}


def test_prototypes_do_not_decay(network):
    groups = Segment(0, "joint", 1).parameter_groups(network, TrainingConfig(weight_decay=0.5))
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(network.prototype_layer.vectors)] == 0.0
    assert {decays[id(p)] for p in network.backbone.parameters()} == {0.5}


def test_a_group_without_parameters_is_left_out():
    bare = ProtoPNet(2, 1, 2, image_size=(64, 64), stage=2, prototypes_per_class=1, add_on="none")
    groups = Segment(0, "joint", 1).parameter_groups(bare, TrainingConfig())
    assert [len(g["params"]) > 0 for g in groups] == [True, True]


def test_the_modules_of_a_segment(network):
    modules = TrainedModules(network, with_twin=True)
    assert modules.learning_in("features") is modules.classifier
    assert modules.learning_in("twin") is modules.twin
    assert modules.learning_in("warm") is network
    assert modules.learning_in("joint") is network
    assert modules.classifier.backbone is network.backbone
    assert modules.twin.backbone is not network.backbone


def run_segment(network, cohort, name, **changes):
    table = cohort.table
    rows = {part: table.index[table["split"] == part].tolist() for part in ("train", "val")}
    sets = [ImageSet.load(cohort, rows[part], ("normal", "blob"), STEPS) for part in rows]
    segment = Segment(0, name, 1)
    task = SegmentTask(
        name=name,
        number=0,
        epochs=1,
        network=network,
        step=prototype_step(network, cluster=0.2, separation=0.05, class_weights=None),
        groups=segment.parameter_groups(network, TrainingConfig()),
        frozen=segment.frozen(network),
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
