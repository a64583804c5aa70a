import pytest
from hypothesis import given
from hypothesis import strategies as st

from medproto.records import CellGrid, PixelBox, Placement, Prediction

sizes = st.integers(1, 3000)


def test_box_by_hand():
    box = PixelBox.from_list([10, 20, 14, 30])
    assert (box.start, box.stop) == ((10, 20), (14, 30))
    assert box.to_list() == [10, 20, 14, 30]
    assert box.center == (12.0, 25.0)
    assert box.size == 40
    assert box.to_mm((0.5, 0.25)) == (5.0, 5.0, 7.0, 7.5)


def test_box_of_a_volume():
    box = PixelBox.from_list([0, 1, 2, 3, 4, 5])
    assert box.size == 27
    assert box.to_mm((1.0, 1.0, 2.0)) == (0.0, 1.0, 4.0, 3.0, 4.0, 10.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [([1, 2, 3], "even number"), ([0, 0, 0, 4], "0 <= start < stop"), ([-1, 0, 3, 4], "0 <= s")],
)
def test_bad_boxes(values, message):
    with pytest.raises(ValueError, match=message):
        PixelBox.from_list(values)


def test_box_axes_must_agree():
    with pytest.raises(ValueError, match="same axes"):
        PixelBox((0,), (1, 2))
    with pytest.raises(ValueError, match=r"must have 2 values, got \[1.0\]"):
        PixelBox((0, 0), (1, 2)).to_mm([1.0])


@given(st.tuples(sizes, sizes), st.data())
def test_placement_round_trip(shape, data):
    scale = 192 / max(shape)
    offset = tuple((192 - n * scale) / 2 for n in shape)
    placement = Placement(shape, (192, 192), (scale, scale), offset)
    point = tuple(data.draw(st.floats(0, n)) for n in shape)
    back = placement.to_stored(placement.to_network(point))
    assert back == pytest.approx(point, abs=1e-6 * max(shape))


@given(st.tuples(st.integers(8, 3000), st.integers(8, 3000)), st.data())
def test_box_round_trip_within_a_pixel(shape, data):
    scale = 192 / max(shape)
    offset = tuple((192 - n * scale) / 2 for n in shape)
    placement = Placement(shape, (192, 192), (scale, scale), offset)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape))
    box = placement.box_to_stored(placement.to_network(start), placement.to_network(stop))
    assert box == PixelBox(start, stop)


def test_a_box_in_the_padding_collapses_onto_the_border():
    placement = Placement((100, 50), (100, 100), (1.0, 1.0), (0.0, 25.0))
    assert placement.box_to_stored((0.0, 0.0), (10.0, 20.0)) == PixelBox((0, 0), (10, 1))
    assert placement.box_to_stored((0.0, 90.0), (10.0, 99.0)) == PixelBox((0, 49), (10, 50))


def test_cell_centre_by_hand():
    grid = CellGrid((14, 14), (15.5, 7.5), (16.0, 16.0), (339.0, 339.0))
    assert grid.center((0, 2)) == (15.5, 39.5)


def prediction(head, logits):
    classes = ("a", "b", "c")[: len(logits) + (head == "ordinal")]
    return Prediction(None, classes, logits, (), "sha256:0", head=head)


@pytest.mark.parametrize(
    ("head", "logits", "label", "shown"),
    [
        ("multiclass", (0.0, 2.0, 1.0), "b", (1,)),
        ("binary", (0.0, -1.0), "a", (1,)),
        ("multilabel", (1.0, -1.0, 2.0), "a, c", (0, 2)),
        ("multilabel", (-1.0, -0.5, -2.0), "none of the findings", (1,)),
        ("ordinal", (-1.0, -2.0), "a", (0,)),
        ("ordinal", (1.0, -2.0), "b", (0,)),
        ("ordinal", (2.0, 1.0), "c", (1,)),
    ],
)
def test_what_a_head_shows(head, logits, label, shown):
    found = prediction(head, logits)
    assert (found.label, found.shown_logits) == (label, shown)
    assert len(found.logit_names) == len(logits)


def test_thresholds_are_named_by_the_grade_below():
    assert prediction("ordinal", (1.0, 0.0)).logit_names == ("above a", "above b")
