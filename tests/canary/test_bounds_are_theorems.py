"""The bounds against independent slow references, and against mechanisms whose privacy is known exactly."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import binom, norm

from secure_fedhelp.audit.canary.bounds import (
    clopper_pearson_epsilon,
    one_run_epsilon,
    one_run_p_value,
    p_value,
    right_guesses,
    total_tail,
)
from secure_fedhelp.audit.canary.curve import PrivacyCurve, claimed_curve
from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.privacy.accountant import epsilon, privacy_curve
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian


def accuracy(eps: float) -> float:
    """How often randomised response tells the truth."""
    return 1 / (1 + math.exp(-eps))


def gaussian(mu: float) -> Gaussian:
    """Two neighbours' answers are N(0, 1) and N(mu, 1)."""
    return Gaussian(noise_multiplier=1 / mu, sensitivity=1.0)


# --- Steinke, Nasr and Jagielski -------------------------------------------------------------------------------------


def test_the_one_run_bound_is_the_papers() -> None:
    # The worked example of their appendix D.
    assert one_run_epsilon(1000, 100, 75, 1e-4, 0.95) == pytest.approx(0.673, abs=1e-3)


def exact_p_value(m: int, r: int, v: int, odds: Fraction, delta: Fraction) -> Fraction:
    """beta + 2 m delta alpha in fractions, sums written out; ``odds`` is e^epsilon."""
    q = odds / (1 + odds)
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    beta = sum(mass[v:], Fraction(0))
    alpha = max([sum(mass[max(v - i, 0) : v], Fraction(0)) / i for i in range(1, m + 1)], default=Fraction(0))
    return min(beta + 2 * m * delta * alpha, Fraction(1))


@given(data=st.data())
def test_the_one_run_bound_equals_a_slow_one(data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 30))
    r = data.draw(st.integers(1, m))
    v = data.draw(st.integers(0, r))
    odds = data.draw(st.fractions(1, 20, max_denominator=7))
    delta = data.draw(st.fractions(0, Fraction(1, 10), max_denominator=1000))
    fast = one_run_p_value(m, r, v, math.log(odds), float(delta))
    assert fast == pytest.approx(float(exact_p_value(m, r, v, odds, delta)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("eps", "delta"), [(0.5, 0.0), (1.0, 0.0), (3.0, 0.0), (1.0, 1e-3), (2.0, 1e-4)])
def test_randomised_response_is_never_refuted_more_often_than_it_may(eps: float, delta: float) -> None:
    """Each canary's bit is told outright with probability delta, else by randomised response: exactly (eps, delta)-DP.

    At 95 % the true epsilon is refuted in at most 5 % of runs, computed exactly; without delta also in nearly as many
    as the steps of a binomial allow, so the bound is tight.
    """
    m = 200
    truth = delta + (1 - delta) * accuracy(eps)
    refuting = [v for v in range(m + 1) if one_run_p_value(m, m, v, eps, delta) <= 0.05]
    false_alarms = float(binom.sf(refuting[0] - 1, m, truth))
    assert false_alarms <= 0.05
    assert refuting == list(range(refuting[0], m + 1))
    if not delta:
        assert false_alarms > 0.025
        assert 0.85 * eps < one_run_epsilon(5000, 5000, round(5000 * truth), 0.0, 0.95) < eps


def test_a_mechanism_that_betrays_everybody_with_probability_delta_is_allowed_for() -> None:
    """The case that the term in delta is there for: all right at once, with probability delta for all canaries."""
    m, eps, delta = 100, 1.0, 0.01
    for v in range(m + 1):
        tail = delta + (1 - delta) * float(binom.sf(v - 1, m, accuracy(eps)))
        assert one_run_p_value(m, m, v, eps, delta) >= tail * (1 - 1e-9)


def test_a_bound_never_refutes_what_nobody_could_know() -> None:
    assert one_run_epsilon(1000, 200, 100, 1e-5, 0.95) == 0
    assert one_run_epsilon(10, 1, 0, 1e-5, 0.95) == 0


# --- Mahloujifar, Melis and Chaudhuri --------------------------------------------------------------------------------


def largest_tail(lines: list[tuple[float, float]], m: int, r: int, c: int) -> float:
    """max P[at least c right] over all distributions that keep the theorem's inequalities up to c: a linear program."""
    below: list[list[float]] = []
    bounds: list[float] = []
    for v in range(1, c + 1):
        right = [t / m if t >= v else 0.0 for t in range(r + 1)]
        wrong = [(r - t) / m if t >= v - 1 else 0.0 for t in range(r + 1)]
        for slope, offset in lines:
            below.append([a - slope * b for a, b in zip(right, wrong, strict=True)])
            bounds.append(offset)
    goal = [-1.0 if t >= c else 0.0 for t in range(r + 1)]
    found = linprog(goal, below, bounds, [[1.0] * (r + 1)], [1.0], bounds=(0, 1))
    assert found.success
    return -float(found.fun)


@pytest.mark.parametrize(("m", "r"), [(1, 1), (3, 2), (6, 6), (12, 5)])
@pytest.mark.parametrize("mu", [0.5, 1.5])
def test_the_recursion_solves_the_linear_program(m: int, r: int, mu: float) -> None:
    pairs = privacy_curve([gaussian(mu)], 1e-3, 4)
    curve = PrivacyCurve.of(pairs)
    lines = [(math.exp(e), d) for e, d in pairs] + [(math.exp(-e), 1 - math.exp(-e) * (1 - d)) for e, d in pairs]
    found = right_guesses(curve, m, r)
    for c in range(1, r + 1):
        assert found[c] == pytest.approx(largest_tail(lines, m, r, c), abs=1e-5)


@given(
    pairs=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 0.9)), min_size=1, max_size=6),
    y=st.floats(0, 1),
)
def test_the_curves_inverse_is_the_greatest_of_its_lines(pairs: list[tuple[float, float]], y: float) -> None:
    curve = PrivacyCurve.of(pairs)
    least = 0.0
    for e, d in pairs:
        least = max(least, (y - d) * math.exp(-e), 1 - d - math.exp(e) * (1 - y))
    assert float(curve.inverse(np.asarray(y))) == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
