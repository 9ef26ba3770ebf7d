"""What is left of a hospital's privacy budget: by data set, over all studies, from its ledger and book of patients.

Spent is what releases cost; reserved is what rounds that have begun may still cost. Epsilons do not subtract (half of
an epsilon spent does not leave half of the rounds), so what is left is said in rounds of a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secure_fedhelp.privacy.accountant import epsilon, within_budget
from secure_fedhelp.privacy.datasets import PatientBook
from secure_fedhelp.privacy.entries import LedgerEntry, Release, committed, releases, spent
from secure_fedhelp.privacy.mechanisms import PooledExact, paid, planned_events
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.policy import SitePolicy


@dataclass(frozen=True)
class DataSetBudget:
    """One data set of a ledger. Epsilons are of everything about any of its patients, at one delta."""

    fingerprint: str
    #: None if the book of patients does not know the data set.
    patients: int | None
    studies: tuple[str, ...]
    releases: int
    #: Releases of exact counts, which have no epsilon.
    unprotected: int
    spent: float
    #: With open reservations.
    committed: float


def budgets(entries: Sequence[LedgerEntry], book: PatientBook, delta: float) -> list[DataSetBudget]:
    """One row for each data set that the ledger names, in order of first use."""
    return [_budget(entries, book, name, delta) for name in dict.fromkeys(e.dataset for e in entries)]


def rounds_left(
    entries: Sequence[LedgerEntry],
    book: PatientBook,
    dataset: str,
    plan: StudyPlan,
    hospital: str,
    policy: SitePolicy,
) -> int:
    """How many more rounds of ``plan`` fit into its own budget and the policy's, as the release gate judges it."""
    privacy, apart = plan.privacy_of(hospital), book.apart(dataset)
    # The plan's own reservations are for rounds that are counted below.
    counted = [e for e in entries if isinstance(e, Release) or e.study != plan.hash]
    own = committed(e for e in counted if e.study == plan.hash)
    ever = committed(e for e in counted if e.dataset not in apart)
    smallest = min([privacy.delta, *(e.delta for e in entries if e.dataset not in apart)])
    done = {e.round for e in releases(entries) if e.study == plan.hash}
    exact = sum(_exact(e.events) for e in releases(entries) if e.dataset not in apart)
    fits = 0
    for number in (n for n in range(plan.study.rounds) if n not in done):
        planned = planned_events(plan, hospital, number)
        events, exact = paid(planned), exact + _exact(planned)
        own, ever = [*own, *events], [*ever, *events]
        limits = ((own, privacy.delta, privacy.epsilon), (ever, smallest, policy.lifetime))
        if exact > policy.exact_releases and _exact(planned):
            break
        if not all(within_budget(epsilon(what, delta), limit) for what, delta, limit in limits):
            break
        fits += 1
    return fits


def _exact(events: Iterable[object]) -> int:
    return sum(isinstance(event, PooledExact) for event in events)


def _budget(entries: Sequence[LedgerEntry], book: PatientBook, name: str, delta: float) -> DataSetBudget:
    apart = book.apart(name)
    about = [e for e in entries if e.dataset not in apart]
    mine = [e for e in releases(entries) if e.dataset == name]
    return DataSetBudget(
        fingerprint=name,
        patients=book.patients(name),
        studies=tuple(dict.fromkeys(e.study for e in entries if e.dataset == name)),
        releases=len(mine),
        unprotected=sum(_exact(e.events) for e in mine),
        spent=epsilon(spent(about), delta),
        committed=epsilon(committed(about), delta),
    )
