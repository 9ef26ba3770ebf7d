"""Epsilon of a list of mechanisms: the privacy-loss-distribution (PLD) accountant, and second opinions beside it.

The figure of record is the PLD accountant of ``dp-accounting`` (Koskela et al., AISTATS 2020; discretisation by
connect-the-dots, Doroshenko et al., PETS 2022), for neighbours that differ by one patient added or removed.

**An upper bound, twice over.** Discretisation rounds pessimistically, and what tails cut off and Fourier transforms
round is taken off delta first (:data:`ROUNDING`).

**The grid is a rule of the mechanisms alone**, so an auditor finds the same figure. Its interval is dp-accounting's
default of 1e-4 times a power of two: grids nest, and a coarser one says no less, but for cut tails and rounding, which
were seen to move the figure by up to 0.02 % (both stay upper bounds). The interval is a tenth of one step's typical
loss, between 1e-4 / 128 and 8e-4. On a grid that is coarser than the loss of a step, each step counts as a much larger
one, and the figure can come out above what Renyi DP proves. It is made larger again where arrays would fill the memory.
Where a step's typical loss is 1e-3 or more, nothing finer than the default is taken, and the figure is never below what
dp-accounting says as it comes; elsewhere it may be, and only below. 0.4.0 took nothing finer than the default anywhere:
what fitted a budget there fits it here.

Accuracy: for sampling rates from 0.001 and noise multipliers up to 5, and for larger rates at any noise that leaves an
epsilon above 0.1, the bound is within 1 % (plus 0.001) of the one at a ten times finer interval; for rates from 0.01 on
mostly within 0.1 %. Another mechanism in the list may ask for a finer interval and so make the bound of the others
tighter by as much; with one interval (:func:`running_epsilon`) and with more of the same, epsilon never falls.
Cost: 0.05 to 0.5 s for a new mechanism and 0.1 s for another number of steps of a known one; equal queries are answered
from a cache.

``dp_accounting`` takes two seconds to import and Opacus (with torch) four, so both are imported on first use.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from secure_fedhelp.errors import AccountantDisagreement, InvalidPlan
from secure_fedhelp.privacy.mechanisms import LARGEST_NOISE, MOST_STEPS, SMALLEST_NOISE, DpSgd, Gaussian, Mechanism

#: An epsilon may exceed its budget by this fraction and still count as within it: ``noise_for_budget`` makes a study
#: fit its budget as closely as its short number allows, and another machine's FFT may differ in the last digits.
BUDGET_TOLERANCE = 1e-6
#: RDP bounds the same epsilon from above more loosely than PLD does, and PRV says between which figures it lies. They
#: may contradict PLD only by its own discretisation error; anything beyond is a mistake in one of them.
DISAGREEMENT_RELATIVE, DISAGREEMENT_ABSOLUTE = 0.01, 0.001
SMALLEST_DELTA = 1e-12
#: Delta that is given away for each step: composing cuts tails of 1e-15, and at 5,000 steps the rounding of Fourier
#: transforms was measured to hide up to 1e-13. At a delta of 1e-6 it changes epsilon in the tenth digit.
ROUNDING = 1e-15
#: Above this, epsilon is reported as infinite: nobody is protected there, and ``exp`` of a loss beyond 700 overflows.
LARGEST_EPSILON = 500.0
LARGEST_STEPS = 10**7

#: What Opacus' PRV accountant promises: its bounds are this far from its estimate, and it is wrong by at most this
#: fraction of delta. Smaller errors take memory: arrays grow with epsilon, the root of steps, and one over the error.
PRV_EPSILON_ERROR, PRV_DELTA_ERROR = 0.01, 1e-3
#: Beyond these the arrays would fill gigabytes (or overflow), and PRV is not asked.
PRV_LARGEST_EPSILON, PRV_LARGEST_STEPS = 20.0, 20_000

#: dp-accounting's own interval.
_DEFAULT_INTERVAL = 1e-4
#: How often the default is halved at most. On much finer grids the probabilities of a step, which are differences of
#: figures near one, drown in rounding: at 1e-9 their sum was seen to be 1.015.
_MOST_HALVINGS = 7
#: A step has at most so many cells, and all steps together.
_STEP_CELLS, _ALL_CELLS = 1e4, 3e5
#: How many times finer the grid is on which a disagreement is judged.
_FINER = 8
#: From so many steps on, distributions are made dense before they are composed. dp-accounting would do so itself, but
#: first works out the number of cells to the power of the steps, exactly: a second for a million.
_DENSE_STEPS = 1000
#: Lower rates are composed as this one, which bounds them from above: below 1e-57 or so the arithmetic fails, and at
#: this rate even 10^7 steps draw a patient with less than the smallest delta.
_SMALLEST_RATE = 1e-20
#: Renyi orders of the second opinion. Any order gives a valid bound; whole ones need no series that may not converge.
_ORDERS = [*range(2, 64), 80, 96, 128, 192, 256, 512, 1024]
#: Places of the noise multipliers of four digits: 9,000 a decade.
_MULTIPLIERS = 9000 * round(math.log10(LARGEST_NOISE / SMALLEST_NOISE))
#: Equal events merged: (sampling rate, noise multiplier) and how many steps. Rate 1 is the plain Gaussian.
_Merged = tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class PrvBounds:
    """Between which figures Opacus' PRV accountant (Gopi, Lee and Wutschitz, NeurIPS 2021) says that epsilon lies."""

    low: float
    estimate: float
    high: float