def test_one_canary_of_one_training_is_bounded_tightly(mu: float) -> None:
    """With one canary the theorem says: nobody guesses better than the best test, and that is known for Gaussians."""
    assert right_guesses(claimed_curve(gaussian(mu)), 1, 1)[1] == pytest.approx(float(norm.cdf(mu / 2)), abs=2e-3)


@pytest.mark.parametrize("eps", [0.5, 2.0])
def test_independent_canaries_are_within_the_bound(eps: float) -> None:
    tails = right_guesses(PrivacyCurve.of([(eps, 0.0)]), 40, 40)
    for v in range(41):
        assert tails[v] >= float(binom.sf(v - 1, 40, accuracy(eps))) - 1e-9


def test_canaries_that_are_betrayed_together_are_within_the_bound() -> None:
    tails = right_guesses(PrivacyCurve.of([(0.0, 0.1)]), 20, 20)
    for v in range(21):
        assert tails[v] >= 0.1 + 0.9 * float(binom.sf(v - 1, 20, 0.5)) - 1e-9


def test_several_trainings_are_bounded_by_the_sum_of_independent_ones() -> None:
    tails = np.array([1.0, 0.7, 0.2])
    mass = {0: 0.3, 1: 0.5, 2: 0.2}
    for wanted in range(8):
        slow = sum(
            math.prod(mass[v] for v in values) for values in itertools.product(mass, repeat=3) if sum(values) >= wanted
        )
        assert total_tail(tails, 3, wanted) == pytest.approx(slow)


