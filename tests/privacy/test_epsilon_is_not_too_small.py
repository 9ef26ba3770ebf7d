"""Epsilon against independent computations, and against every way to report less than was spent."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import brentq
from scipy.stats import norm

from secure_fedhelp.errors import AccountantDisagreement, InvalidPlan
from secure_fedhelp.privacy import accountant
from secure_fedhelp.privacy.accountant import (
    CrossCheck,
    PrvBounds,
    cross_check,
    epsilon,
    noise_for_budget,
    running_epsilon,
    within_budget,
)
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, Mechanism, planned_event
from secure_fedhelp.study.sections import PrivacySection

#: Two tiers of a study, a long one, a rare one: (sampling rate, noise multiplier, steps).
SETTINGS = [(0.05, 1.0, 40), (0.3, 4.0, 40), (0.01, 1.0, 2000), (0.9, 20.0, 100)]


def steps(rate: float, noise: float, count: int) -> DpSgd:
    return DpSgd(sampling_rate=rate, noise_multiplier=noise, clipping_norm=1.0, steps=count)


def gaussian(noise: float) -> Gaussian:
    return Gaussian(noise_multiplier=noise, sensitivity=1.0)


def fine_epsilon(event: dp_event.DpEvent, delta: float) -> float:
    """dp-accounting's own accountant at its default interval of 1e-4."""
    return float(PLDAccountant().compose(event).get_epsilon(delta))


