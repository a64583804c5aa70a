import pytest
import torch

from medproto.explain import measure_shifts, network_box
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


class TwoTaps(torch.nn.Module):
    """Each of the two channels looks through a tap of its own."""

    out_channels = 2

    def __init__(self, taps):
        super().__init__()
        first, second = map(Displaced, taps)
        first.conv.weight.data[1] = second.conv.weight.data[0]
        self.both, self.grid = first, first.grid

    def forward(self, x):
        return self.both(x)


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
    shift = measure_shifts(network, both_ways(spots(tap, cells=CELLS)).split(5)).cells.tolist()
    # The kernel's middle is tap 4, the theoretical centre; a box has whole pixels.
    assert shift == pytest.approx((tap[0] - 4, tap[1] - 4), abs=0.51)


def test_a_few_cells_that_look_elsewhere_do_not_count():
    """Two of twelve images are so bright that other filters answer; a mean would follow them."""
    network = displaced_network(Switched())
    images = both_ways(spots((4, 7), cells=CELLS))
    images[:2] += 10
    assert measure_shifts(network, [images]).cells.tolist() == pytest.approx((0.0, 3.0), abs=0.51)


def test_what_lies_on_one_side_of_every_finding_does_not_count():
    """A symmetric filter of three taps, the middle one lit and always the one above it."""
    network = displaced_network(Displaced((4, 4)))
    weight = network.backbone.conv.weight.data
    for row in (1, 7):
        weight[:, 0, row, 4] = weight[:, 0, 4, 4]
    network.prototype_layer.vectors = torch.nn.Parameter(torch.tensor([[2.1, 1.1]] * 2))
    above, below = spots((4, 4), (1, 4), cells=CELLS), spots((4, 4), (7, 4), cells=CELLS)
    # Of one way round alone: 1.5 rows up, the middle of the two pixels.
    assert measure_shifts(network, [both_ways(above, above)]).cells[0] == pytest.approx(-1.5, abs=1)
    assert measure_shifts(network, [both_ways(above, below)]).cells.tolist() == pytest.approx(
        (0.0, 0.0), abs=0.51
    )


TAPS = (4, 7), (1, 2)


def two_prototypes():
    """Class 1 has a prototype for each tap, class 0 one that nothing looks like."""
    arguments = {"image_size": (64, 64), "prototypes_per_class": (1, 2), "stage": 3}
    network = ProtoPNet(2, 1, 2, **arguments, similarity="log")
    network.backbone = TwoTaps(TAPS)
    vectors = torch.tensor([[5.0, 5.0], [1.1, 0.1], [0.1, 1.1]])
    network.prototype_layer.vectors = torch.nn.Parameter(vectors)
    return network.eval()


def test_each_prototype_has_the_displacement_of_the_images_it_leads_in():
    network = two_prototypes()
    first = both_ways(spots(TAPS[0], cells=CELLS[:7]))
    second = both_ways(spots(TAPS[1], cells=CELLS[7:]))
    shifts = measure_shifts(network, torch.cat([first, second]).split(5))
    drawn = (shifts.cells + shifts.prototypes).tolist()
    assert drawn[1] == pytest.approx((0.0, 3.0), abs=0.51)  # the kernel's middle is tap 4
    assert drawn[2] == pytest.approx((-3.0, -2.0), abs=0.51)
    # Seven images of twelve show the first: the median of all is its.
    assert drawn[0] == pytest.approx((0.0, 3.0), abs=0.51)
    assert shifts.cells.tolist() == pytest.approx((0.0, 3.0), abs=0.51)


def test_a_prototype_that_leads_twice_has_the_displacement_of_all():
    network = two_prototypes()
    often, twice = spots(TAPS[0], cells=CELLS[:10]), spots(TAPS[1], cells=CELLS[10:])
    shifts = measure_shifts(network, [both_ways(often), both_ways(twice)])
    torch.testing.assert_close(shifts.prototypes, shifts.prototypes[:1].repeat(3, 1))


def weights_at(*values):
    """Stand for the attribution: values in the columns of the cell's row, from its middle on."""

    def place(_forward, images, _prototypes, cells, **_):
        out = torch.zeros(len(images), *images.shape[2:])
        for one, (row, column) in zip(out, cells.tolist(), strict=True):
            for step, value in enumerate(values):
                one[8 * row + 4, 8 * column + 4 + step] = value
        return out

    return place


def test_faint_attributions_far_off_draw_a_prototype_by_less(monkeypatch):
    """1 and a half, six columns apart: 6 x 1/4 / (5/4) = 1.2 and 6 x 1/16 / (17/16) = 0.353."""
    attribute = "medproto.explain.effective_center.attribute_place"
    monkeypatch.setattr(attribute, weights_at(1.0, 0, 0, 0, 0, 0, -0.5))
    network = displaced_network(Displaced((4, 4)))
    shifts = measure_shifts(network, [both_ways(spots((4, 4), cells=CELLS))])
    assert shifts.cells.tolist() == pytest.approx((0.0, 1.2), abs=0.51)
    expected = torch.tensor([[0.0, 6 / 17 - 1.2]]).repeat(2, 1)
    torch.testing.assert_close(shifts.prototypes, expected)


def test_evidence_that_rests_on_nothing_moves_nothing(monkeypatch):
    attribute = "medproto.explain.effective_center.attribute_place"
    monkeypatch.setattr(attribute, weights_at(0.0))
    network = displaced_network(Displaced((4, 4)))
    shifts = measure_shifts(network, [both_ways(spots((4, 4), cells=CELLS))])
    assert shifts.cells.tolist() == [0, 0]
    assert not shifts.prototypes.any()


def test_no_image_is_refused():
    network = ProtoPNet(2, 1, 2, image_size=(64, 64), prototypes_per_class=1, stage=3)
    with pytest.raises(ValueError, match="batches must hold an image, got none"):
        measure_shifts(network.eval(), [])


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
    shift = measure_shifts(network, torch.stack(images).split(8)).cells.tolist()
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
    shift = measure_shifts(network, [images]).cells.tolist()
    assert shift == pytest.approx((2.0, -3.0), abs=0.51)  # half a stride is 4
    network.center_shift.copy_(torch.tensor([5.0, -7.0]))
    assert measure_shifts(network, [images]).cells.tolist() == pytest.approx(shift, abs=1e-4)
