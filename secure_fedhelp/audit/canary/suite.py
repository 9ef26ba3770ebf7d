"""Which audits a run makes, in which order, and what they found.

Each epsilon gets three audits of the real code; a self-test adds one audit for each planted mistake. All bounds on the
real code together hold with the confidence that was asked for: each gets an equal share of the error (union bound), so
that a run on code that keeps its claims raises a false alarm no more often than it says. The bounds without an
assumption, which decide nothing, hold together as often among themselves.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Literal

from secure_fedhelp import __version__
from secure_fedhelp.audit.canary.black_box import black_box, fedhelp_round
from secure_fedhelp.audit.canary.game import denominator_game
from secure_fedhelp.audit.canary.planted import (
    clip_skipped,
    noise_halved,
    private_denominator,
    records_not_patients,
    taught_by_pupil,
)
from secure_fedhelp.audit.canary.results import CanaryResult, Kind, Planted, stands
from secure_fedhelp.audit.canary.tally import Scale, Tally
from secure_fedhelp.audit.canary.verdict import assumption_free_bound, lower_bound
from secure_fedhelp.audit.canary.white_box import Network, Trainer, white_box
from secure_fedhelp.errors import InvalidConfiguration, InvalidPlan
from secure_fedhelp.privacy.accountant import LARGEST_EPSILON, epsilon, noise_for_budget
from secure_fedhelp.privacy.mechanisms import planned_event
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.privacy.training import train_private
from secure_fedhelp.study.methods import FedHelp
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import PrivacySection, Tier

#: What is audited where no plan says otherwise: several steps on a part of the patients, and noise to fit an epsilon.
_RATE, _STEPS = 0.7, 4
#: The epsilon at which mistakes are planted.
SELF_TEST_EPSILON: Final = 2.0
EPSILONS: Final = (1.0, 2.0, 4.0, 8.0)
DELTA: Final = 1e-5
#: One in so many canaries is guessed at.
_GUESSED: Final = 5

STATEMENTS: Final[dict[Kind, str]] = {
    "white-box": (
        "Canaries with a gradient of their own, in the very training code of a study; every step is seen. It covers "
        "sampling, clipping, noise, and the choice of one record a patient. It does not cover what happens around the "
        "private steps, nor a mistake that shows only on other data, models or settings."
    ),
    "black-box": (
        "Mislabelled records in a hospital's whole round; only its answers on the public set are seen. It covers ways "
        "around the private steps, such as a teacher that saw private records. It is a weak attack, so a bound far "
        "below the claim says little. It does not cover what is encrypted, sent or written after the round."
    ),
    "game": (
        "One patient present or absent in many trainings; the spread of pure noise is seen. It covers whether training "
        "that is given the plan's figures divides by the private number of patients. It covers nothing else."
    ),
}


@dataclass(frozen=True)
class Size:
    """How much each kind of audit plays."""

    white_box: Scale
    black_box: Scale
    games: int


def size_of(effort: Literal["quick", "full"], canaries: int = 1000) -> Size:
    """``canaries`` are those of one white-box training; InvalidConfiguration if they are fewer than 10."""
    if canaries < 10:
        raise InvalidConfiguration(f"{canaries} canaries are too few", "Ask for at least 10; the default is 1000.")
    times = 1 if effort == "quick" else 4
    return Size(
        white_box=Scale(32 * times, canaries, canaries // _GUESSED),
        black_box=Scale(16 * times, 200, 200 // _GUESSED),
        games=100 * times,
    )


@dataclass(frozen=True)
class Subject:
    """Figures whose epsilon is claimed, and the plan and tier they come from, if any."""

    privacy: PrivacySection
    delta: float
    plan: StudyPlan | None = None
    tier: Tier | None = None

    def __post_init__(self) -> None:
        claimed = epsilon([planned_event(self.privacy)], self.delta)
        if claimed == 0:  # no epsilon could tell a refuted claim from one that stands
            raise InvalidConfiguration(f"at delta {self.delta:g} the claimed epsilon is 0", "State a smaller --delta.")
        if claimed > LARGEST_EPSILON:
            raise InvalidConfiguration(
                f"an epsilon above {LARGEST_EPSILON:g} claims nothing that could be refuted", "Audit another plan."
            )

    @classmethod
    def of_plan(cls, plan: StudyPlan, tier: Tier, delta: float | None) -> Subject:
        """One training round of a plan's tier; InvalidPlan if the plan has no such tier."""
        if tier not in plan.privacy:
            raise InvalidPlan(f"the plan has no [privacy.{tier}] section", f"Choose one of: {', '.join(plan.privacy)}.")
        privacy = plan.privacy[tier]
        return cls(privacy, privacy.delta if delta is None else delta, plan, tier)

    @classmethod
    def of_epsilon(cls, budget: float, delta: float) -> Subject:
        """Figures chosen for the audit, with the least noise that keeps to ``budget``."""
        noise = noise_for_budget(budget, delta, _RATE, _STEPS)
        privacy = PrivacySection(
            sampling_rate=_RATE,
            noise_multiplier=noise,
            clipping_norm=1.0,
            steps=_STEPS,
            epsilon=budget,
            delta=delta,
        )
        return cls(privacy, delta)

    def network(self) -> Network:
        """The study's own network where there is a plan."""
        if self.plan is None:
            return Network("mlp-16", (10,), 2, learning_rate=0.5)
        data, rate = self.plan.data, self.plan.learning.private_learning_rate
        return Network(self.plan.model.small, data.input_shape, len(data.classes), rate, self.plan.study.seed)


