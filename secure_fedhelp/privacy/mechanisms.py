"""What a ledger entry pays for: the parameters of one mechanism, and nothing that depends on a record.

A mechanism here is an *event*: the accountant composes events, the ledger stores them, the release gate compares the
event that was executed with the one the plan allows. Unknown kinds and keys are refused, because an accountant that
skips what it does not understand under-reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.plan import StudyPlan, explain
from secure_fedhelp.study.sections import ChannelSection, PrivacySection, Strict

Rate = Annotated[float, Field(gt=0, le=1)]
#: Below 0.1 one step on everybody has an epsilon near 100: a mistake, not a mechanism. Above 1,000 nothing is learnt.
#: Within these bounds the accountant's accuracy is tested.
SMALLEST_NOISE, LARGEST_NOISE = 0.1, 1e3
#: Steps of one DP-SGD event.
MOST_STEPS = 10**6
NoiseMultiplier = Annotated[float, Field(ge=SMALLEST_NOISE, le=LARGEST_NOISE)]


class DpSgd(Strict):
    """``steps`` steps of DP-SGD (Abadi et al., CCS 2016).

    Each step draws every patient independently with probability ``sampling_rate``, takes one record of each drawn
    patient, clips each gradient to an L2 norm of ``clipping_norm`` and adds Gaussian noise of standard deviation
    ``noise_multiplier * clipping_norm`` to every coordinate of their sum. Neighbours differ by one patient added or
    removed.
    """

    kind: Literal["dp-sgd"] = "dp-sgd"
    sampling_rate: Rate
    noise_multiplier: NoiseMultiplier
    clipping_norm: float = Field(gt=0)
    steps: int = Field(ge=1, le=MOST_STEPS)


class Gaussian(Strict):
    """One answer with Gaussian noise of standard deviation ``noise_multiplier * sensitivity`` on every coordinate.

    ``sensitivity`` is the L2 distance between the answers of two neighbours (one patient added or removed).
    """

    kind: Literal["gaussian"] = "gaussian"
    noise_multiplier: NoiseMultiplier
    sensitivity: float = Field(gt=0)


class PooledExact(Strict):
    """Exact counts that leave only inside an encrypted, masked sum of at least ``smallest_cohort`` hospitals.

    **No differential privacy**: the sum itself is opened. It is written down so that nobody has to guess; it has no
    epsilon and no accountant sees it, and an audit names every one of these.
    """

    kind: Literal["pooled-exact"] = "pooled-exact"
    smallest_cohort: int = Field(ge=2)


#: What the accountants compose.
Mechanism = Annotated[DpSgd | Gaussian, Field(discriminator="kind")]
#: Any event of the ledger; pydantic picks the class by ``kind`` and refuses other kinds.
Event = Annotated[DpSgd | Gaussian | PooledExact, Field(discriminator="kind")]


def planned_event(privacy: PrivacySection) -> DpSgd:
    """The training of one round under a tier's section of the plan; InvalidPlan if the accountant cannot bound it."""
    try:
        return DpSgd(
            sampling_rate=privacy.sampling_rate,
            noise_multiplier=privacy.noise_multiplier,
            clipping_norm=privacy.clipping_norm,
            steps=privacy.steps,
        )
    except ValidationError as error:
        raise InvalidPlan(f"privacy: {explain(error)}") from error


def planned_events(plan: StudyPlan, hospital: str, round_number: int) -> tuple[DpSgd | Gaussian | PooledExact, ...]:
    """Everything that one round (from 0) of ``plan`` asks of a hospital's records.

    A training round is one DP-SGD event, and after it one Gaussian event for each channel that is sent and declared
    ``gaussian``, in the plan's order. The measuring round that a plan with ``[metrics]`` ends with trains nothing: it
    is one answer about the records set aside.
    """
    metrics = plan.metrics
    if metrics is None or round_number != plan.measuring_round:
        answers = [_answer(plan.channel(name)) for name in plan.lengths(round_number)]
        return (planned_event(plan.privacy_of(hospital)), *(answer for answer in answers if answer is not None))
    if metrics.release == "pooled":
        return (PooledExact(smallest_cohort=plan.aggregation.minimum_cohort),)
    sensitivity = math.sqrt(metrics.squared_sensitivity(len(plan.data.classes)))
    try:
        return (Gaussian(noise_multiplier=metrics.noise_multiplier or 0.0, sensitivity=sensitivity),)
    except ValidationError as error:
        raise InvalidPlan(f"metrics: {explain(error)}") from error


def _answer(channel: ChannelSection) -> Gaussian | None:
    """What a channel's own noise pays for; None if it is of another mechanism."""
    if channel.mechanism != "gaussian":
        return None
    try:
        return Gaussian(noise_multiplier=channel.noise_multiplier or 0.0, sensitivity=channel.sensitivity or 0.0)
    except ValidationError as error:
        raise InvalidPlan(f"channel {channel.name}: {explain(error)}") from error


def study_events(plan: StudyPlan, hospital: str) -> list[DpSgd | Gaussian]:
    """Every event of the whole study that has an epsilon: what a budget has to reach for."""
    return paid(e for number in range(plan.study.rounds) for e in planned_events(plan, hospital, number))


def paid(events: Iterable[DpSgd | Gaussian | PooledExact]) -> list[DpSgd | Gaussian]:
    """Those of ``events`` that the accountants compose."""
    return [event for event in events if not isinstance(event, PooledExact)]
