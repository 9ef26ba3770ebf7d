"""Figures in words are rounded against whoever made the report."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.audit.report.words import belief, counted, few, listed, percent_up, ranges, spans, spread
from secure_fedhelp.pages.numbers import odds


@given(st.floats(0, 1))
def test_a_percentage_is_never_below_the_share(share: float) -> None:
    shown = percent_up(share)
    if shown.startswith("more than"):
        assert share > 0.999
    else:
        percent = float(shown.removesuffix(" %"))
        assert share * 100 <= percent + 1e-6
        assert percent < share * 100 + 0.1000001
    assert (shown == "100 %") == (share == 1)


@given(st.floats(0.001, 0.999), st.floats(0, 600))
def test_belief_moves_by_the_odds(prior: float, epsilon: float) -> None:
    found = belief(prior, epsilon)
    assert prior <= found + 1e-12
    assert found <= 1
    if found < 0.999999:
        assert found / (1 - found) == pytest.approx(prior / (1 - prior) * math.exp(epsilon), rel=1e-4)


def test_some_beliefs() -> None:
    assert percent_up(belief(0.5, 0.0)) == "50.0 %"
    assert percent_up(belief(0.01, 0.0)) == "1.0 %"
    assert percent_up(belief(0.5, 1.0)) == "73.2 %"
    assert percent_up(belief(0.01, 3.0)) == "16.9 %"
    assert percent_up(belief(0.5, 20.0)) == "more than 99.9 %"
    assert percent_up(belief(0.5, 5000.0)) == "100 %"


@given(st.floats(0, 40))
def test_odds_are_rounded_up(epsilon: float) -> None:
    assert float(odds(epsilon).replace(",", "")) >= math.exp(epsilon) * (1 - 1e-9)


def test_lists_and_rounds() -> None:
    assert [listed(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert [ranges(r) for r in ([0], [0, 1], [2, 0, 1, 4], [0, 2, 4])] == [
        "round 1",
        "rounds 1–2",
        "rounds 1–3 and 5",
        "rounds 1, 3 and 5",
    ]
    assert spans([5, 6, 7, 9]) == "5–7 and 9"
    assert [counted(n, "hospital") for n in (0, 1, 1200)] == ["0 hospitals", "1 hospital", "1,200 hospitals"]
    assert few(list("abc")) == "a, b and c"
    assert few(list("abcdef")) == "a, b and 4 more"


@given(st.sets(st.integers(0, 500), min_size=1), st.integers(2, 20))
def test_a_spread_has_both_ends_and_no_more_than_wanted(numbers: set[int], most: int) -> None:
    found = spread(sorted(numbers), most)
    assert set(found) <= numbers
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (min(numbers), max(numbers))
    assert len(found) == min(most, len(numbers))
