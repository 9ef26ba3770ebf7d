"""A mask is uniform modulo each prime, the same at both ends, and leaves nothing behind when it is taken off."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from coalition import least_likely
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secure_fedhelp.secagg import expansion
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.packing import Residues
from secure_fedhelp.secagg.profiles import PROFILES, Profile

#: 12289 = 3 * 2^12 + 1 is 3/4 of the next power of two: every fourth word is rejected. 3 * 2^30 + 1 likewise; 5 and 17
#: lie just above a power of two, which is the worst case.
REJECTING = Profile("rejecting", 64, (12289, 5, 3221225473, 17), 20, 0, "a test")
ONE_REJECTING = Profile("one rejecting", 256, (12289,), 20, 0, "a test")
#: 2^7 - 1 and 2^13 - 1: only the prime itself is rejected.
MERSENNE = Profile("mersenne", 64, (127, 8191), 20, 0, "a test")
TWO_PRIMES = replace(PROFILES["exact"], name="two primes", ring_degree=128)

#: With fixed keys a test either always passes or never does.
UNLIKELY = 1e-4


def key(number: int) -> bytes:
    return hashlib.sha256(b"a test's key %d" % number).digest()


def zeros(profile: Profile, ciphertexts: int = 1) -> Residues:
    return np.zeros((ciphertexts, len(profile.moduli), profile.ring_degree), dtype=np.uint64)


def mask(profile: Profile, mask_key: bytes, ciphertexts: int = 1) -> Residues:
    residues = zeros(profile, ciphertexts)
    add_expanded(residues, profile, [mask_key], [])
    return residues


def words(mask_key: bytes, attempt: int) -> list[int]:
    """Counter mode by hand: 64-bit words of AES-256 over consecutive counters, as far as a test needs."""
    counters = b"".join(((attempt << 64) + i).to_bytes(16, "big") for i in range(4096))
    stream = Cipher(algorithms.AES(mask_key), modes.ECB()).encryptor().update(counters)
    return [int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8)]


def reference(profile: Profile, mask_key: bytes, ciphertexts: int) -> list[int]:
    """What expansion.py promises, one residue at a time in plain Python."""
    streams = [words(mask_key, attempt) for attempt in range(24)]
    places = [(c, q) for c in range(ciphertexts) for q in profile.moduli for _ in range(profile.ring_degree)]
    residues = []
    for place, (_, modulus) in enumerate(places):
        low = (1 << modulus.bit_length()) - 1
        residues.append(next(s[place] & low for s in streams if s[place] & low < modulus))
    return residues


@pytest.mark.parametrize("profile", [REJECTING, ONE_REJECTING, MERSENNE, TWO_PRIMES], ids=lambda p: p.name)
@pytest.mark.parametrize("ciphertexts", [1, 3])
def test_a_slow_reference_gives_the_same_mask(profile: Profile, ciphertexts: int) -> None:
    for number in range(4):
        assert mask(profile, key(number), ciphertexts).reshape(-1).tolist() == reference(
            profile, key(number), ciphertexts
        )


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_and_so_it_does_for_every_profile(profile: Profile) -> None:
    assert mask(profile, key(0)).reshape(-1).tolist() == reference(profile, key(0), 1)


def test_golden_masks() -> None:
    """Other releases must make the same masks, or two hospitals' would not cancel."""
    digests = {name: hashlib.sha256(mask(p, key(1), 2).astype("<u8").tobytes()).hexdigest() for name, p in GOLDEN}
    assert digests == EXPECTED