def analytic_gaussian(noise: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism, exactly: theorem 8 of Balle and Wang (ICML 2018)."""

    def excess(eps: float) -> float:
        upper = norm.cdf(0.5 / noise - eps * noise)
        return float(upper - math.exp(eps) * norm.cdf(-0.5 / noise - eps * noise) - delta)

    return float(brentq(excess, 0.0, 200.0, xtol=1e-12))


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 1e-60, 1e-20])
@pytest.mark.parametrize("noise", [0.1, 0.3, 1000.0])
def test_a_rate_next_to_nothing_is_a_figure_and_no_traceback(rate: float, noise: float) -> None:
    """A ledger may name it. Even in a million steps nobody is drawn with more than the smallest delta."""
    assert cross_check([steps(rate, noise, 10**6)], 1e-5, by="dp-accounting").pld == 0.0
    both = cross_check([steps(rate, noise, 10**6), gaussian(2.0)], 1e-5, by="dp-accounting")
    assert both.pld >= epsilon([gaussian(2.0)], 1e-5) * 0.999 >= analytic_gaussian(2.0, 1e-5) * 0.999


@pytest.mark.parametrize(("rate", "noise", "count"), SETTINGS)
def test_dp_sgd_agrees_with_a_finer_computation(rate: float, noise: float, count: int) -> None:
    sampled = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
    fine = fine_epsilon(dp_event.SelfComposedDpEvent(sampled, count), 1e-4)
    ours = epsilon([steps(rate, noise, count)], 1e-4)
    assert fine <= ours <= fine * 1.001


@pytest.mark.parametrize("noise", [0.7, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_one_gaussian_agrees_with_the_exact_formula(noise: float, delta: float) -> None:
    exact = analytic_gaussian(noise, delta)
    ours = epsilon([gaussian(noise)], delta)
    assert exact <= ours <= exact * 1.001 + 1e-4


def test_gaussians_compose_by_adding_precisions() -> None:
    together = epsilon([gaussian(3.0), gaussian(4.0)], 1e-5)
    assert together == pytest.approx(analytic_gaussian((1 / 9 + 1 / 16) ** -0.5, 1e-5), rel=1e-3)


def test_a_rate_of_one_is_the_plain_gaussian() -> None:
    assert epsilon([steps(1.0, 5.0, 4)], 1e-5) == epsilon([gaussian(5.0)] * 4, 1e-5)
    assert epsilon([steps(1.0, 5.0, 4)], 1e-5) == pytest.approx(analytic_gaussian(2.5, 1e-5), rel=1e-4)


def test_unlike_mechanisms_agree_with_a_finer_computation() -> None:
    ours = epsilon([steps(0.1, 1.5, 20), gaussian(5.0), steps(0.3, 3.0, 10), steps(0.1, 1.5, 5)], 1e-5)
    parts = [
        dp_event.SelfComposedDpEvent(dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(1.5)), 25),
        dp_event.SelfComposedDpEvent(dp_event.PoissonSampledDpEvent(0.3, dp_event.GaussianDpEvent(3.0)), 10),
        dp_event.GaussianDpEvent(5.0),
    ]
    fine = fine_epsilon(dp_event.ComposedDpEvent(parts), 1e-5)
    assert fine <= ours <= fine * 1.002


def test_small_rates_stay_within_the_stated_accuracy() -> None:
    sampled = dp_event.PoissonSampledDpEvent(0.001, dp_event.GaussianDpEvent(1.0))
    fine = float(PLDAccountant(value_discretization_interval=5e-5).compose(sampled, 5000).get_epsilon(1e-4))
    ours = epsilon([steps(0.001, 1.0, 5000)], 1e-4)
    assert fine <= ours <= fine * 1.01 + 0.001


@pytest.mark.parametrize(("noise", "count", "delta"), [(10.0, 3000, 1e-11), (50.0, 4000, 1e-11), (20.0, 400, 1e-12)])
def test_rounding_of_long_compositions_hides_nothing(noise: float, count: int, delta: float) -> None:
    """Fourier transforms round; at such deltas that alone would put the figure below the exact one."""
    exact = analytic_gaussian(noise / math.sqrt(count), delta)
    assert exact <= epsilon([gaussian(noise)] * count, delta) <= exact * 1.02


def test_a_delta_within_the_rounding_of_so_many_steps_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="too small for 1,000 private steps"):
        epsilon([steps(0.01, 1.0, 1000)], 1e-12)


def test_a_study_round_by_round_never_falls_and_ends_where_the_whole_does() -> None:
    rounds: list[list[Mechanism]] = [[steps(0.3, 4.0, 5)]] * 4 + [[], [gaussian(900.0)], [steps(0.05, 1.0, 5)]]
    found = running_epsilon(rounds, 1e-4)
    assert len(found) == 7
    assert found == sorted(found)
    assert found[4] == found[3]
    assert found[6] == pytest.approx(epsilon([e for events in rounds for e in events], 1e-4), rel=1e-6)
    assert found[2] == pytest.approx(epsilon([steps(0.3, 4.0, 15)], 1e-4), rel=1e-3)
    assert running_epsilon([], 1e-4) == []
    assert running_epsilon([[], []], 1e-4) == [0.0, 0.0]


def test_points_of_the_privacy_curve_are_upper_bounds() -> None:
    for eps, found in accountant.privacy_curve([gaussian(2.0)], 1e-9, 8):
        exact = norm.cdf(0.5 / 2 - eps * 2) - math.exp(eps) * norm.cdf(-0.5 / 2 - eps * 2)
        assert exact <= found <= exact * 1.001 + 1e-9
    with pytest.raises(InvalidPlan, match="no curve"):
        accountant.privacy_curve([], 1e-9, 8)


def test_splitting_a_study_into_rounds_changes_nothing() -> None:
    assert epsilon([steps(0.3, 4.0, 5)] * 8, 1e-4) == epsilon([steps(0.3, 4.0, 40)], 1e-4)


def test_the_order_of_events_changes_nothing() -> None:
    events: list[Mechanism] = [steps(0.3, 4.0, 5), gaussian(9.0), steps(0.2, 4.0, 5)]
    assert epsilon(events, 1e-4) == epsilon(events[::-1], 1e-4)


@settings(max_examples=8)
@given(
    rate=st.floats(0.01, 0.9), noise=st.floats(0.6, 30), count=st.integers(1, 200), delta=st.sampled_from([1e-3, 1e-6])
)
def test_epsilon_grows_with_use_and_the_accountants_agree(rate: float, noise: float, count: int, delta: float) -> None:
    event = steps(rate, noise, count)
    once = cross_check([event], delta, by="dp-accounting")
    assert 0 <= once.pld < math.inf
    assert epsilon([event, event], delta) >= once.pld
    assert epsilon([event], delta * 10) <= once.pld
    assert epsilon([event, gaussian(50.0)], delta) >= once.pld * (1 - 1e-6)


def test_nothing_spent_is_zero() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert cross_check([], 1e-5) == CrossCheck(0.0, 0.0)


def test_no_protection_is_infinite_and_quickly_said() -> None:
    begin = time.process_time()
    assert epsilon([steps(0.5, 0.1, 1000)], 1e-6) == math.inf
    assert epsilon([steps(1.0, 0.1, 1000)], 1e-6) == math.inf
    assert time.process_time() - begin < 5
    assert cross_check([steps(0.5, 0.1, 1000)], 1e-6, by="dp-accounting").pld == math.inf


def test_a_query_takes_well_under_a_second() -> None:
    epsilon([steps(0.2, 2.0, 1)], 1e-4)  # imports
    begin = time.process_time()
    epsilon([steps(0.06, 1.1, 400), steps(0.31, 4.2, 400)], 1e-4)
    assert time.process_time() - begin < 1.0


@pytest.mark.parametrize("delta", [0.0, 1e-13, 1.0, -1.0, math.nan])
def test_a_delta_that_means_nothing_is_refused(delta: float) -> None:
    with pytest.raises(InvalidPlan, match="delta"):
        epsilon([gaussian(1.0)], delta)


def test_more_steps_than_the_accountant_is_tested_for_are_refused() -> None:
    with pytest.raises(InvalidPlan, match="steps"):
        epsilon([steps(0.01, 1.0, 10**6)] * 11, 1e-5)


# -- the second opinion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [[steps(0.05, 1.0, 40)], [steps(0.3, 4.0, 40), gaussian(10.0)]])
def test_opacus_and_dp_accounting_give_the_same_second_opinion(events: list[Mechanism]) -> None:
    by_opacus = cross_check(events, 1e-4)
    by_google = cross_check(events, 1e-4, by="dp-accounting")
    assert by_opacus.pld == by_google.pld
    assert by_opacus.rdp == pytest.approx(by_google.rdp, rel=0.02)
    assert by_opacus.pld < by_opacus.rdp < 1.5 * by_opacus.pld


@pytest.mark.parametrize(
    "events",
    [
        [steps(0.05, 1.0, 40)],
        [steps(0.01, 1.0, 2000), gaussian(3.0)],
        [steps(0.3, 4.0, 40), steps(0.1, 1.5, 30), gaussian(10.0), gaussian(20.0)],
    ],
)
@pytest.mark.parametrize("delta", [1e-3, 1e-8])
def test_prv_says_the_same_within_the_error_it_states(events: list[Mechanism], delta: float) -> None:
    found = cross_check(events, delta)
    assert found.prv is not None
    assert found.prv.low < found.prv.estimate < found.prv.high
    assert found.prv.high - found.prv.low == pytest.approx(2 * accountant.PRV_EPSILON_ERROR, abs=0.002)
    assert found.prv.low <= found.pld <= found.prv.high
    assert found.pld == pytest.approx(found.prv.estimate, rel=1e-3)


@pytest.mark.parametrize("bounds", [PrvBounds(2.6, 2.61, 2.62), PrvBounds(2.3, 2.31, 2.32)])
def test_a_pld_outside_of_what_prv_says_is_an_error(bounds: PrvBounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "_prv_bounds", lambda merged, delta: bounds)
    with pytest.raises(AccountantDisagreement, match="by PLD, but from .* by PRV"):
        cross_check([steps(0.05, 1.0, 40)], 1e-5)


def test_prv_is_not_asked_where_it_would_fill_the_memory_or_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cross_check([steps(0.3, 20.0, 20_001)], 1e-5).prv is None
    assert cross_check([steps(0.9, 0.5, 100)], 1e-5).prv is None
    assert cross_check([steps(0.05, 1.0, 40)], 1e-5, by="dp-accounting").prv is None
    assert cross_check([gaussian(900.0)], 0.5) == CrossCheck(0.0, 0.0, PrvBounds(0.0, 0.0, 0.0))

    def refuses(*arguments: object) -> None:
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr("opacus.accountants.analysis.prv.discretize", refuses)
    assert cross_check([gaussian(7.7)], 1e-5).prv is None


@pytest.mark.parametrize("by", ["opacus", "dp-accounting"])
def test_an_rdp_below_pld_is_an_error(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"opacus": "_opacus_epsilon", "dp-accounting": "_rdp_epsilon"}[by]
    monkeypatch.setattr(accountant, name, lambda merged, delta: 1.0)
    with pytest.raises(AccountantDisagreement, match="RDP"):
        cross_check([steps(0.05, 1.0, 40)], 1e-4, by=by)  # type: ignore[arg-type]


# -- noise for a budget ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "delta", "rate", "count"),
    [(3.0, 1e-4, 0.3, 40), (1.0, 1e-4, 0.05, 40), (8.0, 1e-5, 0.01, 1000), (0.2, 1e-5, 0.1, 5)],
)
def test_the_smallest_noise_that_fits(budget: float, delta: float, rate: float, count: int) -> None:
    noise = noise_for_budget(budget, delta, rate, count)
    assert epsilon([steps(rate, noise, count)], delta) <= budget
    assert float(f"{noise:.4g}") == noise, "four digits, so that the plan file carries a short number"
    smaller = noise - 10.0 ** (math.floor(math.log10(noise)) - 3)
    assert epsilon([steps(rate, smaller, count)], delta) > budget


def test_noise_leaves_room_for_what_is_paid_besides() -> None:
    metrics = [gaussian(12.0)]
    noise = noise_for_budget(3.0, 1e-4, 0.3, 40, metrics)
    assert noise > noise_for_budget(3.0, 1e-4, 0.3, 40)
    assert epsilon([steps(0.3, noise, 40), *metrics], 1e-4) <= 3.0
    smaller = noise - 10.0 ** (math.floor(math.log10(noise)) - 3)
    assert epsilon([steps(0.3, smaller, 40), *metrics], 1e-4) > 3.0


def test_a_budget_that_is_spent_without_any_training_is_an_error() -> None:
    with pytest.raises(InvalidPlan, match="everything beside the training already costs epsilon"):
        noise_for_budget(1.0, 1e-4, 0.3, 40, [gaussian(1.0)])
    almost = epsilon([gaussian(1.0)], 1e-4) * 1.000001
    with pytest.raises(InvalidPlan, match="no noise multiplier up to 1000 keeps 40 steps at rate 0.3"):
        noise_for_budget(almost, 1e-4, 0.3, 40, [gaussian(1.0)])


def test_noise_is_found_in_seconds() -> None:
    epsilon([steps(0.2, 2.0, 1)], 1e-4)
    begin = time.process_time()
    noise_for_budget(2.5, 1e-4, 0.27, 45)
    assert time.process_time() - begin < 4.0


def test_a_huge_budget_asks_for_the_smallest_noise_there_is() -> None:
    assert noise_for_budget(400.0, 1e-3, 0.1, 1) == 0.1


@pytest.mark.parametrize(
    ("budget", "rate", "count"),
    [
        (1.0, 0.1, 0),
        (1.0, 0.1, -3),
        (1.0, 0.1, 10**6 + 1),
        (0.0, 0.1, 5),
        (math.inf, 0.1, 5),
        (1.0, 0.0, 5),
        (1.0, 1.5, 5),
        (1e-9, 0.9, 10**5),
    ],
)
def test_an_impossible_budget_is_an_error_and_no_endless_search(budget: float, rate: float, count: int) -> None:
    with pytest.raises(InvalidPlan):
        noise_for_budget(budget, 1e-9, rate, count)


def test_the_tolerance_of_a_budget_is_a_millionth() -> None:
    assert within_budget(3.0, 3.0)
    assert within_budget(3.000001, 3.0)
    assert not within_budget(3.00001, 3.0)
    assert not within_budget(math.inf, 3.0)
    assert not within_budget(math.nan, 3.0)


#: Epsilon 0.02 over many steps needs a loss of one step that is far below dp-accounting's default grid.
SMALL_PLANS = [
    (budget, delta, rate, count)
    for rate in (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
    for budget, delta, count in (
        (0.02, 1e-6, 10_000),
        (0.1, 1e-6, 1000),
        (0.5, 1e-5, 10_000),
        (1.0, 1e-5, 200),
        (3.0, 1e-5, 2000),
    )
]


def test_no_plan_with_a_small_rate_is_refused_by_a_disagreement_of_accountants(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A plan is made for a budget and then cross-checked by every hospital that joins."""
    assert len(SMALL_PLANS) == 35
    took = []
    for budget, delta, rate, count in SMALL_PLANS:
        begin = time.process_time()
        event = steps(rate, noise_for_budget(budget, delta, rate, count), count)
        took.append(time.process_time() - begin)
        assert cross_check([event], delta, by="dp-accounting").pld <= budget
        assert cross_check([event], delta).pld <= budget
    with capsys.disabled():
        print(f"\n35 plans with rates 1e-4 to 1e-2: worst noise_for_budget {max(took):.2f} s of processor time")
    assert max(took) < 10


@pytest.mark.parametrize(
    ("budget", "delta", "rate", "count"),
    [
        (0.5, 1e-5, 5e-4, 10_000),
        (0.0243, 1.9e-9, 3.4e-7, 157_401),
        (17.8, 1.8e-9, 0.08, 593_207),
        (0.286, 1.6e-8, 4.1e-4, 780_656),
        (50.0, 1e-9, 1.0, 1000),
        (0.01, 1e-6, 1.0, 1),
    ],
)
def test_noise_asks_the_accountant_at_most_forty_times(budget: float, delta: float, rate: float, count: int) -> None:
    asked = []
    original = accountant._pld_epsilon

    def counted(*arguments: Any) -> float:
        asked.append(arguments)
        return original(*arguments)

    begin = time.process_time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accountant, "_pld_epsilon", counted)
        noise = noise_for_budget(budget, delta, rate, count)
    assert time.process_time() - begin < 10
    assert len(asked) <= 40
    assert epsilon([steps(rate, noise, count)], delta) <= budget