@dataclass(frozen=True)
class Audit:
    """One audit to be made."""

    kind: Kind
    subject: Subject
    play: Callable[[NoiseSource], Tally]
    planted: Planted | None = None


def audits_of(subject: Subject, size: Size) -> list[Audit]:
    """The three audits of the real code."""
    return [
        _white_box(subject, size, train_private, None),
        Audit("black-box", subject, lambda noise: _black_box(subject, size, noise)),
        Audit("game", subject, lambda noise: denominator_game(train_private, subject.privacy, size.games, noise)),
    ]


def self_test_audits(delta: float, size: Size) -> list[Audit]:
    """One audit for each mistake, by the kind of audit that has to see it."""
    subject = Subject.of_epsilon(SELF_TEST_EPSILON, delta)
    trainers: dict[Planted, Trainer] = {
        "noise-halved": noise_halved,
        "clip-skipped": clip_skipped,
        "records-not-patients": records_not_patients,
    }
    return [
        *(_white_box(subject, size, trainer, planted) for planted, trainer in trainers.items()),
        Audit(
            "game",
            subject,
            lambda noise: denominator_game(private_denominator, subject.privacy, size.games, noise),
            "batch-size-from-private-count",
        ),
        Audit(
            "black-box",
            subject,
            lambda noise: black_box(taught_by_pupil, subject.privacy, size.black_box, noise, "large"),
            "teacher-through-the-valve",
        ),
    ]


def _white_box(subject: Subject, size: Size, trainer: Trainer, planted: Planted | None) -> Audit:
    def play(noise: NoiseSource) -> Tally:
        return white_box(trainer, subject.privacy, subject.network(), size.white_box, noise)

    return Audit("white-box", subject, play, planted)


def _black_box(subject: Subject, size: Size, noise: NoiseSource) -> Tally:
    plan, tier = subject.plan, subject.tier or "small"
    learning = None if plan is None else plan.learning
    # What is judged are answers on the public set, which other methods do not give; their training is the same.
    method = plan.method if plan is not None and isinstance(plan.method, FedHelp) else None
    return black_box(fedhelp_round, subject.privacy, size.black_box, noise, tier, learning, method)


def run(
    audits: Sequence[Audit],
    confidence: float,
    noise: NoiseSource,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[int, Audit], None] = lambda number, audit: None,
) -> list[CanaryResult]:
    """Make the audits one after another; ``tell`` hears of each before it starts (numbers from 0).

    Raises InvalidConfiguration for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InvalidConfiguration(f"a confidence of {confidence:g}", "Between 0 and 1; 0.95 is usual.")
    real = sum(audit.planted is None for audit in audits)
    each = 1 - (1 - confidence) / max(real, 1)
    results = []
    for number, audit in enumerate(audits):
        tell(number, audit)
        results.append(_result(audit, each, confidence, noise, clock))
    return results


def _result(
    audit: Audit, confidence: float, joint: float, noise: NoiseSource, clock: Callable[[], float]
) -> CanaryResult:
    started, subject = clock(), audit.subject
    tally = audit.play(noise)
    claimed = epsilon([tally.event], subject.delta)
    bound = lower_bound(tally, subject.delta, confidence)
    scale = tally.scale
    return CanaryResult(
        kind=audit.kind,
        planted=audit.planted,
        event=tally.event,
        delta=subject.delta,
        claimed_epsilon=claimed,
        lower_bound=bound,
        assumption_free_bound=assumption_free_bound(tally, subject.delta, confidence),
        confidence=confidence,
        joint_confidence=joint,
        holds=stands(claimed, bound),
        trainings=scale.trainings,
        canaries=scale.trainings * scale.canaries,
        guesses=scale.trainings * scale.guesses,
        correct=tally.correct,
        coins=noise.name,
        plan=None if subject.plan is None else subject.plan.hash,
        tier=subject.tier,
        seconds=clock() - started,
        versions=_versions(),
        statement=STATEMENTS[audit.kind],
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "opacus", "dp-accounting", "numpy")
    return {
        "secure-fedhelp": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