GOLDEN = [("rejecting", REJECTING), ("one rejecting", ONE_REJECTING), *PROFILES.items()]
EXPECTED = {
    "rejecting": "9d2112d3e766af670fd6f8af3fdf983e30c62fcc90ced10628eef627d593a8bd",
    "one rejecting": "008906969eccc73be8eecadd695bd8cd6206477a57618ba817ed991f78112abc",
    "compact": "979913ea109450e3bcda16d1a6a6739cd2166830967dbaafa640bbc786f19804",
    "standard": "186f022a92b7facfa6bf1eae4abc0b448892eb7a74399a4cd8024b03782a24d5",
    "fine": "186f022a92b7facfa6bf1eae4abc0b448892eb7a74399a4cd8024b03782a24d5",
    "strong": "74cbf14bc847fce0becbc374844a999fb668c4a2e5957c9a5f9d602d1b49d5fc",
    "exact": "6fd3540d6daf1c764e0eb06a76d4d6c04ea66be90dfabc7caea62f4effe42dc4",
    "deep": "6fd3540d6daf1c764e0eb06a76d4d6c04ea66be90dfabc7caea62f4effe42dc4",
}


def test_a_mask_made_in_parts_is_the_same() -> None:
    for profile in (REJECTING, MERSENNE, TWO_PRIMES):
        whole = mask(profile, key(2), 5)
        for cut in range(6):
            parts = zeros(profile, 5)
            add_expanded(parts[:cut], profile, [key(2)])
            add_expanded(parts[cut:], profile, [key(2)], first=cut)
            assert (parts == whole).all()


