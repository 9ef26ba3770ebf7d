"""The figures of the masks' thresholds, against the inequalities they come from (Bonawitz et al., CCS 2017)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import VALUES, example_plan

from secure_fedhelp.study.threshold import FULL_GRAPH, active_coalition, passive_coalition, sparse, threshold


@pytest.mark.parametrize(("members", "needed", "passive", "active"), [(3, 3, 1, 1), (6, 5, 4, 3), (10, 7, 6, 3)])
def test_the_repairing_threshold_at_small_numbers(members: int, needed: int, passive: int, active: int) -> None:
    assert threshold("repairing", members) == needed
    assert (passive_coalition("repairing", members), active_coalition("repairing", members)) == (passive, active)


@given(st.integers(2, 200))
def test_two_lists_can_never_both_be_signed_by_enough(members: int) -> None:
    """With the coalition claimed, two halves of the honest never reach t each; with one more they could."""
    for masks in ("repairing", "strict"):
        needed, stands = threshold(masks, members), active_coalition(masks, members)  # type: ignore[arg-type]
        for colluding in (stands, stands + 1):
            halves = (members - colluding + 1) // 2 + colluding, (members - colluding) // 2 + colluding
            both = sum(halves) >= 2 * needed and min(halves) >= needed - 1
            if colluding == stands:
                assert not (halves[0] >= needed and halves[1] >= needed) or stands == 0
            elif stands < members - 2:  # beyond n - 2 no masking protects, whatever the lists say
                assert both


@given(st.integers(2, FULL_GRAPH))
def test_fewer_than_the_threshold_never_rebuild_a_secret(members: int) -> None:
    assert passive_coalition("repairing", members) <= threshold("repairing", members) - 1
    assert passive_coalition("strict", members) == max(0, members - 2)


def test_without_masks_nothing_is_claimed() -> None:
    assert all(passive_coalition("none", n) == active_coalition("none", n) == 0 for n in range(2, 50))


def test_a_plan_claims_what_its_worst_round_stands() -> None:
    small = [{"name": f"h{i}", "tier": "small", "nominal_patients": 40} for i in range(4)]
    hospitals = [*VALUES["hospitals"], *small]
    for masks, minimum in itertools.product(("repairing", "strict"), (3, 5)):
        plan = example_plan(aggregation__masks=masks, aggregation__minimum_cohort=minimum, hospitals=hospitals)
        sizes = range(minimum, 8)
        assert plan.coalition == (
            min(passive_coalition(masks, n) for n in sizes),  # type: ignore[arg-type]
            min(active_coalition(masks, n) for n in sizes),  # type: ignore[arg-type]
        )
    assert example_plan(aggregation__masks="strict", aggregation__minimum_cohort=7, hospitals=hospitals).coalition == (
        5,
        5,
    )


def test_strict_rounds_are_never_sparse() -> None:
    assert not any(sparse("strict", n) for n in range(2, 100))
    assert [n for n in range(2, 100) if sparse("repairing", n)] == list(range(FULL_GRAPH + 1, 100))
