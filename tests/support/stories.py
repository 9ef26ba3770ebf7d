"""A study with a history for reports: hospitals that miss rounds or leave, exact counts, policies, canary results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tomli_w
from consortia import NOW
from ledgers import DATASET, EVENT, proofs
from plans import VALUES, changed
from runs import Run

from secure_fedhelp.audit.canary.results import CanaryResult
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.privacy.release import Budget, PrivateOutput, ReleaseGate
from secure_fedhelp.study.plan import StudyPlan, parse_plan

LATER = NOW + 86_400


def story_plan(name: str = "lungs") -> StudyPlan:
    hospitals = [*VALUES["hospitals"], {"name": "delta", "tier": "small", "nominal_patients": 30}]
    hospitals.append({"name": "omega", "tier": "large", "nominal_patients": 200})
    channels = [*VALUES["channels"], {"name": "metrics", "length": 12, "bound": 1.0}]
    values = changed("hospitals", hospitals) | {"channels": channels, "metrics": {"release": "pooled", "bins": 2}}
    return parse_plan(changed("study.name", name, changed("aggregation.masks", "repairing", values)))


def pay(run: Run, name: str, number: int, plan: StudyPlan | None = None) -> tuple[int, str]:
    """A round's release, of an update or of exact counts; the ledger's length and head afterwards."""
    plan = plan or run.plan
    counts = {"metrics": Proof.of("pooled-exact", "event:0")}
    output = PrivateOutput(
        channels={channel: np.full(length, 0.25) for channel, length in plan.lengths(number).items()},
        events=planned_events(plan, name, number),
        proofs=counts if number == plan.measuring_round else proofs(plan),
        noise_source="system",
    )
    with Ledger.open(run.ledger(name), name, run.scribe.hospitals[name], lambda: NOW + number) as ledger:
        gate = ReleaseGate(ledger, plan, name, Budget(DATASET))
        gate.reserve(number)
        gate.release(number, output)
        return ledger.count, ledger.head


def publish(run: Run, names: Sequence[str], declined: Sequence[str] = (), left: Sequence[str] = ()) -> None:
    """One round with these in its sum."""
    number, cohort = len(run.scribe.lines), []
    for name in sorted(names):
        entries, head = pay(run, name, number)
        cohort.append(run.scribe.signed(run.scribe.header(name, number, ledger_entries=entries, ledger_head=head)))
    refusals = [run.scribe.refusal(name, number) for name in declined]
    absent = sorted(run.scribe.hospitals.keys() - {*names, *declined, *left})
    run.scribe.publish(run.scribe.entry(cohort, declined=refusals, absent=absent))
    run.write_transcript()


def write_policy(run: Run, name: str, **limits: Any) -> None:
    path = run.root / "hospitals" / name / "policy.toml"
    path.write_text(tomli_w.dumps({"metrics": "pooled", "largest_epsilon": 3.0} | limits))


def canary(**changes: Any) -> CanaryResult:
    values: dict[str, Any] = {
        "kind": "white-box",
        "planted": None,
        "event": EVENT,
        "delta": 1e-4,
        "claimed_epsilon": 2.0,
        "lower_bound": 0.5,
        "assumption_free_bound": 0.25,
        "confidence": 0.95,
        "joint_confidence": 0.9,
        "holds": True,
        "trainings": 1,
        "canaries": 500,
        "guesses": 100,
        "correct": 60,
        "coins": "system",
        "plan": None,
        "tier": None,
        "seconds": 12.0,
        "versions": {"torch": "2.13"},
        "statement": "Gradients of known size were planted in every step.",
    }
    return CanaryResult.model_validate(values | changes)
