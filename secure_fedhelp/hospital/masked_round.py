"""The masked steps of a round at one hospital: what to ask the coordinator for, and what to store before answering.

The rules are in secagg/masked/member.py. Here is only their order in time: whatever a step decided is in the vault
before its result leaves, so that a hospital that dies and comes back says the same again, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from secure_fedhelp.hospital.contribution import Masking
from secure_fedhelp.hospital.ports import Coordinator
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.secagg.masked.member import Member, Setting, Signer
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.policy import SitePolicy

Result = TypeVar("Result")


@dataclass
class MaskedRounds:
    """This hospital's part in the masks of one study; ``publics`` are the members' signing keys from checked cards.

    Each method takes one step of an attempt. It returns None if the attempt goes on without this hospital:
    it came too late for an earlier step, and waits for the next round or attempt. WrongRound if the study has gone on
    while it asked: then the next state says what to do.
    """

    plan: StudyPlan
    policy: SitePolicy
    hospital: str
    publics: Mapping[str, str]
    signer: Signer
    vault: Vault
    coordinator: Coordinator
    _member: tuple[int, Member] | None = field(default=None, init=False)

    def advertise(self, number: int, attempt: int) -> None:
        """Sign and post this attempt's round key. RetryRefused: see member.py."""
        member = self._of(number)
        signed = self._kept(number, member, lambda: member.key(attempt))
        self.coordinator.post_round_key(number, attempt, signed)

    def share(self, number: int, attempt: int, require: Callable[[frozenset[str]], None]) -> None:
        """Deal shares of this attempt's secrets among its members, if ``require`` has nothing against those."""
        member = self._of(number)
        if member.attempt != attempt:
            return
        keys = self.coordinator.round_keys(number, attempt)
        if self.hospital not in keys:
            return
        require(frozenset(keys))
        dealing = self._kept(number, member, lambda: member.share(attempt, keys))
        self.coordinator.post_shares(number, attempt, dealing)

    def mask(self, number: int, attempt: int) -> Masking | None:
        """The masks of this hospital's upload."""
        member = self._of(number)
        if member.attempt != attempt:
            return None
        delivered = self.coordinator.shares(number, attempt)
        if self.hospital not in delivered:
            return None
        return Masking(attempt, self._kept(number, member, lambda: member.mask(attempt, delivered)))

    def survives(self, number: int, attempt: int, body_sha256: str) -> bool:
        """Whether the list of survivors holds this very upload of ours: then it arrived, whatever we heard of it."""
        survivors, _ = self.coordinator.survivors(number, attempt)
        return survivors.get(self.hospital) == body_sha256

    def agree(self, number: int, attempt: int, body_sha256: str) -> None:
        """Sign the list of survivors, which must hold this hospital's upload."""
        member = self._of(number)
        survivors, _ = self.coordinator.survivors(number, attempt)
        signature = self._kept(number, member, lambda: member.agree(attempt, survivors, body_sha256))
        self.coordinator.agree(number, attempt, signature)

    def reveal(self, number: int, attempt: int, body_sha256: str) -> None:
        """Reveal this hospital's shares for the list that enough have signed, and that it signs itself now if it was
        away when the others did."""
        member = self._of(number)
        survivors, signatures = self.coordinator.survivors(number, attempt)
        self._kept(number, member, lambda: member.agree(attempt, survivors, body_sha256))
        data = self._kept(number, member, lambda: member.reveal(attempt, signatures))
        self.coordinator.reveal(number, attempt, data)

    def forget(self, number: int) -> None:
        """The round's sum is open: nothing needs its secrets any more."""
        self._member = None
        self.vault.forget_round_secrets(number)

    def _of(self, number: int) -> Member:
        if self._member is None or self._member[0] != number:
            smallest = max(self.plan.aggregation.minimum_cohort, self.policy.smallest_cohort)
            setting = Setting(self.plan.hash, self.plan.aggregation.masks, smallest)
            stored = self.vault.round_secrets(number)
            member = Member(setting, number, self.hospital, self.signer, self.publics, stored=stored)
            self._member = number, member
        return self._member[1]

    def _kept(self, number: int, member: Member, step: Callable[[], Result]) -> Result:
        """What ``step`` gives, once what it decided is on the disk."""
        before = member.to_bytes()
        result = step()
        after = member.to_bytes()
        if after != before:
            self.vault.remember_round_secrets(number, after)
        return result
