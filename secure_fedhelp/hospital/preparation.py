"""Everything that can be refused before a hospital joins: policy, plan, identity, data, public set, teacher.

The checks run from the cheapest to the dearest, and all of them before anything is trained, spent or sent, so that a
mistake costs a minute and no privacy. Torch is imported only after the cheap ones have passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secure_fedhelp.errors import (
    IdentityError,
    InvalidConfiguration,
    InvalidData,
    OneClassOnly,
    PlanChanged,
    TooFewPatients,
)
from secure_fedhelp.hospital.folder import Foundation, HospitalConfig, HospitalFolder
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.cards import check_card, make_card
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.private_files import read_private, read_public
from secure_fedhelp.identity.revocation import Tell
from secure_fedhelp.identity.sealed_files import read_key
from secure_fedhelp.identity.secret_source import USUAL, SecretSource
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.identity.tls import Credentials, load_credentials
from secure_fedhelp.identity.unlock import Unlock
from secure_fedhelp.secagg.picker import check_sums
from secure_fedhelp.secagg.sealing import SealingKey
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.plan import StudyPlan, load_plan
from secure_fedhelp.study.policy import SitePolicy, require_allowed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from secure_fedhelp.data.loaded import Progress
    from secure_fedhelp.data.records import PublicSet, Records
    from secure_fedhelp.hospital.world import World
    from secure_fedhelp.learning.foundation import Manner
    from secure_fedhelp.privacy.datasets import PatientBook
    from secure_fedhelp.privacy.ledger import Ledger
    from secure_fedhelp.privacy.noise import NoiseSource
    from secure_fedhelp.privacy.release import Budget


#: Fewest patients that a model is measured on at one hospital.
SMALLEST_HELD_OUT = 10


@dataclass(frozen=True)
class Membership:
    """Who we are in this study, checked: files only, nothing trained or sent yet."""

    folder: HospitalFolder
    config: HospitalConfig
    policy: SitePolicy
    plan: StudyPlan
    unlock: Unlock
    credentials: Credentials
    #: Signs in the plan's suite.
    signing: SigningKey
    sealing: SealingKey
    vault: Vault
    card: bytes

    @property
    def ledger_path(self) -> Path:
        return self.folder.root / self.config.ledger


@dataclass(frozen=True)
class StudyRecords:
    """What this hospital trains with: its private records, the public set, an optional evaluation set, and the private
    records set aside for a plan that measures."""

    private: Records
    public: PublicSet
    test: Records | None
    held_out: Records | None = None
    #: The data card of the private records: for this hospital's eyes, it never leaves.
    card: tuple[str, ...] = ()

    @property
    def patients(self) -> set[str]:
        """Everybody whose records take part: whom the budget is about."""
        return {*self.private.patients, *(self.held_out.patients if self.held_out else ())}


def prepare_membership(
    root: Path, plan_path: Path, now: float, source: SecretSource = USUAL, tell: Tell = lambda line: None
) -> Membership:
    """Read and check configuration, policy, plan and keys. Raises the named error of the first thing that is wrong.

    ``source`` says where the secret comes from that opens the folder; nothing is written before it has opened it.
    ``tell`` hears if an earlier revocation list serves, because the one in the folder cannot.
    """
    folder = HospitalFolder(root)
    config, policy, plan = folder.config(), folder.policy(), load_plan(plan_path)
    plan.require_listed(config.name)
    require_allowed(policy, plan, config.name, config.foundation_urls)
    check_sums(plan)
    if config.research_noise_seed is not None and plan.study.mode != "research":
        raise InvalidConfiguration(
            f"{root / 'hospital.toml'}: research_noise_seed, and the plan is for deployment",
            "Remove it: noise that somebody can compute again protects nobody.",
        )
    unlock = open_lock(root, source)
    vault = Vault(folder.state, unlock)
    signed = vault.signed_plan()
    if signed is not None and signed != plan.hash:
        raise PlanChanged(
            f"{plan_path}: this folder has signed plan {signed[:16]}, the file is now plan {plan.hash[:16]}",
            "Put the signed plan file back, or make the new study a folder of its own with 'secure-fedhelp hospital "
            "init --like' this one: it goes on with the same ledger, so that what was spent still counts.",
        )
    if not folder.result.exists():
        vault.require_not_given_back()
    credentials = load_credentials(folder.keys, now, unlock, tell)
    require_identity(credentials, plan, config)
    signing = SigningKey.load(folder.keys / "signing.key", unlock).of(plan.study.signatures)
    sealing = SealingKey.from_private_bytes(read_key(folder.keys / "sealing.key", unlock))
    # A new card each time: the coordinator knows a member again by its keys, and a renewed certificate must show.
    public, sealed_to = signing.public_hex, sealing.public_hex
    card = make_card(plan.hash, "hospital", config.name, public, sealed_to, folder.keys, signing, unlock)
    check_card(card, credentials.ca_pem, plan, now, credentials.revocations)
    return Membership(folder, config, policy, plan, unlock, credentials, signing, sealing, vault, card)


def prepare_records(member: Membership, progress: Progress | None = None) -> StudyRecords:
    """Load and check the hospital's records and the public set against the plan; ``progress`` is told how far it is."""
    import numpy as np

    from secure_fedhelp.data.card import data_card
    from secure_fedhelp.data.checks import check_records
    from secure_fedhelp.data.images import load_public
    from secure_fedhelp.data.loaded import silent
    from secure_fedhelp.data.loading import load_records

    plan, root, told, reading = member.plan, member.folder.root, progress or silent, member.config.reading
    loaded = load_records(root / member.config.records, plan.data, "open", told, reading)
    private = loaded.records
    check_records(private, plan, member.config.name)
    card = data_card(loaded, plan, member.config.name).lines()
    public = load_public(root / member.config.public, plan.data)
    test = None
    if member.config.test is not None:
        test = load_records(root / member.config.test, plan.data, "test", told, reading).records
        card += _seen_before(test, private)
    if test is not None and len(np.unique(test.labels)) < 2:
        raise OneClassOnly(f"{root / str(member.config.test)}: all test records are of one class")
    if plan.metrics is None:
        return StudyRecords(private, public, test, card=card)
    if member.config.held_out is None:
        raise InvalidConfiguration(
            f"{root / 'hospital.toml'}: the plan measures the model, and no held_out records are named",
            'Set records of some patients aside, and name their file: held_out = "data/held-out.csv".',
        )
    aside = load_records(root / member.config.held_out, plan.data, "test", told, reading)
    held_out = aside.records
    card += tuple(f"  note: {note}" for note in aside.notes)
    _check_held_out(held_out, private, root / member.config.held_out)
    return StudyRecords(private, public, test, held_out, card)


