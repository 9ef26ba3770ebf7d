"""From guesses to a lower bound of epsilon: three published theorems, each valid at a stated confidence.

The game: m canaries are each included in a training by a fair coin, one after another independent; from what the
training releases r of the coins are guessed (the others are passed over), v rightly. Privacy bounds how many can be
right. Two bounds from one training, and one from many:

* :func:`one_run_p_value`: Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023,
  section 5 and appendix D. Assumes (epsilon, delta)-DP and nothing else, so it refutes an epsilon whatever the
  mechanism is. It is loose for Gaussian noise, whose privacy loss is mostly far below epsilon.
* :func:`right_guesses`: Mahloujifar, Melis and Chaudhuri, "Auditing f-differential privacy in one run", ICML 2025.
  Assumes the whole privacy curve, which is what the ledger's event claims and the accountant computes.
* :func:`clopper_pearson_epsilon`: one canary in many trainings (Jagielski, Ullman and Oprea, NeurIPS 2020; Nasr and
  others, IEEE S&P 2021), with the exact confidence limits of Clopper and Pearson (1934).

**Several trainings.** Trainings of their own coins are independent, so the number of right guesses of all is at most
(in distribution) a sum of independent variables with the bound of one, and :func:`p_value` convolves them. This is a
good deal sharper than one training with as many canaries, because the theorem must allow for mechanisms that betray
all their canaries at once and rarely, and independent trainings cannot do that together.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.audit.canary.curve import PrivacyCurve

Floats = NDArray[np.float64]

#: Halvings of an interval: probabilities come out at most 2^-24 too large, which is on the safe side.
_HALVINGS = 24
#: Rounding errors of a recursion over some hundred terms; what is larger by less still counts as feasible.
_ROUNDING = 1e-10


def right_guesses(curve: PrivacyCurve, canaries: int, guesses: int) -> Floats:
    """The largest probability, under ``curve``, of at least v right guesses: float64 [guesses + 1] over v = 0 ...

    Let p_t be the probability of t right guesses. For a canary drawn at random, flipping its coin turns a right guess
    with t - 1 others right into a wrong one, which gives for each v (Jensen's inequality, the curve being concave)

        sum_{t>=v} t/m p_t <= blow_up( sum_{t>=v-1} (r-t)/m p_t ).

    The least total mass with P[at least c right] = tau has tau at t = c, and below it at each t as little as these
    inequalities ask for. Where that comes to more than 1, tau is impossible; the largest possible one is searched by
    bisection, for all c at once.
    """
    wanted = np.arange(1, guesses + 1, dtype=np.float64)
    low, high = np.zeros(guesses), np.ones(guesses)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        possible = _least_mass(curve, canaries, guesses, middle, wanted) <= 1 + _ROUNDING
        low, high = np.where(possible, middle, low), np.where(possible, high, middle)
    return np.minimum.accumulate(np.concatenate([[1.0], high]))


def _least_mass(curve: PrivacyCurve, canaries: int, guesses: int, tail: Floats, wanted: Floats) -> Floats:
    """The least total probability of a distribution with ``tail[k]`` at ``wanted[k]`` right guesses or more."""
    right, wrong = tail * wanted / canaries, tail * (guesses - wanted) / canaries
    for t in range(guesses - 1, -1, -1):
        # Those with wanted > t; each needs so much more mass at exactly t right guesses.
        above = slice(t, None)
        missing = np.maximum(curve.inverse(right[above]) - wrong[above], 0.0)
        wrong[above] += missing
        right[above] = np.minimum(right[above] + missing * t / (guesses - t), 1.0)
    return np.asarray((right + wrong) * canaries / guesses)


def p_value(curve: PrivacyCurve, canaries: int, guesses: int, trainings: int, correct: int) -> float:
    """Largest probability under ``curve`` of ``correct`` or more right guesses in all trainings together.

    Each of the ``trainings`` has ``canaries`` canaries and ``guesses`` guesses.
    """
    tails = right_guesses(curve, canaries, guesses)
    return total_tail(tails, trainings, correct)


def total_tail(tails: Floats, count: int, at_least: int) -> float:
    """P[sum of ``count`` independent variables >= ``at_least``], each with P[>= v] = ``tails[v]``."""
    masses = tails - np.append(tails[1:], 0.0)
    total = reduce(np.convolve, [masses] * count)
    return float(min(total[at_least:].sum(), 1.0)) if at_least < len(total) else 0.0


def one_run_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Largest probability of ``correct`` or more right guesses under (epsilon, delta)-DP: Steinke and others (2023).

    beta + alpha * 2 m delta, with W binomial of r guesses that are right with probability e^epsilon / (1 + e^epsilon),
    beta = P[W >= v] and alpha = max over i of P[v > W >= v - i] / i.
    """
    from scipy.stats import binom

    accuracy = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, accuracy))
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
    alpha = float((below / np.arange(1, correct + 1)).max()) if correct else 0.0
    return min(beta + 2 * canaries * delta * alpha, 1.0)


def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """The largest epsilon (to 1e-4, rounded down) that the guesses refute at ``confidence``; 0 if they refute none."""

    def refuted(epsilon: float) -> bool:
        return one_run_p_value(canaries, guesses, correct, epsilon, delta) <= 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def clopper_pearson_epsilon(
    included: int, found: int, left_out: int, mistaken: int, delta: float, confidence: float
) -> float:
    """Of ``included`` trainings with the target ``found`` were told as such, of ``left_out`` without it ``mistaken``.

    Both rates get exact limits at half the error each. (epsilon, delta)-DP asks P[in | in] <= e^epsilon P[in | out] +
    delta, and the same of the complement; the larger epsilon of the two is refuted. 0 if a side was never seen.
    """
    if included == 0 or left_out == 0:
        return 0.0
    error = (1 - confidence) / 2
    least_found, most_mistaken = _lower_limit(found, included, error), _upper_limit(mistaken, left_out, error)
    pairs = ((least_found, most_mistaken), (1 - most_mistaken, 1 - least_found))
    ratios = [math.log((right - delta) / wrong) for right, wrong in pairs if right > delta]
    return max([0.0, *ratios])


def _lower_limit(successes: int, trials: int, error: float) -> float:
    from scipy.stats import beta

    return float(beta.ppf(error, successes, trials - successes + 1)) if successes else 0.0


def _upper_limit(successes: int, trials: int, error: float) -> float:
    return 1 - _lower_limit(trials - successes, trials, error)
