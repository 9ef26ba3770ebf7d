"""The study key of an epoch at one hospital: made here or received, confirmed, and agreed on before it is used.

One hospital makes the CKKS key and seals it to each other member (HPKE); the coordinator relays. What the coordinator
says of a ceremony is not believed: the maker's signature over the fingerprint must hold under its card, a key that
was confirmed is never replaced, and before the first upload enough members must have signed for this very key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secure_fedhelp.errors import BadSignature, KeyCeremonyFailed
from secure_fedhelp.hospital.contribution import EpochKey
from secure_fedhelp.hospital.ports import Coordinator
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.cards import MemberCard
from secure_fedhelp.identity.signing import SigningKey, verify
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.sealing import SealingKey, key_context, seal
from secure_fedhelp.secagg.workers import CipherPool
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import KEY_CONTEXT, key_statement


@dataclass(frozen=True)
class KeyCeremony:
    """One hospital's part; ``cards`` are the members' cards as this hospital has checked them."""

    plan: StudyPlan
    hospital: str
    cards: Mapping[str, MemberCard]
    signing: SigningKey
    sealing: SealingKey
    vault: Vault
    coordinator: Coordinator

    def take_part(self, epoch: int, maker: str, out: frozenset[str] = frozenset()) -> bool:
        """Make or receive the epoch's key and confirm it; False while the maker has not posted it.

        ``out`` are members that left the study by their own signed word: they get no key of a later epoch.
        Raises KeyCeremonyFailed, or BadSignature, for a key that is not an honest maker's.
        """
        key = self.make(epoch, out) if maker == self.hospital else self.receive(epoch, out)
        if key is None:
            return False
        fingerprint = key.fingerprint(self.plan.hash, epoch)
        self.vault.remember_confirmed_key(epoch)  # before it is said: a key that was confirmed is never replaced
        signature = self.signing.sign(KEY_CONTEXT, key_statement(self.plan.hash, epoch, fingerprint))
        self.coordinator.confirm_key(epoch, fingerprint, signature)
        return True

    def make(self, epoch: int, out: frozenset[str] = frozenset()) -> StudyKey:
        """A new key (or the one an earlier run made), sealed to each other member that is not out, and posted."""
        key = self._stored(epoch)
        if key is None:
            key = StudyKey.generate(plan_profile(self.plan))
            self.vault.remember_study_key(epoch, key.to_bytes())
        data = key.to_bytes()
        sealed = {
            name: seal(card.sealing_key, data, key_context(self.plan.hash, epoch, self.hospital, name))
            for name, card in self.cards.items()
            if name != self.hospital and name not in out
        }
        self.coordinator.post_key(epoch, sealed, key.fingerprint(self.plan.hash, epoch))
        return key

    def receive(self, epoch: int, out: frozenset[str] = frozenset()) -> StudyKey | None:
        """The key this hospital has confirmed, or the one its maker sealed to it; None if there is none yet.

        ``out`` are those who had left before the epoch: KeyCeremonyFailed for a key that one of them made, which would
        open every sum of it.
        """
        if self.vault.confirmed_key(epoch):
            return self._stored(epoch)
        answer = self.coordinator.get_key(epoch)
        confirmation = answer.confirmations.get(answer.maker)
        if not answer.sealed or confirmation is None:
            return None
        if answer.maker not in self.cards:
            raise KeyCeremonyFailed(f"{answer.maker or 'nobody'} is no member of this study and cannot make its key")
        if answer.maker in out:
            raise KeyCeremonyFailed(f"{answer.maker} has left this study for good and cannot make its key")
        # Sealing needs only public keys, so a sealed key proves nothing of its sender: without the maker's signature
        # over the fingerprint the coordinator could hand everybody a key of its own and read every upload.
        statement = key_statement(self.plan.hash, epoch, answer.fingerprint)
        verify(self.cards[answer.maker].signing_key, KEY_CONTEXT, statement, confirmation)
        data = self.sealing.open(answer.sealed, key_context(self.plan.hash, epoch, answer.maker, self.hospital))
        key = StudyKey.from_bytes(plan_profile(self.plan), data)
        if key.fingerprint(self.plan.hash, epoch) != answer.fingerprint:
            raise KeyCeremonyFailed(f"the key sealed by {answer.maker} is not the one it announced")
        self.vault.remember_study_key(epoch, data)
        return key

    def epoch_key(self, epoch: int, out: frozenset[str] = frozenset()) -> EpochKey:
        """The epoch's key ready to use; a hospital that was away during the ceremony finds its sealed key waiting."""
        key = self.receive(epoch, out)
        if key is None:
            raise KeyCeremonyFailed(f"this hospital has no study key of epoch {epoch}")
        cipher = CipherPool(plan_profile(self.plan), key)
        cipher.start(self.plan.largest_length)  # while this hospital trains; small vectors start nothing
        return EpochKey(epoch, key.fingerprint(self.plan.hash, epoch), cipher, key.flooding_key)

    def require_agreed(
        self, key: EpochKey, members: frozenset[str] = frozenset(), out: frozenset[str] = frozenset()
    ) -> None:
        """KeyCeremonyFailed unless a smallest cohort of members, this one and all of ``members`` included, has signed
        for this very key. Who has left (``out``) does not count."""
        statement = key_statement(self.plan.hash, key.epoch, key.fingerprint)
        agreed = {self.hospital}
        for name, signature in self.coordinator.get_key(key.epoch).confirmations.items():
            if name in self.cards and name not in out and _confirms(self.cards[name].signing_key, statement, signature):
                agreed.add(name)
        if len(agreed) < self.plan.aggregation.minimum_cohort:
            names = ", ".join(sorted(agreed))
            raise KeyCeremonyFailed(f"only {names} have confirmed the study key this hospital holds")
        if not members <= agreed:
            names = ", ".join(sorted(members - agreed))
            raise KeyCeremonyFailed(
                f"{names} would take part without having confirmed the study key this hospital holds"
            )

    def _stored(self, epoch: int) -> StudyKey | None:
        data = self.vault.study_key(epoch)
        return None if data is None else StudyKey.from_bytes(plan_profile(self.plan), data)


def _confirms(public_hex: str, statement: bytes, signature: bytes) -> bool:
    try:
        verify(public_hex, KEY_CONTEXT, statement, signature)
    except BadSignature:
        return False
    return True