def test_false_alarms_of_a_gaussian_mechanism_are_as_rare_as_promised() -> None:
    """Gaussian noise on each of 20 canaries, 8 trainings, half of the guesses kept: 2,000 audits, none at random."""
    rng, alarms, mu = np.random.default_rng(7), 0, 1.0
    tails = right_guesses(claimed_curve(gaussian(mu)), 20, 10)
    for _ in range(2000):
        correct = 0
        for _ in range(8):
            included = rng.random(20) < 0.5
            order = np.argsort(rng.normal(size=20) + mu * included)
            correct += int(included[order[15:]].sum() + (~included[order[:5]]).sum())
        alarms += total_tail(tails, 8, correct) <= 0.05
    assert alarms <= 0.05 * 2000


def test_less_noise_than_claimed_is_refuted_and_more_is_not() -> None:
    claimed = DpSgd(sampling_rate=0.7, noise_multiplier=3.0, clipping_norm=1.0, steps=4)
    noisier = claimed.model_copy(update={"noise_multiplier": 6.0})
    right = 32 * 200 * 8 // 10
    assert p_value(claimed_curve(noisier), 1000, 200, 32, right) < p_value(claimed_curve(claimed), 1000, 200, 32, right)
    assert epsilon([noisier], 1e-5) < epsilon([claimed], 1e-5)


# --- one target in many trainings ------------------------------------------------------------------------------------


def test_the_limits_are_those_of_clopper_and_pearson() -> None:
    # Nobody mistaken in 100, everybody found in 100, half of 5 % on each side: 1 - 0.025^(1/100) = 0.0362.
    limit = 1 - 0.025 ** (1 / 100)
    assert clopper_pearson_epsilon(100, 100, 100, 0, 0.0, 0.95) == pytest.approx(math.log((1 - limit) / limit))
    assert clopper_pearson_epsilon(100, 50, 100, 50, 1e-5, 0.95) == 0
    assert clopper_pearson_epsilon(0, 0, 100, 0, 1e-5, 0.95) == 0
    assert clopper_pearson_epsilon(100, 0, 100, 0, 1e-5, 0.95) == 0


def test_a_rate_of_misses_counts_as_much_as_one_of_mistakes() -> None:
    one = clopper_pearson_epsilon(100, 100, 100, 60, 1e-5, 0.95)
    assert one == pytest.approx(clopper_pearson_epsilon(100, 40, 100, 0, 1e-5, 0.95))
    assert one > 2


@pytest.mark.parametrize("eps", [0.5, 1.5])
def test_a_games_bound_is_valid_for_randomised_response(eps: float) -> None:
    """Exactly: of all outcomes of 30 trainings with the target and 30 without, at most 5 % refute the true epsilon."""
    n, q = 30, accuracy(eps)
    wrongly = 0.0
    for found, mistaken in itertools.product(range(n + 1), repeat=2):
        if clopper_pearson_epsilon(n, found, n, mistaken, 0.0, 0.95) > eps:
            wrongly += float(binom.pmf(found, n, q) * binom.pmf(mistaken, n, 1 - q))
    assert wrongly <= 0.05


# --- the accountant's curve -------------------------------------------------------------------------------------------


def test_a_curve_is_what_the_accountant_says_at_every_delta() -> None:
    event = DpSgd(sampling_rate=0.7, noise_multiplier=3.0, clipping_norm=1.0, steps=4)
    pairs = privacy_curve([event], 1e-9, 12)
    assert (pairs[0][0], pairs[-1][0]) == (0.0, pytest.approx(epsilon([event], 1e-9)))
    for spent, at in pairs[1:]:
        assert epsilon([event], at) == pytest.approx(spent, rel=1e-3)


def test_a_coarser_curve_only_allows_more() -> None:
    event = DpSgd(sampling_rate=0.7, noise_multiplier=1.0, clipping_norm=1.0, steps=4)
    fine = PrivacyCurve.of(privacy_curve([event], 1e-9, 32))
    y = np.linspace(0, 1, 50)
    assert (claimed_curve(event).inverse(y) <= fine.inverse(y) + 1e-6).all()
    assert claimed_curve(event).inverse(y) == pytest.approx(fine.inverse(y), rel=0.02, abs=1e-6)


def test_no_curve_without_a_mechanism() -> None:
    with pytest.raises(InvalidPlan, match="mechanism"):
        privacy_curve([], 1e-9, 4)
