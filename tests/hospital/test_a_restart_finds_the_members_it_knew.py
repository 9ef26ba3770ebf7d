"""After a restart each card is judged as it was when it came: a member that lost its place keeps nobody else out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from consortia import DAY, NOW, Consortium
from plans import example_plan
from unlocking import UNLOCK

from secure_fedhelp.errors import CertificateExpired, CertificateRevoked, StorageError, TranscriptInvalid
from secure_fedhelp.hospital.roster import Roster, check_roster
from secure_fedhelp.hospital.vault import AcceptedCard, Vault
from secure_fedhelp.identity.cards import make_card
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.identity.tls import Credentials, load_credentials

PLAN = example_plan()
NAMES = [hospital.name for hospital in PLAN.hospitals]
ME, BRIEF = NAMES[0], NAMES[-1]
SEALING = "5e" * 1216


class Members:
    """A consortium in which the certificate of ``BRIEF`` ends after ten days, and a coordinator that relays cards."""

    def __init__(self, root: Path) -> None:
        self.north = Consortium.create(root, PLAN.consortium)
        for name in NAMES:
            self.north.member(name, days=10 if name == BRIEF else 365)
        self.north.member("hub", "coordinator")
        self.cards = {name: self.card(name) for name in NAMES}

    def card(self, name: str, role: str = "hospital", sealing: str = SEALING) -> bytes:
        folder = self.north.root / name
        key = SigningKey.load(folder / "signing.key", UNLOCK)
        return make_card(PLAN.hash, role, name, key.public_hex, sealing, folder, key, UNLOCK)

    def renew(self, now: float, days: int, *, relayed: bool = True) -> None:
        """A second certificate for ``BRIEF``, in the first one's place; ``relayed`` if others are given its card."""
        request = self.north.request(BRIEF)
        certificate = self.north.authority.sign(request, "hospital", BRIEF, now, days, (), renew=True)
        (self.north.root / BRIEF / "tls.crt").write_bytes(certificate)
        if relayed:
            self.cards[BRIEF] = self.card(BRIEF)

    def revoke(self, now: float) -> None:
        self.north.authority.revoke(BRIEF, now)
        (self.north.root / ME / "revoked.crl").write_bytes(self.north.crl)

    def roster(self) -> dict[str, bytes]:
        return self.cards

    def coordinator_card(self) -> bytes:
        return self.card("hub", "coordinator", "")

    def check(self, now: float, kept: dict[str, AcceptedCard]) -> Roster:
        folder = self.north.root / ME
        credentials: Credentials = load_credentials(folder, now, UNLOCK)
        coordinator: Any = self  # the two calls that a roster is made of
        key = SigningKey.load(folder / "signing.key", UNLOCK).public_hex
        return check_roster(coordinator, credentials, PLAN, now, ME, key, kept)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    return Members(tmp_path_factory.mktemp("members"))


@pytest.fixture
def kept(members: Members) -> dict[str, AcceptedCard]:
    return dict(members.check(NOW + DAY, {}).accepted)


def test_another_members_certificate_that_ended_keeps_nobody_out(
    members: Members, kept: dict[str, AcceptedCard]
) -> None:
    again = members.check(NOW + 20 * DAY, kept)
    assert sorted(again.hospitals) == sorted(NAMES)
    assert again.accepted == kept, "the time of the first check is what counts, at every later start too"


def test_a_card_that_was_never_checked_while_it_held_is_refused(members: Members) -> None:
    with pytest.raises(CertificateExpired):
        members.check(NOW + 20 * DAY, {})


def test_the_authority_and_the_coordinator_must_hold_now(members: Members, kept: dict[str, AcceptedCard]) -> None:
    with pytest.raises(CertificateExpired):
        members.check(NOW + 366 * DAY, kept)


def test_a_renewed_certificate_is_a_new_card_of_the_same_keys(tmp_path: Path) -> None:
    members = Members(tmp_path)
    kept = dict(members.check(NOW, {}).accepted)
    members.renew(NOW + DAY, 365)
    again = members.check(NOW + 20 * DAY, kept)
    assert again.accepted[BRIEF] == AcceptedCard(members.cards[BRIEF], NOW + 20 * DAY)
    assert again.accepted[ME] == kept[ME]


