"""Epsilon of a list of mechanisms: the privacy-loss-distribution (PLD) accountant, and a second opinion.

The figure of record is the PLD accountant of ``dp-accounting`` (Koskela et al., AISTATS 2020; discretisation by
connect-the-dots, Doroshenko et al., PETS 2022), for neighbours that differ by one patient added or removed. It rounds
pessimistically: what it returns is an upper bound of the true epsilon at every discretisation, up to floating point.

Accuracy: the discretisation interval is chosen from the mechanisms so that, for sampling rates from 0.001 on, the
bound is within 1 % (plus 0.001) of the one at a ten times finer interval; for rates from 0.01 on it is within 0.1 %.
Cost: 0.05 to 0.5 s for a new mechanism and 0.1 s for another number of steps of a known one; equal queries are answered
from a cache.

``dp_accounting`` takes two seconds to import and Opacus (with torch) four, so both are imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from secure_fedhelp.errors import AccountantDisagreement, InvalidPlan
from secure_fedhelp.privacy.mechanisms import LARGEST_NOISE, SMALLEST_NOISE, DpSgd, Mechanism

#: An epsilon may exceed its budget by this fraction and still count as within it: ``noise_for_budget`` makes a study
#: fit its budget as closely as its short number allows, and another machine's FFT may differ in the last digits.
BUDGET_TOLERANCE = 1e-6
#: RDP bounds the same epsilon from above more loosely than PLD does. It may come out lower only by the PLD's own
#: discretisation error; anything beyond is a mistake in one of the two.
DISAGREEMENT_RELATIVE, DISAGREEMENT_ABSOLUTE = 0.01, 0.001
#: Tails of 1e-15 are cut (and counted as lost) when distributions are composed, so a smaller delta means little.
SMALLEST_DELTA = 1e-12
#: Above this, epsilon is reported as infinite: nobody is protected there, and ``exp`` of a loss beyond 700 overflows.
LARGEST_EPSILON = 500.0
LARGEST_STEPS = 10**7

#: Renyi orders of the second opinion. Any order gives a valid bound; whole ones need no series that may not converge.
_ORDERS = [*range(2, 64), 80, 96, 128, 192, 256, 512, 1024]
#: Equal events merged: (sampling rate, noise multiplier) and how many steps. Rate 1 is the plain Gaussian.
_Merged = tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class CrossCheck:
    """Epsilon by both accountants; ``pld`` is the figure of record."""

    pld: float
    rdp: float


def epsilon(events: Sequence[Mechanism], delta: float) -> float:
    """Epsilon at ``delta`` of all events together, by the PLD accountant; 0 without events.

    An upper bound (see above); infinite above 500. Raises InvalidPlan for a delta outside [1e-12, 1) and for more than
    10^7 steps.
    """
    _check_delta(delta)
    merged = _merge(events)
    if sum(count for _, _, count in merged) > LARGEST_STEPS:
        raise InvalidPlan(f"more than {LARGEST_STEPS:,} private steps: beyond what the accountant is tested for")
    return _pld_epsilon(merged, delta, _interval(merged)) if merged else 0.0


def deltas(events: Sequence[Mechanism], epsilons: Sequence[float]) -> list[float]:
    """Delta of all events together at each epsilon: points of the privacy curve that :func:`epsilon` inverts.

    Upper bounds, by the same PLD at the same interval.
    """
    merged = _merge(events)
    if not merged:
        return [0.0 for _ in epsilons]
    found = _composed(merged, _interval(merged)).get_delta_for_epsilon(np.asarray(epsilons, dtype=np.float64))
    return [min(max(float(delta), 0.0), 1.0) for delta in found]


def within_budget(spent: float, budget: float) -> bool:
    """Whether ``spent`` keeps to ``budget``, up to :data:`BUDGET_TOLERANCE`."""
    return spent <= budget * (1 + BUDGET_TOLERANCE)


def cross_check(
    events: Sequence[Mechanism], delta: float, by: Literal["opacus", "dp-accounting"] = "opacus"
) -> CrossCheck:
    """Epsilon by PLD and by Renyi DP (Mironov 2017), the latter by Opacus' accountant or by dp-accounting's.

    Opacus' is independent code but needs torch; an auditor's machine uses dp-accounting's. Raises
    AccountantDisagreement if RDP is below PLD by more than 1 % plus 0.001.
    """
    pld = epsilon(events, delta)
    if not events:
        return CrossCheck(0.0, 0.0)
    rdp = (_opacus_epsilon if by == "opacus" else _rdp_epsilon)(_merge(events), delta)
    if pld < math.inf and rdp < pld * (1 - DISAGREEMENT_RELATIVE) - DISAGREEMENT_ABSOLUTE:
        raise AccountantDisagreement(f"epsilon is {pld:.6g} by PLD but {rdp:.6g} by RDP, which can only be looser")
    return CrossCheck(pld, rdp)


@lru_cache(maxsize=64)
def noise_for_budget(budget: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest noise multiplier of four digits with which ``steps`` steps of DP-SGD keep to epsilon ``budget``.

    Judged by the PLD accountant at the whole number of steps, and never below 0.1. Takes a second or two. Raises
    InvalidPlan if ``steps`` is below 1 (an unbounded search elsewhere), or if not even a multiplier of 1,000 will do.
    """
    _check_delta(delta)
    if steps < 1 or not 0 < sampling_rate <= 1 or not 0 < budget < math.inf:
        raise InvalidPlan(
            f"no noise multiplier for epsilon {budget:g}, sampling rate {sampling_rate:g}, {steps} steps",
            "Epsilon must be positive, the sampling rate in (0, 1], and at least one step is needed.",
        )

    def fits(noise: float) -> bool:
        return epsilon([_steps(sampling_rate, noise, steps)], delta) <= budget

    guess = _estimate(budget, delta, sampling_rate, steps)
    unit = 10.0 ** (math.floor(math.log10(guess)) - 3)
    digits = math.ceil(guess / unit)
    while not fits(_rounded(digits, unit)):
        digits += 1
    while _rounded(digits, unit) > SMALLEST_NOISE and fits(_rounded(digits - 1, unit)):
        digits -= 1
    return _rounded(digits, unit)


