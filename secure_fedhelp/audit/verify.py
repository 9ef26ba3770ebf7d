"""Everything a finished run claims, checked from its files: what an auditor does who trusts nobody.

The files, under one folder: ``plan.toml``, ``ca.crt`` (or ``consortium/ca.crt``), ``coordinator/roster.json`` (a member
card by name), ``coordinator/transcript.jsonl``, and ``hospitals/NAME/ledger.jsonl``. No private key and no record is
read. Each check ends in a :class:`Finding`; one that cannot be made because an earlier one failed is a failure too.

What this cannot see: whether a hospital ran the mechanism its ledger names. Its ledger is a signed statement; what the
statement adds up to, and that it was not changed after the fact, is what is proven here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec

from secure_fedhelp.audit.transcript import read_transcript
from secure_fedhelp.errors import FedHelpError, LedgerInvalid, StorageError, TranscriptInvalid
from secure_fedhelp.identity.cards import MemberCard, check_card
from secure_fedhelp.identity.signing import ledger_key
from secure_fedhelp.privacy.accountant import cross_check, within_budget
from secure_fedhelp.privacy.entries import LedgerEntry, releases, spent
from secure_fedhelp.privacy.ledger import read_ledger
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.study.canonical import GENESIS, canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import StudyPlan, load_plan
from secure_fedhelp.wire.messages import UploadHeader
from secure_fedhelp.wire.transcript import TranscriptEntry

Steps = ParamSpec("Steps")


@dataclass(frozen=True)
class Finding:
    """One check: of whom, what was asked, whether it holds, and the figure or the reason."""

    subject: str
    check: str
    ok: bool
    detail: str


@dataclass
class Run:
    """The files of a run as far as they were verified, and the findings so far."""

    folder: Path
    plan: StudyPlan
    findings: list[Finding] = field(default_factory=list)
    cards: dict[str, MemberCard] = field(default_factory=dict)
    ledgers: dict[str, list[LedgerEntry]] = field(default_factory=dict)
    transcript: list[TranscriptEntry] = field(default_factory=list)
    transcript_verified: bool = False

    def ledger_path(self, hospital: str) -> Path:
        return self.folder / "hospitals" / hospital / "ledger.jsonl"

    def check(
        self, subject: str, check: str, step: Callable[Steps, str], *args: Steps.args, **named: Steps.kwargs
    ) -> None:
        """Run one step; it returns the detail of a success and raises a FedHelpError for a failure."""
        try:
            self.findings.append(Finding(subject, check, True, step(*args, **named)))
        except FedHelpError as error:
            self.findings.append(Finding(subject, check, False, f"{type(error).__name__}: {error.message}"))


def verify_run(folder: Path, now: float, ca_pem: bytes | None = None) -> list[Finding]:
    """All findings about the run in ``folder``, as :func:`examine_run` makes them."""
    return examine_run(folder, now, ca_pem).findings


def examine_run(folder: Path, now: float, ca_pem: bytes | None = None) -> Run:
    """The run in ``folder`` as far as it verifies; raises InvalidPlan or StorageError if there is no run to check.

    ``ca_pem`` is the auditor's own copy of the consortium's CA; None takes the run's, which proves less. Certificates
    are judged at the time of the last ledger entry, so that an audit may come years later; ``now`` (unix seconds) is
    used when there is none.
    """
    if not (folder / "plan.toml").is_file():
        raise StorageError(f"{folder} is not a run directory: it has no plan.toml", "Check the path.")
    run = Run(folder, load_plan(folder / "plan.toml"))
    authority = ca_pem if ca_pem is not None else run_authority(folder)
    names = [h.name for h in run.plan.hospitals]
    for name in names:
        run.check(name, "ledger unbroken", _check_ledger, run, name)
    when = max((float(e.time) for entries in run.ledgers.values() for e in entries), default=now)
    run.check("roster", "cards under the CA", _check_cards, run, authority, when)
    run.check("coordinator", "transcript unbroken", _check_transcript, run)
    for entry in run.transcript:
        run.check(f"round {entry.round + 1}", "as the plan says", _check_round, run.plan, entry)
    for name in names:
        run.check(name, "ledger is its own", _check_owner, run, name)
        run.check(name, "uploads paid for", _check_paid, run, name)
        run.check(name, "epsilon in budget", _check_budget, run, name)
    return run


# --- the steps -------------------------------------------------------------------------------------------------------


def _check_ledger(run: Run, name: str) -> str:
    if not run.ledger_path(name).exists():
        return "no ledger: nothing was released"  # an upload without one is found below
    entries = run.ledgers[name] = read_ledger(run.ledger_path(name))
    return f"{len(entries)} entries"


def _check_cards(run: Run, authority: bytes, when: float) -> str:
    path = run.folder / "coordinator" / "roster.json"
    try:
        cards = json.loads(path.read_bytes())
        if not isinstance(cards, dict):
            raise TranscriptInvalid(f"{path} is not a table of cards by name")
        data = {name: canonical_bytes(card) for name, card in cards.items()}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TranscriptInvalid(f"{path} is not JSON") from error
    for name, card_bytes in data.items():
        card = check_card(card_bytes, authority, run.plan, when)
        if card.name != name:
            raise TranscriptInvalid(f"the card under {name} is that of {card.name}")
        run.cards[name] = card
    _coordinator_key(run)
    day = datetime.fromtimestamp(when, UTC).date().isoformat()
    return f"{len(run.cards)} cards of {run.plan.hash[:16]}, valid {day}"


def _check_transcript(run: Run) -> str:
    path = run.folder / "coordinator" / "transcript.jsonl"
    entries = read_transcript(path, _coordinator_key(run), _member_keys(run), run.plan)
    if len(entries) > run.plan.study.rounds:
        raise TranscriptInvalid(f"{len(entries)} rounds, the plan has {run.plan.study.rounds}")
    run.transcript = entries
    run.transcript_verified = True
    return f"{len(entries)} of {run.plan.study.rounds} rounds"


def _check_round(plan: StudyPlan, entry: TranscriptEntry) -> str:
    chosen, count = plan_profile(plan), len(entry.cohort)
    if count < plan.aggregation.minimum_cohort:
        raise TranscriptInvalid(f"a cohort of {count}, the plan says at least {plan.aggregation.minimum_cohort}")
    for upload in entry.cohort:
        header, body_bytes = upload.header, chosen.body_bytes(plan.total_length)
        if (header.profile, header.body_bytes) != (chosen.name, body_bytes):
            raise TranscriptInvalid(f"the upload of {header.hospital} has another profile or length than the plan's")
        if header.weight != plan.weights[header.hospital]:
            raise TranscriptInvalid(f"{header.hospital} weighted by {header.weight}, which is not the plan's weight")
    if entry.sum_bytes != chosen.sum_bytes(plan.total_length, count):
        raise TranscriptInvalid(f"a sum of {entry.sum_bytes} bytes is not one of {count} uploads")
    return f"{count} hospitals, sum {entry.sum_sha256[:16]}"


def _check_owner(run: Run, name: str) -> str:
    entries, card = run.ledgers.get(name), run.cards.get(name)
    if not entries:
        return "no entries"
    if card is None:
        raise LedgerInvalid(f"{name} has a ledger, but no card in the roster says whose key signed it")
    if (entries[0].hospital, entries[0].public_key) != (name, ledger_key(card.signing_key)):
        raise LedgerInvalid(
            f"the ledger is of {entries[0].hospital} with key {entries[0].public_key[:16]}, not {name}'s"
        )
    return f"key {card.signing_key[:16]}"


def _check_paid(run: Run, name: str) -> str:
    if not run.transcript_verified:
        raise TranscriptInvalid("without a valid transcript nothing witnesses this ledger")
    entries, heads = run.ledgers.get(name, []), [GENESIS]
    if entries:
        heads += [sha256_hex(line) for line in run.ledger_path(name).read_bytes().split(b"\n")[:-1]]
    uploads = [u.header for e in run.transcript for u in e.cohort if u.hospital == name]
    for header in uploads:
        _check_upload(run.plan, header, entries, heads)
    return f"{len(uploads)} uploads, {len(entries)} entries" if entries or uploads else "no uploads"


def _check_upload(plan: StudyPlan, header: UploadHeader, entries: Sequence[LedgerEntry], heads: Sequence[str]) -> None:
    """The ledger still begins as the upload witnessed it, and held an entry that paid for that very upload."""
    before = header.ledger_entries
    if before >= len(heads) or heads[before] != header.ledger_head:
        raise LedgerInvalid(
            f"round {header.round + 1} witnessed {before} entries with head {header.ledger_head[:16]}; "
            f"the ledger has {len(entries)} and does not go on from them"
        )
    events = planned_events(plan, header.hospital, header.round)
    channels = {c.name for c in plan.channels}
    for entry in releases(entries[:before]):
        same_round = (entry.study, entry.round) == (plan.hash, header.round)
        if same_round and entry.events == events and set(entry.values()) == channels:
            return
    raise LedgerInvalid(
        f"no entry of the planned mechanism and channels paid for the upload of round {header.round + 1}"
    )


def _check_budget(run: Run, name: str) -> str:
    privacy = run.plan.privacy_of(name)
    if not run.ledgers.get(name):
        return f"0 of {privacy.epsilon:g}"
    study = [e for e in run.ledgers[name] if e.study == run.plan.hash]
    both = cross_check(spent(study), privacy.delta, by="dp-accounting")
    figure = f"{both.pld:.4f} of {privacy.epsilon:g} at delta {privacy.delta:g}"
    if not within_budget(both.pld, privacy.epsilon):
        raise LedgerInvalid(f"epsilon {figure}")
    seeded = "; seeded research noise: no protection from who knows the seed"
    return figure + (seeded if "seeded-research" in {e.noise_source for e in releases(study)} else "")


def _coordinator_key(run: Run) -> str:
    keys = [card.signing_key for card in run.cards.values() if card.role == "coordinator"]
    if len(keys) != 1:
        raise TranscriptInvalid(f"the roster has {len(keys)} valid cards of a coordinator, one is needed")
    return keys[0]


def _member_keys(run: Run) -> dict[str, str]:
    return {name: card.signing_key for name, card in run.cards.items() if card.role == "hospital"}


def run_authority(folder: Path) -> bytes:
    for path in (folder / "ca.crt", folder / "consortium" / "ca.crt"):
        if path.exists():
            return path.read_bytes()
    raise StorageError(f"{folder} has no ca.crt", "Give your own copy of the consortium's certificate with --ca.")
