"""Epsilon recomputed from ledger files alone: no keys, no data, no trust in whoever claimed it.

A ledger's releases are added up by study and data set, and all together: whether two data sets share patients is the
hospital's secret, so the figure that holds for every patient counts them all. Open reservations, which may yet be
spent, are shown apart. A patient whose records lie at several hospitals is protected by what all their ledgers add up
to: nobody else knows, so the figure is sequential composition of everything given. Two copies of one ledger are one;
two ledgers of one key that part somewhere are a fork, of which neither is believed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from secure_fedhelp.errors import InvalidPlan, LedgerInvalid
from secure_fedhelp.identity.signing import ledger_key
from secure_fedhelp.privacy.accountant import CrossCheck, cross_check, epsilon
from secure_fedhelp.privacy.entries import LedgerEntry, committed, open_reservations, releases, spent
from secure_fedhelp.privacy.ledger import read_history
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact, paid


@dataclass(frozen=True)
class Part:
    """What some entries of a ledger add up to at ``delta``: those of one study and data set, or all (None)."""

    study: str | None
    dataset: str | None
    delta: float
    releases: int
    #: Open ones.
    reservations: int
    #: Epsilon of the releases.
    spent: CrossCheck
    #: With the open reservations, by PLD.
    committed: float


@dataclass(frozen=True)
class ExactRelease:
    """Exact counts that left inside an opened sum: no differential privacy, and no epsilon."""

    entry: int
    study: str
    round: int
    channels: tuple[str, ...]
    smallest_cohort: int


@dataclass(frozen=True)
class EpsilonReport:
    """What one ledger adds up to. ``pld`` is the figure of record; ``rdp`` bounds the same from above, more loosely."""

    hospital: str
    unit: str
    entries: int
    #: The key that signed the file, and where its noise came from; empty for a ledger without entries.
    public_key: str
    noise_sources: tuple[str, ...]
    total: Part
    #: By study and data set, in order of first use.
    parts: tuple[Part, ...] = ()
    exact: tuple[ExactRelease, ...] = ()
    #: SHA-256 of each line.
    heads: tuple[str, ...] = field(default=(), repr=False)
    #: What all releases cost, and what open reservations may yet, for adding it to what other ledgers hold.
    events: tuple[DpSgd | Gaussian, ...] = field(default=(), repr=False)
    reserved: tuple[DpSgd | Gaussian, ...] = field(default=(), repr=False)

    @property
    def delta(self) -> float:
        return self.total.delta

    @property
    def pld(self) -> float:
        return self.total.spent.pld

    @property
    def rdp(self) -> float:
        return self.total.spent.rdp


def recompute(
    path: Path, public_hex: str | None = None, delta: float | None = None, prv: bool = False
) -> EpsilonReport:
    """Verify the ledger at ``path`` and compose what is in it.

    ``public_hex`` is the hospital's signing key of either suite, if the auditor has it from a card; None takes the one
    the file names. ``delta`` None takes the smallest of the entries', which gives the largest epsilon. ``prv`` asks
    Opacus' accountants (RDP and PRV), which takes torch, instead of dp-accounting's RDP. Raises LedgerInvalid,
    StorageError if it cannot be read, AccountantDisagreement if the accountants contradict each other.
    """
    history = read_history(path, None if public_hex is None else ledger_key(public_hex))
    entries = history.entries
    if not entries:
        nothing = Part(None, None, delta or 0.0, 0, 0, CrossCheck(0.0, 0.0), 0.0)
        return EpsilonReport("(no entries)", "patient", 0, "", (), nothing)
    try:
        groups = dict.fromkeys((e.study, e.dataset) for e in entries)
        parts = [_part([e for e in entries if (e.study, e.dataset) == g], *g, delta, prv) for g in groups]
        total = _part(entries, None, None, delta, prv)
    except InvalidPlan as error:
        raise LedgerInvalid(f"{path}: {error.message}", "State epsilon at another delta with --delta.") from error
    return EpsilonReport(
        hospital=entries[0].hospital,
        unit=entries[0].unit,
        entries=len(entries),
        public_key=entries[0].public_key,
        noise_sources=tuple(sorted({e.noise_source for e in releases(entries)})),
        total=total,
        parts=tuple(parts),
        exact=exact_releases(entries),
        heads=tuple(history.heads),
        events=tuple(spent(entries)),
        reserved=tuple(paid(event for r in open_reservations(entries) for event in r.events)),
    )


def everywhere(reports: Sequence[EpsilonReport], delta: float | None = None, prv: bool = False) -> Part:
    """What all these ledgers add up to for a patient who is in each of them; ``delta`` None: the smallest of theirs.

    Each ledger counts once (:func:`distinct`); of a fork (:func:`require_no_fork`) both sides count.
    """
    reports = distinct(reports)
    used = min((r.delta for r in reports if r.entries), default=1e-5) if delta is None else delta
    events, waiting = [e for r in reports for e in r.events], [e for r in reports for e in r.reserved]
    counts = sum(r.total.releases for r in reports), sum(r.total.reservations for r in reports)
    try:
        both = cross_check(events, used, by="opacus" if prv else "dp-accounting")
        return Part(None, None, used, *counts, both, epsilon([*events, *waiting], used))
    except InvalidPlan as error:
        raise LedgerInvalid(f"all ledgers together: {error.message}", "Give fewer, or another --delta.") from error


def distinct(reports: Sequence[EpsilonReport]) -> list[EpsilonReport]:
    """Each ledger once: what a longer copy of it goes on from has nothing to add."""
    kept: list[EpsilonReport] = []
    for report in sorted(reports, key=lambda r: r.entries, reverse=True):
        if not any(other.heads[: report.entries] == report.heads for other in kept):
            kept.append(report)
    return kept


def require_no_fork(path: Path, report: EpsilonReport, earlier: Iterable[tuple[Path, EpsilonReport]]) -> None:
    """Raise LedgerInvalid if one key signed this ledger and an earlier one, and neither goes on from the other: its
    hospital shows one history to some and another to others, so what it spent is not known."""
    for other_path, other in earlier:
        both = min(report.entries, other.entries)
        if report.public_key == other.public_key and report.heads[:both] != other.heads[:both]:
            entry = next(n for n in range(both) if report.heads[n] != other.heads[n])
            raise LedgerInvalid(
                f"{path}: entry {entry}: it is another one in {other_path}, and one key signed both files: a fork",
                "Ask the hospital which of the two is its ledger, and compare it with the heads in the transcripts.",
            )


def exact_releases(entries: Iterable[LedgerEntry]) -> tuple[ExactRelease, ...]:
    """Every release of exact counts: what no epsilon stands for."""
    return tuple(
        ExactRelease(
            entry=entry.index,
            study=entry.study,
            round=entry.round,
            channels=tuple(c.name for c in entry.channels if c.mechanism == "pooled-exact"),
            smallest_cohort=event.smallest_cohort,
        )
        for entry in releases(entries)
        for event in entry.events
        if isinstance(event, PooledExact)
    )


def shown(value: float) -> str:
    """An epsilon for people: four digits, rounded up, so that no table says less than was spent."""
    return f"{math.ceil(value * 1e4 - 1e-9) / 1e4:.4f}" if math.isfinite(value) else "infinite"


def _part(
    entries: Sequence[LedgerEntry], study: str | None, dataset: str | None, delta: float | None, prv: bool
) -> Part:
    used = min(e.delta for e in entries) if delta is None else delta
    both = cross_check(spent(entries), used, by="opacus" if prv else "dp-accounting")
    counts = len(releases(entries)), len(open_reservations(entries))
    return Part(study, dataset, used, *counts, both, epsilon(committed(entries), used))
