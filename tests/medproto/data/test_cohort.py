from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medproto.data import Cohort, ImageFrame, read_image
from medproto.errors import CohortError


def table(**columns):
    return pd.DataFrame({"image": ["a.png", "b.png"], "label": ["x", "y"]} | columns)


def test_cells_are_text_and_fold_and_row_whole_numbers(tmp_path):
    cohort = Cohort(
        table(age=[45, None], fold=[1.0, 0.0], row=["3", "7"], site=[np.nan, " B "]), tmp_path
    )
    assert cohort.table["age"].tolist() == ["45.0", ""]
    assert cohort.table["site"].tolist() == ["", "B"]
    assert cohort.table["fold"].tolist() == [1, 0]
    assert cohort.table["row"].tolist() == [3, 7]
    assert cohort.table.index.tolist() == [0, 1]


def test_leading_zeros_and_the_label_na_survive(tmp_path):
    (tmp_path / "c.csv").write_text("image,label,patient_id\na,NA,007\nb,None,08\n")
    cohort = Cohort.read(tmp_path / "c.csv")
    assert cohort.classes == ("NA", "None")
    assert cohort.table["patient_id"].tolist() == ["007", "08"]
    assert cohort.group_column == "patient_id"
    assert cohort.groups() == ["007", "08"]


@pytest.mark.parametrize("name", ["c.csv", "c.parquet"])
def test_saving_elsewhere_keeps_pointing_at_the_same_files(tmp_path, name):
    absolute = str(tmp_path / "far" / "b.png")
    cohort = Cohort(
        table(image=["in/a.png", absolute], mask=["m/a.png", ""], box=["1,2,3,4", ""]), tmp_path
    )
    cohort.save(tmp_path / "tables" / name)
    again = Cohort.read(tmp_path / "tables" / name)
    assert again.table["image"].tolist() == ["../in/a.png", absolute]
    assert again.image_path(0).resolve() == cohort.image_path(0).resolve()
    assert again.mask_path(0).resolve() == cohort.mask_path(0).resolve()
    assert again.mask_path(1) is None
    assert [p.name for p in (tmp_path / "tables").iterdir()] == [name]


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(cells=st.lists(CELLS, min_size=2, max_size=2), name=st.sampled_from(["site", "age, years"]))
def test_a_saved_table_reads_back_equal_with_the_same_digest(tmp_path_factory, cells, name):
    folder = tmp_path_factory.mktemp("cohort")
    cohort = Cohort(table(**{name: cells, "fold": [0, 1]}), folder)
    cohort.save(folder / "c.csv")
    again = Cohort.read(folder / "c.csv")
    pd.testing.assert_frame_equal(again.table, cohort.table)
    assert again.digest == cohort.digest


def test_digest_changes_with_one_cell(tmp_path):
    one = Cohort(table(site=["A", "B"]), tmp_path)
    other = Cohort(table(site=["A", "C"]), tmp_path)
    assert one.digest != other.digest
    assert one.digest.startswith("sha256:")


def test_select_keeps_the_row_numbers(tmp_path):
    cohort = Cohort(pd.DataFrame({"image": list("abcd"), "label": ["x", "y", "z", "x"]}), tmp_path)
    some = cohort.select(["z", "x"])
    assert some.table["image"].tolist() == ["a", "c", "d"]
    assert some.table["row"].tolist() == [0, 2, 3]
    assert some.select(["x"]).table["row"].tolist() == [0, 3]
    assert some.classes == ("x", "z")
    for wrong in (["q"], []):
        with pytest.raises(CohortError, match=r"classes must be some of \['x', 'y', 'z'\]"):
            cohort.select(wrong)


def test_select_leaves_no_row_out_for_want_of_a_label(tmp_path):
    table = pd.DataFrame({"image": list("abcd"), "label": ["x", "", "y", ""], "row": [4, 5, 6, 7]})
    with pytest.raises(CohortError, match="2 of 4 have none, the first is row 5"):
        Cohort(table, tmp_path).select(["x"])


