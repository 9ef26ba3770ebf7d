"""Everything a finished run claims, checked from its files: what an auditor does who trusts nobody.

The files, under one folder: ``plan.toml``, ``ca.crt`` (or ``consortium/ca.crt``), ``coordinator/roster.json`` (a member
card by name), ``coordinator/transcript.jsonl``, ``hospitals/NAME/ledger.jsonl``, and, where they are given, the site
policies ``hospitals/NAME/policy.toml`` (with ``hospital.toml``, which names a foundation server). No private key and no
record is read. Each check ends in a :class:`Finding`; one that cannot be made because an earlier one failed is a
failure too. A failure names the file, the entry in it (from 0) with its round (from 1), and the reason.

What is cut off the end of a file does not break its chain. Each upload witnesses its hospital's ledger, so a ledger
that lost a release whose upload was published does not go on from it; what came later (a reservation, say) has released
nothing. The last transcript entry is witnessed by the ledgers: so many of them hold a release of a round that no entry
publishes as the round would have needed. That is also what a study leaves that ended, or still is, in that round.

What this cannot see: whether a hospital ran the mechanism its ledger names. Its ledger is a signed statement; what the
statement adds up to, and that it was not changed after the fact, is what is proven here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec

from secure_fedhelp.audit import ledgers
from secure_fedhelp.audit.transcript import read_transcript
from secure_fedhelp.errors import (
    CertificateExpired,
    FedHelpError,
    InvalidConfiguration,
    LedgerInvalid,
    PolicyViolation,
    StorageError,
    TranscriptInvalid,
)
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.identity.cards import MemberCard, begins, check_card
from secure_fedhelp.privacy.entries import LedgerEntry, releases
from secure_fedhelp.privacy.ledger import read_history
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.plan import StudyPlan, load_plan
from secure_fedhelp.study.policy import SitePolicy, broken_clauses
from secure_fedhelp.study.reading import CERTIFICATE, ROSTER, read_bounded
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
    #: SHA-256 of each line of each ledger.
    heads: dict[str, list[str]] = field(default_factory=dict)
    policies: dict[str, SitePolicy] = field(default_factory=dict)
    transcript: list[TranscriptEntry] = field(default_factory=list)
    transcript_verified: bool = False

    def ledger_path(self, hospital: str) -> Path:
        return self.folder / "hospitals" / hospital / "ledger.jsonl"

    @property
    def transcript_path(self) -> Path:
        return self.folder / "coordinator" / "transcript.jsonl"

    def check(
        self, subject: str, check: str, step: Callable[Steps, str], *args: Steps.args, **named: Steps.kwargs
    ) -> None:
        """Run one step; it returns the detail of a success and raises a FedHelpError for a failure."""
        try:
            self.findings.append(Finding(subject, check, True, step(*args, **named)))
        except FedHelpError as error:
            # Files are named as the run has them: the folder's own path says nothing, and differs between auditors.
            message = error.message if self.folder == Path() else error.message.replace(f"{self.folder}/", "")
            self.findings.append(Finding(subject, check, False, f"{type(error).__name__}: {message}"))


def verify_run(folder: Path, now: float, ca_pem: bytes | None = None) -> list[Finding]:
    """All findings about the run in ``folder``, as :func:`examine_run` makes them."""
    return examine_run(folder, now, ca_pem).findings


def examine_run(folder: Path, now: float, ca_pem: bytes | None = None) -> Run:
    """The run in ``folder`` as far as it verifies; raises InvalidPlan or StorageError if there is no run to check.

    ``ca_pem`` is the auditor's own copy of the consortium's CA; None takes the run's, which proves less. Each member's
    certificate is judged at the time of its last ledger entry of this study (voids apart), so that an audit may come
    years later, and one that ended after its member had left, or was renewed after that entry, is no fault; that of a
    member without one, and of the coordinator, at the time of anybody's last entry; ``now`` (unix seconds) is used when
    there is none.
    """
    if not _given(folder / "plan.toml"):
        raise StorageError(f"{folder} is not a run directory: it has no plan.toml", "Check the path.")
    run = Run(folder, load_plan(folder / "plan.toml"))
    authority = ca_pem if ca_pem is not None else run_authority(folder)
    names = [h.name for h in run.plan.hospitals]
    run.check("plan", "read and hashed", lambda: run.plan.hash)
    for name in names:
        run.check(name, "ledger unbroken", _check_ledger, run, name)
    for name in _strangers(run):
        run.check(name, "ledger is its own", _refuse_stranger, run, name)
    run.check("roster", "cards under the CA", _check_cards, run, authority, now)
    run.check("coordinator", "transcript unbroken", _check_transcript, run)
    run.check("coordinator", "no round left out", _check_complete, run)
    for entry in run.transcript:
        run.check(f"round {entry.round + 1}", "as the plan says", _check_round, run, entry)
    for name in names:
        run.check(name, "ledger is its own", _check_owner, run, name)
        run.check(name, "releases as planned", _of_ledger, run, name, ledgers.check_planned)
        run.check(name, "uploads paid for", _check_paid, run, name)
        run.check(name, "epsilon in budget", _of_ledger, run, name, ledgers.check_budget)
        if _is_file(folder / "hospitals" / name / "policy.toml"):
            run.check(name, "the policy allows the plan", _check_policy, run, name)
        if name in run.policies:
            run.check(name, "lifetime within the policy", _check_lifetime, run, name)
    return run


# --- the steps -------------------------------------------------------------------------------------------------------


def _given(path: Path) -> bool:
    """Whether there is anything at ``path``: a folder, a broken link or what nobody may read is something that was
    given and fails when it is read, and never passes for a file that was not given."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _is_file(path: Path) -> bool:
    """Whether a file that a hospital may leave out is there, and one that can be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False


def _strangers(run: Run) -> list[str]:
    """Folders with a ledger of no hospital of the plan: nothing of it is checked, and nobody should think it was."""
    known = {h.name for h in run.plan.hospitals}
    try:
        names = sorted(path.name for path in (run.folder / "hospitals").iterdir())
    except OSError:
        return []
    return [name for name in names if name not in known and _given(run.ledger_path(name))]


def _refuse_stranger(run: Run, name: str) -> str:
    raise LedgerInvalid(f"{run.ledger_path(name)}: the plan has no hospital {name}, so nothing in it was checked")


def _check_ledger(run: Run, name: str) -> str:
    if not _given(run.ledger_path(name)):
        return "no ledger: nothing was released"  # an upload without one is found below
    history = read_history(run.ledger_path(name))
    run.ledgers[name], run.heads[name] = history.entries, history.heads
    return f"{len(history.entries)} entries"


def _entries(run: Run, name: str) -> list[LedgerEntry]:
    if name not in run.ledgers and _given(run.ledger_path(name)):
        raise LedgerInvalid("the ledger is broken, so nothing in it can be relied on")
    return run.ledgers.get(name, [])


def _of_ledger(run: Run, name: str, check: Callable[[Sequence[LedgerEntry], StudyPlan, str], str]) -> str:
    with _naming(run.ledger_path(name)):
        return check(_entries(run, name), run.plan, name)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What is raised inside names the file, too."""
    try:
        yield
    except FedHelpError as error:
        raise type(error)(f"{path}: {error.message}", error.hint) from error


