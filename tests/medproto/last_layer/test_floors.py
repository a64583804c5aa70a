import numpy as np
import pytest

from medproto.last_layer import score_floors


def test_pencil():
    """Of class 0 the images 2 to 4 lack it, of class 1 the images 0 and 1; half of them below."""
    scores = [[9, 1], [9, 3], [1, 9], [2, 9], [6, 9]]
    floors = score_floors(scores, [0, 0, 1, 1, 1], [0, 1], quantile=0.5)
    assert floors.tolist() == [2.0, 2.0]  # the median of 1, 2, 6; between 1 and 3


def test_findings_that_are_unknown_are_neither():
    labels = [[1, 0], [0, np.nan], [np.nan, 0], [0, 0]]
    scores = [[9, 1], [2, 8], [7, 3], [4, 5]]
    floors = score_floors(scores, labels, [0, 1], quantile=0.0)
    assert floors.tolist() == [2.0, 1.0]


def test_no_floor_where_nothing_is_known_to_lack_the_class():
    floors = score_floors([[9.0], [8.0]], [[1.0], [np.nan]], [0], quantile=0.1)
    assert floors.tolist() == [-np.inf]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantile": 1.5}, "quantile must be 0 to 1, got 1.5"),
        ({"labels": [0, 1, 1]}, r"labels must have shape \[2\], got \[3\]"),
        ({"prototype_class": [0, 2]}, r"prototype_class must lie in 0\.\.1, got 0 to 2"),
        ({"scores": [[1.0, np.nan]] * 2}, "scores must be finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_named(change, message):
    given = {
        "scores": [[1.0, 2.0], [3.0, 4.0]],
        "labels": [0, 1],
        "prototype_class": [0, 1],
        "quantile": 0.1,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        score_floors(
            given["scores"],
            given["labels"],
            given["prototype_class"],
            quantile=given["quantile"],
        )