@settings(max_examples=12)
@given(
    budget=st.floats(-2, math.log10(50)).map(lambda x: 10**x),
    delta=st.sampled_from([1e-3, 1e-5, 1e-8]),
    rate=st.floats(-5, 0).map(lambda x: 10**x),
    count=st.integers(1, 3000),
)
def test_noise_keeps_to_the_budget_and_a_digit_less_does_not(
    budget: float, delta: float, rate: float, count: int
) -> None:
    try:
        noise = noise_for_budget(budget, delta, rate, count)
    except InvalidPlan:
        assert epsilon([steps(rate, 1000.0, count)], delta) > budget
        return
    assert float(f"{noise:.4g}") == noise
    assert epsilon([steps(rate, noise, count)], delta) <= budget
    smaller = noise - 10.0 ** (math.floor(math.log10(noise) + 1e-9) - 3)
    assert noise == 0.1 or epsilon([steps(rate, smaller, count)], delta) > budget


@settings(max_examples=12)
@given(
    rate=st.floats(-6, -1.5).map(lambda x: 10**x),
    noise=st.floats(-0.3, 2.5).map(lambda x: 10**x),
    count=st.integers(1, 50_000),
    delta=st.sampled_from([1e-3, 1e-6, 1e-9]),
)
def test_a_finer_grid_only_lowers_what_an_earlier_version_said(
    rate: float, noise: float, count: int, delta: float
) -> None:
    """0.4.0 took no grid finer than 1e-4: a ledger or plan that kept to its budget there keeps to it here."""
    merged = accountant._merge([steps(rate, noise, count)])
    certain, interval = accountant._certain(merged, delta), accountant._interval(merged)
    earlier = accountant._pld_epsilon(merged, certain, max(interval, 1e-4))
    assert accountant._pld_epsilon(merged, certain, interval) <= earlier * (1 + 1e-7) + 1e-9
    assert math.log2(interval / 1e-4) == round(math.log2(interval / 1e-4))