def _check_cards(run: Run, authority: bytes, now: float) -> str:
    path = run.folder / "coordinator" / "roster.json"
    # A ledger outlives the study: neither what it says of others nor what it gives back later counts here.
    times = {
        name: [(e.time, name, e.index) for e in entries if e.study == run.plan.hash and e.kind != "void"]
        for name, entries in run.ledgers.items()
    }
    own = {name: max(found) for name, found in times.items() if found}
    latest = max(own.values(), default=None)
    try:
        cards = json.loads(read_bounded(path, ROSTER), object_pairs_hook=_without_doubles)
        if not isinstance(cards, dict):
            raise TranscriptInvalid(f"{path} is not a table of cards by name")
        data = {name: canonical_bytes(card) for name, card in cards.items()}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TranscriptInvalid(f"{path} is not JSON, or names something twice") from error
    for name, card_bytes in data.items():
        judged = own.get(name, latest)
        # A certificate that was renewed since stands in the first one's place, for the same keys.
        when = max(now if judged is None else float(judged[0]), begins(card_bytes))
        try:
            card = check_card(card_bytes, authority, run.plan, when)
        except CertificateExpired as error:
            # A ledger's clock is its hospital's word: one that runs ahead makes a card look expired.
            at = "now" if judged is None else f"at the time of {run.ledger_path(judged[1])}: entry {judged[2]}"
            raise CertificateExpired(f"{error.message} (judged {at})", error.hint) from error
        if card.name != name:
            raise TranscriptInvalid(f"the card under {name} is that of {card.name}")
        run.cards[name] = card
    _coordinator_key(run)
    at = "now" if latest is None else "when each member was last heard of"
    return f"{len(run.cards)} cards of {run.plan.hash[:16]}, valid {at}"


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; ValueError for a key that stands in it twice, of which another reader may take the other."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _check_transcript(run: Run) -> str:
    entries = read_transcript(run.transcript_path, _coordinator_key(run), _member_keys(run), run.plan)
    if (planned := run.plan.study.rounds) < len(entries):
        where = f"{run.transcript_path}: transcript entry {planned}"
        raise TranscriptInvalid(f"{where}: {len(entries)} rounds, the plan has {planned}")
    run.transcript = entries
    run.transcript_verified = True
    return f"{len(entries)} of {run.plan.study.rounds} rounds"