@dataclass(frozen=True)
class CrossCheck:
    """Epsilon by several accountants; ``pld`` is the figure of record. ``prv`` is None where it was not asked."""

    pld: float
    rdp: float
    prv: PrvBounds | None = None


def epsilon(events: Sequence[Mechanism], delta: float) -> float:
    """Epsilon at ``delta`` of all events together, by the PLD accountant; 0 without events.

    An upper bound (see above); infinite above 500. Raises InvalidPlan for a delta outside [1e-12, 1), for more than
    10^7 steps, and for a delta below twice what rounding may hide of so many steps.
    """
    merged = _merge(events)
    certain = _certain(merged, delta)
    return _pld_epsilon(merged, certain, _interval(merged)) if merged else 0.0


def running_epsilon(rounds: Sequence[Sequence[Mechanism]], delta: float) -> list[float]:
    """Epsilon after each of ``rounds``, which name what each round added; it never falls from one to the next.

    One interval serves all, so that a study of 50 rounds takes a second or two. Errors as :func:`epsilon`.
    """
    everything = _merge([event for events in rounds for event in events])
    certain, interval, total, found = _certain(everything, delta), _interval(everything), None, [0.0]
    for events in rounds:
        if not events:
            found.append(found[-1])
            continue
        part = _composed(_merge(events), interval)
        total = part if total is None else total.compose(part)
        found.append(max(found[-1], _read_off(total, certain)))
    return found[1:]


def privacy_curve(
    events: Sequence[Mechanism], least_delta: float, points: int, coarsening: int = 1
) -> list[tuple[float, float]]:
    """Pairs of epsilon and delta that all events together keep: ``points`` of them, evenly from epsilon 0 to the one at
    ``least_delta``, or to 500.

    Upper bounds, by the same PLD as :func:`epsilon`'s. ``coarsening`` multiplies its interval: ten times is ten times
    as quick and about a thousandth looser. Raises InvalidPlan without events, and as :func:`epsilon` does.
    """
    merged = _merge(events)
    if not merged:
        raise InvalidPlan("no curve without a mechanism")
    certain, hidden = _certain(merged, least_delta), _hidden(merged)
    total = _composed(merged, coarsening * _interval(merged))
    grid = np.linspace(0.0, min(_read_off(total, certain), LARGEST_EPSILON), points)
    at = np.clip(total.get_delta_for_epsilon(grid) + hidden, 0.0, 1.0)
    return list(zip(grid.tolist(), at.tolist(), strict=True))


