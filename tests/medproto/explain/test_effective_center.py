import pytest
import torch

from medproto.explain import measure_center_shift, network_box
from medproto.networks import ProtoPNet
from medproto.records import CellGrid


class Displaced(torch.nn.Module):
    """A strided convolution whose only weight is not in the middle of its kernel."""

    out_channels = 2

    def __init__(self, tap):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 9, stride=8, bias=False)
        torch.nn.init.zeros_(self.conv.weight)
        self.conv.weight.data[:, 0, tap[0], tap[1]] = torch.tensor([1.0, 0.5])
        self.grid = CellGrid((8, 8), (4.5, 4.5), (8.0, 8.0), (9.0, 9.0))

    def forward(self, x):
        return self.conv(torch.nn.functional.pad(x, (0, 8, 0, 8)))[:, :, :8, :8] + 0.1


class Switched(torch.nn.Module):
    """Looks through one tap at dark images and through another at bright ones."""

    out_channels = 2

    def __init__(self):
        super().__init__()
        self.dark, self.bright = Displaced((4, 7)), Displaced((0, 0))
        self.grid = self.dark.grid

    def forward(self, x):
        bright = x.mean(dim=(1, 2, 3), keepdim=True) > 5
        return torch.where(bright, self.bright(x), self.dark(x))


def displaced_network(backbone):
    """Every prototype answers where a value of 1 is seen; its box lies evenly round the cell."""
    network = ProtoPNet(
        2, 1, 2, image_size=(64, 64), prototypes_per_class=1, stage=3, similarity="log"
    )
    network.backbone = backbone
    network.prototype_layer.vectors = torch.nn.Parameter(torch.tensor([[1.1, 0.6]] * 2))
    return network.eval()


def spots(*taps, cells):
    """Images that are 0 but for the pixels that one cell sees through ``taps``."""
    images = torch.zeros(len(cells), 1, 64, 64)
    for image, (row, column) in zip(images, cells, strict=True):
        for tap in taps:
            image[0, 8 * row + tap[0], 8 * column + tap[1]] = 1
    return images


def both_ways(images, turned=None):
    """Images that show a spot as they are, and one turned round: the other is seen by no cell."""
    return torch.maximum(images, (images if turned is None else turned).flip((2, 3)))


CELLS = [(r, c) for r in (2, 3, 4, 5) for c in (2, 3, 5)]


@pytest.mark.parametrize("tap", [(4, 4), (0, 7), (6, 1)])
def test_equals_the_place_of_the_only_weight(tap):
    network = displaced_network(Displaced(tap))
    shift = measure_center_shift(network, both_ways(spots(tap, cells=CELLS)).split(5))
    # The kernel's middle is tap 4, the theoretical centre; a box has whole pixels.
    assert shift == pytest.approx((tap[0] - 4, tap[1] - 4), abs=0.51)


def test_a_few_cells_that_look_elsewhere_do_not_count():
    """Two of twelve images are so bright that other filters answer; a mean would follow them."""
    network = displaced_network(Switched())
    images = both_ways(spots((4, 7), cells=CELLS))
    images[:2] += 10
    assert measure_center_shift(network, [images]) == pytest.approx((0.0, 3.0), abs=0.51)


def test_what_lies_on_one_side_of_every_finding_does_not_count():
    """A symmetric filter of three taps, the middle one lit and always the one above it."""
    network = displaced_network(Displaced((4, 4)))
    weight = network.backbone.conv.weight.data
    for row in (1, 7):
        weight[:, 0, row, 4] = weight[:, 0, 4, 4]
    network.prototype_layer.vectors = torch.nn.Parameter(torch.tensor([[2.1, 1.1]] * 2))
    above, below = spots((4, 4), (1, 4), cells=CELLS), spots((4, 4), (7, 4), cells=CELLS)
    # Of one way round alone: 1.5 rows up, the middle of the two pixels.
    assert measure_center_shift(network, [both_ways(above, above)])[0] == pytest.approx(-1.5, abs=1)
    assert measure_center_shift(network, [both_ways(above, below)]) == pytest.approx(
        (0.0, 0.0), abs=0.51
    )


def test_no_image_is_refused():
    network = ProtoPNet(2, 1, 2, image_size=(64, 64), prototypes_per_class=1, stage=3)
    with pytest.raises(ValueError, match="batches must hold an image, got none"):
        measure_center_shift(network.eval(), [])


def test_shift_moves_the_grid_and_is_part_of_the_model():
    network = ProtoPNet(2, 1, 2, image_size=(64, 64), prototypes_per_class=1, stage=5)
    assert network.grid.first_center == (15.5, 15.5)
    network.center_shift.copy_(torch.tensor([-5.0, 2.0]))
    assert network.grid.center((0, 0)) == (10.5, 17.5)
    assert network.state_dict()["center_shift"].tolist() == [-5.0, 2.0]


def test_the_only_thing_in_an_image_is_found():
    """Discs on even ground: whatever cell answers, its similarity rests on the disc."""
    torch.manual_seed(0)
    arguments = {"image_size": (128, 128), "prototypes_per_class": 4, "stage": 5}
    network = ProtoPNet(2, 1, 2, **arguments, weights="package").eval()
    place = torch.arange(128) + 0.5
    truth, images = [], []
    for row, column in 44 + 40 * torch.rand(16, 2):
        disc = (place[:, None] - row) ** 2 + (place[None] - column) ** 2 < 6**2
        images.append(torch.where(disc, 0.9, 0.4)[None])
        with torch.no_grad():
            found = network.evidence(images[-1][None])
        weight = network.last_layer.weight[1].detach()  # class 0 is the reference
        top = int((weight * found.scores[0]).argmax())
        start, stop = network_box(network, found, top, (128, 128))
        drawn = (torch.tensor(start) + torch.tensor(stop)) / 2
        truth.append(torch.stack([row, column]) - drawn)
    shift = measure_center_shift(network, torch.stack(images).split(8))
    expected = torch.stack(truth).quantile(0.5, dim=0)
    torch.testing.assert_close(torch.tensor(shift), expected, rtol=0, atol=4.0)


@pytest.mark.parametrize("similarity", ["log", "focal"])
def test_larger_prototypes_and_an_earlier_shift_change_nothing(similarity):
    """The shift is of the backbone's filters; a patch of cells sits in their middle."""
    arguments = {"image_size": (64, 64), "prototypes_per_class": 1, "stage": 3}
    network = ProtoPNet(2, 1, 2, **arguments, similarity=similarity, prototype_size=3).eval()
    network.backbone = Displaced((6, 1))
    vectors = torch.full((2, 2, 3, 3), 0.1)
    vectors[:, :, 1, 1] = torch.tensor([1.1, 0.6])
    network.prototype_layer.vectors = torch.nn.Parameter(vectors)
    images = both_ways(spots((6, 1), cells=CELLS))
    shift = measure_center_shift(network, [images])
    assert shift == pytest.approx((2.0, -3.0), abs=0.51)  # half a stride is 4
    network.center_shift.copy_(torch.tensor([5.0, -7.0]))
    assert measure_center_shift(network, [images]) == pytest.approx(shift, abs=1e-4)