def test_many_small_gaussians_are_bounded_from_above_on_the_finest_grid() -> None:
    """The exact formula is known, and rounding on fine grids must not put the figure below it."""
    for count in (1, 10, 1000, 100_000):
        exact = analytic_gaussian(1000.0 / math.sqrt(count), 1e-6)
        merged = ((1.0, 1000.0, count),)
        for halvings in (0, 4, 7):
            found = accountant._pld_epsilon(merged, accountant._certain(merged, 1e-6), 1e-4 / 2**halvings)
            assert exact <= found <= exact * 1.1 + 1e-4


# -- what the accountant does not understand -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "laplace", "noise_multiplier": 1.0, "sensitivity": 1.0},
        {"noise_multiplier": 1.0, "sensitivity": 1.0},
        {"kind": "gaussian", "noise_multiplier": 0.0, "sensitivity": 1.0},
        {"kind": "gaussian", "noise_multiplier": math.inf, "sensitivity": 1.0},
        {"kind": "gaussian", "noise_multiplier": 1.0, "sensitivity": 1.0, "extra": 1},
        {"kind": "dp-sgd", "sampling_rate": 1.1, "noise_multiplier": 1.0, "clipping_norm": 1.0, "steps": 1},
        {"kind": "dp-sgd", "sampling_rate": 0.1, "noise_multiplier": 1.0, "clipping_norm": 1.0, "steps": 0},
        {"kind": "dp-sgd", "sampling_rate": 0.1, "noise_multiplier": 1.0, "clipping_norm": 0.0, "steps": 1},
    ],
)
def test_a_mechanism_that_is_not_understood_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter[Mechanism](Mechanism).validate_python(values)


def test_a_plan_with_noise_nobody_can_account_for_is_refused_by_name() -> None:
    section = PrivacySection(
        sampling_rate=0.1, noise_multiplier=0.01, clipping_norm=1.0, steps=5, epsilon=3.0, delta=1e-5
    )
    with pytest.raises(InvalidPlan, match="noise_multiplier"):
        planned_event(section)
