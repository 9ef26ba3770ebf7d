"""What a sweep found, as rows of figures: levels, gains over what hospitals have anyway, and what was sent for it.

Every row is an estimate over seeds (statistics.py). Tables and charts of the page are made of these rows alone, so
that they cannot say different things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from secure_fedhelp.research.sweep.execute import RunResult
from secure_fedhelp.research.sweep.runs import FREE, RIVALS, Run, shown_epsilon
from secure_fedhelp.research.sweep.statistics import Estimate, difference, level, values

#: What each model of a method has to beat: a shared one is private, a personal one stays at home and needs no noise.
#: From nothing, and from the public warm start, which a hospital has without any study.
ALONE = {"shared": "local-dp", "personal": "local"}
WARM = {"shared": "local-dp-warm", "personal": "local-warm"}
#: The method that every other one is compared with.
COMMON = "fedavg"


@dataclass(frozen=True)
class Level:
    """One model's mean over a tier's hospitals, over seeds; ``epsilon`` is empty for a rival that spends none."""

    contender: str
    model: str
    epsilon: str
    #: By tier; None where it was not measured.
    tiers: dict[str, Estimate | None]
    seeds: int


@dataclass(frozen=True)
class Gain:
    """One method's model less another, over the seeds that both have; None if one of them was not measured."""

    contender: str
    model: str
    epsilon: str
    over: str
    found: Estimate | None
    seeds: int


@dataclass(frozen=True)
class Cost:
    """Bytes that one hospital sent in the whole study, and what the small hospitals' models were worth."""

    contender: str
    epsilon: str
    bytes_up: float
    models: dict[str, Estimate | None]


@dataclass(frozen=True)
class Asked:
    """What a sweep was asked for, each in the order of its tables."""

    contenders: tuple[str, ...]
    epsilons: tuple[str, ...]
    tiers: tuple[str, ...]
    #: What the data of each contender are dealt by: those with another one had other patients, or other networks.
    dealt_by: dict[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(name for name in self.contenders if name not in RIVALS)

    def comparable(self, one: str, two: str) -> bool:
        """Whether both had the same patients and networks; what was not asked for has nothing that could differ."""
        return len({self.dealt_by[name] for name in (one, two) if name in self.dealt_by}) < 2


def asked(runs: Sequence[Run], results: Sequence[RunResult]) -> Asked:
    """Contenders as they were named, budgets from the smallest to ``inf``, large hospitals first."""
    spending = {run.epsilon for run in runs if run.contender not in FREE} or {run.epsilon for run in runs}
    return Asked(
        tuple(dict.fromkeys(run.contender for run in runs)),
        tuple(map(shown_epsilon, sorted(spending))),
        tuple(sorted({h.tier for result in results for h in result.hospitals})),
        {run.contender: run.dealt_by for run in reversed(runs)},
    )


def metrics(results: Sequence[RunResult]) -> list[str]:
    """Every metric that some result has, in the order in which they come."""
    return list(dict.fromkeys(name for result in results for h in result.hospitals for name in h.metrics))


def levels(what: Asked, results: Sequence[RunResult], metric: str) -> list[Level]:
    """A row for each contender, model and budget that has the metric at some tier."""
    rows = []
    for name in what.contenders:
        for model in models_of(name):
            for epsilon in ("",) if name in FREE else what.epsilons:
                found = {tier: values(results, name, epsilon, tier, model, metric) for tier in what.tiers}
                if any(found.values()):
                    tiers = {tier: level(by_seed) if by_seed else None for tier, by_seed in found.items()}
                    rows.append(Level(name, model, epsilon, tiers, max(map(len, found.values()))))
    return rows


def gains(what: Asked, results: Sequence[RunResult], metric: str, tier: str) -> list[Gain]:
    """Each method less what its hospital has alone, less that from the public warm start where it was run, and less the
    common method. Nothing is less what had other data."""
    warm = [WARM] if set(WARM.values()) & set(what.contenders) else []
    return [
        _gain(results, (name, model), epsilon, (over, over if over in RIVALS else model), tier, metric)
        for epsilon in what.epsilons
        for overs in (ALONE, *warm, dict.fromkeys(ALONE, COMMON))
        for name in what.methods
        for model, over in overs.items()
        if name != over and what.comparable(name, over)
    ]


def _gain(
    results: Sequence[RunResult], one: tuple[str, str], epsilon: str, two: tuple[str, str], tier: str, metric: str
) -> Gain:
    found = [values(results, name, epsilon, tier, model, metric) for name, model in (one, two)]
    seeds = len(found[0].keys() & found[1].keys())
    return Gain(*one, epsilon, two[0], difference(*found), seeds)


def costs(what: Asked, results: Sequence[RunResult], metric: str, tier: str) -> Iterator[Cost]:
    """A row for each method and budget that has results."""
    for name in what.methods:
        for epsilon in what.epsilons:
            sent = [r.bytes_up for r in results if (r.contender, r.epsilon) == (name, epsilon)]
            found = {model: values(results, name, epsilon, tier, model, metric) for model in ALONE}
            if sent and any(found.values()):
                yield Cost(
                    name, epsilon, sum(sent) / len(sent), {m: level(by) if by else None for m, by in found.items()}
                )


def models_of(contender: str) -> tuple[str, ...]:
    return (contender,) if contender in RIVALS else tuple(ALONE)
