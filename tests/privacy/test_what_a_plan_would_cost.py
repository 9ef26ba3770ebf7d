"""Figures for whoever writes a plan are those the release gate will judge by, and say when a budget does not reach."""

from __future__ import annotations

from typing import Any

import pytest
from plans import VALUES, changed, example_plan

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.privacy.accountant import epsilon, noise_for_budget
from secure_fedhelp.privacy.mechanisms import planned_event, study_events
from secure_fedhelp.privacy.what_if import TierOutlook, outlook
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.sections import MetricsSection


def measuring(release: str, noise: float | None = None, **more: Any) -> StudyPlan:
    metrics = MetricsSection(release=release, noise_multiplier=noise)  # type: ignore[arg-type]
    channel = {"name": "metrics", "length": metrics.length(2), "bound": 2.0}
    values = changed("channels", [*VALUES["channels"], channel]) | {"metrics": metrics.model_dump()}
    for path, value in more.items():
        values = changed(path.replace("__", "."), value, values)
    return parse_plan(values)


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    return measuring("noised", 9.0)


@pytest.fixture(scope="module")
def small(plan: StudyPlan) -> TierOutlook:
    large, small = outlook(plan, budgets=(0.1, 1.0, 3.0))
    assert (large.tier, large.hospitals, small.tier, small.hospitals) == ("large", 1, "small", 2)
    return small


def test_every_round_costs_what_the_gate_will_find(plan: StudyPlan, small: TierOutlook) -> None:
    event = planned_event(plan.privacy_of("beta"))
    assert len(small.by_round) == 4
    for number in range(3):
        assert small.by_round[number] == pytest.approx(epsilon([event] * (number + 1), 1e-4), rel=1e-3)
    assert small.spent == pytest.approx(epsilon(study_events(plan, "beta"), 1e-4), rel=1e-6)
    assert small.spent > small.by_round[2]
    assert (small.affordable, small.training_rounds, small.exact) == (4, 3, False)


def test_rounds_to_spare_fit_and_one_more_does_not(plan: StudyPlan, small: TierOutlook) -> None:
    event, whole = planned_event(plan.privacy_of("beta")), study_events(plan, "beta")
    assert small.spare > 0
    assert epsilon([*whole, *[event] * small.spare], 1e-4) <= 3.0
    assert epsilon([*whole, *[event] * (small.spare + 1)], 1e-4) > 3.0


def test_noise_for_a_budget_leaves_room_for_the_metrics(plan: StudyPlan, small: TierOutlook) -> None:
    none, one, three = small.noise
    assert none.multiplier is None, "the metrics alone cost more than 0.1"
    assert one.multiplier == noise_for_budget(1.0, 1e-4, 0.25, 15, small.others)
    assert one.multiplier is not None
    assert three.multiplier is not None
    assert one.multiplier > three.multiplier
    fitted = measuring("noised", 9.0, privacy__small__noise_multiplier=three.multiplier)
    assert 0.999 * 3.0 < epsilon(study_events(fitted, "beta"), 1e-4) <= 3.0


def test_changes_change_one_thing(small: TierOutlook) -> None:
    found = {c.what: c for c in small.changes}
    planned = found["as planned"]
    assert planned.epsilon == pytest.approx(small.spent, rel=1e-6)
    assert planned.batch == (10.0, 20.0), "a quarter of 40 and of 80 patients"
    assert planned.signal == (2.5, 5.0)
    costs = {what: c.epsilon or 0.0 for what, c in found.items()}
    assert costs["half the rounds"] < costs["as planned"] < costs["twice the rounds"]
    assert costs["half the sampling rate"] < costs["as planned"] < costs["twice the sampling rate"]
    assert costs["half the patients"] == costs["twice the patients"] == costs["as planned"]
    assert costs["twice the patients, half rate"] == costs["half the sampling rate"]
    assert found["twice the patients, half rate"].batch == planned.batch
    assert found["half the patients"].signal == (1.25, 2.5)
    assert (found["half the rounds"].rounds, found["twice the rounds"].rounds) == (1, 6)


def test_a_budget_that_ends_early_is_said_with_its_round() -> None:
    large, small = outlook(example_plan(privacy__small__epsilon=0.7), budgets=())
    assert (large.affordable, small.affordable, small.spare) == (4, 2, 0)
    assert small.by_round[1] <= 0.7 < small.by_round[2]


def test_exact_counts_cost_nothing_and_are_named() -> None:
    _, small = outlook(measuring("pooled"), budgets=())
    assert small.exact
    assert small.others == ()
    assert small.by_round[3] == small.by_round[2]


def test_a_rate_that_cannot_be_doubled_has_no_figure() -> None:
    _, small = outlook(example_plan(privacy__small__sampling_rate=0.6), budgets=())
    assert {c.what for c in small.changes if c.epsilon is None} == {"twice the sampling rate"}


def test_a_plan_that_nobody_can_account_for_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="noise_multiplier"):
        outlook(example_plan(privacy__small__noise_multiplier=0.01), budgets=())
