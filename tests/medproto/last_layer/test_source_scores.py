import numpy as np
import pytest

from medproto.last_layer import replace_source_scores


def test_pencil():
    scores = np.array([[9.2, 1.0], [2.0, 2.0], [4.0, 9.2], [5.0, 3.0]])
    # Prototype 0 (class 0, rows 0 1 2) from row 0: (2 + 4) / 2. Prototype 1 (class 1) from row 3,
    # whose class has one other image, row 4.
    scores = np.vstack([scores, [[6.0, 7.0]]])
    before = scores.copy()
    replaced = replace_source_scores(scores, [0, 0, 0, 1, 1], [0, 1], [0, 3])
    expected = before.copy()
    expected[0, 0], expected[3, 1] = 3.0, 7.0
    np.testing.assert_array_equal(replaced, expected)
    np.testing.assert_array_equal(scores, before)


def test_equals_a_loop():
    random = np.random.default_rng(0)
    scores = random.random((30, 8))
    labels = np.arange(30) % 3
    owners = np.arange(8) % 3
    rows = owners + 3 * random.integers(0, 10, 8)  # two prototypes may share a source
    expected = scores.copy()
    for p, row in enumerate(rows):
        expected[row, p] = np.mean(
            [scores[i, p] for i in range(30) if labels[i] == owners[p] and i != row]
        )
    np.testing.assert_allclose(
        replace_source_scores(scores, labels, owners, rows), expected, rtol=1e-14
    )


def test_pencil_findings():
    # Prototype 0 (finding 0) from row 0; the others known to show it are rows 1 and 4, not row 2
    # (unknown) nor row 3: (2 + 6) / 2. Prototype 1 (finding 1) from row 4, other: row 3.
    nan = np.nan
    labels = [[1, 0], [1, nan], [nan, 0], [0, 1], [1, 1]]
    scores = np.array([[9.0, 1.0], [2.0, 2.0], [4.0, 3.0], [5.0, 4.0], [6.0, 9.0]])
    expected = scores.copy()
    expected[0, 0], expected[4, 1] = 4.0, 4.0
    np.testing.assert_array_equal(replace_source_scores(scores, labels, [0, 1], [0, 4]), expected)


def test_one_hot_findings_equal_classes():
    random = np.random.default_rng(1)
    scores, labels = random.random((12, 4)), np.arange(12) % 3
    rest = ([0, 1, 2, 1], [3, 4, 5, 1])
    np.testing.assert_array_equal(
        replace_source_scores(scores, np.eye(3)[labels], *rest),
        replace_source_scores(scores, labels, *rest),
    )


FINDINGS = np.array([[1, 0], [0, 1], [1, 1], [np.nan, 1]])


@pytest.mark.parametrize(
    ("labels", "rows", "message"),
    [
        (FINDINGS, [3, 1], r"another class for prototypes \[0\]"),
        (FINDINGS[[0, 1, 1, 3]], [0, 1], r"two images or more, got one for \[0\]"),
        (FINDINGS[:3], [0, 1], r"shape \[4, 2\], got \[3, 2\]"),
        (FINDINGS * 2, [0, 1], "0, 1 or NaN .* got 2"),
    ],
)
def test_wrong_findings_are_named(labels, rows, message):
    with pytest.raises(ValueError, match=message):
        replace_source_scores(np.ones((4, 2)), labels, [0, 1], rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(source_rows=[1, 2]), r"own class, got another class for prototypes \[0\]"),
        (dict(labels=[0, 1, 1, 1], source_rows=[0, 2]), r"two images or more, got one for \[0\]"),
        (dict(source_rows=[0, 4]), r"source_rows must lie in 0\.\.3, got 0 to 4"),
        (dict(source_rows=[0]), r"source_rows must have shape \[2\], got \[1\]"),
        (dict(scores=[1.0]), r"\[images, prototypes\], got \[1\]"),
        (dict(labels=[0, 1]), r"labels must have shape \[4\], got \[2\]"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = dict(
        scores=np.ones((4, 2)), labels=[0, 1, 1, 0], prototype_class=[0, 1], source_rows=[0, 2]
    )
    with pytest.raises(ValueError, match=message):
        replace_source_scores(**(arguments | change))
