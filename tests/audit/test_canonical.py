import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.canonical import MAX_DEPTH, MAX_INTEGER, canonical_json, parse_canonical

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON = st.recursive(
    SCALARS, lambda c: st.lists(c, max_size=4) | st.dictionaries(KEYS, c, max_size=4), max_leaves=20
)


def test_the_example_of_rfc_8785_section_3_2_2():
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_json(value) == expected.encode()


@given(JSON)
def test_reading_back_gives_the_same_value_and_the_same_bytes(value):
    data = canonical_json(value)
    assert parse_canonical(data) == value
    assert canonical_json(parse_canonical(data)) == data
    assert json.loads(data, parse_int=float) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {"b": float("nan")}]}, r"payload\.a\[1\]\.b must be a finite number, got nan"),
        ({"a": float("-inf")}, r"payload\.a must be a finite number, got -inf"),
        ({"a": 2**53}, r"payload\.a must be an integer within .* got one of 54 bits"),
        ([-(2**60)], r"payload\[0\] must be an integer within"),
        ({"a": {1, 2}}, r"payload\.a must be a JSON type .* got builtins\.set"),
        ({"a": b"x"}, r"payload\.a must be a JSON type .* got builtins\.bytes"),
        ({"a": {3: 4}}, r"payload\.a must have string keys only, got the key 3"),
        ({"a": "\ud800"}, r"payload\.a must be valid Unicode"),
        ({"\ud800": 1}, r"a key of payload must be valid Unicode"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(value, message):
    with pytest.raises(ValueError, match=message):
        canonical_json(value)


def test_the_largest_integer_is_kept():
    assert parse_canonical(canonical_json([MAX_INTEGER, -MAX_INTEGER])) == [
        9007199254740991,
        -9007199254740991,
    ]


def test_a_list_in_itself_ends_with_an_error():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match=f"nested at most {MAX_DEPTH} levels"):
        canonical_json(value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1e400",
        b"NaN",
        b"9007199254740993",
        b'"\\ud800"',
    ],
)
def test_other_ways_to_write_a_value_are_refused(data):
    with pytest.raises(ValueError, match=r"canonical form|finite|Unicode"):
        parse_canonical(data)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"Expecting|decode|deep|nested"):
        parse_canonical(data)