# --- how it is done ------------------------------------------------------------------------------------------------


def _steps(rate: float, noise: float, steps: int) -> DpSgd:
    return DpSgd(sampling_rate=rate, noise_multiplier=noise, clipping_norm=1.0, steps=steps)


def _rounded(digits: int, unit: float) -> float:
    """``digits * unit`` as the short decimal a plan file carries, without binary dust."""
    return float(f"{digits * unit:.12g}")


def _check_delta(delta: float) -> None:
    if not SMALLEST_DELTA <= delta < 1:
        raise InvalidPlan(f"delta {delta:g} is outside [{SMALLEST_DELTA:g}, 1)")


def _merge(events: Sequence[Mechanism]) -> _Merged:
    """Equal events added up, sorted, so that equal ledgers are equal keys; clipping norms do not enter epsilon.

    Gaussians compose exactly: precisions (1 / noise^2) add, so all of them become one.
    """
    steps: dict[tuple[float, float], int] = {}
    precision = 0.0
    for event in events:
        if isinstance(event, DpSgd) and event.sampling_rate < 1:
            key = (event.sampling_rate, event.noise_multiplier)
            steps[key] = steps.get(key, 0) + event.steps
        else:
            precision += (event.steps if isinstance(event, DpSgd) else 1) / event.noise_multiplier**2
    if precision:
        steps[(1.0, precision**-0.5)] = 1
    return tuple(sorted((rate, noise, count) for (rate, noise), count in steps.items()))


