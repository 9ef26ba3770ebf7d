"""What a ledger entry pays for: the parameters of one mechanism, and nothing that depends on a record.

A mechanism here is an *event*: the accountant composes events, the ledger stores them, the release gate compares the
event that was executed with the one the plan allows. Unknown kinds and keys are refused, because an accountant that
skips what it does not understand under-reports.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.plan import PrivacySection, Strict, explain

Rate = Annotated[float, Field(gt=0, le=1)]
#: Below 0.1 one step on everybody has an epsilon near 100: a mistake, not a mechanism. Above 1,000 nothing is learnt.
#: Within these bounds the accountant's accuracy is tested.
SMALLEST_NOISE, LARGEST_NOISE = 0.1, 1e3
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
    steps: int = Field(ge=1, le=10**6)


class Gaussian(Strict):
    """One answer with Gaussian noise of standard deviation ``noise_multiplier * sensitivity`` on every coordinate.

    ``sensitivity`` is the L2 distance between the answers of two neighbours (one patient added or removed).
    """

    kind: Literal["gaussian"] = "gaussian"
    noise_multiplier: NoiseMultiplier
    sensitivity: float = Field(gt=0)


#: Any event of the ledger; pydantic picks the class by ``kind`` and refuses other kinds.
Mechanism = Annotated[DpSgd | Gaussian, Field(discriminator="kind")]


def planned_event(privacy: PrivacySection) -> DpSgd:
    """The event of one round under a tier's section of the plan; InvalidPlan if the accountant cannot bound it."""
    try:
        return DpSgd(
            sampling_rate=privacy.sampling_rate,
            noise_multiplier=privacy.noise_multiplier,
            clipping_norm=privacy.clipping_norm,
            steps=privacy.steps,
        )
    except ValidationError as error:
        raise InvalidPlan(f"privacy: {explain(error)}") from error