def test_groups_fall_back_to_the_pixels(tmp_path, write_png, noise):
    for name, number in {"a": 0, "b": 0, "c": 1, "d": 1}.items():
        write_png(tmp_path / f"{name}.png", noise(number))
    images = [f"{name}.png" for name in "abcd"]
    cohort = Cohort(pd.DataFrame({"image": images, "label": list("xyxy")}), tmp_path)
    zero, one = (read_image(tmp_path / f"{n}.png").reference.pixel_digest for n in "ac")
    assert cohort.groups() == [zero, zero, one, one]
    with_column = cohort.table.assign(patient_id=["p", "", "", "q"])
    assert Cohort(with_column, tmp_path).groups() == ["p", zero, one, "q"]
    known = cohort.table.assign(pixel_digest=["k", "k", "l", "m"])
    assert Cohort(known, tmp_path / "gone").groups() == ["k", "k", "l", "m"]


def test_groups_name_the_row_that_cannot_be_read(tmp_path):
    with pytest.raises(CohortError, match=r"row 0: the file does not exist.*cohort check"):
        Cohort(table(), tmp_path).groups()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header and at least one row"),
        (b"image,label\n", "header and at least one row"),
        (b"image,label\na,x\0\n", "got NUL bytes"),
        ("image,label\na,ärztlich\n".encode("latin-1"), r"got byte 0xe4 at position 14"),
        ("image,label\na,x\n".encode("utf-16"), "UTF-8 text"),
        (b"image,label,label\na,x,y\n", r"occur once, got \['label'\]"),
        (b"image,label\na,x,z\n", "row 0 must have 2 values like the header, got 3"),
        (b"image,label\na,x\nb\n", "row 1 must have 2 values"),
        (b"image;label\na;x\n", "separated by commas"),
        (b'image,label\na,"x\n', "no valid CSV"),
        (b"image,class\na,x\n", r"\['label'\] missing in \['image', 'class'\]"),
        (b"image,label,fold\na,x,1.5\n", "'fold' must hold whole numbers"),
        (b"image,label,fold\na,x,\n", "'fold' must hold whole numbers"),
        (b"image,label,fold\na,x,inf\n", "'fold' must hold whole numbers"),
        (
            b"image,label,frame\na,x,-1\n",
            "row 0: column 'frame' must hold a whole number",
        ),
        (b"image,label,frame\na,x,3\nb,x,\nc,x,two\n", "row 2: .* or nothing, got 'two'"),
        (b"PAR1 and nothing else", "Parquet table is damaged"),
    ],
)
def test_bad_tables_are_one_clear_line(tmp_path, content, reason):
    (tmp_path / "secret-name.csv").write_bytes(content)
    with pytest.raises(CohortError, match=reason) as caught:
        Cohort.read(tmp_path / "secret-name.csv")
    assert "\n" not in str(caught.value)
    assert "secret-name" not in str(caught.value)


def test_missing_file_and_column(tmp_path):
    with pytest.raises(CohortError, match="does not exist or cannot be opened"):
        Cohort.read(tmp_path / "c.csv")
    with pytest.raises(CohortError, match="grouping column 'site' must be in the table"):
        Cohort(table(), tmp_path, "site")
    with pytest.raises(CohortError, match="at least one row"):
        Cohort(table().iloc[:0], tmp_path)


def test_a_byte_order_mark_and_blank_lines_do_not_matter(tmp_path):
    (tmp_path / "c.csv").write_bytes("\ufeffimage,label\r\na,x\r\n\r\nb,y\r\n".encode())
    assert Cohort.read(tmp_path / "c.csv").table["label"].tolist() == ["x", "y"]