def _interval(merged: _Merged) -> float:
    """A discretisation interval for these mechanisms: a tenth of a step's typical loss, at most 0.001.

    Coarser intervals blur the loss of one step, and the blur adds up over the steps. It is made larger again where
    one step would take more than 10^4 cells, or all together more than 3 * 10^5, to bound time and memory.
    """
    fine, coarse = 1e-3, 0.0
    for rate, noise, count in merged:
        # The largest loss that matters, at 8 standard deviations, and the loss's standard deviation (chi^2 bound).
        loss = 8 / noise + 0.5 / noise**2
        largest = loss + math.log(rate) if loss > 100 else math.log1p(rate * math.expm1(loss))
        deviation = min(rate * math.sqrt(math.expm1(min(noise**-2, 100))), largest)
        fine = min(fine, deviation / 10)
        total = count * min(deviation**2, rate * largest) + 10 * math.sqrt(count) * deviation
        coarse = max(coarse, largest / 1e4, min(total, count * largest) / 3e5)
    wanted = max(fine, coarse)
    power = 10.0 ** math.floor(math.log10(wanted))
    # On a 1-2-5 grid, so that another round of the same mechanism finds its distribution in the cache.
    return max(m * power for m in (1, 2, 5) if m * power <= wanted * (1 + 1e-9))


@lru_cache(maxsize=16)
def _one_step(rate: float, noise: float, interval: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=interval, sampling_prob=rate
    )


def _composed(merged: _Merged, interval: float) -> Any:
    total: Any = None
    with np.errstate(over="ignore"):  # only where epsilon is above LARGEST_EPSILON anyway
        for rate, noise, count in merged:
            part = _one_step(rate, noise, interval).self_compose(count)
            total = part if total is None else total.compose(part)
    return total


@lru_cache(maxsize=256)
def _pld_epsilon(merged: _Merged, delta: float, interval: float) -> float:
    with np.errstate(over="ignore"):
        found = float(_composed(merged, interval).get_epsilon_for_delta(delta))
    return found if found <= LARGEST_EPSILON else math.inf


def _estimate(budget: float, delta: float, rate: float, steps: int) -> float:
    """A noise multiplier close to the answer, found with few queries: log epsilon is nearly linear in log noise."""

    def excess(log_noise: float, coarsening: int = 4) -> float:
        merged = _merge([_steps(rate, math.exp(log_noise), steps)])
        spent = _pld_epsilon(merged, delta, coarsening * _interval(merged))
        # An epsilon of 0 (much noise, large delta) or infinity still needs a finite logarithm to steer by.
        return math.log(min(max(spent, 1e-12), 1e12) / budget)

    low, high = math.log(SMALLEST_NOISE), math.log(LARGEST_NOISE)
    # The advanced composition rule of thumb as a start, then a bracket around it.
    start = math.log(rate * math.sqrt(2 * steps * math.log(1.25 / delta)) / budget)
    left = right = min(max(start, math.log(0.5)), high)
    while excess(right) > 0:
        if right >= high:
            raise InvalidPlan(f"no noise multiplier up to {LARGEST_NOISE:g} keeps {steps} steps to epsilon {budget:g}")
        left, right = right, min(right + 0.5, high)
    while excess(left) <= 0:
        if left <= low:
            return SMALLEST_NOISE
        left, right = max(left - 0.5, low), left
    while right - left > 0.01:
        middle = (left + right) / 2
        left, right = (middle, right) if excess(middle) > 0 else (left, middle)
    slope = (excess(right) - excess(left)) / (right - left)
    return min(max(math.exp(right - excess(right, coarsening=1) / slope), SMALLEST_NOISE), LARGEST_NOISE)


def _rdp_epsilon(merged: _Merged, delta: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=_ORDERS)
    for rate, noise, count in merged:
        accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), count)
    return float(accountant.get_epsilon(delta))


def _opacus_epsilon(merged: _Merged, delta: float) -> float:
    from opacus.accountants.analysis import rdp

    total = sum(
        rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=_ORDERS) for rate, noise, count in merged
    )
    return float(rdp.get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)[0])
