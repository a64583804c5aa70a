import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.score_sum import score_sum


def test_the_largest_contributions_come_first_whatever_their_sign():
    found = score_sum([1.0, -3.0, 0.5, 2.0], bias=0.25, logit=0.75, shown=2)
    assert found.shown == (1, 3)  # -3 and 2
    assert (found.others, found.others_sum) == (2, 1.5)
    assert found.total == 0.75  # 1 - 3 + 0.5 + 2 + 0.25
    assert found.difference == 0.0


@pytest.mark.parametrize(
    ("contributions", "bias", "leads"),
    [([0.02, -0.01], 3.4, True), ([2.0, -2.0], 3.4, False), ([], -0.5, True), ([1.0], -1.0, False)],
    ids=str,
)
def test_the_bias_leads_where_it_is_larger_than_all_evidence(contributions, bias, leads):
    assert score_sum(contributions, bias, logit=0.0, shown=2).bias_leads is leads


@given(
    st.lists(st.floats(-50, 50), max_size=30),
    st.floats(-5, 5),
    st.integers(1, 40),
)
def test_shown_others_and_bias_are_the_total(values, bias, shown):
    found = score_sum(values, bias, logit=0.0, shown=shown)
    parts = sum(values[i] for i in found.shown) + found.others_sum + bias
    assert found.total == pytest.approx(parts, abs=1e-9)
    assert len(found.shown) + found.others == len(values)


def test_at_least_one_line_is_shown():
    with pytest.raises(ValueError, match="shown must be at least 1, got 0"):
        score_sum([1.0], 0.0, 1.0, shown=0)
