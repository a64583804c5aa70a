import pytest
import torch

from medproto.networks import ProtoPNet
from medproto.networks.heads import class_count, initial_last_layer, prototype_counts

SMALL = {"image_size": (32, 32), "stage": 3, "prototypes_per_class": 2}


def test_binary_has_prototypes_of_the_finding_alone_and_one_fixed_logit():
    network = ProtoPNet(2, 1, 2, **SMALL, head="binary").eval()
    assert network.prototype_class.tolist() == [1, 1]
    assert network.last_layer.weight.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    logits = network(torch.rand(3, 1, 32, 32))
    assert logits[:, 0].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1], logits[:, 1].sigmoid())


def test_multilabel_leaves_no_finding_without_prototypes():
    network = ProtoPNet(
        2, 1, 3, image_size=(32, 32), stage=3, head="multilabel", prototypes_per_class=[0, 2, 1]
    )
    assert network.prototype_class.tolist() == [1, 1, 2]
    # "no finding" starts as the absence of everything; findings may occur together.
    assert network.last_layer.weight.tolist() == [
        [-0.5, -0.5, -0.5],
        [1.0, 1.0, 0.0],
        [0.0, 0.0, 1.0],
    ]


def test_ordinal_weights_by_hand():
    # Grades at -1, 0, 1; thresholds halfway at -0.5 and 0.5.
    weight, bias = initial_last_layer("ordinal", torch.tensor([0, 1, 2]), 3)
    assert weight.tolist() == [[-1.0, 0.0, 1.0]] * 2
    assert bias.tolist() == [0.5, -0.5]
    network = ProtoPNet(2, 1, 2, **SMALL, head="ordinal")
    assert network.num_classes == 3
    assert network.prototype_class.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("head", "channels", "message"),
    [
        ("other", 2, "head must be one of multiclass, binary, multilabel, ordinal, got 'other'"),
        ("multiclass", 1, "out_channels must be >= 2 for head 'multiclass', got 1"),
        ("binary", 3, "out_channels must be 2 for head 'binary', got 3"),
        ("ordinal", 0, "out_channels must be >= 1"),
    ],
)
def test_logits_that_do_not_fit(head, channels, message):
    with pytest.raises(ValueError, match=message):
        class_count(head, channels)


@pytest.mark.parametrize(
    ("head", "counts", "message"),
    [
        ("multiclass", [1, 0], "each >= 1; got"),
        ("binary", [1, 1], "0 for the first class"),
        ("binary", [0, 0], "0 for the first class"),
        ("multilabel", [0, 0], ">= 1 for at least one"),
        ("ordinal", [1], "2 counts, one a class"),
    ],
)
def test_counts_that_do_not_fit(head, counts, message):
    with pytest.raises(ValueError, match=message):
        prototype_counts(head, counts, 2)


def test_keep_prototypes_may_leave_out_classes_that_have_none():
    network = ProtoPNet(2, 1, 2, **SMALL, head="binary").eval()
    network.keep_prototypes([1])
    assert network.arguments["prototypes_per_class"] == [0, 1]
    assert network(torch.rand(1, 1, 32, 32)).shape == (1, 2)
