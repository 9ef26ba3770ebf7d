"""What a plan's two locks come to, as plain figures: for whoever has to agree to the plan before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from secure_fedhelp.secagg.masked.graph import Graph, graph
from secure_fedhelp.secagg.picker import check_sums, plan_profile
from secure_fedhelp.secagg.profiles import Profile
from secure_fedhelp.secagg.sanitise import Flooding, plan_flooding
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.threshold import active_coalition, passive_coalition, threshold


@dataclass(frozen=True)
class AttemptFacts:
    """An attempt that begins with ``members`` hospitals: how many must stay, and the coalitions it stands."""

    members: int
    needed: int
    #: Hospitals beside a coordinator that follows the protocol, and beside one that lies, that open no upload.
    passive: int
    active: int
    graph: Graph

    @property
    def repaired(self) -> int:
        """Drop-outs that are repaired."""
        return self.members - self.needed


@dataclass(frozen=True)
class SumFacts:
    """The encryption of a round's sum. ``error`` includes the flooding noise; bytes are for one value."""

    profile: Profile
    largest_sum: float
    error: float
    flooding: Flooding | None
    up: float
    down: float


def attempt_facts(plan: StudyPlan) -> list[AttemptFacts]:
    """One line for each number of hospitals that a round may begin with, the smallest cohort first."""
    masks = plan.aggregation.masks
    return [
        AttemptFacts(n, threshold(masks, n), passive_coalition(masks, n), active_coalition(masks, n), graph(masks, n))
        for n in range(plan.aggregation.minimum_cohort, len(plan.hospitals) + 1)
    ]


def sum_facts(plan: StudyPlan) -> SumFacts:
    """The plan's profile and what it costs. Raises InvalidPlan, CapacityExceeded or NotReleasable."""
    check_sums(plan)
    chosen, cohort, length = plan_profile(plan), len(plan.hospitals), plan.largest_length
    noise = plan_flooding(plan, chosen) if plan.aggregation.decrypted == "sanitised" else None
    error = chosen.error_bound(cohort, plan.largest_sum) + (noise.error_bound() if noise else 0.0)
    up, down = chosen.body_bytes(length) / length, chosen.sum_bytes(length, cohort) / length
    return SumFacts(chosen, plan.largest_sum, error, noise, up, down)
