"""What an audit asks of one hospital's ledger, once its chain and signatures hold. Pure: entries in, errors out.

Each function returns a line for a person or raises LedgerInvalid, which names the entry (numbered from 0, as in the
file), the round (from 1) and the reason; whoever calls adds the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from secure_fedhelp.audit.epsilon import exact_releases, shown
from secure_fedhelp.errors import LedgerInvalid
from secure_fedhelp.identity.signing import ledger_key
from secure_fedhelp.privacy.accountant import cross_check, epsilon, within_budget
from secure_fedhelp.privacy.channels import objection
from secure_fedhelp.privacy.entries import LedgerEntry, Release, open_reservations, releases, spent
from secure_fedhelp.privacy.mechanisms import PooledExact, planned_events
from secure_fedhelp.study.canonical import GENESIS, sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.policy import SitePolicy
from secure_fedhelp.wire.messages import UploadHeader


def check_owner(entries: Sequence[LedgerEntry], name: str, signing_key: str | None) -> str:
    """The ledger is of hospital ``name`` and signed by the key of its card (None: the roster has no card of it)."""
    if not entries:
        return "no entries"
    if signing_key is None:
        raise LedgerInvalid(f"entry 0: {name} has a ledger, but no card in the roster says whose key signed it")
    first = entries[0]
    if (first.hospital, first.public_key) != (name, ledger_key(signing_key)):
        raise LedgerInvalid(
            f"entry 0: the ledger is of {first.hospital} with key {first.public_key[:16]}, not {name}'s"
        )
    return f"key {signing_key[:16]}"


def check_planned(entries: Sequence[LedgerEntry], plan: StudyPlan, name: str) -> str:
    """Every release of the study is what the plan allows: reserved first, its mechanisms, channels, delta and noise."""
    study = [e for e in entries if e.study == plan.hash]
    for entry in releases(study):
        try:
            _require_planned(entry, plan, name)
        except LedgerInvalid as error:
            raise LedgerInvalid(f"{place(entry)}: {error.message}") from error
    waiting = ", ".join(str(r.round + 1) for r in open_reservations(study))
    return f"{len(releases(study))} releases" + (f"; still reserved: round {waiting}" if waiting else "")


def place(entry: LedgerEntry) -> str:
    """Where an entry is, for a person: its number in the file (from 0) and its round (from 1)."""
    return f"entry {entry.index} (round {entry.round + 1})"


def _require_planned(entry: Release, plan: StudyPlan, name: str) -> None:
    privacy = plan.privacy_of(name)
    if entry.round >= plan.study.rounds:
        raise LedgerInvalid(f"the plan has {plan.study.rounds} rounds")
    if entry.reservation is None:
        raise LedgerInvalid("it was released without a reservation")
    if entry.events != planned_events(plan, name, entry.round):
        raise LedgerInvalid("its mechanisms are not those that the plan says for this round")
    if (entry.unit, entry.delta) != (privacy.unit, privacy.delta):
        raise LedgerInvalid(f"it states delta {entry.delta:g} for a {entry.unit}, the plan {privacy.delta:g}")
    lengths = plan.lengths(entry.round)
    if entry.values().keys() != lengths.keys():
        raise LedgerInvalid(f"channels {sorted(entry.values())}, the plan says {sorted(lengths)}")
    for channel in entry.channels:
        if (reason := objection(plan, entry.round, channel.name, channel)) is not None:
            raise LedgerInvalid(reason)
        # Public means zeros, whose hash everybody knows: anything else would have left without being paid for.
        if channel.mechanism == "public" and channel.values_sha256 != sha256_hex(bytes(8 * lengths[channel.name])):
            raise LedgerInvalid(f"channel {channel.name} is called public, and is not zero")
    if entry.noise_source != "system" and plan.study.mode != "research":
        raise LedgerInvalid(f"noise of source {entry.noise_source} in {plan.study.mode} mode")


def check_paid(
    plan: StudyPlan, uploads: Sequence[UploadHeader], entries: Sequence[LedgerEntry], heads: Sequence[str]
) -> str:
    """Each of a hospital's published uploads had been paid for, and its ledger still goes on from what it witnessed.

    ``heads`` are the hashes of the ledger's lines.
    """
    if not (entries or uploads):
        return "no uploads"
    paid: dict[int, int] = {}  # of each round, the first entry that pays for an upload
    for entry in releases(entries):
        if entry.study == plan.hash and _sends(entry):
            paid.setdefault(entry.round, entry.index)
    for header in uploads:
        before = header.ledger_entries
        said = f"(round {header.round + 1}): the upload witnessed {before} entries with head {header.ledger_head[:16]}"
        if before > len(entries):
            rest = "entries were dropped, or it is an older copy"
            raise LedgerInvalid(f"entry {len(entries)} {said}; the ledger has {len(entries)}: {rest}")
        if (heads[before - 1] if before else GENESIS) != header.ledger_head:
            raise LedgerInvalid(
                f"entry {max(0, before - 1)} {said}; the ledger does not go on from them: it was changed"
            )
        if paid.get(header.round, before) >= before:
            raise LedgerInvalid(f"entry {max(0, before - 1)} {said}; no release up to it paid for the upload")
    after = len(entries) - max((h.ledger_entries for h in uploads), default=0)
    return f"{len(uploads)} uploads, {len(entries)} entries" + (f", {after} after the last upload" if after else "")


def _sends(entry: Release) -> bool:
    """Whether anything left with this release: training that came to nothing is paid for too, with zeros in every
    channel, and pays for no upload."""
    return any(channel.mechanism != "public" for channel in entry.channels)


def check_budget(entries: Sequence[LedgerEntry], plan: StudyPlan, name: str) -> str:
    """The study's releases keep to the plan's epsilon, by the figure of record; both accountants agree."""
    privacy, study = plan.privacy_of(name), [e for e in entries if e.study == plan.hash]
    both = cross_check(spent(study), privacy.delta, by="dp-accounting")
    figure = f"{shown(both.pld)} of {privacy.epsilon:g} at delta {privacy.delta:g}"
    if not within_budget(both.pld, privacy.epsilon):
        over = _first_over(releases(study), privacy.delta, privacy.epsilon)
        raise LedgerInvalid(f"{place(over)}: epsilon {figure}")
    remarks = []
    if "seeded-research" in {e.noise_source for e in releases(study)}:
        remarks.append("seeded research noise: no protection from who knows the seed")
    if exact := exact_releases(study):
        rounds = ", ".join(str(e.round + 1) for e in exact)
        remarks.append(f"exact counts in round {rounds}: NO DIFFERENTIAL PRIVACY")
    return "; ".join([figure, *remarks])


def check_lifetime(entries: Sequence[LedgerEntry], plan: StudyPlan, name: str, policy: SitePolicy) -> str:
    """No data set's releases, over all studies, go beyond the policy, nor its releases of exact counts, which have no
    epsilon; all together are shown beside it.

    Which data sets share patients is the hospital's secret, so each is judged alone and their sum is not.
    """
    delta, limit = min([plan.privacy_of(name).delta, *(e.delta for e in entries)]), policy.lifetime
    sets = {d: [e for e in releases(entries) if e.dataset == d] for d in dict.fromkeys(e.dataset for e in entries)}
    for dataset, own in sets.items():
        figure = epsilon(spent(own), delta)
        if not within_budget(figure, limit):
            over = _first_over(own, delta, limit)
            raise LedgerInvalid(
                f"{place(over)}: data set {dataset[:16]} has spent epsilon "
                f"{shown(figure)} over all studies, the site policy's lifetime_epsilon is {limit:g}"
            )
        counts = [e for e in own for event in e.events if isinstance(event, PooledExact)]
        if len(counts) > policy.exact_releases:
            raise LedgerInvalid(
                f"{place(counts[policy.exact_releases])}: data set {dataset[:16]} has {len(counts)} releases of exact "
                f"counts over all studies, the site policy's exact_releases is {policy.exact_releases}"
            )
    total = epsilon(spent(entries), delta)
    figure_of_all = f"{shown(total)} of {limit:g} at delta {delta:g}"
    if len(sets) < 2:
        return figure_of_all
    more = "" if within_budget(total, limit) else "; above it for a patient who is in several of them"
    return f"{figure_of_all}, over {len(sets)} data sets together{more}"


def _first_over(entries: Sequence[Release], delta: float, limit: float) -> Release:
    """The first release after which the budget did not hold; by halving, since epsilon grows with each."""
    low, high = 0, len(entries) - 1
    while low < high:
        middle = (low + high) // 2
        if within_budget(epsilon(spent(entries[: middle + 1]), delta), limit):
            low = middle + 1
        else:
            high = middle
    return entries[low]
