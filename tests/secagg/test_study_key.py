"""The study key: round trip, weak or foreign keys refused, fingerprints bound to their study, nothing shown."""

from __future__ import annotations

import copy
import hashlib
import pickle

import numpy as np
import pytest

from secure_fedhelp.errors import KeyCeremonyFailed, ProtocolError
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.packing import pack_residues, unpack_residues
from secure_fedhelp.secagg.profiles import PROFILES, Profile

ALL = list(PROFILES.values())


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_round_trip(p: Profile, keys: dict[str, StudyKey]) -> None:
    data = keys[p.name].to_bytes()
    assert len(data) == p.key_bytes == len(p.key_moduli) * p.ring_degree * p.residue_bytes + 32
    assert StudyKey.from_bytes(p, data).to_bytes() == data
    assert StudyKey.generate(p).to_bytes() != data


def test_key_of_the_wrong_length_or_profile_is_refused(standard: Profile, keys: dict[str, StudyKey]) -> None:
    data = keys["standard"].to_bytes()
    for wrong in (b"", data[:-1], data + b"\0", keys["compact"].to_bytes(), keys["strong"].to_bytes()):
        with pytest.raises(ProtocolError, match=f"{len(wrong)} bytes"):
            StudyKey.from_bytes(standard, wrong)


def test_key_with_a_residue_that_is_not_canonical_is_refused(standard: Profile, keys: dict[str, StudyKey]) -> None:
    data = keys["standard"].to_bytes()
    with pytest.raises(ProtocolError, match="not below the modulus"):
        StudyKey.from_bytes(standard, data[:-39] + b"\xff" * 7 + data[-32:])
    with pytest.raises(ProtocolError, match="flooding key is zero"):
        StudyKey.from_bytes(standard, data[:-32] + bytes(32))


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_weak_or_changed_key_is_refused(p: Profile, keys: dict[str, StudyKey]) -> None:
    primes = np.array(p.key_moduli, dtype=np.uint64)[:, np.newaxis]
    shape = (len(primes), p.ring_degree)
    good, other = (
        unpack_residues(p, key.to_bytes()[:-32]).reshape(shape) for key in (keys[p.name], StudyKey.generate(p))
    )
    zero = np.zeros(shape, dtype=np.uint64)
    one = np.ones(shape, dtype=np.uint64)  # the constant polynomial 1, in NTT form
    uniform = np.random.default_rng(5).integers(0, primes, shape, dtype=np.uint64)
    changed = good.copy()
    changed[-1, 0] ^= np.uint64(1)
    doubled = good * np.uint64(2) % primes
    bad = [zero, one, uniform, changed, doubled]
    if len(primes) > 1:
        bad.append(np.concatenate([good[:-1], other[-1:]]))  # another ternary polynomial modulo another prime
    for residues in bad:
        with pytest.raises(ProtocolError, match="dense ternary"):
            StudyKey.from_bytes(p, pack_residues(p, residues) + bytes([1] * 32))
    assert StudyKey.from_bytes(p, pack_residues(p, good) + bytes([1] * 32)).flooding_key == bytes([1] * 32)


def test_flooding_key_is_a_secret_of_its_own(standard: Profile, keys: dict[str, StudyKey]) -> None:
    key, data = keys["standard"], keys["standard"].to_bytes()
    assert key.flooding_key == data[-32:]
    again = [StudyKey.generate(standard).flooding_key for _ in range(3)]
    assert len({key.flooding_key, *again}) == 4
    # Another flooding key with the same CKKS secret is another study key to everybody who compares fingerprints.
    other = StudyKey.from_bytes(standard, data[:-32] + again[0])
    assert other.fingerprint("a", 0) != key.fingerprint("a", 0)


def test_fingerprint_is_the_documented_hash(standard: Profile, keys: dict[str, StudyKey]) -> None:
    key = keys["standard"]
    context = b'{"epoch":3,"profile":"standard","study":"abc"}'
    expected = hashlib.sha256(b"secure-fedhelp study key fingerprint 2\n" + context + key.to_bytes())
    assert key.fingerprint("abc", 3) == expected.hexdigest()


def test_fingerprint_differs_by_key_study_and_epoch(standard: Profile, keys: dict[str, StudyKey]) -> None:
    key = keys["standard"]
    prints = {
        key.fingerprint("a" * 64, 0),
        key.fingerprint("b" * 64, 0),
        key.fingerprint("a" * 64, 1),
        StudyKey.generate(standard).fingerprint("a" * 64, 0),
    }
    assert len(prints) == 4


def test_key_is_never_shown_or_pickled(keys: dict[str, StudyKey]) -> None:
    key = keys["standard"]
    assert repr(key) == str(key) == f"{key}" == "StudyKey('standard', secret)"  # neither secret
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(key)


def test_wiped_key_is_overwritten_and_useless(standard: Profile) -> None:
    key = StudyKey.generate(standard)
    with memoryview(key._data) as held:  # a view keeps the memory; clearing must wait, overwriting must not
        with pytest.raises(BufferError):
            key.wipe()
        assert bytes(held) == bytes(len(held))
    key.wipe()
    for use in (key.to_bytes, key.secret_key, lambda: key.flooding_key, lambda: key.fingerprint("a", 0)):
        with pytest.raises(KeyCeremonyFailed, match="wiped"):
            use()
    key.wipe()