def _seen_before(test: Records, private: Records) -> tuple[str, ...]:
    """A note on patients who are measured on and trained on. No refusal: what is measured here stays here."""
    both = {*test.patients} & {*private.patients}
    note = f"  note: {len(both)} patient(s) of the test records are in the training records too: figures say too much"
    return (note,) if both else ()


def _check_held_out(held_out: Records, private: Records, path: Path) -> None:
    if len(held_out.by_patient) < SMALLEST_HELD_OUT:
        raise TooFewPatients(
            f"{path}: {len(held_out.by_patient)} patients, {SMALLEST_HELD_OUT} are needed: counts of fewer are about "
            "persons"
        )
    both = {*held_out.patients} & {*private.patients}
    if both:
        raise InvalidData(
            f"{path}: {len(both)} patient(s) are in the training records too",
            "Keep all records of a patient on one side: the model has seen the others.",
        )


def patient_book(member: Membership, ledger: Ledger) -> PatientBook:
    """The book beside the ledger, which goes on from what the book has seen of it; LedgerInvalid if it does not."""
    from secure_fedhelp.privacy.datasets import KEY_PURPOSE, PatientBook

    book = PatientBook(member.ledger_path, member.signing.derive(KEY_PURPOSE))
    book.follow(ledger)
    return book


def know_patients(member: Membership, records: StudyRecords, book: PatientBook) -> Budget:
    """Enter this study's patients into the book; the budget that is theirs (privacy/datasets.py)."""
    from secure_fedhelp.privacy.release import Budget

    fingerprint = book.enter(records.patients)
    return Budget(fingerprint, member.policy.lifetime, book.apart(fingerprint), member.policy.exact_releases)


def check_accounting(member: Membership) -> None:
    """Both accountants on the whole study, before the first step: AccountantDisagreement if they contradict each other.

    The figure of record is the PLD accountant's; Opacus' own must not be below it.
    """
    from secure_fedhelp.privacy.accountant import cross_check
    from secure_fedhelp.privacy.mechanisms import study_events

    name = member.config.name
    cross_check(study_events(member.plan, name), member.plan.privacy_of(name).delta)


def noise_of(member: Membership, purpose: str) -> NoiseSource:
    """The system's noise; in research mode, if the folder asks for it, noise that comes again from a seed.

    Each ``purpose`` has a stream of its own, so that no number is drawn twice.
    """
    from secure_fedhelp.privacy.noise import SeededNoise, SystemNoise

    seed = member.config.research_noise_seed
    if seed is None:
        return SystemNoise()
    return SeededNoise(noise_seed(seed, member.config.name, purpose))


def noise_seed(seed: str, hospital: str, purpose: str) -> bytes:
    """What a hospital's research noise is drawn from, the same wherever a study is simulated."""
    return canonical_bytes([seed, hospital, purpose])


def ask_teacher(member: Membership, public: PublicSet, world: World) -> tuple[NDArray[np.float32], ...] | None:
    """Each foundation model's logits on the public set: asked once, then from the cache. None without a server."""
    from secure_fedhelp.learning.foundation import FoundationClient, TeacherCache

    root = member.folder.root
    cache = TeacherCache(root / "public", clock=world.clock)
    names, found = tuple(t.model for t in member.config.teachers), []
    for teacher in member.config.teachers:
        manner = _manner(root, teacher)
        client = FoundationClient(
            teacher.url, teacher.model, teacher.timeout_seconds, world.foundation, manner, sleep=world.sleep
        )
        found.append(cache.answers(public, client, member.plan.data.answer_shape, beside=names))
    return tuple(found) or None


def _manner(root: Path, teacher: Foundation) -> Manner:
    """How a foundation model is asked, its files read: InvalidConfiguration, UnsafePermissions or StorageError."""
    from secure_fedhelp.learning.foundation import Manner, Token

    token = ca = None
    if teacher.token_file is not None:
        held = read_private(root / teacher.token_file, "token_file in [[foundations]] of hospital.toml names it.")
        token = Token(held.decode("ascii", errors="replace").strip())
    if teacher.ca_file is not None:
        ca = read_public(root / teacher.ca_file, "ca_file in [[foundations]] of hospital.toml names it.")
    return Manner(teacher.version, teacher.output, teacher.answers, teacher.largest_batch, ca, token)


def require_identity(credentials: Credentials, plan: StudyPlan, config: HospitalConfig) -> None:
    """IdentityError unless the certificate is the configured hospital's, in the plan's consortium."""
    identity = credentials.identity
    wanted = (plan.consortium, "hospital", config.name)
    if (identity.consortium, identity.role, identity.name) != wanted:
        raise IdentityError(
            f"the certificate is for {identity.role} {identity.name} of {identity.consortium}, "
            f"not for {wanted[1]} {wanted[2]} of {wanted[0]}"
        )
