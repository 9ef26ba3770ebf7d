"""From the files of a finished run to its summary: every figure is read back or recomputed, none is remembered.

Epsilon is recomputed from the ledgers alone: of this study, whose budget stands beside it; an audit of a ledger counts
every study in it. Whose budget ended is read in the transcript, where it was said under a signature. The largest error
of the encryption is measured: the hospitals' released values (kept in research mode) are summed in plain and compared
with the sums the hospitals decrypted.
"""

from __future__ import annotations

import json
import typing
from pathlib import Path

import numpy as np

from secure_fedhelp.errors import TranscriptInvalid
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.entries import spent
from secure_fedhelp.privacy.ledger import read_ledger
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.cohort import cohort_of
from secure_fedhelp.research.demo_setup import RunFolder
from secure_fedhelp.research.summary import (
    AggregationSummary,
    HospitalSummary,
    MetricsSummary,
    PooledSummary,
    Summary,
)
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.sanitise import plan_flooding
from secure_fedhelp.study.channel import pack_channels
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.reading import RESULTS, SETTINGS, TRANSCRIPT, parse_json, parse_toml, read_bounded, read_lines
from secure_fedhelp.wire.messages import FAILED_REASON, FINAL_REASON


def collect(
    run: RunFolder, plan: StudyPlan, dataset: str, wall_seconds: float, peak_memory: int, data: StudyData
) -> Summary:
    """The summary of a finished run. Raises TranscriptInvalid if an encrypted sum is off by more than its bound."""
    cohorts = read_cohorts(run.coordinator / "transcript.jsonl")
    return Summary(
        study=plan.study.name,
        method=plan.method.name,
        dataset=dataset,
        mode=plan.study.mode,
        rounds=len(cohorts),
        wall_seconds=round(wall_seconds, 2),
        peak_memory_mib=round(peak_memory / 2**20, 1),
        plan_sha256=plan.hash,
        aggregation=_aggregation(run, plan, cohorts),
        hospitals=tuple(_hospital(run, plan, h.name, cohorts) for h in plan.hospitals),
        seeded_noise=any(_draws_seeded_noise(run, h.name) for h in plan.hospitals),
        teacher=bool(data.references),
        second_teacher=len(data.references) > 1,
        public_only=_public_only(run, plan, data),
        pooled=_pooled(run, plan),
        cohort=cohort_of(data),
    )


def _draws_seeded_noise(run: RunFolder, name: str) -> bool:
    """By the hospital's own configuration, which is what it drew its noise by."""
    return "research_noise_seed" in parse_toml(read_bounded(run.hospital(name).root / "hospital.toml", SETTINGS))


def read_cohorts(path: Path) -> list[tuple[str, ...]]:
    """The cohort of each published round, names sorted."""
    return [tuple(sorted(u["header"]["hospital"] for u in entry["cohort"])) for entry in _entries(path)]


def _entries(path: Path) -> list[dict[str, typing.Any]]:
    return [json.loads(line)["entry"] for line in read_lines(path, TRANSCRIPT)]


def measured_error(run: RunFolder, plan: StudyPlan, cohorts: list[tuple[str, ...]]) -> float:
    """Largest absolute difference, over all rounds and values, of the decrypted sum from the sum in plain."""
    worst = 0.0
    vaults = {h.name: _vault(run, h.name) for h in plan.hospitals}
    for number, cohort in enumerate(cohorts):
        plain = np.zeros(plan.length_of(number))
        for name in cohort:
            values = vaults[name].values(number)
            if values is None:
                raise TranscriptInvalid(f"round {number}: {name} is in the cohort but kept no released values")
            plain += pack_channels(plan, number, name, values)
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
        up_bytes_per_value=round(up / plan.largest_length, 3),
        down_bytes_per_value=round(down / plan.largest_length, 3),
        max_error=float(f"{error:.1e}"),  # two digits: an exact decryption's error is no figure to publish in full
        masks=plan.aggregation.masks,
        coalition=plan.coalition[1],
        flooding_sigma=plan_flooding(plan, chosen).sigma if plan.aggregation.decrypted == "sanitised" else None,
    )


def _hospital(run: RunFolder, plan: StudyPlan, name: str, cohorts: list[tuple[str, ...]]) -> HospitalSummary:
    folder, entry = run.hospital(name), plan.hospital(name)
    privacy, rounds = plan.privacy_of(name), [number for number, cohort in enumerate(cohorts) if name in cohort]
    ledger = read_ledger(folder.ledger) if folder.ledger.exists() else []
    values: dict[str, typing.Any] = {
        "name": name,
        "tier": entry.tier,
        "epsilon": epsilon(spent(e for e in ledger if e.study == plan.hash), privacy.delta),
        "delta": privacy.delta,
        "epsilon_budget": privacy.epsilon,
        "float32_bytes": 4 * sum(map(plan.length_of, rounds)),
    }
    result = _result(run, name)
    result.pop("pooled_metrics", None)
    if not result:
        last = max((i for i, cohort in enumerate(cohorts) if name in cohort), default=-1)
        values |= {"status": f"absent since round {last + 2}", "patients": entry.nominal_patients}
    absent = values.get("status")
    failed = _declined(run, name, FAILED_REASON)
    values["status"] = _declined(run, name, FINAL_REASON) or absent or failed or "contributed"
    return HospitalSummary.model_validate(result | values)


def _result(run: RunFolder, name: str) -> dict[str, typing.Any]:
    """What a hospital wrote when it had finished; empty if it did not."""
    path = run.hospital(name).result
    found: dict[str, typing.Any] = parse_json(read_bounded(path, RESULTS)) if path.exists() else {}
    return found


def _declined(run: RunFolder, name: str, why: str) -> str | None:
    """The first round that a hospital declined for this reason, by its own signed word, in words; None if none."""
    for entry in _entries(run.coordinator / "transcript.jsonl"):
        if (name, why) in {(d["hospital"], d["reason"]) for d in entry["declined"]}:
            if why == FAILED_REASON:
                return f"training failed in round {entry['round'] + 1}"
            # Said before training for this round, which people call one more than the files do.
            return f"budget ended in round {entry['round']}" if entry["round"] else "budget spent before round 1"
    return None


def _pooled(run: RunFolder, plan: StudyPlan) -> PooledSummary | None:
    """What the measuring round said; every hospital opened the same sum."""
    found = (_result(run, h.name).get("pooled_metrics") for h in plan.hospitals)
    return next((PooledSummary.model_validate(values) for values in found if values is not None), None)


def _public_only(run: RunFolder, plan: StudyPlan, data: StudyData) -> MetricsSummary:
    """The model trained on the public set alone, with the teacher if there is one: what the study has to beat without
    any hospital."""
    from secure_fedhelp.learning import baselines
    from secure_fedhelp.learning.evaluation import evaluate
    from secure_fedhelp.research.teacher import Teacher, together

    files = run.teachers[: len(data.references)]
    answers = [Teacher.load(file).logits(data.public.inputs) for file in files]
    logits = together(answers, plan.learning.temperature) if answers else None
    found = evaluate(baselines.public_only(plan, data.public, logits), data.test)
    return MetricsSummary.model_validate(found.as_dict())
