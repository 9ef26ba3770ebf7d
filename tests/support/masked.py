"""A masked round without sockets: members, a coordinator's bookkeeping, and residues as they would be uploaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.masked.member import Dealing, Delivery, Member, Setting
from secure_fedhelp.secagg.masked.statements import Place, Reveal, Signed
from secure_fedhelp.secagg.masked.unmasking import Unmasking
from secure_fedhelp.secagg.packing import Residues, add_modulo
from secure_fedhelp.secagg.profiles import PROFILES, Profile
from secure_fedhelp.study.threshold import Masks, threshold

STUDY = "5" * 64
PROFILE = PROFILES["compact"]
STEPS = ("key", "share", "mask", "agree", "reveal")


def names(count: int) -> tuple[str, ...]:
    return tuple(f"hospital-{i:03d}" for i in range(count))


def sha256(residues: Residues) -> str:
    return hashlib.sha256(residues.tobytes()).hexdigest()


@dataclass
class Cohort:
    """Members of one round, and what each contributes: residues [1, primes, N] that stand for a ciphertext's c0.

    The contributions are uniform, or within +-``spread``: as a plaintext is for those who hold the study key.
    """

    count: int
    masks: Masks = "repairing"
    smallest_cohort: int = 2
    profile: Profile = PROFILE
    spread: int | None = None
    study: str = STUDY
    round: int = 0
    signers: dict[str, SigningKey] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    plain: dict[str, Residues] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.signers = self.signers or {name: SigningKey.generate() for name in names(self.count)}
        self.members = self.members or {name: self.member(name) for name in names(self.count)}
        self.plain = self.plain or dict(zip(names(self.count), self._contributions(), strict=True))

    def _contributions(self) -> Residues:
        rng = np.random.default_rng(self.count)
        moduli, degree = self.profile.moduli_column(), self.profile.ring_degree
        if self.spread is None:
            return rng.integers(0, 2**62, (self.count, 1, len(moduli), degree), dtype=np.uint64) % moduli
        small = rng.integers(-self.spread, self.spread + 1, (self.count, 1, 1, degree))
        return (small % moduli.astype(np.int64)).astype(np.uint64)

    def member(self, name: str, stored: bytes | None = None) -> Member:
        setting = Setting(self.study, self.masks, self.smallest_cohort)
        return Member(setting, self.round, name, self.signers[name], self.publics, stored=stored)

    @property
    def publics(self) -> dict[str, str]:
        return {name: key.public_hex for name, key in self.signers.items()}

    def restart(self, name: str) -> None:
        """The hospital's process dies and starts again from what it stored."""
        self.members[name] = self.member(name, self.members[name].to_bytes())

    def fork(self) -> Cohort:
        """The same hospitals with the same stored states, to go on in two ways from here."""
        return replace(self, members={name: self.member(name, m.to_bytes()) for name, m in self.members.items()})

    def upload(self, name: str, plus: Collection[bytes], minus: Collection[bytes]) -> Residues:
        masked = self.plain[name].copy()
        add_expanded(masked, self.profile, tuple(plus), tuple(minus))
        return masked

    def total(self, cohort: Collection[str]) -> Residues:
        """The sum of what these contribute, modulo each prime."""
        total = np.zeros_like(next(iter(self.plain.values())))
        for name in cohort:
            add_modulo(total, self.plain[name], self.profile.moduli_column())
        return total


@dataclass
class Attempt:
    """One attempt as an honest coordinator runs it; ``gone`` maps a step's name to who is silent from then on."""

    cohort: Cohort
    number: int = 0
    gone: Mapping[str, Collection[str]] = field(default_factory=dict)
    #: Called before each step with its name: a test changes what it likes.
    before: Callable[[str, Attempt], None] = lambda _step, _attempt: None
    keys: dict[str, Signed] = field(default_factory=dict)
    dealings: dict[str, Dealing] = field(default_factory=dict)
    uploads: dict[str, Residues] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    reveals: dict[str, Reveal] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)

    def run(self) -> Residues:
        """The sum of the survivors' contributions, masks off; the named error of whatever stops it."""
        self.present = set(self.cohort.members)
        return self.go_on("key").unmask()

    def go_on(self, first: str, last: str = "reveal") -> Attempt:
        """The steps from ``first`` to ``last``."""
        for step in STEPS[STEPS.index(first) : STEPS.index(last) + 1]:
            self.present -= set(self.gone.get(step, ()))
            self.before(step, self)
            getattr(self, step)()
        return self

    def fork(self, gone: Mapping[str, Collection[str]]) -> Attempt:
        """A copy that shares nothing that changes, with others to leave from here on."""
        copies = {what: dict(getattr(self, what)) for what in ("keys", "dealings", "uploads", "signatures", "reveals")}
        return replace(self, cohort=self.cohort.fork(), gone=gone, present=set(self.present), **copies)

    def key(self) -> None:
        self.keys = {n: self.cohort.members[n].key(self.number) for n in sorted(self.present)}

    def share(self) -> None:
        self.dealings = {n: self.cohort.members[n].share(self.number, self.keys) for n in sorted(self.present)}

    def deliveries(self, name: str) -> dict[str, Delivery]:
        return {d: Delivery(dealing.signed, dealing.records.get(name)) for d, dealing in self.dealings.items()}

    def mask(self) -> None:
        for name in sorted(self.present):
            keys = self.cohort.members[name].mask(self.number, self.deliveries(name))
            self.uploads[name] = self.cohort.upload(name, keys.plus, keys.minus)

    @property
    def survivors(self) -> dict[str, str]:
        return {name: sha256(body) for name, body in self.uploads.items()}

    def agree(self) -> None:
        for name in sorted(self.present):
            self.signatures[name] = self.cohort.members[name].agree(
                self.number, self.survivors, sha256(self.uploads[name])
            )

    def reveal(self) -> None:
        for name in sorted(self.present):
            data = self.cohort.members[name].reveal(self.number, self.signatures)
            self.reveals[name] = self.unmasking.check(name, data)

    @property
    def place(self) -> Place:
        return Place(self.cohort.study, self.cohort.round, self.number)

    @property
    def unmasking(self) -> Unmasking:
        keys = {name: self.keys[name] for name in self.dealings}
        return Unmasking(self.place, keys, self.dealings, frozenset(self.uploads))

    def unmask(self) -> Residues:
        total = np.zeros_like(next(iter(self.uploads.values())))
        for body in self.uploads.values():
            add_modulo(total, body, self.cohort.profile.moduli_column())
        plus, minus = self.unmasking.masks(self.reveals)
        add_expanded(total, self.cohort.profile, plus, minus)
        return total


def needed(cohort: Cohort) -> int:
    return threshold(cohort.masks, cohort.count)
