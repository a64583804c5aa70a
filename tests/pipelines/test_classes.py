"""What the data settles: classes, input size, stage."""

import pytest

from medproto.errors import CohortError
from pipelines.classes import choose_classes, choose_image_size, choose_stage


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (("blob", "normal"), ("normal", "blob")),
        (("abnormal", "Normal"), ("Normal", "abnormal")),
        (("a", "b", "negative"), ("negative", "a", "b")),
        (("malignant", "benign"), ("benign", "malignant")),
        (("benign", "malignant", "normal"), ("normal", "benign", "malignant")),
        (("b", "a"), ("a", "b")),
    ],
)
def test_the_name_of_absence_comes_first(found, expected):
    assert choose_classes(found) == expected


def test_a_configured_order_is_kept():
    assert choose_classes(("a", "b", "c"), ("c", "a")) == ("c", "a")


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(CohortError, match=r"labels of the cohort \(a, b\), got 'x'"):
        choose_classes(("a", "b"), ("a", "x"))


@pytest.mark.parametrize(
    ("found", "configured"), [(("a",), None), ((), None), (("a", "b"), ("a",))]
)
def test_fewer_than_two_classes_are_refused(found, configured):
    with pytest.raises(CohortError, match="at least two classes, got"):
        choose_classes(found, configured)


def test_the_setting_is_blamed_where_it_names_one_class():
    with pytest.raises(CohortError, match=r"data.classes must name at .* got 1 \(b\).* are a, b"):
        choose_classes(("a", "b"), ("b",))
    with pytest.raises(CohortError, match=r"got 1 \(a\). Check the column `label`"):
        choose_classes(("a",))


def test_a_class_named_twice_counts_once():
    with pytest.raises(CohortError, match="at least two classes, got 1"):
        choose_classes(("a", "b"), ("a", "a"))


@pytest.mark.parametrize(
    ("longest", "size"),
    [(3000, 192), (192, 192), (191, 192), (64, 64), (28, 28), (29, 32), (5, 16)],
)
def test_input_size_is_192_or_the_next_multiple_of_four(longest, size):
    assert choose_image_size(longest) == size


# 192 / 16 = 12 cells; 112 / 16 = 7; 111 // 16 = 6 but 111 // 8 = 13; 56 / 8 = 7; 55 // 8 = 6.
@pytest.mark.parametrize(
    ("size", "stage"), [(192, 5), (112, 5), (111, 3), (56, 3), (55, 2), (28, 2), (16, 2)]
)
def test_the_stage_leaves_seven_cells_or_is_the_shallowest(size, stage):
    assert choose_stage(size) == stage
