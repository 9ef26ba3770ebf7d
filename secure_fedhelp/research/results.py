"""From the files of a finished run to its summary: every figure is read back or recomputed, none is remembered.

Epsilon is recomputed from the ledgers alone. The largest error of the encryption is measured: the hospitals' released
values (kept in research mode) are summed in plain and compared with the sums the hospitals decrypted.
"""

from __future__ import annotations

import json
import typing
from pathlib import Path

import numpy as np

from secure_fedhelp.audit.epsilon import recompute
from secure_fedhelp.errors import TranscriptInvalid
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.demo_setup import RunFolder
from secure_fedhelp.research.summary import AggregationSummary, HospitalSummary, MetricsSummary, Summary
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.sanitise import plan_flooding
from secure_fedhelp.study.channel import pack_channels
from secure_fedhelp.study.plan import StudyPlan


def collect(
    run: RunFolder, plan: StudyPlan, dataset: str, wall_seconds: float, peak_memory: int, data: StudyData
) -> Summary:
    """The summary of a finished run. Raises TranscriptInvalid if an encrypted sum is off by more than its bound."""
    cohorts = read_cohorts(run.coordinator / "transcript.jsonl")
    return Summary(
        study=plan.study.name,
        method=plan.study.method,
        dataset=dataset,
        mode=plan.study.mode,
        rounds=len(cohorts),
        wall_seconds=round(wall_seconds, 2),
        peak_memory_mib=round(peak_memory / 2**20, 1),
        plan_sha256=plan.hash,
        aggregation=_aggregation(run, plan, cohorts),
        hospitals=tuple(_hospital(run, plan, h.name, cohorts) for h in plan.hospitals),
        public_only=_public_only(run, plan, data),
    )


def read_cohorts(path: Path) -> list[tuple[str, ...]]:
    """The cohort of each published round, names sorted."""
    return [tuple(sorted(u["header"]["hospital"] for u in entry["cohort"])) for entry in _entries(path)]


def _entries(path: Path) -> list[dict[str, typing.Any]]:
    return [json.loads(line)["entry"] for line in path.read_text(encoding="utf-8").splitlines()]


def measured_error(run: RunFolder, plan: StudyPlan, cohorts: list[tuple[str, ...]]) -> float:
    """Largest absolute difference, over all rounds and values, of the decrypted sum from the sum in plain."""
    worst = 0.0
    vaults = {h.name: _vault(run, h.name) for h in plan.hospitals}
    for number, cohort in enumerate(cohorts):
        plain = np.zeros(plan.total_length)
        for name in cohort:
            values = vaults[name].values(number)
            if values is None:
                raise TranscriptInvalid(f"round {number}: {name} is in the cohort but kept no released values")
            plain += pack_channels(plan, values, plan.weights[name])
        for name in cohort:
            total = vaults[name].sum(number)
            if total is not None:
                worst = max(worst, float(np.abs(total - plain).max()))
    return worst


def _vault(run: RunFolder, name: str) -> Vault:
    folder = run.hospital(name)
    return Vault.read_only(folder.state, open_lock(folder.root))


def _aggregation(run: RunFolder, plan: StudyPlan, cohorts: list[tuple[str, ...]]) -> AggregationSummary:
    chosen = plan_profile(plan)
    error = measured_error(run, plan, cohorts)
    bound = max((chosen.error_bound(len(cohort)) for cohort in cohorts), default=0.0)
    if error > bound:
        raise TranscriptInvalid(f"an encrypted sum is off by {error:.3g}, the profile states at most {bound:.3g}")
    entries = _entries(run.coordinator / "transcript.jsonl")
    up = max((u["header"]["body_bytes"] for entry in entries for u in entry["cohort"]), default=0)
    down = max((entry["sum_bytes"] for entry in entries), default=0)
    return AggregationSummary(
        profile=chosen.name,
        up_bytes_per_value=round(up / plan.total_length, 3),
        down_bytes_per_value=round(down / plan.total_length, 3),
        max_error=float(f"{error:.1e}"),  # two digits: an exact decryption's error is no figure to publish in full
        masks=plan.aggregation.masks,
        coalition=plan.coalition[1],
        flooding_sigma=plan_flooding(plan, chosen).sigma if plan.aggregation.decrypted == "sanitised" else None,
    )


def _hospital(run: RunFolder, plan: StudyPlan, name: str, cohorts: list[tuple[str, ...]]) -> HospitalSummary:
    folder = run.hospital(name)
    entry = plan.hospital(name)
    took_part = sum(name in cohort for cohort in cohorts)
    ledger_epsilon = recompute(folder.ledger).pld if folder.ledger.exists() else 0.0
    values: dict[str, typing.Any] = {
        "name": name,
        "tier": entry.tier,
        "delta": plan.privacy_of(name).delta,
        "epsilon_budget": plan.privacy_of(name).epsilon,
        "float32_bytes": 4 * plan.total_length * took_part,
    }
    if folder.result.exists():
        values = json.loads(folder.result.read_text(encoding="utf-8")) | values
    else:
        last = max((i for i, cohort in enumerate(cohorts) if name in cohort), default=-1)
        values |= {"status": f"absent since round {last + 2}", "patients": entry.nominal_patients}
    return HospitalSummary.model_validate(values | {"epsilon": ledger_epsilon})


def _public_only(run: RunFolder, plan: StudyPlan, data: StudyData) -> MetricsSummary:
    """The model trained on the public set alone, with the teacher: what the study has to beat without any hospital."""
    from secure_fedhelp.learning import baselines
    from secure_fedhelp.research.teacher import Teacher

    logits = Teacher.load(run.teacher).logits(data.public.inputs)
    return MetricsSummary.model_validate(baselines.public_only(plan, data.public, logits, data.test).as_dict())
