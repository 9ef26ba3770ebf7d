"""A seed expands to the same uniform residues everywhere, in whatever pieces, and to nothing not below its prime."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.profiles import PROFILES, Profile

#: Primes just above a power of two: almost every other word is too large, so that the rare case is the common one.
REJECTING = Profile("rejecting", 8, (65537, 1048583), 4, 0, "no security: for rejected words")
KEY = bytes(range(32))


def expanded(profile: Profile, key: bytes, count: int, first: int = 0) -> np.ndarray:
    residues = np.zeros((count, len(profile.moduli), profile.ring_degree), dtype=np.uint64)
    add_expanded(residues, profile, (key,), first=first)
    return residues


def by_hand(profile: Profile, key: bytes, place: int, modulus: int) -> int:
    """One residue as the docstring defines it, without the code under test."""
    attempt = 0
    while True:
        counter = attempt * 2**64 + place // 2
        block = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(counter.to_bytes(16, "big"))
        word = int.from_bytes(block[8 * (place % 2) :][:8], "little") % 2 ** modulus.bit_length()
        if word < modulus:
            return word
        attempt += 1


@pytest.mark.parametrize("p", [REJECTING, *PROFILES.values()], ids=lambda p: p.name)
def test_residues_are_those_of_the_definition(p: Profile) -> None:
    found = expanded(p, KEY, 3)
    places = [*range(40), *range(found.size - 8, found.size)]
    for place in places:
        _, prime, _ = np.unravel_index(place, found.shape)
        assert found.reshape(-1)[place] == by_hand(p, KEY, place, p.moduli[int(prime)])


def test_golden_residues() -> None:
    assert expanded(PROFILES["standard"], KEY, 1)[0, 0, :2].tolist() == GOLDEN_STANDARD
    assert expanded(PROFILES["compact"], KEY, 1)[0, 0, :2].tolist() == [q % 2**27 for q in GOLDEN_STANDARD]


#: From AES-256 of a zero block under the key 00 01 .. 1f: f29000b62a499fd0 a9f39a6add2e7780, lowest 54 bits.
GOLDEN_STANDARD = [
    int.from_bytes(bytes.fromhex("f29000b62a499fd0"), "little") % 2**54,
    int.from_bytes(bytes.fromhex("a9f39a6add2e7780"), "little") % 2**54,
]


@pytest.mark.parametrize("p", [REJECTING, *PROFILES.values()], ids=lambda p: p.name)
@given(cut=st.integers(1, 39))
def test_pieces_made_apart_are_the_whole(p: Profile, cut: int) -> None:
    whole = expanded(p, KEY, 40)
    assert (whole[:cut] == expanded(p, KEY, cut)).all()
    assert (whole[cut:] == expanded(p, KEY, 40 - cut, first=cut)).all()


@pytest.mark.parametrize("p", [REJECTING, *PROFILES.values()], ids=lambda p: p.name)
def test_sums_and_differences_are_modulo_each_prime(p: Profile) -> None:
    keys = [bytes([i]) * 32 for i in range(4)]
    moduli = p.moduli_column().astype(object)
    apart = [expanded(p, key, 20).astype(object) for key in keys]
    residues = np.random.default_rng(0).integers(0, p.moduli_column(), apart[0].shape, dtype=np.uint64)
    expected = (residues.astype(object) + apart[0] + apart[1] - apart[2] - apart[3]) % moduli
    add_expanded(residues, p, keys[:2], keys[2:])
    assert (residues == expected).all()
    add_expanded(residues, p, keys[2:], keys[:2])
    add_expanded(residues, p, (keys[0],), (keys[0],))
    again = np.random.default_rng(0).integers(0, p.moduli_column(), residues.shape, dtype=np.uint64)
    assert (residues == again).all()


@pytest.mark.parametrize("p", [REJECTING, *PROFILES.values()], ids=lambda p: p.name)
def test_residues_are_uniform_below_each_prime(p: Profile) -> None:
    found = expanded(p, b"\5" * 32, -(-40_000 // p.ring_degree))
    assert (found < p.moduli_column()).all()
    for i, q in enumerate(p.moduli):
        counts = np.histogram(found[:, i].astype(float), bins=10, range=(0, q))[0]
        assert np.abs(counts - counts.sum() / 10).max() < 6 * np.sqrt(counts.sum() / 10)


def test_words_that_are_too_large_are_met_and_replaced() -> None:
    found = expanded(REJECTING, KEY, 100)
    stream = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(8 * found.size))
    words = np.frombuffer(stream, dtype="<u8").reshape(found.shape) % np.array([[2**17], [2**21]], dtype=np.uint64)
    rejected = words >= REJECTING.moduli_column()
    assert 0.4 < rejected.mean() < 0.6
    assert (found[~rejected] == words[~rejected]).all()


def test_different_keys_expand_to_different_residues(standard: Profile) -> None:
    assert (expanded(standard, KEY, 1) == expanded(standard, KEY[::-1], 1)).mean() < 0.01


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31), bytes(33)])
def test_key_of_another_length_is_a_mistake_of_the_program(standard: Profile, key: bytes) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {len(key)}"):
        expanded(standard, key, 1)