def test_the_digest_of_the_content_knows_no_paths(tmp_path):
    table = pd.DataFrame({"image": ["a.png", "b.png"], "label": ["x", "y"], "mask": ["", "m.png"]})
    cohort = Cohort(table, tmp_path)
    elsewhere = Cohort(table.assign(image=["c/a.png", "c/b.png"], mask=["", "c/m.png"]), tmp_path)
    assert cohort.digest != elsewhere.digest
    assert cohort.content_digest == elsewhere.content_digest
    assert Cohort(table.drop(columns="mask"), tmp_path).content_digest == cohort.content_digest
    assert Cohort(table.assign(label=["y", "x"]), tmp_path).content_digest != cohort.content_digest


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "image,label\na,x\x1b[2J\n",
            r"row 0: column 'label' must hold printable text in one line",
        ),
        ('image,label\na,x\n"b\nc",x\n', r"row 1: column 'image' must hold printable"),
        ("image,label,site\na,x,\x9b\n", r"column 'site' must hold printable"),
        ("image,la\x07bel,label\na,x,y\n", r"column names must be printable.*la\\x07bel"),
    ],
)
def test_what_could_steer_a_terminal_is_refused(tmp_path, content, reason):
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(CohortError, match=reason) as caught:
        Cohort.read(tmp_path / "c.csv", group="site" if "site" in content else None)
    assert str(caught.value).isprintable()


def test_other_columns_may_hold_any_text(tmp_path):
    (tmp_path / "c.csv").write_text('image,label,remark\na,x,"two\nlines"\n')
    assert Cohort.read(tmp_path / "c.csv").table["remark"].tolist() == ["two\nlines"]


def test_the_command_that_checks_names_the_findings(tmp_path):
    cohort = Cohort(
        pd.DataFrame({"image": ["a"], "b": ["1"], "c": ["0"]}), tmp_path, None, ("b", "c")
    )
    assert cohort.check_command == "medproto cohort check TABLE --label-columns b,c"
    assert Cohort(table(), tmp_path).check_command == "medproto cohort check TABLE"
    cells = {"image": ["a"], "label": ["x"], "patient_id": ["P"], "near site": ["K"]}
    cohort = Cohort(pd.DataFrame(cells), tmp_path)
    assert cohort.check_command == "medproto cohort check TABLE"
    grouped = replace(cohort, group_column="near site")
    assert grouped.check_command == "medproto cohort check TABLE --group 'near site'"


def test_a_table_of_new_patients_needs_no_label(tmp_path):
    (tmp_path / "c.csv").write_text("image,b\na.png,1\n")
    with pytest.raises(CohortError, match=r"\['label'\] missing"):
        Cohort.read(tmp_path / "c.csv")
    cohort = Cohort.read(tmp_path / "c.csv", unlabeled=True)
    assert cohort.table.to_dict("list") == {"image": ["a.png"], "b": ["1"], "label": [""]}
    assert cohort.classes == ()
    cohort = Cohort.read(tmp_path / "c.csv", label_columns=["b", "c"], unlabeled=True)
    assert cohort.table.to_dict("list") == {"image": ["a.png"], "b": ["1"], "c": [""]}
    (tmp_path / "d.csv").write_text("image,label\na.png,x\n")
    known = Cohort.read(tmp_path / "d.csv", unlabeled=True)
    assert known.digest == Cohort.read(tmp_path / "d.csv").digest
    (tmp_path / "e.csv").write_text("path\na.png\n")
    with pytest.raises(CohortError, match=r"\['image'\] missing"):
        Cohort.read(tmp_path / "e.csv", unlabeled=True)


def test_a_frame_of_a_file_is_named_in_the_table(tmp_path):
    (tmp_path / "c.csv").write_text("image,label,frame\na.dcm,x,3\nb.dcm,x,\nc.dcm,y,0.0\n")
    cohort = Cohort.read(tmp_path / "c.csv")
    assert cohort.image_source(0) == ImageFrame(tmp_path / "a.dcm", 3)
    assert cohort.image_source(1) == tmp_path / "b.dcm"
    assert cohort.image_source(2) == ImageFrame(tmp_path / "c.dcm", 0)
    cohort.save(tmp_path / "again.csv")
    assert Cohort.read(tmp_path / "again.csv").digest == cohort.digest
