"""From a tally to a lower bound of epsilon in the ledger's own terms.

The claim is an event: DP-SGD of some rate, steps and noise multiplier, with the whole privacy curve that the accountant
computes for it. Of all DP-SGD with the claim's rate and steps, the one with the *least noise that is refuted* by the
number of right guesses gives the bound. Curves are nested, since less noise allows whatever more noise allows, so all
with more noise are refuted too, and the bound reaches the claimed epsilon exactly if the claim itself is refuted. If
training is of another shape than DP-SGD, the bound still says whether it keeps the claimed curve, and no more.
"""

from __future__ import annotations

from collections.abc import Callable

from secure_fedhelp.audit.canary.bounds import clopper_pearson_epsilon, one_run_epsilon, p_value
from secure_fedhelp.audit.canary.curve import claimed_curve
from secure_fedhelp.audit.canary.tally import Tally
from secure_fedhelp.privacy.accountant import LARGEST_EPSILON, epsilon
from secure_fedhelp.privacy.mechanisms import LARGEST_NOISE, SMALLEST_NOISE, DpSgd

#: Candidates are the claimed noise times 2^(k / 32), from a quarter of it to 32 times as much. Even less noise would
#: take the accountant long, and whoever needs less than a quarter has been caught.
_STEPS_AN_OCTAVE, _OCTAVES_DOWN, _OCTAVES_UP = 32, 2, 5


def lower_bound(tally: Tally, delta: float, confidence: float) -> float:
    """Epsilon at ``delta`` of the least noise that the guesses refute; 0 if they refute none, at most 500."""
    least = _least_refuted(tally, confidence)
    return 0.0 if least is None else min(epsilon([least], delta), LARGEST_EPSILON)


def assumption_free_bound(tally: Tally, delta: float, confidence: float) -> float:
    """A lower bound of epsilon at ``delta`` whatever the mechanism is: the one-run theorem's, or of a game's rates.

    Independent trainings, each with canaries of its own, are one mechanism over all canaries.
    """
    scale, target = tally.scale, tally.target
    if target is not None:
        rates = (target.included, target.found, target.left_out, target.mistaken)
        return clopper_pearson_epsilon(*rates, delta, confidence)
    canaries, guesses = scale.trainings * scale.canaries, scale.trainings * scale.guesses
    return one_run_epsilon(canaries, guesses, tally.correct, delta, confidence)


def _least_refuted(tally: Tally, confidence: float) -> DpSgd | None:
    """All candidates from some noise on are refuted: which is the first of these?"""

    def candidate(k: int) -> DpSgd:
        noise = tally.event.noise_multiplier * 2 ** (k / _STEPS_AN_OCTAVE)
        return tally.event.model_copy(update={"noise_multiplier": min(max(noise, SMALLEST_NOISE), LARGEST_NOISE)})

    def refuted(k: int) -> bool:
        scale = tally.scale
        curve = claimed_curve(candidate(k))
        return p_value(curve, scale.canaries, scale.guesses, scale.trainings, tally.correct) <= 1 - confidence

    least, most = -_OCTAVES_DOWN * _STEPS_AN_OCTAVE, _OCTAVES_UP * _STEPS_AN_OCTAVE
    return candidate(_first(refuted, least, most)) if refuted(most) else None


def _first(true: Callable[[int], bool], least: int, most: int) -> int:
    """The first number from ``least`` to ``most`` that is ``true``, as all after it are; ``most`` is known to be.

    0 is asked about first, and then numbers ever further from it: the answer is near, and little noise takes long.
    """
    low, high, step = least - 1, most, 4
    middle = 0
    while high - low > 1:
        if true(middle):
            high = middle
            middle = max(high - step, (low + high) // 2)
        else:
            low = middle
            middle = min(low + step, (low + high) // 2)
        step *= 2
    return high
