"""What the ledgers add up to: recomputed by both accountants, by round, over studies, and over hospitals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

from secure_fedhelp.audit.report.model import Budget, DataSet, Lifetime, Mechanism, Point
from secure_fedhelp.audit.verify import Run
from secure_fedhelp.errors import FedHelpError
from secure_fedhelp.privacy.accountant import cross_check, epsilon, running_epsilon
from secure_fedhelp.privacy.entries import LedgerEntry, Release, committed, releases, spent
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact, paid

T = TypeVar("T")


def budgets(run: Run, prv: bool = False) -> tuple[Budget, ...]:
    """Every hospital's; ``prv`` asks Opacus' accountants, which takes torch."""
    return tuple(_budget(run, h.name, prv) for h in run.plan.hospitals)


def _budget(run: Run, name: str, prv: bool) -> Budget:
    privacy = run.plan.privacy_of(name)
    delta, damaged = privacy.delta, name in unknown(run)
    study = [] if damaged else _study(run, name)
    both = None
    if not damaged:
        both = _bounded(lambda: cross_check(spent(study), delta, by="opacus" if prv else "dp-accounting"))
    by_round = _by_round(study)
    curve = _bounded(lambda: _running(tuple(by_round.values()), delta)) or ()
    bounds = None if both is None else both.prv
    return Budget(
        hospital=name,
        claimed=privacy.epsilon,
        delta=delta,
        pld=None if both is None else _or_none(both.pld),
        rdp=None if both is None else _or_none(both.rdp),
        prv=None if bounds is None else (max(bounds.low, 0.0), max(bounds.high, 0.0)),
        committed=None if damaged else _finite(committed(study), delta),
        curve=tuple(Point(round=r, epsilon=e) for r, e in zip(by_round, curve, strict=False) if e < math.inf),
        noise=tuple(sorted({e.noise_source for e in releases(study)})),
    )


@lru_cache(maxsize=256)
def _running(rounds: tuple[tuple[DpSgd | Gaussian, ...], ...], delta: float) -> tuple[float, ...]:
    """Hospitals with the same history share one computation."""
    return tuple(running_epsilon(rounds, delta))


def everywhere(run: Run) -> tuple[float, float] | None:
    """Epsilon and delta of a patient whose records are at every hospital; None if a ledger is broken or incomplete."""
    if unknown(run):
        return None
    delta = min(run.plan.privacy_of(h.name).delta for h in run.plan.hospitals)
    found = _finite([event for h in run.plan.hospitals for event in spent(_study(run, h.name))], delta)
    return None if found is None else (found, delta)


def mechanisms(run: Run) -> tuple[Mechanism, ...]:
    """The kinds of events in the study's releases, with their public parameters."""
    users: dict[tuple[str, str], list[str]] = {}
    for hospital in run.plan.hospitals:
        for entry in releases(_study(run, hospital.name)):
            for event in entry.events:
                users.setdefault(described(event), []).append(hospital.name)
    return tuple(
        Mechanism(what=what, parameters=parameters, hospitals=tuple(dict.fromkeys(names)), times=len(names))
        for (what, parameters), names in users.items()
    )


def described(event: DpSgd | Gaussian | PooledExact) -> tuple[str, str]:
    """What an event is called, and its parameters."""
    if isinstance(event, DpSgd):
        steps = f"{event.steps} step{'' if event.steps == 1 else 's'}"
        return "DP-SGD training", (
            f"{steps} a round; each draws every patient with probability {event.sampling_rate:g}, clips gradients to "
            f"norm {event.clipping_norm:g}, adds Gaussian noise of {event.noise_multiplier:g} times that norm"
        )
    if isinstance(event, Gaussian):
        deviation = event.noise_multiplier * event.sensitivity
        return "Gaussian noise on an answer", (
            f"sensitivity {event.sensitivity:.4g}, noise multiplier {event.noise_multiplier:g}: standard deviation "
            f"{deviation:.4g} on every count"
        )
    return "Exact counts, no noise", f"inside a sum of at least {event.smallest_cohort} hospitals, which is opened"


def data_sets(run: Run) -> tuple[DataSet, ...]:
    """For each fingerprint in each ledger, what all studies released about those patients."""
    found = []
    for name, entries in run.ledgers.items():
        delta = run.plan.privacy_of(name).delta
        for fingerprint in dict.fromkeys(e.dataset for e in entries):
            own = [e for e in releases(entries) if e.dataset == fingerprint]
            figures = {"studies": len({e.study for e in own}), "releases": len(own)}
            bound = _finite(spent(own), delta)
            found.append(DataSet(hospital=name, fingerprint=fingerprint, epsilon=bound, **figures))
    return tuple(found)


def lifetimes(run: Run) -> tuple[Lifetime, ...]:
    """Every ledger as a whole. Which data sets share no patient is the hospital's secret, so all count together."""
    found = []
    for name, entries in run.ledgers.items():
        delta, policy = run.plan.privacy_of(name).delta, run.policies.get(name)
        limit = None if policy is None else policy.lifetime
        found.append(Lifetime(hospital=name, epsilon=_finite(spent(entries), delta), delta=delta, limit=limit))
    return tuple(found)


def _study(run: Run, name: str) -> list[LedgerEntry]:
    return [e for e in run.ledgers.get(name, []) if e.study == run.plan.hash]


def unknown(run: Run) -> set[str]:
    """Hospitals whose ledger is broken, or lacks a round that was published with their upload: what they spent is not
    known. One without a ledger spent nothing only if a valid transcript has no upload of it.
    """
    return {h.name for h in run.plan.hospitals if _incomplete(run, h.name)}


def _incomplete(run: Run, name: str) -> bool:
    if name not in run.ledgers and (run.ledger_path(name).exists() or not run.transcript_verified):
        return True
    uploaded = {e.round for e in run.transcript if name in {u.hospital for u in e.cohort}}
    return not uploaded <= {e.round for e in releases(_study(run, name))}


def _by_round(entries: Iterable[LedgerEntry]) -> dict[int, tuple[DpSgd | Gaussian, ...]]:
    """What each round that has a release cost, in order of rounds."""
    found: dict[int, tuple[DpSgd | Gaussian, ...]] = {}
    for entry in sorted(releases(entries), key=_round):
        found[entry.round] = found.get(entry.round, ()) + tuple(paid(entry.events))
    return found


def _round(entry: Release) -> int:
    return entry.round


def _finite(events: Sequence[DpSgd | Gaussian], delta: float) -> float | None:
    found = _bounded(lambda: epsilon(events, delta))
    return None if found is None else _or_none(found)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bounded(compute: Callable[[], T]) -> T | None:
    """None where the accountant refuses; the check of the budget has failed by then, and says why."""
    try:
        return compute()
    except FedHelpError:
        return None