@pytest.mark.parametrize("block", [1, 7, 64, 100, 2**16])
@pytest.mark.parametrize("profile", [REJECTING, ONE_REJECTING], ids=lambda p: p.name)
def test_a_mask_does_not_depend_on_the_size_of_blocks(
    block: int, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mask(profile, key(2), 2)
    monkeypatch.setattr(expansion, "_PIECE", block)
    assert (mask(profile, key(2), 2) == whole).all()


def test_a_longer_upload_has_the_same_mask_at_its_beginning() -> None:
    for profile in (REJECTING, ONE_REJECTING, PROFILES["compact"]):
        assert (mask(profile, key(3), 5)[:2] == mask(profile, key(3), 2)).all()


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_residues_are_uniform_modulo_each_prime(profile: Profile) -> None:
    residues = mask(profile, key(4), 2**15 // profile.ring_degree)
    for place, modulus in enumerate(profile.moduli):
        assert (residues[:, place] < modulus).all()
        assert least_likely(residues[:, place], modulus) > UNLIKELY


@pytest.mark.parametrize("number", range(3))
def test_rejection_leaves_no_bias_where_a_remainder_would(number: int) -> None:
    residues = mask(REJECTING, key(10 + number), 512)
    for place, modulus in enumerate(REJECTING.moduli):
        assert least_likely_of_all(residues[:, place], modulus) > UNLIKELY
    # The same test on words reduced by a remainder: a quarter of the residues comes twice as often.
    low = np.array(words(key(10 + number), 0), dtype=np.uint64) & np.uint64(2**14 - 1)
    assert least_likely_of_all(low % np.uint64(12289), 12289) < 1e-100


def least_likely_of_all(residues: Residues, modulus: int) -> float:
    """p-value of a chi-square test over equal intervals of exact sizes: every value its own one for a tiny prime."""
    intervals = min(modulus, 24)
    edges = [modulus * i // intervals for i in range(intervals + 1)]
    counts, _ = np.histogram(residues.reshape(-1).astype(np.float64), bins=np.array(edges) - 0.5)
    shares = np.diff(edges) / modulus
    return float(stats.chisquare(counts, shares * residues.size).pvalue)


def test_masks_of_two_keys_are_unrelated() -> None:
    profile = PROFILES["standard"]
    nearly = bytes([key(5)[0] ^ 1]) + key(5)[1:]
    one, other = mask(profile, key(5), 16), mask(profile, nearly, 16)
    difference = (one + (np.uint64(profile.modulus) - other)) % np.uint64(profile.modulus)
    assert least_likely(difference, profile.modulus) > UNLIKELY
    assert least_likely(one, profile.modulus, plain=other) > UNLIKELY
    assert not np.intersect1d(one, other).size  # 2^54 values: no residue of one is in the other


def test_the_stream_of_replacements_is_not_the_first_stream() -> None:
    residues = mask(ONE_REJECTING, key(6), 16).reshape(-1)
    low = np.array(words(key(6), 0)[: residues.size], dtype=np.uint64) & np.uint64(2**14 - 1)
    replaced = residues[low >= 12289]
    assert replaced.size > 800
    assert least_likely(replaced, 12289) > UNLIKELY
    assert abs(float(np.corrcoef(replaced, low[low >= 12289])[0, 1])) < 0.15


@pytest.mark.parametrize("count", [1, 2, 13, 14, 15, 16, 17, 31, 64, 257])
@pytest.mark.parametrize(
    "profile", [PROFILES["compact"], PROFILES["exact"], REJECTING, replace(PROFILES["strong"], moduli=(2**60 - 93,))],
    ids=lambda p: p.name,
)  # fmt: skip
def test_plus_and_minus_cancel_exactly_however_many(count: int, profile: Profile) -> None:
    """Sums are reduced lazily: 16 residues of 60 bits are all that fits 64 bits."""
    small = replace(profile, ring_degree=64)
    keys = [key(100 + i) for i in range(count)]
    total = sum(mask(small, k).astype(object) for k in keys) % small.moduli_column().astype(object)
    start = (zeros(small) + np.uint64(3)) % small.moduli_column()
    residues = start.copy()
    add_expanded(residues, small, keys, [])
    assert (residues == (start + total) % small.moduli_column().astype(object)).all()
    add_expanded(residues, small, [], keys[::-1])
    assert (residues == start).all()
    add_expanded(residues, small, keys, keys)
    assert (residues == start).all()


@settings(max_examples=40)
@given(plus=st.integers(0, 40), minus=st.integers(0, 40), start=st.data())
def test_any_number_on_either_side_is_the_sum_modulo_each_prime(plus: int, minus: int, start: st.DataObject) -> None:
    small = replace(PROFILES["exact"], ring_degree=8)
    column = small.moduli_column().astype(object)
    values = start.draw(st.lists(st.integers(0, min(small.moduli) - 1), min_size=16, max_size=16))
    residues = np.array(values, dtype=np.uint64).reshape(1, 2, 8)
    expected = residues.astype(object)
    added, taken = [key(i) for i in range(plus)], [key(1000 + i) for i in range(minus)]
    for k in added:
        expected = expected + mask(small, k).astype(object)
    for k in taken:
        expected = expected - mask(small, k).astype(object)
    add_expanded(residues, small, added, taken)
    assert (residues == expected % column).all()
    assert (residues < small.moduli_column()).all()


def test_both_ends_of_a_pair_make_the_same_mask_and_cancel_in_the_sum() -> None:
    profile = PROFILES["deep"]
    one, other = zeros(profile, 2), zeros(profile, 2)
    add_expanded(one, profile, [key(7)], [])
    add_expanded(other, profile, [], [key(7)])
    assert not ((one + other) % profile.moduli_column()).any()
    assert one.any()


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_of_another_length_makes_no_mask(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        mask(PROFILES["compact"], bytes(length))


def test_an_array_that_masks_would_not_reach_is_refused() -> None:
    """A view that is not contiguous would be copied, and its owner would upload it without masks."""
    profile = PROFILES["compact"]
    wide = np.zeros((2, 1, 2 * profile.ring_degree), dtype=np.uint64)
    for residues in (
        wide[:, :, ::2],
        wide[:, :, : profile.ring_degree],
        wide,
        zeros(PROFILES["exact"]),
        zeros(profile).astype(np.int64),
        zeros(profile).reshape(-1),
    ):
        with pytest.raises(ValueError, match="C-contiguous"):
            add_expanded(residues, profile, [key(0)], [])
    assert not wide.any()