def test_a_renewed_certificate_that_ended_too_keeps_nobody_out(tmp_path: Path) -> None:
    """Whoever ran while it was renewed has checked the first one only."""
    members = Members(tmp_path)
    kept = dict(members.check(NOW, {}).accepted)
    members.renew(NOW + DAY, 15)
    again = members.check(NOW + 20 * DAY, kept)
    assert again.accepted == kept
    with pytest.raises(CertificateExpired):
        members.check(NOW + 20 * DAY, {})


def test_the_coordinator_cannot_make_a_hospital_forget_whom_it_knew(tmp_path: Path) -> None:
    """By leaving a card out once, and relaying one with other keys at the next start."""
    members = Members(tmp_path)
    kept = dict(members.check(NOW, {}).accepted)
    del members.cards[BRIEF]
    with pytest.raises(TranscriptInvalid, match=f"other members than at an earlier start: {BRIEF}"):
        members.check(NOW, kept)


def test_nobody_joins_after_the_gathering_at_whoever_restarts(members: Members, kept: dict[str, AcceptedCard]) -> None:
    """A hospital that never joined would be sealed the next study key."""
    others = {name: card for name, card in kept.items() if name != BRIEF}
    with pytest.raises(TranscriptInvalid, match=BRIEF):
        members.check(NOW + DAY, others)


@pytest.mark.parametrize("what", ["signing key", "sealing key"])
def test_a_member_cannot_come_with_other_keys_to_who_restarts(tmp_path: Path, what: str) -> None:
    """It would sign for another history, or be sealed another key, at one hospital alone."""
    members = Members(tmp_path)
    kept = dict(members.check(NOW, {}).accepted)
    if what == "signing key":
        SigningKey.generate().save(members.north.root / BRIEF / "signing.key", UNLOCK)
    members.cards[BRIEF] = members.card(BRIEF, sealing="5f" * 1216 if what == "sealing key" else SEALING)
    with pytest.raises(TranscriptInvalid, match="other keys"):
        members.check(NOW + DAY, kept)


def test_a_revoked_member_is_refused_however_early_its_card_came(tmp_path: Path) -> None:
    members = Members(tmp_path)
    kept = dict(members.check(NOW, {}).accepted)
    members.revoke(NOW + DAY)
    with pytest.raises(CertificateRevoked):
        members.check(NOW + DAY, kept)


@pytest.mark.parametrize("again", ["ended", "ended and renewed"])
def test_a_certificate_that_has_ended_is_revoked_too(tmp_path: Path, again: str) -> None:
    """Judged at the time when it came, the card of a stolen key would pass for ever; the coordinator may relay the
    first one though its member has a newer."""
    members = Members(tmp_path)
    kept = dict(members.check(NOW, {}).accepted)
    if again == "ended and renewed":
        members.renew(NOW + 9 * DAY, 100, relayed=False)
    members.revoke(NOW + 12 * DAY)
    with pytest.raises(CertificateRevoked):
        members.check(NOW + 13 * DAY, kept)


def test_a_revoked_certificate_that_has_ended_since_stays_refused(tmp_path: Path) -> None:
    """That it ended must not hide that it was revoked."""
    members = Members(tmp_path)
    kept = dict(members.check(NOW, {}).accepted)
    members.renew(NOW + DAY, 15)
    members.revoke(NOW + 12 * DAY)
    for day in (13, 20):
        with pytest.raises(CertificateRevoked):
            members.check(NOW + day * DAY, kept)


def test_the_times_of_checked_cards_are_nobody_elses_to_set(
    tmp_path: Path, members: Members, kept: dict[str, AcceptedCard]
) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    assert vault.accepted_cards() == {}
    vault.remember_accepted_cards(kept)
    assert Vault(tmp_path / "state", UNLOCK).accepted_cards() == kept
    path = tmp_path / "state" / "cards"
    assert str(kept[BRIEF].time).encode() not in path.read_bytes()
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    with pytest.raises(StorageError):
        vault.accepted_cards()
