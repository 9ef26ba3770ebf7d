"""In the hybrid suite a forger needs both halves, and no half serves for anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from consortia import NOW, Consortium
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import example_plan
from unlocking import UNLOCK

from secure_fedhelp.errors import BadSignature, IdentityError, ProtocolError
from secure_fedhelp.identity.cards import LARGEST_CARD_BYTES, check_card, make_card
from secure_fedhelp.identity.signing import (
    ED25519,
    HYBRID,
    SigningKey,
    domain_separated,
    ledger_key,
    suite_of,
    verify,
)
from secure_fedhelp.study.canonical import canonical_bytes

GOLDEN = Path(__file__).with_name("golden_signatures.json")
KEY = SigningKey.generate()
BOTH = KEY.of(HYBRID)
OTHER = SigningKey.generate().of(HYBRID)
MESSAGE = b'{"round":3}'
SIGNATURE = BOTH.sign("upload-header", MESSAGE)


def refused(public: str, signature: bytes, context: str = "upload-header", message: bytes = MESSAGE) -> None:
    with pytest.raises(BadSignature, match="signature|suite"):
        verify(public, context, message, signature)


# --- the format ------------------------------------------------------------------------------------------------------


def golden() -> list[dict[str, str]]:
    return list(json.loads(GOLDEN.read_text(encoding="ascii")))


def test_the_golden_signatures_verify_by_plain_calls_alone() -> None:
    """Nothing of the project is used here: what an auditor with another program would write."""
    domains = {
        "ed25519": b"secure-fedhelp/v1/",
        "ed25519+ml-dsa-65": b"secure-fedhelp/v1/ed25519+ml-dsa-65/",
    }
    assert [row["suite"] for row in golden()] == list(domains)
    for row in golden():
        public, signature = bytes.fromhex(row["public"]), bytes.fromhex(row["signature"])
        signed = domains[row["suite"]] + row["context"].encode() + b"\0" + bytes.fromhex(row["message"])
        Ed25519PublicKey.from_public_bytes(public[:32]).verify(signature[:64], signed)
        if row["suite"] == "ed25519":
            assert (len(public), len(signature)) == (32, 64)
        else:
            assert (len(public), len(signature)) == (32 + 1952, 64 + 3309)
            MLDSA65PublicKey.from_public_bytes(public[32:]).verify(signature[64:], signed)
            with pytest.raises(InvalidSignature):  # the context parameter of FIPS 204 is empty
                MLDSA65PublicKey.from_public_bytes(public[32:]).verify(signature[64:], signed, context=b"x")


def test_the_golden_signatures_are_still_this_projects() -> None:
    for row in golden():
        key = SigningKey.from_private_bytes(bytes.fromhex(row["private_bytes"])).of(row["suite"])  # type: ignore[arg-type]
        assert key.public_hex == row["public"]
        verify(row["public"], row["context"], bytes.fromhex(row["message"]), bytes.fromhex(row["signature"]))
        if row["suite"] == ED25519:  # deterministic; ML-DSA's signatures are not
            assert key.sign(row["context"], bytes.fromhex(row["message"])).hex() == row["signature"]


def test_one_key_pair_serves_both_suites() -> None:
    assert (KEY.suite, BOTH.suite) == (ED25519, HYBRID)
    assert KEY.public_hex == ledger_key(BOTH.public_hex) == ledger_key(KEY.public_hex)
    assert (suite_of(KEY.public_hex), suite_of(BOTH.public_hex)) == (ED25519, HYBRID)
    assert BOTH.of(ED25519).sign("test", b"m") == KEY.sign("test", b"m")
    again = SigningKey.from_private_bytes(BOTH.to_private_bytes())
    assert (again.suite, again.of(HYBRID).public_hex) == (ED25519, BOTH.public_hex)
    with pytest.raises(IdentityError, match="64 bytes"):
        SigningKey.from_private_bytes(bytes(32))


# --- what a forger with half of it could try --------------------------------------------------------------------------


def test_an_honest_hybrid_signature_holds() -> None:
    verify(BOTH.public_hex, "upload-header", MESSAGE, SIGNATURE)
    verify(BOTH.public_hex, "upload-header", MESSAGE, BOTH.sign("upload-header", MESSAGE))


def test_either_half_alone_is_no_signature() -> None:
    for half in (SIGNATURE[:64], SIGNATURE[64:], SIGNATURE[:-1], SIGNATURE + b"\0", b"", bytes(len(SIGNATURE))):
        refused(BOTH.public_hex, half)


def test_a_stripped_key_does_not_make_a_half_hold() -> None:
    """A card that was changed to the Ed25519 half: what that key signed was of another suite, and says so."""
    refused(ledger_key(BOTH.public_hex), SIGNATURE[:64])
    refused(KEY.public_hex, SIGNATURE)
    refused(BOTH.public_hex[64:], SIGNATURE[64:])


def test_a_broken_half_is_not_enough() -> None:
    """The forger has one of the two private keys, the honest member the other."""
    forged = OTHER.sign("upload-header", MESSAGE)
    refused(BOTH.public_hex, SIGNATURE[:64] + forged[64:])
    refused(BOTH.public_hex, forged[:64] + SIGNATURE[64:])
    mixed = ledger_key(BOTH.public_hex) + OTHER.public_hex[64:]
    refused(mixed, SIGNATURE)
    refused(mixed, forged)
    # And what nobody can prevent: who puts two keys together signs under both.
    verify(mixed, "upload-header", MESSAGE, SIGNATURE[:64] + forged[64:])


def test_suites_are_never_mixed() -> None:
    plain = KEY.sign("upload-header", MESSAGE)
    refused(BOTH.public_hex, plain)
    refused(BOTH.public_hex, plain + SIGNATURE[64:])
    # The other way round: the hybrid's Ed25519 half over the plain domain, padded with a good lattice half.
    seed = KEY.to_private_bytes()[32:]
    lattice = MLDSA65PrivateKey.from_seed_bytes(seed).sign(domain_separated("upload-header", MESSAGE))
    refused(BOTH.public_hex, plain + lattice)
    refused(BOTH.public_hex, SIGNATURE[:64] + lattice)


@given(st.text("az09/-", min_size=1, max_size=8), st.text("az09/-", min_size=1, max_size=8), st.binary(max_size=8))
def test_no_context_and_message_are_shared_by_the_suites(one: str, other: str, message: bytes) -> None:
    assert domain_separated(one, message, HYBRID) != domain_separated(other, message, ED25519)
    assert (domain_separated(one, message, HYBRID) == domain_separated(other, message, HYBRID)) == (one == other)


def test_another_purpose_or_message_is_refused() -> None:
    refused(BOTH.public_hex, SIGNATURE, context="key-confirmation")
    refused(BOTH.public_hex, SIGNATURE, context="Upload")
    refused(BOTH.public_hex, SIGNATURE, message=MESSAGE + b" ")


@settings(max_examples=60)
@given(st.integers(0, 8 * len(SIGNATURE) - 1))
def test_every_flipped_bit_of_a_hybrid_signature_is_refused(bit: int) -> None:
    broken = bytearray(SIGNATURE)
    broken[bit // 8] ^= 1 << bit % 8
    refused(BOTH.public_hex, bytes(broken))


@settings(max_examples=60)
@given(st.integers(0, 8 * 1984 - 1))
def test_every_flipped_bit_of_a_hybrid_key_is_refused(bit: int) -> None:
    broken = bytearray.fromhex(BOTH.public_hex)
    broken[bit // 8] ^= 1 << bit % 8
    refused(broken.hex(), SIGNATURE)


def test_malformed_hybrid_keys_are_bad_signatures() -> None:
    weak = (1).to_bytes(32, "little").hex()  # of small order: in the hybrid as little use as alone
    for public in (
        BOTH.public_hex.upper(),
        BOTH.public_hex[:-1] + "g",
        BOTH.public_hex[:64] + BOTH.public_hex[64:].upper(),
        BOTH.public_hex[:-2],
        BOTH.public_hex + "00",
        "",
        weak + BOTH.public_hex[64:],
    ):
        refused(public, SIGNATURE)


# --- cards -----------------------------------------------------------------------------------------------------------

PLAIN_PLAN = example_plan()
PLAN = example_plan(study__signatures=HYBRID)
SEALING = "5e" * 1216


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    consortium = Consortium.create(tmp_path_factory.mktemp("north"))
    consortium.member("alpha")
    return consortium


def card_of(north: Consortium, suite: Any, plan_hash: str = PLAN.hash) -> bytes:
    folder = north.root / "alpha"
    key = SigningKey.load(folder / "signing.key", UNLOCK).of(suite)
    return make_card(plan_hash, "hospital", "alpha", key.public_hex, SEALING, folder, key, UNLOCK)


def test_a_hybrid_card_holds_and_is_far_below_the_limit(north: Consortium) -> None:
    data = card_of(north, HYBRID)
    card = check_card(data, north.ca_pem, PLAN, NOW)
    assert suite_of(card.signing_key) == HYBRID
    assert len(data) < LARGEST_CARD_BYTES / 2


def test_a_card_must_be_of_the_plans_suite(north: Consortium) -> None:
    """A member cannot fall back to half, and cannot bring more than the others will check."""
    with pytest.raises(IdentityError, match=r"signs with ed25519, the plan says ed25519\+ml-dsa-65"):
        check_card(card_of(north, ED25519), north.ca_pem, PLAN, NOW)
    with pytest.raises(IdentityError, match="the plan says ed25519$"):
        check_card(card_of(north, HYBRID, PLAIN_PLAN.hash), north.ca_pem, PLAIN_PLAN, NOW)


def test_a_card_cannot_be_stripped_of_a_half(north: Consortium) -> None:
    fields = json.loads(card_of(north, HYBRID))
    stripped = {"signing_key": ledger_key(fields["signing_key"])}
    for change in (stripped, stripped | {"possession": fields["possession"][:128]}):
        with pytest.raises((IdentityError, BadSignature)):
            check_card(canonical_bytes(fields | change), north.ca_pem, PLAN, NOW)
    for possession in (fields["possession"][:128], fields["possession"][128:], fields["possession"] + "00"):
        with pytest.raises((BadSignature, ProtocolError)):
            check_card(canonical_bytes(fields | {"possession": possession}), north.ca_pem, PLAN, NOW)


def test_the_suite_is_part_of_the_plans_hash() -> None:
    assert PLAN.hash != PLAIN_PLAN.hash
