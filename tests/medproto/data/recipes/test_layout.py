import hashlib

import pytest

from medproto.data.native_table import read_lines, read_native
from medproto.data.recipes.layout import box_text, files_by_name, split_by_test_set
from medproto.errors import CohortError


def test_a_box_goes_outward_to_whole_pixels_and_stays_in_the_image():
    assert (
        box_text(["264.0", "152.0", "213.0", "379.0"], side=1024, where="row 0")
        == "152,264,531,477"
    )
    assert box_text(["10.2", "20.8", "5.1", "5"], side=1024, where="row 0") == "20,10,26,16"
    assert box_text(["-3", "1000", "10", "100"], side=1024, where="row 0") == "1000,0,1024,7"


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        (["a", "0", "1", "1"], "four numbers"),
        (["1", "2", "3"], "four numbers"),
        (["nan", "0", "1", "1"], "four numbers"),
        (["inf", "0", "1", "1"], "four numbers"),
        (["0", "0", "0", "5"], "sides above 0"),
        (["1024", "0", "5", "5"], "row 0 must have .* sides above 0 in the image of 1024 x 1024"),
    ],
)
def test_what_is_no_box(numbers, reason):
    with pytest.raises(CohortError, match=reason):
        box_text(numbers, side=1024, where="row 0")


def test_the_test_set_stays_and_its_patients_leave_training():
    patients = [str(number) for number in range(40)] + ["7", "8"]
    test = [number == 7 for number in range(40)] + [False, True]
    splits, keep, notes = split_by_test_set(patients, test)
    assert (splits[7], splits[41]) == ("test", "test")
    assert keep == [row for row in range(42) if row not in (8, 40)]
    assert "2 images outside the test set are of patients in it" in notes[1]
    val = {
        p
        for p in patients
        if int.from_bytes(hashlib.sha256(p.encode()).digest()[:4], "big") % 8 == 0
    }
    expected = ["val" if patient in val else "train" for patient in patients[:7]]
    assert splits[:7] == expected
    assert 1 <= len(val) <= 10


def test_untidy_tables(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffa,Bbox [x,y,,\r\n"1\n",2,3,,\r\n\r\n4,5,6\r\n'.encode())
    table = read_native(path, ["y"])
    assert table.to_dict("list") == {"y": ["3", "6"], "a": ["1", "4"], "Bbox [x": ["2", "5"]}
    for text, reason in [
        ("a,b\n", "header and at least one row"),
        ("a,b,b\n1,2,3\n", r"\['b'\] are not there once"),
        ("a,c\n1,2\n", r"\['b'\] are not there once"),
        ("a,b\n1\n", "row 0 of t.csv must have 2 to 2 values, got 1"),
        ("a,b\n1,2,3\n", "got 3"),
    ]:
        path.write_text(text)
        with pytest.raises(CohortError, match=reason):
            read_native(path, ["a", "b"])
    path.write_text('a,b\n1,"2, 3"\n"x\n",4\n')
    assert read_native(path, ["a", "b"]).to_dict("list") == {"a": ["1", "x"], "b": ["2, 3", "4"]}
    path.write_bytes(b"\xff")
    with pytest.raises(CohortError, match=r"t.csv must be UTF-8"):
        read_native(path, ["a"])
    with pytest.raises(CohortError, match=r"gone.csv must be in the folder"):
        read_native(tmp_path / "gone.csv", ["a"])
    path.write_text("one\n\n two \n")
    assert read_lines(path) == ["one", "two"]


def test_files_by_name(tmp_path):
    for name in ("a/images/1.png", "b/images/2.PNG", "b/masks/3.png", "b/images/4.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, _ = files_by_name(tmp_path, ".png", parent="images")
    assert found == {"1.png": "a/images/1.png", "2.PNG": "b/images/2.PNG"}
    with pytest.raises(CohortError, match=r"must hold files \*.dcm in folders named 'images'"):
        files_by_name(tmp_path, ".dcm", parent="images")
    (tmp_path / "b/images/1.png").touch()
    with pytest.raises(CohortError, match="two files have one name"):
        files_by_name(tmp_path, ".png", parent="images")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a,b\n1,"2\n3,4\n', 2),  # never closed
        ('a,b\n1,2\n3,"\n4,5\n6,"\n', 3),  # closed three rows below
        ('a,b\n1,"2\r3,4\r5,"\r', 2),
        ('a,b\n1,"2"3\n', 2),
        ("a,b\n1," + 200_000 * "x" + "\n", 2),  # as long as what an open one swallows
    ],
)
def test_no_quotation_mark_swallows_rows(tmp_path, text, line):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    with pytest.raises(CohortError, match=rf"line {line} of t\.csv, counted from 1, cannot .*Mend"):
        read_native(path, ["a", "b"])
    path.write_bytes(text.replace(",", "\t").encode())
    with pytest.raises(CohortError, match=rf"line {line} of t\.csv, counted from 1, cannot .*Mend"):
        read_native(path, ["a", "b"], delimiter="\t")