def within_budget(spent: float, budget: float) -> bool:
    """Whether ``spent`` keeps to ``budget``, up to :data:`BUDGET_TOLERANCE`."""
    return spent <= budget * (1 + BUDGET_TOLERANCE)


def cross_check(
    events: Sequence[Mechanism], delta: float, by: Literal["opacus", "dp-accounting"] = "opacus"
) -> CrossCheck:
    """Epsilon by PLD, by Renyi DP (Mironov 2017), and by PRV if Opacus is asked.

    Opacus' accountants are independent code but need torch; an auditor's machine may use dp-accounting's RDP alone.
    PRV is not asked above epsilon 20 or 20,000 steps. Raises AccountantDisagreement if RDP is below PLD, or PLD outside
    of PRV's bounds, by more than 1 % plus 0.001. Where PLD looks too large it is computed once more on a grid eight
    times finer and judged by that: a coarse grid is no contradiction. The figure of record stays the first.
    """
    pld = epsilon(events, delta)
    if not events:
        return CrossCheck(0.0, 0.0)
    merged, asked = _merge(events), by == "opacus"
    rdp = max(0.0, (_opacus_epsilon if asked else _rdp_epsilon)(merged, delta))
    prv = _prv_bounds(merged, delta) if asked and pld <= PRV_LARGEST_EPSILON else None
    judged, most = pld, min(rdp, math.inf if prv is None else prv.high)
    if most < _lowered(pld) < math.inf:
        judged = min(pld, _pld_epsilon(merged, _certain(merged, delta), _interval(merged) / _FINER))
    if pld < math.inf and rdp < _lowered(judged):
        raise AccountantDisagreement(f"epsilon is {judged:.6g} by PLD but {rdp:.6g} by RDP, which can only be looser")
    if prv is not None and not (_lowered(prv.low) <= pld and _lowered(judged) <= prv.high):
        raise AccountantDisagreement(f"epsilon is {judged:.6g} by PLD, but from {prv.low:.6g} to {prv.high:.6g} by PRV")
    return CrossCheck(pld, rdp, prv)


def noise_for_budget(
    budget: float, delta: float, sampling_rate: float, steps: int, others: Sequence[Mechanism] = ()
) -> float:
    """The smallest noise multiplier of four digits with which ``steps`` steps of DP-SGD keep to epsilon ``budget``.

    ``others`` is what the same patients pay for besides, in the same study: metrics, say. Judged by the PLD accountant
    at the whole number of steps, and never below 0.1. Epsilon falls as noise grows, so the answer is bracketed among
    the multipliers of four digits: about ten questions to the accountant, a second or two. Raises InvalidPlan if
    ``steps`` is not from 1 to a million, if ``others`` alone use up the budget, or if not even a multiplier of 1,000
    will do.
    """
    if not 1 <= steps <= MOST_STEPS or not 0 < sampling_rate <= 1 or not 0 < budget < math.inf:
        raise InvalidPlan(
            f"no noise multiplier for epsilon {budget:g}, sampling rate {sampling_rate:g}, {steps} steps",
            f"Epsilon must be positive, the sampling rate in (0, 1], and steps from 1 to {MOST_STEPS:,}.",
        )
    alone = epsilon(others, delta)
    if alone >= budget:
        raise InvalidPlan(f"everything beside the training already costs epsilon {alone:.4g} of {budget:g}")
    return _noise_for_budget(budget, delta, sampling_rate, steps, tuple(others))


# --- how it is done ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _noise_for_budget(
    budget: float, delta: float, rate: float, steps: int, others: tuple[DpSgd | Gaussian, ...]
) -> float:
    def spent(place: int) -> float:
        training = DpSgd(sampling_rate=rate, noise_multiplier=_multiplier(place), clipping_norm=1.0, steps=steps)
        return epsilon([training, *others], delta)

    if spent(_MULTIPLIERS) > budget:
        raise InvalidPlan(
            f"no noise multiplier up to {LARGEST_NOISE:g} keeps {steps:,} steps at rate {rate:g} to epsilon {budget:g}",
            "Plan fewer steps, a lower sampling rate or a larger epsilon.",
        )
    return _multiplier(0 if spent(0) <= budget else _first_within(spent, budget))


