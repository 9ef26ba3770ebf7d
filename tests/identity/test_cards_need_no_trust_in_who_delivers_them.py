"""A card that a member did not make for this very study is refused by everybody, whoever passed it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from consortia import DAY, NOW, Consortium
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import example_plan
from unlocking import UNLOCK

from secure_fedhelp.errors import (
    BadSignature,
    CertificateExpired,
    CertificateRevoked,
    FedHelpError,
    IdentityError,
    InvalidConfiguration,
    NotOnRoster,
    PlanChanged,
    ProtocolError,
    WrongAuthority,
)
from secure_fedhelp.identity.cards import LARGEST_CARD_BYTES, check_card, make_card
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.study.canonical import canonical_bytes

PLAN = example_plan()
#: As long as an ML-KEM-768 + X25519 public key (1216 bytes).
SEALING = "5e" * 1216


def card_of(folder: Path, name: str, role: str = "hospital", plan_hash: str = PLAN.hash) -> bytes:
    key = SigningKey.load(folder / "signing.key", UNLOCK)
    sealing = SEALING if role == "hospital" else ""
    return make_card(plan_hash, role, name, key.public_hex, sealing, folder, key, UNLOCK)


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    consortium = Consortium.create(tmp_path_factory.mktemp("north"))
    for name in ("alpha", "beta", "omega"):
        consortium.member(name)
    consortium.member("hub", "coordinator")
    return consortium


@pytest.fixture(scope="module")
def alpha(north: Consortium) -> bytes:
    return card_of(north.root / "alpha", "alpha")


def changed(card: bytes, **fields: Any) -> bytes:
    return canonical_bytes({**json.loads(card), **fields})


def test_a_card_binds_keys_to_a_name_and_a_plan(north: Consortium, alpha: bytes) -> None:
    card = check_card(alpha, north.ca_pem, PLAN, NOW, north.crl)
    assert (card.study, card.role, card.name) == (PLAN.hash, "hospital", "alpha")
    assert card.signing_key == SigningKey.load(north.root / "alpha" / "signing.key", UNLOCK).public_hex
    assert card.sealing_key == SEALING
    assert card.to_bytes() == alpha
    hub = check_card(card_of(north.root / "hub", "hub", "coordinator"), north.ca_pem, PLAN, NOW)
    assert (hub.role, hub.sealing_key) == ("coordinator", "")


def test_the_travelling_form_is_fixed(alpha: bytes) -> None:
    fields = json.loads(alpha)
    assert list(fields) == [
        "certificate",
        "name",
        "possession",
        "role",
        "sealing_key",
        "signature",
        "signing_key",
        "study",
    ]
    assert canonical_bytes(fields) == alpha


@settings(max_examples=300)
@given(data=st.data())
def test_one_changed_byte_is_always_a_named_error(north: Consortium, alpha: bytes, data: st.DataObject) -> None:
    place, change = data.draw(st.integers(0, len(alpha) - 1)), data.draw(st.integers(1, 255))
    broken = bytearray(alpha)
    broken[place] ^= change
    with pytest.raises(FedHelpError):
        check_card(bytes(broken), north.ca_pem, PLAN, NOW)


def test_a_changed_case_of_any_letter_is_refused(north: Consortium, alpha: bytes) -> None:
    """Hexadecimal and base64 with a letter's case flipped: the flips most likely to mean the same value."""
    for place in range(0, len(alpha), 7):
        if chr(alpha[place]).isalpha():
            broken = alpha[:place] + bytes([alpha[place] ^ 0x20]) + alpha[place + 1 :]
            with pytest.raises(FedHelpError):
                check_card(broken, north.ca_pem, PLAN, NOW)


