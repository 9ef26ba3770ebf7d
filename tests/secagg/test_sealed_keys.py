"""A sealed study key opens for one hospital, in one context, unchanged; everything else is refused alike."""

from __future__ import annotations

import copy
import pickle

import pytest

from secure_fedhelp.errors import KeyCeremonyFailed
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.profiles import Profile
from secure_fedhelp.secagg.sealing import SealingKey, key_context, seal

CONTEXT = key_context("ab" * 32, 0, "north", "south")


@pytest.fixture(scope="module")
def recipient() -> SealingKey:
    return SealingKey.generate()


def test_study_key_reaches_its_recipient(recipient: SealingKey, standard: Profile, keys: dict[str, StudyKey]) -> None:
    sealed = seal(recipient.public_hex, keys["standard"].to_bytes(), CONTEXT)
    assert StudyKey.from_bytes(standard, recipient.open(sealed, CONTEXT)).to_bytes() == keys["standard"].to_bytes()


def test_context_is_fixed_bytes() -> None:
    assert key_context("ab", 2, "north", "south") == (
        b'{"epoch":2,"maker":"north","purpose":"secure-fedhelp study key 1","recipient":"south","study":"ab"}'
    )


def test_another_key_cannot_open(recipient: SealingKey) -> None:
    with pytest.raises(KeyCeremonyFailed):
        SealingKey.generate().open(seal(recipient.public_hex, b"secret", CONTEXT), CONTEXT)


@pytest.mark.parametrize("half", ["ML-KEM-768", "X25519"])
def test_one_half_of_the_key_opens_nothing(recipient: SealingKey, half: str) -> None:
    """Who breaks one of the two (a quantum computer X25519, a new attack ML-KEM) still needs the other."""
    mine, guessed = recipient.to_private_bytes(), SealingKey.generate().to_private_bytes()
    broken = mine[:64] + guessed[64:] if half == "ML-KEM-768" else guessed[:64] + mine[64:]
    with pytest.raises(KeyCeremonyFailed):
        SealingKey.from_private_bytes(broken).open(seal(recipient.public_hex, b"secret", CONTEXT), CONTEXT)


@pytest.mark.parametrize(
    "other",
    [
        key_context("cd" * 32, 0, "north", "south"),
        key_context("ab" * 32, 1, "north", "south"),
        key_context("ab" * 32, 0, "east", "south"),
        key_context("ab" * 32, 0, "north", "east"),
        key_context("ab" * 32, 0, "south", "north"),
        b"",
    ],
)
def test_sealed_key_cannot_be_moved_to_another_context(recipient: SealingKey, other: bytes) -> None:
    with pytest.raises(KeyCeremonyFailed):
        recipient.open(seal(recipient.public_hex, b"secret", CONTEXT), other)


def test_every_changed_byte_is_refused(recipient: SealingKey) -> None:
    sealed = seal(recipient.public_hex, b"secret", CONTEXT)
    for place in range(len(sealed)):
        for flip in (0x01, 0x80):  # the top bit too: X25519 alone would ignore it in one place
            changed = bytearray(sealed)
            changed[place] ^= flip
            with pytest.raises(KeyCeremonyFailed):
                recipient.open(bytes(changed), CONTEXT)
    assert recipient.open(sealed, CONTEXT) == b"secret"


def test_every_truncation_and_extension_is_refused(recipient: SealingKey) -> None:
    sealed = seal(recipient.public_hex, b"secret", CONTEXT)
    for wrong in (b"", sealed[:1], sealed[:1119], sealed[:1120], sealed[:-1], sealed[1:], sealed + b"\0", sealed * 2):
        with pytest.raises(KeyCeremonyFailed):
            recipient.open(wrong, CONTEXT)


def test_sealing_twice_differs(recipient: SealingKey) -> None:
    first, second = (seal(recipient.public_hex, b"secret", CONTEXT) for _ in range(2))
    assert first != second
    assert b"secret" not in first


def test_private_bytes_round_trip(recipient: SealingKey) -> None:
    data = recipient.to_private_bytes()
    again = SealingKey.from_private_bytes(data)
    assert len(data) == 96
    assert again.public_hex == recipient.public_hex
    assert len(bytes.fromhex(recipient.public_hex)) == 1184 + 32
    assert again.open(seal(recipient.public_hex, b"secret", CONTEXT), CONTEXT) == b"secret"


@pytest.mark.parametrize("length", [0, 95, 97])
def test_private_bytes_of_the_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(KeyCeremonyFailed, match=f"{length}"):
        SealingKey.from_private_bytes(bytes(length))


def test_malformed_public_key_is_refused(recipient: SealingKey) -> None:
    good = recipient.public_hex
    no_point = good[: 2 * 1184] + "00" * 32  # a point of low order: the shared secret would be known to all
    not_reduced = "ff" * 1184 + good[2 * 1184 :]  # coefficients beyond ML-KEM's modulus
    for bad in ("", "zz", good[:-2], good + "00", good[:-1], no_point, not_reduced):
        with pytest.raises(KeyCeremonyFailed, match="malformed"):
            seal(bad, b"secret", CONTEXT)


def test_sealing_key_is_never_shown_or_pickled(recipient: SealingKey) -> None:
    assert repr(recipient) == f"{recipient}" == "SealingKey(secret)"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(recipient)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(recipient)
