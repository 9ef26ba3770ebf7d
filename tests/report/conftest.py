"""Summaries to show: a usual one, and the awkward ones."""

from __future__ import annotations

import pytest

from secure_fedhelp.research.summary import (
    AggregationSummary,
    HospitalSummary,
    MetricsSummary,
    RoundSummary,
    Summary,
)

AGGREGATION = AggregationSummary(profile="n2048", up_bytes_per_value=7.61, down_bytes_per_value=15.23, max_error=1.4e-9)
#: name, patients, then AUROC of: local with noise, local without, personal.
FIGURES = (
    ("large-1", 214, 0.871, 0.984, 0.989),
    ("large-2", 96, 0.803, 0.981, 0.962),
    ("small-1", 31, 0.655, 0.951, 0.973),
    ("small-2", 24, 0.612, 0.948, 0.953),
    ("small-3", 18, 0.587, 0.902, 0.968),
    ("small-4", 12, 0.498, 0.874, 0.957),
)
SHARED = (0.902, 0.921, 0.937, 0.931, 0.948, 0.955, 0.953, 0.961)


def metrics(auroc: float) -> MetricsSummary:
    return MetricsSummary(auroc=auroc, balanced_accuracy=round(0.5 + (auroc - 0.5) * 0.83, 3))


def rounds(budget: float, last_paid: int = 8) -> tuple[RoundSummary, ...]:
    rows = []
    for number, auroc in enumerate(SHARED):
        paid = min(number + 1, last_paid)
        rows.append(
            RoundSummary(
                round=number,
                cohort=6,
                epsilon=budget * (0.42 + 0.57 * (paid - 1) / 7),
                bytes_up=paid * 41_000,
                bytes_down=(number + 1) * 83_500,
                auroc=auroc,
                balanced_accuracy=round(0.5 + (auroc - 0.5) * 0.83, 3),
            )
        )
    return tuple(rows)


def hospital(name: str, patients: int, noisy: float, clean: float, personal: float) -> HospitalSummary:
    history = rounds(3.0)
    return HospitalSummary(
        name=name,
        tier="large" if name.startswith("large") else "small",
        patients=patients,
        epsilon=history[-1].epsilon,
        delta=1e-4,
        epsilon_budget=3.0,
        bytes_up=history[-1].bytes_up,
        bytes_down=history[-1].bytes_down,
        float32_bytes=170_000,
        study_model=metrics(SHARED[-1]),
        personal_model=metrics(personal),
        local_only=metrics(noisy),
        local_non_private=metrics(clean),
        history=history,
    )


@pytest.fixture
def summary() -> Summary:
    """Six hospitals, eight rounds, research mode; gains and losses both."""
    return Summary(
        study="breast-cancer",
        method="fedhelp",
        dataset="breast-cancer",
        rounds=8,
        wall_seconds=83.4,
        peak_memory_mib=2310.5,
        plan_sha256="5e" * 32,
        aggregation=AGGREGATION,
        hospitals=tuple(hospital(*figures) for figures in FIGURES),
        public_only=metrics(0.944),
    )


@pytest.fixture
def ended(summary: Summary) -> Summary:
    """One hospital's budget ended in round 4, another did not come back after round 3."""
    first, second, *rest = summary.hospitals
    history = rounds(1.0, last_paid=4)
    stopped = second.model_copy(
        update={
            "status": "budget ended in round 4",
            "epsilon": history[-1].epsilon,
            "epsilon_budget": 1.0,
            "history": history,
            "bytes_up": history[-1].bytes_up,
            "float32_bytes": 85_000,
        }
    )
    lost = HospitalSummary(
        name=rest[-1].name,
        tier="small",
        patients=12,
        epsilon=1.9,
        delta=1e-4,
        epsilon_budget=3.0,
        float32_bytes=63_000,
        status="absent since round 4",
    )
    return summary.model_copy(update={"hospitals": (first, stopped, *rest[:-1], lost)})


@pytest.fixture
def deployed(summary: Summary) -> Summary:
    """Deployment: no metrics left any hospital."""
    blank = dict.fromkeys(("study_model", "personal_model", "local_only", "local_non_private"))
    hospitals = []
    for h in summary.hospitals:
        history = tuple(r.model_copy(update={"auroc": None, "balanced_accuracy": None}) for r in h.history)
        hospitals.append(h.model_copy(update={**blank, "history": history}))
    return summary.model_copy(update={"mode": "deployment", "hospitals": tuple(hospitals), "public_only": None})


@pytest.fixture
def single(summary: Summary) -> Summary:
    """One round only."""
    hospitals = tuple(h.model_copy(update={"history": h.history[:1]}) for h in summary.hospitals)
    return summary.model_copy(update={"rounds": 1, "hospitals": hospitals})
