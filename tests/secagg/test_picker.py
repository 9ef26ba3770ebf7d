"""The pick is the cheapest profile that fits, whatever is asked; if none does, each says why."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import changed, example_plan

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.secagg import picker
from secure_fedhelp.secagg.picker import pick_profile, plan_profile
from secure_fedhelp.secagg.profiles import PROFILES, Profile
from secure_fedhelp.study.plan import parse_plan

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("required_error", "largest_sum", "chosen"),
    [
        (1e-2, 10.0, "compact"),
        (1e-2, 12.0, "fine"),  # more than compact holds
        (1e-6, 10.0, "fine"),  # the bytes of standard, and smaller errors
        (1e-6, 100.0, "standard"),  # more than fine holds
        (1e-9, 10.0, "fine"),
        (1e-9, 100.0, "exact"),
        (1e-11, 1.0, "exact"),
        (1e-6, 5000.0, "exact"),  # more than standard holds
    ],
)
def test_cheapest_that_fits_is_picked(required_error: float, largest_sum: float, chosen: str) -> None:
    assert pick_profile(required_error, largest_sum, 10, length=MILLION).name == chosen


def test_security_and_multiplications_are_asked_for() -> None:
    assert pick_profile(1e-2, 1.0, 10, length=MILLION, security_bits=256).name == "strong"
    assert pick_profile(1e-2, 1.0, 10, length=MILLION, multiplications=1).name == "deep"
    with pytest.raises(InvalidPlan, match="strong allows 0 multiplications, 1 are needed"):
        pick_profile(1e-2, 1.0, 10, length=MILLION, security_bits=256, multiplications=1)


def test_padding_counts() -> None:
    # One value takes a whole ciphertext: 14 KiB of standard, 28 KiB of strong.
    assert PROFILES["strong"].body_bytes(1) > 1.9 * PROFILES["standard"].body_bytes(1)
    assert pick_profile(1e-6, 100.0, 10, length=1).name == "standard"
    assert pick_profile(1e-6, 100.0, 10, length=1, security_bits=256).name == "strong"


def test_among_equals_the_smaller_error_wins() -> None:
    sizes = {PROFILES[name].body_bytes(4096) for name in ("standard", "fine", "strong")}
    assert len(sizes) == 1
    assert pick_profile(1e-6, 1.0, 10, length=4096).name == "fine"
    assert pick_profile(1e-6, 100.0, 10, length=4096).name == "standard"


def test_required_error_may_be_met_exactly() -> None:
    compact = PROFILES["compact"]
    bound = compact.error_bound(10, 1.0)
    assert pick_profile(bound, 1.0, 10, length=MILLION) == compact
    assert pick_profile(math.nextafter(bound, 0), 1.0, 10, length=MILLION) != compact
    assert pick_profile(1e-2, compact.largest_sum, 10, length=MILLION) == compact
    assert pick_profile(1e-2, math.nextafter(compact.largest_sum, math.inf), 10, length=MILLION) != compact


def test_noise_that_is_added_later_counts_too() -> None:
    def flooding(p: Profile) -> float:
        return 2.0**-20 if p.name == "fine" else 2.0**20

    assert pick_profile(1e-2, 1.0, 10, length=MILLION, extra_error=flooding).name == "fine"
    with pytest.raises(InvalidPlan, match="fine errs by up to 9.5e-07, 1e-07 is allowed"):
        pick_profile(1e-7, 1.0, 10, length=MILLION, extra_error=flooding)
    with pytest.raises(InvalidPlan, match="errs by up to inf"):
        pick_profile(1e-2, 1.0, 10, length=MILLION, extra_error=lambda _: math.inf)


def test_refusal_says_of_every_profile_why() -> None:
    with pytest.raises(InvalidPlan) as refused:
        pick_profile(1e-12, 1e6, 10, length=MILLION, security_bits=256)
    for p in PROFILES.values():
        assert f"{p.name} holds sums up to {p.largest_sum:.4g}, 1e+06 is needed and errs" in refused.value.message
    assert refused.value.message.count("has 128 bits of security, 256 are needed") == len(PROFILES) - 1
    assert "larger error" in refused.value.hint


@pytest.mark.parametrize(("required_error", "largest_sum"), [(math.nan, 1.0), (1e-2, math.nan), (1e-2, math.inf)])
def test_figures_that_are_no_limits_fit_nothing(required_error: float, largest_sum: float) -> None:
    with pytest.raises(InvalidPlan, match="no aggregation profile fits"):
        pick_profile(required_error, largest_sum, 3, length=10)


@given(
    required_error=st.floats(1e-13, 1.0),
    largest_sum=st.floats(0.0, 1e5),
    cohort_size=st.integers(1, 1000),
    length=st.integers(1, 10**7),
    security_bits=st.sampled_from([128, 256]),
    multiplications=st.integers(0, 1),
    extra=st.floats(0.0, 1e-2),
)
def test_pick_is_the_best_of_what_fits(
    required_error: float,
    largest_sum: float,
    cohort_size: int,
    length: int,
    security_bits: int,
    multiplications: int,
    extra: float,
) -> None:
    def cost(p: Profile) -> tuple[int, float]:
        return p.body_bytes(length), p.error_bound(cohort_size, largest_sum)

    fitting = [
        p
        for p in PROFILES.values()
        if p.error_bound(cohort_size, largest_sum) + extra <= required_error
        and largest_sum <= p.largest_sum
        and p.security_bits >= security_bits
        and p.multiplications >= multiplications
    ]
    wanted = {"length": length, "security_bits": security_bits, "multiplications": multiplications}
    if not fitting:
        with pytest.raises(InvalidPlan):
            pick_profile(required_error, largest_sum, cohort_size, **wanted, extra_error=lambda _: extra)
        return
    picked = pick_profile(required_error, largest_sum, cohort_size, **wanted, extra_error=lambda _: extra)
    assert picked in fitting
    assert cost(picked) == min(map(cost, fitting))


# -- of a plan --------------------------------------------------------------------------------------------------------


def test_plan_that_names_a_profile_gets_it() -> None:
    assert plan_profile(example_plan()).name == "standard"


def test_plan_that_names_no_profile_there_is_is_invalid() -> None:
    plan = parse_plan(changed("aggregation.profile", "huge"))
    for _ in range(2):  # nothing is kept of a failure
        with pytest.raises(InvalidPlan, match="'huge'"):
            plan_profile(plan)


@pytest.mark.parametrize(
    ("required_error", "bound", "chosen"),
    # Weights of 1, 0.0625 and 0.0156: sums to 1.08 bounds; the larger of two channels' bounds counts.
    [(1e-2, 10.0, "compact"), (1e-2, 11.0, "fine"), (1e-6, 100.0, "standard"), (1e-9, 100.0, "exact")],
)
def test_plan_that_requires_an_error_gets_the_pick(required_error: float, bound: float, chosen: str) -> None:
    values = changed("aggregation", {"required_error": required_error, "minimum_cohort": 3, "decrypted": "closed"})
    values["channels"][1]["bound"] = bound
    plan = parse_plan(values)
    assert plan_profile(plan).name == chosen
    plan_profile(plan).check_capacity(bound * sum(plan.weights.values()))


def test_the_noise_of_sanitised_sums_counts_in_the_pick() -> None:
    values = changed("aggregation", {"required_error": 1e-2, "minimum_cohort": 3, "decrypted": "sanitised"})
    assert plan_profile(parse_plan(values)).name == "fine"  # closed sums would do with compact or standard
    values["aggregation"]["required_error"] = 1e-5
    with pytest.raises(InvalidPlan, match="exact errs by up to|compact .* errs by up to inf"):
        plan_profile(parse_plan(values))


def test_plan_that_nothing_fits_is_invalid() -> None:
    plan = parse_plan(changed("aggregation", {"required_error": 1e-15, "minimum_cohort": 3}))
    with pytest.raises(InvalidPlan, match="exact errs by up to"):
        plan_profile(plan)


def test_pick_is_made_once_for_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    values = changed("aggregation", {"required_error": 0.00123, "minimum_cohort": 3})
    first = plan_profile(parse_plan(values))
    monkeypatch.setattr(picker, "pick_profile", None)
    assert plan_profile(parse_plan(values)) is first