@given(st.binary(max_size=300))
def test_noise_is_a_protocol_error(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        check_card(noise, b"", PLAN, NOW)


def test_other_spellings_of_the_same_card_are_refused(north: Consortium, alpha: bytes) -> None:
    doubled = alpha.replace(b'{"certificate"', b'{"name":"beta","certificate"', 1)
    spaced = json.dumps(json.loads(alpha)).encode()
    for text in (
        doubled,
        spaced,
        alpha + b"\n",
        changed(alpha, extra=1),
        b"[" * 30_000,
        b"x" * (LARGEST_CARD_BYTES + 1),
    ):
        with pytest.raises(ProtocolError):
            check_card(text, north.ca_pem, PLAN, NOW)


def test_a_card_of_another_study_is_refused(north: Consortium) -> None:
    other = example_plan(study__rounds=5)
    card = card_of(north.root / "alpha", "alpha", plan_hash=other.hash)
    check_card(card, north.ca_pem, other, NOW)
    with pytest.raises(PlanChanged, match="alpha"):
        check_card(card, north.ca_pem, PLAN, NOW)


def test_a_card_cannot_be_moved_to_another_study(north: Consortium) -> None:
    card = card_of(north.root / "alpha", "alpha", plan_hash="0" * 64)
    with pytest.raises(BadSignature):
        check_card(changed(card, study=PLAN.hash), north.ca_pem, PLAN, NOW)


def test_a_hospital_outside_the_plan_is_not_on_the_roster(north: Consortium) -> None:
    with pytest.raises(NotOnRoster, match="omega"):
        check_card(card_of(north.root / "omega", "omega"), north.ca_pem, PLAN, NOW)


def test_the_coordinator_cannot_put_its_own_key_under_a_hospitals_name(north: Consortium, alpha: bytes) -> None:
    own = SigningKey.generate()
    with pytest.raises(BadSignature):
        check_card(changed(alpha, signing_key=own.public_hex), north.ca_pem, PLAN, NOW)
    with pytest.raises(BadSignature):
        check_card(changed(alpha, sealing_key="ab" * 1216), north.ca_pem, PLAN, NOW)
    forged = card_of(north.root / "hub", "alpha")
    with pytest.raises(IdentityError, match="holds the certificate of coordinator hub"):
        check_card(forged, north.ca_pem, PLAN, NOW)


def test_a_hospital_cannot_act_as_the_coordinator_or_as_another_hospital(north: Consortium) -> None:
    for name, role in (("alpha", "coordinator"), ("beta", "hospital")):
        with pytest.raises(IdentityError, match="holds the certificate of hospital alpha"):
            check_card(card_of(north.root / "alpha", name, role), north.ca_pem, PLAN, NOW)


def test_a_hospital_cannot_claim_another_hospitals_signing_key(north: Consortium, tmp_path: Path) -> None:
    """Beta signs a card with its own certificate over alpha's public key: only the proof of possession is missing."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from secure_fedhelp.identity.sealed_files import read_key
    from secure_fedhelp.identity.signing import domain_separated

    theirs = SigningKey.load(north.root / "alpha" / "signing.key", UNLOCK).public_hex
    fields = json.loads(card_of(north.root / "beta", "beta"))
    fields["signing_key"] = theirs
    del fields["signature"]
    tls_key = serialization.load_pem_private_key(read_key(north.root / "beta" / "tls.key", UNLOCK), None)
    assert isinstance(tls_key, ec.EllipticCurvePrivateKey)
    message = domain_separated("member-card", canonical_bytes(fields))
    fields["signature"] = tls_key.sign(message, ec.ECDSA(hashes.SHA256())).hex()
    with pytest.raises(BadSignature, match="possession"):
        check_card(canonical_bytes(fields), north.ca_pem, PLAN, NOW)


def test_a_signature_in_another_encoding_is_refused(north: Consortium, alpha: bytes) -> None:
    signature = json.loads(alpha)["signature"]
    for other in (signature + "00", "00" * 70, signature[2:]):
        with pytest.raises((BadSignature, ProtocolError)):
            check_card(changed(alpha, signature=other), north.ca_pem, PLAN, NOW)


def test_a_card_of_another_consortium_is_refused(tmp_path: Path, north: Consortium) -> None:
    impostor = Consortium.create(tmp_path / "impostor")
    card = card_of(impostor.member("alpha"), "alpha")
    with pytest.raises(WrongAuthority):
        check_card(card, north.ca_pem, PLAN, NOW)
    south = Consortium.create(tmp_path / "south", "south")
    card = card_of(south.member("alpha"), "alpha")
    with pytest.raises(WrongAuthority, match="consortium south"):
        check_card(card, south.ca_pem, PLAN, NOW)  # even where somebody installed the other ca.crt


def test_an_expired_or_revoked_members_card_is_refused(tmp_path: Path) -> None:
    north = Consortium.create(tmp_path)
    card = card_of(north.member("alpha"), "alpha")
    with pytest.raises(CertificateExpired):
        check_card(card, north.ca_pem, PLAN, NOW + 366 * DAY)
    with pytest.raises(CertificateExpired):
        check_card(card, north.ca_pem, PLAN, NOW - DAY)
    north.authority.revoke("alpha", NOW)
    with pytest.raises(CertificateRevoked):
        check_card(card, north.ca_pem, PLAN, NOW, north.crl)


def test_only_hospitals_have_a_sealing_key(north: Consortium) -> None:
    key = SigningKey.load(north.root / "alpha" / "signing.key", UNLOCK)
    for role, sealing in (("hospital", ""), ("coordinator", "ab"), ("hospital", "AB"), ("hospital", "abc")):
        with pytest.raises(InvalidConfiguration):
            make_card(PLAN.hash, role, "alpha", key.public_hex, sealing, north.root / "alpha", key, UNLOCK)


def test_a_card_is_made_with_the_members_own_keys(north: Consortium) -> None:
    key = SigningKey.generate()
    with pytest.raises(IdentityError, match="another signing key"):
        make_card(PLAN.hash, "hospital", "alpha", "ab" * 32, SEALING, north.root / "alpha", key, UNLOCK)