def _first_within(spent: Callable[[int], float], budget: float) -> int:
    """The first place at which ``spent``, which falls, is within ``budget``: it is at the last, and not at place 0.

    A straight line through the logarithms at both ends says where to ask next, and an end that stays twice counts half
    (the Illinois rule); after ten questions the bracket is halved, so that there are never more than 26.
    """

    def height(found: float) -> float:
        """To steer by; whether a place is within the budget is judged by ``spent`` itself."""
        return math.log(min(max(found, 1e-6), LARGEST_EPSILON) / budget)

    left, right, asked, moved = 0, _MULTIPLIERS, 0, 0
    above, below = height(spent(left)), height(spent(right))
    while right - left > 1:
        line = left + (right - left) * above / (above - below) if above > below else math.inf
        middle = round(line) if asked < 10 and left < line < right else (left + right) // 2
        middle, asked = min(max(middle, left + 1), right - 1), asked + 1
        found = spent(middle)
        if found <= budget:
            right, below, above = middle, height(found), above / 2 if moved > 0 else above
            moved = 1
        else:
            left, above, below = middle, height(found), below / 2 if moved < 0 else below
            moved = -1
    return right


def _multiplier(place: int) -> float:
    """Multiplier number ``place`` of those with four digits: 0 is 0.1, 1 is 0.1001, and 36,000 is 1,000."""
    decade, digits = divmod(place, 9000)
    return float(f"{1000 + digits}e{decade - 4}")


def _hidden(merged: _Merged) -> float:
    """Delta that cut tails and rounding may hide of these mechanisms."""
    return ROUNDING * (10 + sum(count for _, _, count in merged))


def _certain(merged: _Merged, delta: float) -> float:
    """``delta`` less what may be hidden."""
    if not SMALLEST_DELTA <= delta < 1:
        raise InvalidPlan(f"delta {delta:g} is outside [{SMALLEST_DELTA:g}, 1)")
    steps = sum(count for _, _, count in merged)
    if steps > LARGEST_STEPS:
        raise InvalidPlan(f"more than {LARGEST_STEPS:,} private steps: beyond what the accountant is tested for")
    hidden = _hidden(merged)
    if delta < 2 * hidden:
        raise InvalidPlan(f"delta {delta:g} is too small for {steps:,} private steps: rounding may hide {hidden:g}")
    return delta - hidden


def _lowered(figure: float) -> float:
    """The least that another accountant may say beside ``figure``."""
    return figure * (1 - DISAGREEMENT_RELATIVE) - DISAGREEMENT_ABSOLUTE


