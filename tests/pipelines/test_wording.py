import pytest

from pipelines.wording import MISSING, interval, number, percent, signed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(-0.25, 2), "\N{MINUS SIGN}0.25"),
        (signed(0.25, 2), "+0.25"),
        (signed(-1), "\N{MINUS SIGN}1.000"),
        (percent(0.125), "12.5\N{NARROW NO-BREAK SPACE}%"),
        (interval({"value": 0.5, "low": 0.25, "high": 0.75}), "0.500 (0.250 to 0.750)"),
        (interval({"value": 0.5, "low": None, "high": None}), "0.500"),
        (
            interval({"value": 0.5, "low": -0.25, "high": 0.75}, sign=True),
            "+0.500 (\N{MINUS SIGN}0.250 to +0.750)",
        ),
    ],
)
def test_numbers_read_as_people_write_them(text, expected):
    assert text == expected


def test_what_was_not_computed_is_said_and_is_not_zero():
    nothing = {"value": None, "low": None, "high": None}
    found = [number(None), signed(None), percent(None), interval(None), interval(nothing)]
    assert found == [MISSING] * 5
