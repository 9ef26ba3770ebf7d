"""What a plan costs its patients, and what it would cost if it were another: figures for whoever writes a plan.

Everything is computed from the plan's public constants, with the accountant that the release gate uses. A whole study
also pays what its measuring round asks (``[metrics]`` with noise); exact counts have no epsilon and are named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.privacy.accountant import epsilon, noise_for_budget, running_epsilon, within_budget
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact, paid, planned_event, planned_events
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import PrivacySection, Tier

#: Budgets that noise is given for.
BUDGETS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
#: Search for rounds that still fit ends here.
_MOST_ROUNDS = 10_000


@dataclass(frozen=True)
class NoiseFor:
    """The smallest noise multiplier that keeps the whole study to ``budget``; None if none up to 1,000 does."""

    budget: float
    multiplier: float | None


@dataclass(frozen=True)
class Change:
    """One thing changed and everything else as planned; ``epsilon`` is None for a sampling rate of 1 or more.

    ``batch`` is the expected number of patients in a step, at the tier's smallest and its largest hospital, and
    ``signal`` that number over the noise multiplier: by how much the sum of a step's clipped gradients may exceed the
    standard deviation of its noise.
    """

    what: str
    rounds: int
    sampling_rate: float
    epsilon: float | None
    batch: tuple[float, float]
    signal: tuple[float, float]


@dataclass(frozen=True)
class TierOutlook:
    """What the plan means for the patients of one tier's hospitals."""

    tier: Tier
    privacy: PrivacySection
    hospitals: int
    #: Rounds that train, and what else the study pays for.
    training_rounds: int
    others: tuple[Gaussian, ...]
    #: Whether exact counts leave in the end, which no epsilon stands for.
    exact: bool
    #: Epsilon after each round of the study, the measuring one included.
    by_round: tuple[float, ...]
    #: Rounds from the first on that keep to the plan's budget: all of them, or the hospital stops after so many.
    affordable: int
    #: Training rounds that would fit into the budget after the last one.
    spare: int
    noise: tuple[NoiseFor, ...]
    changes: tuple[Change, ...]

    @property
    def spent(self) -> float:
        """Epsilon of the whole study."""
        return self.by_round[-1]


def outlook(plan: StudyPlan, budgets: Sequence[float] = BUDGETS) -> list[TierOutlook]:
    """One for each tier that has hospitals; takes five seconds each. InvalidPlan if the accountant cannot bound it."""
    tiers: dict[Tier, str] = {}
    for hospital in plan.hospitals:
        tiers.setdefault(hospital.tier, hospital.name)
    return [_of_tier(plan, tier, name, budgets) for tier, name in sorted(tiers.items())]


def _of_tier(plan: StudyPlan, tier: Tier, name: str, budgets: Sequence[float]) -> TierOutlook:
    privacy, training = plan.privacy[tier], plan.training_rounds
    every = [planned_events(plan, name, number) for number in range(plan.study.rounds)]
    others = tuple(e for events in every for e in events if isinstance(e, Gaussian))
    by_round = running_epsilon([paid(events) for events in every], privacy.delta)
    patients = [h.nominal_patients for h in plan.hospitals if h.tier == tier]
    changed = partial(_change, privacy, others, (min(patients), max(patients)))
    return TierOutlook(
        tier=tier,
        privacy=privacy,
        hospitals=len(patients),
        training_rounds=training,
        others=others,
        exact=any(isinstance(e, PooledExact) for events in every for e in events),
        by_round=tuple(by_round),
        affordable=next((n for n, e in enumerate(by_round) if not within_budget(e, privacy.epsilon)), len(by_round)),
        spare=_spare_rounds(planned_event(privacy), training, others, privacy),
        noise=tuple(_noise(privacy, training, others, budget) for budget in budgets),
        changes=(
            changed("as planned", training),
            changed("half the rounds", max(1, training // 2)),
            changed("twice the rounds", 2 * training),
            changed("half the sampling rate", training, rate=0.5),
            changed("twice the sampling rate", training, rate=2.0),
            changed("half the patients", training, patients=0.5),
            changed("twice the patients", training, patients=2.0),
            changed("twice the patients, half rate", training, patients=2.0, rate=0.5),
        ),
    )


def _change(
    privacy: PrivacySection,
    others: tuple[Gaussian, ...],
    nominal: tuple[int, int],
    what: str,
    rounds: int,
    rate: float = 1.0,
    patients: float = 1.0,
) -> Change:
    """Patients do not enter epsilon: a step draws each of them with the public rate, however many there are."""
    sampled = privacy.sampling_rate * rate
    low, high = (sampled * n * patients for n in nominal)
    cost = None
    if sampled < 1:
        event = planned_event(privacy.model_copy(update={"sampling_rate": sampled}))
        cost = epsilon([*[event] * rounds, *others], privacy.delta)
    signal = (low / privacy.noise_multiplier, high / privacy.noise_multiplier)
    return Change(what, rounds, sampled, cost, (low, high), signal)


def _noise(privacy: PrivacySection, rounds: int, others: tuple[Gaussian, ...], budget: float) -> NoiseFor:
    try:
        multiplier = noise_for_budget(budget, privacy.delta, privacy.sampling_rate, rounds * privacy.steps, others)
    except InvalidPlan:  # what is paid besides uses it up, or no noise is enough
        return NoiseFor(budget, None)
    return NoiseFor(budget, multiplier)


def _spare_rounds(event: DpSgd, rounds: int, others: tuple[Gaussian, ...], privacy: PrivacySection) -> int:
    """By halving: epsilon grows with every round."""

    def fits(more: int) -> bool:
        return within_budget(epsilon([*[event] * (rounds + more), *others], privacy.delta), privacy.epsilon)

    if not fits(1):
        return 0
    fit, over = 1, 2
    while over < _MOST_ROUNDS and fits(over):
        fit, over = over, 2 * over
    while over - fit > 1:
        middle = math.floor((fit + over) / 2)
        fit, over = (middle, over) if fits(middle) else (fit, middle)
    return fit
