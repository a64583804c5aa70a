"""Cohorts of several findings an image: reading, checking, splitting and building them."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medproto.data import Cohort, check_cohort, from_dicom, from_folder, split_cohort
from medproto.errors import CohortError

# The rows of a good cohort: both findings with and without, in every split.
A = ["1", "0", "1", "0", "1", "0", "1", "0"]
B = ["1", "1", "0", "0", "0", "1", "1", "0"]
SPLIT = ["train"] * 4 + ["val"] * 2 + ["test"] * 2


def table(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"image": [f"{row}.png" for row in range(count)]} | columns)


def reasons(report):
    return [(problem.row, problem.stage, problem.reason) for problem in report.problems]


@pytest.fixture
def findings_folder(tmp_path, write_png, write_csv, noise):
    """Write an image for each row of the columns; return the path of the table."""

    def make(**columns):
        rows = []
        for number, cells in enumerate(zip(*columns.values(), strict=True)):
            write_png(tmp_path / f"images/{number}.png", noise(number))
            rows.append({"image": f"images/{number}.png", **dict(zip(columns, cells, strict=True))})
        return write_csv(tmp_path / "cohort.csv", rows)

    return make


# ---- the table


def test_targets_are_one_zero_and_nan_in_the_given_order(tmp_path):
    cells = {"a": ["1", "0", "-1", ""], "b": ["0.0", "1.0", "-1.0", " 1 "], "site": list("pqrs")}
    cohort = Cohort(table(**cells), tmp_path, label_columns=("b", "a"))
    assert cohort.classes == ("b", "a")
    nan = np.nan
    expected = [[0, 1], [1, 0], [nan, nan], [1, nan]]
    np.testing.assert_array_equal(cohort.targets(), expected)
    assert cohort.targets().dtype == np.float64


def test_numbers_of_a_table_in_memory_are_cells_too(tmp_path):
    cohort = Cohort(table(a=[1, 0, np.nan], b=[1.0, -1.0, None]), tmp_path, None, ("a", "b"))
    np.testing.assert_array_equal(cohort.targets(), [[1, 1], [0, np.nan], [np.nan, np.nan]])


def test_select_takes_findings_and_keeps_all_rows(tmp_path):
    cohort = Cohort(table(a=["1", "0"], b=["0", "1"], c=["", "1"]), tmp_path, None, ("a", "b", "c"))
    some = cohort.select(["c", "a"])
    assert some.label_columns == some.classes == ("c", "a")
    assert some.table["image"].tolist() == ["0.png", "1.png"]
    assert some.table["row"].tolist() == [0, 1]
    np.testing.assert_array_equal(some.targets(), [[np.nan, 1], [1, 0]])
    for wrong in (["label"], []):
        with pytest.raises(CohortError, match=r"classes must be some of \['a', 'b', 'c'\]"):
            cohort.select(wrong)


def test_a_label_beside_findings_is_kept_and_has_no_part(tmp_path):
    cells = table(label=["x", ""], a=["1", "0"])
    cohort = Cohort(cells, tmp_path, label_columns=("a",))
    assert cohort.classes == ("a",)
    assert cohort.table["label"].tolist() == ["x", ""]
    # What the columns are taken for does not change the table.
    assert cohort.digest == Cohort(cells, tmp_path).digest


CELLS = st.sampled_from(["1", "0", "-1", "", "1.0", "0.0", "-1.0"])
VALUES = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0}
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(
    names=st.lists(NAMES, min_size=1, max_size=3, unique=True),
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5),
    suffix=st.sampled_from([".csv", ".parquet"]),
)
def test_findings_read_back_as_they_were_saved(tmp_path_factory, names, rows, suffix):
    folder = tmp_path_factory.mktemp("cohort")
    # A prefix, so that no name is one that the table already has.
    names = [f"has {name}" for name in names]
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    cohort = Cohort(table(**columns), folder, label_columns=names)
    cohort.save(folder / f"c{suffix}")
    again = Cohort.read(folder / f"c{suffix}", label_columns=names)
    pd.testing.assert_frame_equal(again.table, cohort.table)
    assert again.label_columns == tuple(names)
    assert again.digest == cohort.digest
    expected = [[VALUES.get(row[k], np.nan) for k in range(len(names))] for row in rows]
    np.testing.assert_array_equal(again.targets(), expected)


@pytest.mark.parametrize(
    ("columns", "findings", "reason"),
    [
        ({"a": ["1"]}, (), r"\['label'\] missing in .* name these instead: --label-columns a,b"),
        ({"a": ["1"]}, ("a", "b"), r"label columns \['a', 'b'\]; \['b'\] missing in"),
        ({"label": ["x"]}, ("b",), r"\['b'\] missing in \['image', 'label'\]"),
        ({"a": ["1"]}, ("a", "a"), r"each named once, got \['a'\]"),
        ({"fold": ["1"]}, ("fold",), r"must be findings, .* got \['fold'\]"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, findings, reason):
    with pytest.raises(CohortError, match=reason):
        Cohort(table(**columns), tmp_path, label_columns=findings)


def test_targets_name_the_first_bad_row(tmp_path):
    cohort = Cohort(table(a=["1", "0", "2"], b=["1", "yes", "0"]), tmp_path, None, ("a", "b"))
    with pytest.raises(CohortError, match=r"row 1: column 'b' must hold 1, 0, or -1 .* got 'yes'"):
        cohort.targets()
    with pytest.raises(CohortError, match="read the cohort with label_columns"):
        Cohort(table(label=["x"]), tmp_path).targets()


# ---- the check


def test_a_good_cohort_counts_its_findings(findings_folder):
    path = findings_folder(a=[*A, "-1"], b=[*B, ""], split=[*SPLIT, "train"])
    report = check_cohort(Cohort.read(path, label_columns=("a", "b")))
    assert report.ok
    assert report.summary["findings"] == {
        "a": {"present": 4, "absent": 4, "uncertain": 1},
        "b": {"present": 4, "absent": 4, "uncertain": 1},
    }
    assert report.summary["labels"] == {"a": 4, "b": 4}
    assert report.summary["splits"] == {
        "test": {"a": 1, "b": 1},
        "train": {"a": 2, "b": 2},
        "val": {"a": 1, "b": 1},
    }
    with pytest.raises(ValueError, match="classes are the label_columns"):
        check_cohort(Cohort.read(path, label_columns=("a", "b")), classes=["a"])


def test_one_finding_is_enough(findings_folder):
    assert check_cohort(Cohort.read(findings_folder(a=A), label_columns=("a",))).ok


def test_cells_that_are_no_value(findings_folder):
    path = findings_folder(a=["yes", *A[1:]], b=["2", *B[1:]])
    rule = "must hold 1, 0, or -1 (also empty) for uncertain"
    assert reasons(check_cohort(Cohort.read(path, label_columns=("a", "b")))) == [
        (0, "label", f"column 'a' {rule}, got 'yes'."),
        (0, "label", f"column 'b' {rule}, got '2'."),
    ]


def test_a_finding_needs_cases_with_and_without_it(findings_folder):
    path = findings_folder(a=["1"] + ["0"] * 7, b=["1"] * 6 + ["-1", "0"], c=["-1"] * 8)
    found = reasons(check_cohort(Cohort.read(path, label_columns=("a", "b", "c"))))
    assert found == [
        (None, "class", "finding 'a' needs at least 2 present cases, got 1."),
        (None, "class", "finding 'b' needs at least 2 absent cases, got 1."),
        (None, "class", "finding 'c' needs at least 2 present cases, got 0."),
        (None, "class", "finding 'c' needs at least 2 absent cases, got 0."),
    ]


def test_a_finding_needs_both_in_every_split_and_fold(findings_folder):
    b = ["1", "1", "1", "0", "1", "-1", "0", "0"]
    path = findings_folder(a=A, b=b, split=SPLIT)
    assert [r for *_, r in reasons(check_cohort(Cohort.read(path, label_columns=("a", "b"))))] == [
        "finding 'b' needs at least 1 present in split 'test', got 0.",
        "finding 'b' needs at least 2 absent in split 'train', got 1.",
        "finding 'b' needs at least 1 absent in split 'val', got 0.",
    ]
    path = findings_folder(a=A, b=b, fold=[0, 0, 0, 0, 1, 1, 2, 2])
    assert [r for *_, r in reasons(check_cohort(Cohort.read(path, label_columns=("a", "b"))))] == [
        "finding 'b' has no present case in fold 2.",
        "finding 'b' has no absent case in fold 1.",
    ]


def test_names_that_differ_in_case_only(findings_folder):
    path = findings_folder(**{"Edema": A, "edema ": B})
    found = reasons(check_cohort(Cohort.read(path, label_columns=("Edema", "edema"))))
    assert found == [(None, "class", "findings 'Edema' and 'edema' differ in case or spaces only.")]


def test_identical_pixels_contradict_each_other_by_what_is_certain(findings_folder, tmp_path):
    """Rows 0-2 agree as far as they are certain; rows 3-4 do not."""
    path = findings_folder(
        a=["1", "-1", "1", "1", "0", "0", "0"],
        b=["0", "0", "-1", "-1", "-1", "1", "1"],
        patient_id=["p", "p", "p", "q", "q", "r", "s"],
    )
    for copy, source in ((1, 0), (2, 0), (4, 3)):
        image = (tmp_path / f"images/{source}.png").read_bytes()
        (tmp_path / f"images/{copy}.png").write_bytes(image)
    report = check_cohort(Cohort.read(path, label_columns=("a", "b")))
    assert report.ok
    assert report.summary["contradictions"] == [[3, 4]]


def test_empty_masks_are_compared_with_masks_of_the_same_findings(
    findings_folder, tmp_path, write_png
):
    """Only ``a`` is drawn: a row with ``a`` needs a drawing, one with ``b`` alone does not."""
    a = ["1", "1", "1", "0", "0", "-1", "0"]
    b = ["0", "0", "1", "1", "0", "-1", "1"]
    drawn = [1, 0, 0, 0, 0, 0, None]
    masks = ["" if inside is None else f"m/{row}.png" for row, inside in enumerate(drawn)]
    for row, inside in enumerate(drawn):
        if inside is not None:
            write_png(tmp_path / f"m/{row}.png", np.full((12, 10), inside, dtype=np.uint8))
    path = findings_folder(a=a, b=b, mask=masks)
    report = check_cohort(Cohort.read(path, label_columns=("a", "b")))
    reason = (
        "the mask is empty, although others of finding 'a' are not; leave the cell empty if "
        "nothing was drawn."
    )
    assert reasons(report) == [(1, "mask", reason), (2, "mask", reason)]
    assert report.summary["masks"] == 1


# ---- the split


def findings_cohort(patients, seed=0, rare=0.15):
    """Patients of one to three images; ``rare`` and ``common`` are independent, some unsure."""
    rng = np.random.default_rng(seed)
    cells = {"rare": [], "common": [], "patient_id": []}
    for patient in range(patients):
        has = [int(patient < rare * patients), int(rng.random() < 0.5)]
        for _ in range(patient % 3 + 1):
            for name, value in zip(("rare", "common"), has, strict=True):
                cells[name].append("-1" if rng.random() < 0.1 else str(value))
            cells["patient_id"].append(f"p{patient}")
    return Cohort(table(**cells), "nowhere", label_columns=("rare", "common"))


def both_in_every(cohort, column, least):
    for name, values in zip(cohort.classes, cohort.targets().T, strict=True):
        counts = Counter(zip(cohort.table[column], values, strict=True))
        for part, number in least.items():
            assert counts[part, 1.0] >= number, (name, part)
            assert counts[part, 0.0] >= number, (name, part)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), patients=st.integers(40, 90))
def test_every_part_has_both_sides_of_every_finding(seed, patients):
    cohort = split_cohort(findings_cohort(patients, seed), seed=seed)
    assert cohort.label_columns == ("rare", "common")
    assert (cohort.table.groupby("patient_id")["split"].nunique() == 1).all()
    both_in_every(cohort, "split", {"train": 2, "val": 1, "test": 1})


def test_folds_share_the_rare_finding_out():
    cohort = split_cohort(findings_cohort(120), folds=4, seed=3)
    both_in_every(cohort, "fold", dict.fromkeys(range(4), 1))
    assert (cohort.table.groupby("patient_id")["fold"].nunique() == 1).all()
    rare = Counter(cohort.table["fold"][cohort.targets()[:, 0] == 1])
    # 18 patients of 1, 2 or 3 images with it, less the uncertain ones: about 8 a fold.
    assert max(rare.values()) - min(rare.values()) <= 4
    again = split_cohort(findings_cohort(120), folds=4, seed=3)
    assert again.table.equals(cohort.table)


def test_the_stratum_is_the_rarest_finding_present():
    """Three of the twelve have both: by the common one alone they could all fall together."""
    both = ["1"] * 3 + ["0"] * 9
    cells = {"rare": both, "common": ["1"] * 6 + ["0"] * 6, "patient_id": list("abcdefghijkl")}
    cohort = Cohort(table(**cells), "nowhere", label_columns=("common", "rare"))
    for seed in range(5):
        table_ = split_cohort(cohort, folds=3, seed=seed).table
        assert sorted(table_["fold"][:3]) == [0, 1, 2]


def test_rows_without_anything_certain_are_split_too():
    unsure = Cohort(
        table(a=[*A, "-1", ""], b=[*B, "", "-1"], patient_id=list("abcdefghij")),
        "nowhere",
        label_columns=("a", "b"),
    )
    cohort = split_cohort(unsure, folds=2, seed=0)
    assert set(cohort.table["fold"]) == {0, 1}
    assert len(cohort) == 10


@pytest.mark.parametrize(
    ("a", "reason"),
    [
        (["1", "1", *"000000"], "finding 'a', present, must have at least 3 groups .* got 2"),
        (["0", "-1", *"111111"], "finding 'a', absent, must have at least 3 groups .* got 1"),
        (["1", "1", "1", *"00000"], "gives every finding, present and absent, at least"),
        (["1", "maybe", *"000000"], "row 1: column 'a' must hold 1, 0, or -1"),
    ],
)
def test_what_cannot_be_split(a, reason):
    cells = table(a=a, patient_id=list("abcdefgh"))
    with pytest.raises(CohortError, match=reason):
        split_cohort(Cohort(cells, "nowhere", label_columns=("a",)), seed=0)


def test_a_test_part_that_leaves_nothing_to_validate_on():
    cells = table(label=list("xyxyxy"), patient_id=list("abcdef"))
    with pytest.raises(CohortError, match="no split of this size gives every class"):
        split_cohort(Cohort(cells, "nowhere"), seed=0, test_fraction=0.9)


# ---- the builders


def test_a_folder_with_a_table_of_findings(tmp_path, write_png, write_csv, noise):
    rows = [{"image": f"{k}.png", "a": A[k], "b": B[k], "site": "K"} for k in range(8)]
    for k in range(8):
        write_png(tmp_path / f"{k}.png", noise(k))
    labels = write_csv(tmp_path / "l.csv", rows)
    built = from_folder(tmp_path, labels=labels, label_columns=["a", "b"])
    assert built.cohort.label_columns == ("a", "b")
    assert list(built.cohort.table) == ["image", "a", "b", "site"]
    assert check_cohort(built.cohort).ok
    with pytest.raises(CohortError, match=r"\['label'\] missing"):
        from_folder(tmp_path, labels=labels)
    with pytest.raises(CohortError, match="pass labels as well"):
        from_folder(tmp_path, label_columns=["a"])


def test_dicom_files_with_a_table_of_findings(tmp_path, write_dicom, write_csv, noise):
    source = tmp_path / "source"
    for k in range(5):
        write_dicom(source / f"{k}.dcm", noise(k), PatientID=f"P{k}", SOPInstanceUID=f"1.2.{k}")
    rows = [
        {"PatientID": "P0", "a": "1", "b": "-1"},
        {"PatientID": "P1", "a": "0", "b": "1"},
        {"PatientID": "P2", "a": "", "b": ""},
        {"PatientID": "P3", "a": "1", "b": "0"},
    ]
    labels = write_csv(tmp_path / "l.csv", rows)
    built = from_dicom(source, labels=labels, key="k", label_columns=("a", "b"))
    # Image 2 is uncertain in everything and stays; image 4 has no row and does not.
    assert built.cohort.table["image"].tolist() == [f"{k}.dcm" for k in range(4)]
    assert "label" not in built.cohort.table
    nan = np.nan
    np.testing.assert_array_equal(built.cohort.targets(), [[1, nan], [0, 1], [nan, nan], [1, 0]])
    assert "1 images have no label in the table" in "\n".join(built.notes)
    copied = from_dicom(
        source, labels=labels, key="k", label_columns=("a", "b"), copy_to=tmp_path / "copies"
    )
    assert copied.cohort.label_columns == ("a", "b")
    np.testing.assert_array_equal(copied.cohort.targets(), built.cohort.targets())


def test_dicom_labels_that_do_not_fit(tmp_path, write_dicom, write_csv, noise):
    write_dicom(tmp_path / "s/0.dcm", noise(0), PatientID="P0")
    with pytest.raises(CohortError, match="pass labels as well"):
        from_dicom(tmp_path / "s", key="k", label_columns=("a",))
    labels = write_csv(tmp_path / "l.csv", [{"PatientID": "P0", "a": "1"}])
    with pytest.raises(CohortError, match=r"must have 'label' and one of .* label_columns"):
        from_dicom(tmp_path / "s", labels=labels, key="k")
    with pytest.raises(CohortError, match="must have 'a' and 'b' and one of"):
        from_dicom(tmp_path / "s", labels=labels, key="k", label_columns=("a", "b"))
    rows = [{"PatientID": "P0", "a": "1", "b": b} for b in "01"]
    labels = write_csv(tmp_path / "l.csv", rows)
    with pytest.raises(
        CohortError, match=r"rows 0 and 1 of the labels .* have one key, two labels; keep"
    ):
        from_dicom(tmp_path / "s", labels=labels, key="k", label_columns=("a", "b"))
    built = from_dicom(tmp_path / "s", labels=labels, key="k", label_columns=("a",))
    assert built.cohort.targets().tolist() == [[1.0]]