def _check_complete(run: Run) -> str:
    """No round that the ledgers say took place is missing at the transcript's end (see the top of this file)."""
    if not run.transcript_verified:
        raise TranscriptInvalid("without a valid transcript nobody knows which rounds there were")
    after: dict[int, list[str]] = {}
    for name, entries in run.ledgers.items():
        for number in {e.round for e in releases(entries) if e.study == run.plan.hash}:
            if number >= len(run.transcript):
                after.setdefault(number, []).append(name)
    for number, names in sorted(after.items()):
        if len(names) >= run.plan.aggregation.minimum_cohort:
            raise TranscriptInvalid(
                f"{run.transcript_path}: transcript entry {number}: missing: the ledgers of {', '.join(names)} hold "
                f"releases of round {number + 1}. The entry was dropped, or the study ended (or is) in this round"
            )
    return f"{len(run.transcript)} published"


def _check_round(run: Run, entry: TranscriptEntry) -> str:
    try:
        return _as_planned(run.plan, entry)
    except TranscriptInvalid as error:
        raise TranscriptInvalid(f"{run.transcript_path}: transcript entry {entry.round}: {error.message}") from error


def _as_planned(plan: StudyPlan, entry: TranscriptEntry) -> str:
    chosen, length, count = plan_profile(plan), plan.length_of(entry.round), len(entry.cohort)
    if count < plan.aggregation.minimum_cohort:
        raise TranscriptInvalid(f"a cohort of {count}, the plan says at least {plan.aggregation.minimum_cohort}")
    for upload in entry.cohort:
        header, body_bytes = upload.header, chosen.body_bytes(length)
        if (header.profile, header.body_bytes) != (chosen.name, body_bytes):
            raise TranscriptInvalid(f"the upload of {header.hospital} has another profile or length than the plan's")
        if header.weight != plan.weights[header.hospital]:
            raise TranscriptInvalid(f"{header.hospital} weighted by {header.weight}, which is not the plan's weight")
    if entry.sum_bytes != chosen.sum_bytes(length, count):
        raise TranscriptInvalid(f"a sum of {entry.sum_bytes} bytes is not one of {count} uploads")
    return f"{count} hospitals, sum {entry.sum_sha256[:16]}"


def _check_owner(run: Run, name: str) -> str:
    card = run.cards.get(name)
    with _naming(run.ledger_path(name)):
        return ledgers.check_owner(_entries(run, name), name, None if card is None else card.signing_key)


def _check_paid(run: Run, name: str) -> str:
    if not run.transcript_verified:
        raise TranscriptInvalid("without a valid transcript nothing witnesses this ledger")
    uploads = [u.header for e in run.transcript for u in e.cohort if u.hospital == name]
    with _naming(run.ledger_path(name)):
        return ledgers.check_paid(run.plan, uploads, _entries(run, name), run.heads.get(name, []))


def _check_policy(run: Run, name: str) -> str:
    folder = HospitalFolder(run.folder / "hospitals" / name)
    policy = run.policies[name] = folder.policy()
    config = folder.config() if _is_file(folder.root / "hospital.toml") else None
    if config is not None and config.name != name:  # then its foundation server is not this hospital's either
        raise InvalidConfiguration(f"{folder.root / 'hospital.toml'}: it is that of {config.name}, not of {name}")
    urls = () if config is None else config.foundation_urls
    broken = broken_clauses(policy, run.plan, name, urls)
    if broken:
        listed = "; ".join(map(str, broken))
        raise PolicyViolation(f"{folder.root / 'policy.toml'}: policy {policy.hash[:16]} refuses the plan: {listed}")
    return f"policy {policy.hash[:16]}"


def _check_lifetime(run: Run, name: str) -> str:
    with _naming(run.ledger_path(name)):
        return ledgers.check_lifetime(_entries(run, name), run.plan, name, run.policies[name])


def _coordinator_key(run: Run) -> str:
    keys = [card.signing_key for card in run.cards.values() if card.role == "coordinator"]
    if len(keys) != 1:
        raise TranscriptInvalid(f"the roster has {len(keys)} valid cards of a coordinator, one is needed")
    return keys[0]


def _member_keys(run: Run) -> dict[str, str]:
    return {name: card.signing_key for name, card in run.cards.items() if card.role == "hospital"}


def run_authority(folder: Path) -> bytes:
    for path in (folder / "ca.crt", folder / "consortium" / "ca.crt"):
        if _given(path):
            try:
                return read_bounded(path, CERTIFICATE)
            except OSError as error:
                raise StorageError(f"cannot read {path}: {error.strerror}", "Give your own copy with --ca.") from error
    raise StorageError(f"{folder} has no ca.crt", "Give your own copy of the consortium's certificate with --ca.")
