"""The cheapest profile that does what is asked of it, so that nobody needs to know what a modulus is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from secure_fedhelp.errors import CapacityExceeded, InvalidPlan, NotReleasable
from secure_fedhelp.secagg.profiles import PROFILES, Profile, profile
from secure_fedhelp.secagg.sanitise import plan_flooding
from secure_fedhelp.study.plan import StudyPlan

_HINT: Final = "Allow a larger error, smaller channel bounds or less security; or name a profile and its limits."


def pick_profile(
    required_error: float,
    largest_sum: float,
    cohort_size: int,
    *,
    length: int,
    security_bits: int = 128,
    multiplications: int = 0,
    extra_error: Callable[[Profile], float] = lambda _: 0.0,
) -> Profile:
    """The profile with the fewest upload bytes for ``length`` values; among equals, the one with the smallest error.

    Its error for sums of ``cohort_size`` hospitals up to ``largest_sum``, and ``extra_error`` (the noise of sanitised
    decryptions, say; math.inf where there is none that would do), are together within ``required_error``; it holds such
    sums, and has the security and the multiplications. Raises InvalidPlan that says of every profile why it does not
    fit.
    """
    fitting: list[tuple[int, float, str]] = []
    reasons: list[str] = []
    for p in PROFILES.values():
        error = p.error_bound(cohort_size, largest_sum) + extra_error(p)
        wrong = []
        if not largest_sum <= p.largest_sum:  # NaN fits nowhere, here and below
            wrong.append(f"holds sums up to {p.largest_sum:.4g}, {largest_sum:.4g} is needed")
        if not error <= required_error:
            wrong.append(f"errs by up to {error:.2g}, {required_error:.2g} is allowed")
        if p.security_bits < security_bits:
            wrong.append(f"has {p.security_bits} bits of security, {security_bits} are needed")
        if p.multiplications < multiplications:
            wrong.append(f"allows {p.multiplications} multiplications, {multiplications} are needed")
        if wrong:
            reasons.append(f"{p.name} {' and '.join(wrong)}")
        else:
            fitting.append((p.body_bytes(length), error, p.name))
    if not fitting:
        raise InvalidPlan(f"no aggregation profile fits: {'; '.join(reasons)}", _HINT)
    return PROFILES[min(fitting)[2]]


_of_plan: dict[str, Profile] = {}


def plan_profile(plan: StudyPlan) -> Profile:
    """The profile that a plan names, or the pick for the error it requires; InvalidPlan if there is none.

    The largest sum is that of all hospitals at the largest channel bound. The same plan always gives the same profile,
    at every hospital and at the coordinator; it is kept by the plan's hash, since every header asks for it.
    """
    if plan.hash not in _of_plan:
        _of_plan[plan.hash] = _chosen(plan)
    return _of_plan[plan.hash]


def check_sums(plan: StudyPlan) -> None:
    """Refuse a plan whose sums could wrap around in its profile (CapacityExceeded), whose profile leaves no room for
    the noise that sanitised sums need (NotReleasable), or whose exact counts would not come out whole (InvalidPlan)."""
    chosen = plan_profile(plan)
    chosen.check_capacity(plan.largest_sum)
    error = chosen.error_bound(len(plan.hospitals), plan.largest_sum)
    if plan.aggregation.decrypted == "sanitised":
        error += plan_flooding(plan, chosen).error_bound()
    metrics = plan.metrics
    if metrics is not None and metrics.release == "pooled" and error * metrics.divisor >= 0.5:
        raise InvalidPlan(
            f"counts divided by {metrics.divisor}, in sums with errors up to {error:.2g}, do not come out whole",
            "Lower metrics.divisor, or ask for a smaller required_error.",
        )


def _chosen(plan: StudyPlan) -> Profile:
    if plan.aggregation.required_error is None:
        return profile(str(plan.aggregation.profile))

    def flooded(candidate: Profile) -> float:
        """What sanitising adds to a value's error; infinite where the noise would drown the sum."""
        if plan.aggregation.decrypted == "closed":
            return 0.0
        try:
            return plan_flooding(plan, candidate).error_bound()
        except (CapacityExceeded, NotReleasable):
            return math.inf

    return pick_profile(
        plan.aggregation.required_error,
        plan.largest_sum,
        len(plan.hospitals),
        length=plan.largest_length,
        extra_error=flooded,
    )