def _merge(events: Sequence[Mechanism]) -> _Merged:
    """Equal events added up, sorted, so that equal ledgers are equal keys; clipping norms do not enter epsilon."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        rate, count = (event.sampling_rate, event.steps) if isinstance(event, DpSgd) else (1.0, 1)
        key = (max(rate, _SMALLEST_RATE), event.noise_multiplier)
        steps[key] = steps.get(key, 0) + count
    return tuple(sorted((rate, noise, count) for (rate, noise), count in steps.items()))


def _interval(merged: _Merged) -> float:
    """The discretisation interval for these mechanisms: a tenth of a step's typical loss, within limits (see above).

    Coarser intervals blur the loss of one step, and the blur adds up over the steps. It is made larger again where
    one step would take more than 10^4 cells, or all together more than 3 * 10^5, to bound time and memory.
    """
    fine, coarse, finest = 8e-4, 0.0, 0.0
    for rate, noise, count in merged:
        # The largest loss that matters, at 8 standard deviations, and the loss's standard deviation (chi^2 bound).
        largest = _loss_at(8, rate, noise)
        deviation = min(rate * math.sqrt(math.expm1(min(noise**-2, 100))), largest)
        fine = min(fine, deviation / 10)
        total = count * min(deviation**2, rate * largest) + 10 * math.sqrt(count) * deviation
        coarse = max(coarse, largest / _STEP_CELLS, min(total, count * largest) / _ALL_CELLS)
        # At small rates the loss still grows tenfold up to the 10 standard deviations at which tails are cut.
        finest = max(finest, _loss_at(10, rate, noise) / _STEP_CELLS)
    wanted = max(fine, coarse, min(finest, _DEFAULT_INTERVAL)) / _DEFAULT_INTERVAL * (1 + 1e-9)
    # Powers of two, so that a point of a coarser grid is one of every finer, and the coarser bound never the lower.
    return _DEFAULT_INTERVAL * 2.0 ** max(-_MOST_HALVINGS, math.floor(math.log2(wanted)))


def _loss_at(deviations: float, rate: float, noise: float) -> float:
    """The privacy loss of one step where its answer lies so many standard deviations out."""
    loss = deviations / noise + 0.5 / noise**2
    return loss + math.log(rate) if loss > 100 else math.log1p(rate * math.expm1(loss))


@lru_cache(maxsize=32)
def _one_step(rate: float, noise: float, interval: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=interval, sampling_prob=rate
    )


def _composed(merged: _Merged, interval: float) -> Any:
    total: Any = None
    with np.errstate(over="ignore"):  # only where epsilon is above LARGEST_EPSILON anyway
        for rate, noise, count in merged:
            one = _one_step(rate, noise, interval)
            part = (one if count < _DENSE_STEPS else _dense(one)).self_compose(count)
            total = part if total is None else total.compose(part)
    return total


def _dense(distribution: Any) -> Any:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    remove, add = distribution._pmf_remove, distribution._pmf_add  # one object where both are the same
    return PrivacyLossDistribution(remove.to_dense_pmf(), None if add is remove else add.to_dense_pmf())


@lru_cache(maxsize=256)
def _pld_epsilon(merged: _Merged, delta: float, interval: float) -> float:
    return _read_off(_composed(merged, interval), delta)


def _read_off(distribution: Any, delta: float) -> float:
    with np.errstate(over="ignore"):
        found = float(distribution.get_epsilon_for_delta(delta))
    return found if found <= LARGEST_EPSILON else math.inf


@lru_cache(maxsize=64)
def _rdp_epsilon(merged: _Merged, delta: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=_ORDERS)
    for rate, noise, count in merged:
        accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), count)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=64)
def _opacus_epsilon(merged: _Merged, delta: float) -> float:
    from opacus.accountants.analysis import rdp

    total = sum(
        rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=_ORDERS) for rate, noise, count in merged
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other orders might give a tighter bound: it is a bound all the same
        return float(rdp.get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)[0])


@lru_cache(maxsize=64)
def _prv_bounds(merged: _Merged, delta: float) -> PrvBounds | None:
    """Opacus' PRV accountant on these mechanisms; None beyond the steps it can hold, or where it gives no answer."""
    total = sum(count for _, _, count in merged)
    if total > PRV_LARGEST_STEPS:
        return None
    from opacus.accountants.analysis import prv

    wrong, counts = PRV_DELTA_ERROR * delta, [count for _, _, count in merged]
    variables = [prv.PoissonSubsampledGaussianPRV(rate, noise) for rate, noise, _ in merged]
    try:
        # At rate 1 its formulas divide by zero where the result is still right.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reach = prv.compute_safe_domain_size(variables, counts, PRV_EPSILON_ERROR, wrong)
            mesh = PRV_EPSILON_ERROR / math.sqrt(total * math.log(12 / wrong) / 2)
            domain = prv.Domain.create_aligned(-reach, reach, mesh)
            cut = [prv.TruncatedPrivacyRandomVariable(v, domain.t_min, domain.t_max) for v in variables]
            composed = prv.compose_heterogeneous([prv.discretize(v, domain) for v in cut], counts)
            low, estimate, high = composed.compute_epsilon(delta, wrong, PRV_EPSILON_ERROR)
    except (RuntimeError, ValueError):  # what Opacus raises where floating point will not do
        return None
    return PrvBounds(*(max(0.0, float(bound)) for bound in (low, estimate, high)))
