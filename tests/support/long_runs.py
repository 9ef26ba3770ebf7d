"""A long study's files for an audit to get through: real plan, cards, gates, ledgers and a signed transcript."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from consortia import NOW
from ledgers import DATASET, proofs
from plans import changed
from runs import Run, make_run

from secure_fedhelp.privacy.accountant import noise_for_budget
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import paid, planned_events
from secure_fedhelp.privacy.release import Budget, PrivateOutput, ReleaseGate
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.sections import MetricsSection

#: What the site policies of these hospitals say: the plan's budget, once.
_POLICY = 'largest_epsilon = 3.0\nlifetime_epsilon = 3.0\nmetrics = "noised"\nlargest_delta = 1e-3\n'


def long_plan(hospitals: int, rounds: int) -> StudyPlan:
    """Two large hospitals, many small ones, masks, noised metrics in the last round, budgets of 3 used to the end."""
    metrics = MetricsSection(release="noised", noise_multiplier=20.0)
    values = changed("study.rounds", rounds)
    values["metrics"] = metrics.model_dump()
    values["channels"] = [*values["channels"], {"name": "metrics", "length": metrics.length(2), "bound": 2.0}]
    values["aggregation"] |= {"masks": "repairing", "minimum_cohort": 3}
    names = [f"hospital-{number:02d}" for number in range(1, hospitals + 1)]
    values["hospitals"] = [
        {"name": name, "tier": tier, "nominal_patients": patients}
        for name, (tier, patients) in zip(names, [("large", 400)] * 2 + [("small", 60)] * hospitals, strict=False)
    ]
    plan = parse_plan(values)
    for tier, section in plan.privacy.items():
        hospital = next(h.name for h in plan.hospitals if h.tier == tier)
        others = paid(planned_events(plan, hospital, rounds - 1))
        steps = plan.training_rounds * section.steps
        noise = noise_for_budget(section.epsilon, section.delta, section.sampling_rate, steps, others)
        values["privacy"][tier]["noise_multiplier"] = noise
    return parse_plan(values)


def make_long_run(root: Path, hospitals: int, rounds: int) -> Run:
    """A finished study in which everybody took part in every round; each hospital's ledger stays open throughout."""
    plan = long_plan(hospitals, rounds)
    run = make_run(root, plan, rounds=0)
    made = [0.0]
    with ExitStack() as stack:
        gates = {}
        for name, key in sorted(run.scribe.hospitals.items()):
            ledger = stack.enter_context(Ledger.open(run.ledger(name), name, key.of("ed25519"), lambda: NOW + made[0]))
            gates[name] = (ledger, ReleaseGate(ledger, plan, name, Budget(DATASET, lifetime_epsilon=3.0)))
            run.ledger(name).with_name("policy.toml").write_text(_POLICY)
        for number in range(rounds):
            made[0] = 60.0 * number
            cohort = []
            for name, (ledger, gate) in gates.items():
                gate.reserve(number)
                gate.release(number, _output(plan, name, number))
                header = run.scribe.header(name, number, ledger_entries=ledger.count, ledger_head=ledger.head)
                cohort.append(run.scribe.signed(header))
            run.scribe.publish(run.scribe.entry(cohort))
    run.write_transcript()
    return run


def _output(plan: StudyPlan, name: str, number: int) -> PrivateOutput:
    """Made-up values of a round of training, or of the round that measures."""
    counts = {"metrics": Proof.of("gaussian", "event:0")}
    said = counts if number == plan.measuring_round else proofs(plan)
    draw = np.random.default_rng([number, sum(name.encode())])
    values = {channel: draw.normal(0, 0.1, length) for channel, length in plan.lengths(number).items()}
    return PrivateOutput(values, planned_events(plan, name, number), said, "system")
