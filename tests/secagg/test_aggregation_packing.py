"""The bytes that travel: fixed by golden values, and refused by name when they are not exactly what they must be."""

from __future__ import annotations

import mmap
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fedhelp.errors import CiphertextNotCanonical, CiphertextWrongLength, ProtocolError, ReplayedUpload
from secure_fedhelp.secagg.packing import (
    SumAccumulator,
    add_modulo,
    check_body,
    pack_body,
    pack_residues,
    split_sum,
    unpack_residues,
)
from secure_fedhelp.secagg.profiles import PROFILES, Profile

#: Small enough to write its bytes by hand: two residues of three bytes a ciphertext.
TINY = Profile("tiny", 2, (65537,), 4, 0, "no security: for golden bytes")
#: The same with two primes.
TWINS = Profile("twins", 2, (65537, 114689), 4, 0, "no security: for golden bytes")


def body_of(profile: Profile, residues: list[int], seed: int) -> bytes:
    """A body written without the code under test."""
    return bytes([seed]) * 32 + b"".join(r.to_bytes(profile.residue_bytes, "little") for r in residues)


def test_golden_body() -> None:
    residues = np.array([[[1, 65536]], [[258, 0]]], dtype=np.uint64)
    body = pack_body(TINY, b"\xaa" * 32, residues)
    assert body.hex() == "aa" * 32 + "010000" + "000001" + "020100" + "000000"
    assert len(body) == TINY.body_bytes(4) == TINY.body_bytes(3)
    check_body(TINY, 3, body)


def test_golden_body_of_two_primes_has_them_one_after_another_in_each_ciphertext() -> None:
    residues = np.array([[[1, 65536], [2, 114688]], [[3, 0], [4, 0]]], dtype=np.uint64)
    body = pack_body(TWINS, b"\xaa" * 32, residues)
    first, second = "010000" + "000001" + "020000" + "00c001", "030000" + "000000" + "040000" + "000000"
    assert body.hex() == "aa" * 32 + first + second
    assert len(body) == TWINS.body_bytes(4) == TWINS.body_bytes(3)
    check_body(TWINS, 3, body)


def test_each_prime_has_its_own_limit() -> None:
    honest = [65536, 0, 114688, 0]
    check_body(TWINS, 2, body_of(TWINS, honest, 1))
    for place, prime in ((0, 65537), (1, 65537), (2, 114689), (3, 114689)):
        wrong = [*honest[:place], prime, *honest[place + 1 :]]
        with pytest.raises(CiphertextNotCanonical, match=f"coefficient {place % 2} is not below the modulus {prime}"):
            check_body(TWINS, 2, body_of(TWINS, wrong, 1))


@settings(deadline=None)
@given(uploads=st.lists(st.lists(st.integers(0, 65536), min_size=8, max_size=8), min_size=1, max_size=10))
def test_sum_of_two_primes_is_taken_modulo_each(uploads: list[list[int]]) -> None:
    total = SumAccumulator(TWINS, 4)
    for i, upload in enumerate(uploads):
        total.add(f"h{i}", body_of(TWINS, upload, i))
    sums = np.sum(np.array(uploads), axis=0).reshape(2, 2, 2)
    expected = sums % np.array([65537, 114689])[:, np.newaxis]
    assert (total.total == expected).all()
    residues, _ = split_sum(TWINS, 4, tuple(f"h{i}" for i in range(len(uploads))), total.finish())
    assert (residues == expected).all()


def test_what_is_taken_off_the_running_sum_is_not_in_the_published_one() -> None:
    total = SumAccumulator(TWINS, 2)
    total.add("a", body_of(TWINS, [5, 6, 7, 8], 1))
    assert total.total.shape == (1, 2, 2)
    add_modulo(total.total, np.array([[[65536, 0], [0, 114688]]], dtype=np.uint64), TWINS.moduli_column())
    assert split_sum(TWINS, 2, ("a",), total.finish())[0].tolist() == [[[4, 6], [7, 7]]]


def test_adding_takes_no_memory_that_grows_with_the_hospitals() -> None:
    length = 500_000
    p = PROFILES["standard"]
    body = bytes(p.body_bytes(length))
    total = SumAccumulator(p, length)
    total.add("first", body)
    tracemalloc.start()
    for i in range(4):
        total.add(f"h{i}", body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000 < len(body)


def test_golden_sum_has_residues_first_and_seeds_in_order_of_names() -> None:
    total = SumAccumulator(TINY, 2)
    total.add("zeta", body_of(TINY, [65536, 5], 0x22))
    total.add("alpha", body_of(TINY, [3, 7], 0x11))
    data = total.finish()
    assert data.hex() == "020000" + "0c0000" + "11" * 32 + "22" * 32
    residues, seeds = split_sum(TINY, 2, ("zeta", "alpha"), data)
    assert residues.tolist() == [[[2, 12]]]
    assert seeds == {"alpha": b"\x11" * 32, "zeta": b"\x22" * 32}


@pytest.mark.parametrize("p", PROFILES.values(), ids=lambda p: p.name)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_packing_is_undone_by_unpacking(p: Profile, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2 ** (8 * p.residue_bytes) - 1), max_size=50))
    packed = pack_residues(p, np.array(values, dtype=np.uint64))
    assert packed == b"".join(v.to_bytes(p.residue_bytes, "little") for v in values)
    assert unpack_residues(p, packed).tolist() == values


@settings(deadline=None)
@given(modulus=st.integers(2, 2**60), data=st.data())
def test_addition_modulo_agrees_with_integers_up_to_the_largest_modulus(modulus: int, data: st.DataObject) -> None:
    residue = st.integers(0, modulus - 1) | st.just(modulus - 1)
    pairs = data.draw(st.lists(st.tuples(residue, residue), min_size=1, max_size=20))
    left, right = (np.array(side, dtype=np.uint64) for side in zip(*pairs, strict=True))
    add_modulo(left, right, modulus)
    assert left.tolist() == [(a + b) % modulus for a, b in pairs]


@settings(deadline=None)
@given(uploads=st.lists(st.lists(st.integers(0, 65536), min_size=4, max_size=4), min_size=1, max_size=10))
def test_sum_agrees_with_integers_whatever_the_order(uploads: list[list[int]]) -> None:
    forward, backward = SumAccumulator(TINY, 4), SumAccumulator(TINY, 4)
    named = [(f"h{i}", body_of(TINY, upload, i)) for i, upload in enumerate(uploads)]
    for name, body in named:
        forward.add(name, body)
    for name, body in reversed(named):
        backward.add(name, body)
    assert forward.finish() == backward.finish()
    residues, _ = split_sum(TINY, 4, tuple(name for name, _ in named), forward.finish())
    assert residues.ravel().tolist() == [sum(column) % 65537 for column in zip(*uploads, strict=True)]


def test_body_of_several_blocks_is_summed_whole(standard: Profile) -> None:
    length = 70 * standard.ring_degree  # more than the accumulator unpacks at a time
    rng = np.random.default_rng(1)
    parts = [rng.integers(0, standard.modulus, (70, 1, 2048), dtype=np.uint64) for _ in range(3)]
    total = SumAccumulator(standard, length)
    for i, part in enumerate(parts):
        total.add(f"h{i}", pack_body(standard, bytes([i]) * 32, part))
    residues, _ = split_sum(standard, length, ("h0", "h1", "h2"), total.finish())
    assert (residues.astype(object) == sum(part.astype(object) for part in parts) % standard.modulus).all()


def test_truncated_or_oversized_body_is_refused_by_name(standard: Profile) -> None:
    body = bytes(standard.body_bytes(3000))
    check_body(standard, 3000, body)
    for wrong in (b"", body[:-1], body + b"\0", body[: len(body) // 2], body * 2):
        with pytest.raises(CiphertextWrongLength, match=f"{len(wrong)} bytes"):
            check_body(standard, 3000, wrong)


@pytest.mark.parametrize("length", [1, 1024, 2048, 4096, 5000])
def test_body_of_another_size_of_profile_is_refused_by_its_length(length: int) -> None:
    # Profiles that differ in their scale have bodies of one size; the signed header says which it is.
    for sender in PROFILES.values():
        for receiver in PROFILES.values():
            if sender.body_bytes(length) != receiver.body_bytes(length):
                with pytest.raises(CiphertextWrongLength):
                    check_body(receiver, length, bytes(sender.body_bytes(length)))


@pytest.mark.parametrize("p", PROFILES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("place", [0, 1, -1])
def test_residue_not_below_the_modulus_is_refused_by_its_place(p: Profile, place: int) -> None:
    length = 130 * 1024 + 1  # several blocks, and the last residue in the last of them
    residues = np.zeros((p.ciphertexts(length), len(p.moduli), p.ring_degree), dtype=np.uint64)
    seed, prime = bytes(32), p.moduli[place if place < 0 else 0]
    residues.reshape(-1)[place] = prime - 1
    check_body(p, length, pack_body(p, seed, residues))
    for value in (prime, prime + 1, 2 ** (8 * p.residue_bytes) - 1):
        residues.reshape(-1)[place] = value
        ciphertext, _, coefficient = np.unravel_index(place % residues.size, residues.shape)
        with pytest.raises(CiphertextNotCanonical, match=f"ciphertext {ciphertext}, coefficient {coefficient} "):
            check_body(p, length, pack_body(p, seed, residues))


@settings(deadline=None)
@given(position=st.integers(0, 4 * 3 - 1), bit=st.integers(0, 7))
def test_flipped_bit_is_another_canonical_value_or_refused(position: int, bit: int) -> None:
    honest = [65536, 0, 3, 65535]
    body = bytearray(body_of(TINY, honest, 1))
    body[32 + position] ^= 1 << bit
    flipped = [int.from_bytes(body[32 + 3 * i : 35 + 3 * i], "little") for i in range(4)]
    assert flipped != honest
    if max(flipped) < TINY.modulus:
        check_body(TINY, 4, body)
    else:
        with pytest.raises(CiphertextNotCanonical):
            check_body(TINY, 4, body)


def test_second_upload_of_one_hospital_is_refused_and_the_sum_unchanged() -> None:
    total = SumAccumulator(TINY, 2)
    total.add("a", body_of(TINY, [1, 2], 1))
    with pytest.raises(ReplayedUpload, match="a is already"):
        total.add("a", body_of(TINY, [5, 5], 2))
    assert split_sum(TINY, 2, ("a",), total.finish())[0].tolist() == [[[1, 2]]]


def test_refused_body_leaves_no_trace_in_the_sum(standard: Profile) -> None:
    length = 70 * standard.ring_degree
    residues = np.arange(70 * standard.ring_degree, dtype=np.uint64).reshape(70, 1, -1)
    total = SumAccumulator(standard, length)
    total.add("honest", pack_body(standard, bytes(32), residues))
    before = total.finish()
    residues[-1, -1, -1] = standard.modulus  # in the last block, after others could have been added
    with pytest.raises(CiphertextNotCanonical):
        total.add("liar", pack_body(standard, bytes(32), residues))
    assert total.finish() == before


def test_empty_sum_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no upload"):
        SumAccumulator(TINY, 2).finish()


@pytest.mark.parametrize("cohort", [(), ("a", "a"), ("b", "a", "b")])
def test_cohort_must_have_members_each_once(cohort: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolError, match="each listed once"):
        split_sum(TINY, 2, cohort, bytes(TINY.sum_bytes(2, len(cohort))))


def test_sum_of_wrong_length_or_not_canonical_is_refused() -> None:
    data = bytes(TINY.sum_bytes(2, 2))
    split_sum(TINY, 2, ("a", "b"), data)
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(CiphertextWrongLength, match="the sum has"):
            split_sum(TINY, 2, ("a", "b"), wrong)
    with pytest.raises(CiphertextWrongLength):
        split_sum(TINY, 2, ("a",), data)
    with pytest.raises(CiphertextNotCanonical):
        split_sum(TINY, 2, ("a", "b"), b"\x01\x00\x01" + data[3:])


def test_body_may_lie_in_a_mapped_file(tmp_path: Path) -> None:
    body = body_of(TINY, [1, 2], 9)
    path = tmp_path / "body"
    path.write_bytes(body)
    from_bytes, from_file = SumAccumulator(TINY, 2), SumAccumulator(TINY, 2)
    from_bytes.add("a", body)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        check_body(TINY, 2, view)
        from_file.add("a", view)
    assert from_file.finish() == from_bytes.finish()


def test_coordinator_can_add_without_loading_the_encryption_library() -> None:
    code = (
        "import sys, secure_fedhelp.secagg.packing, secure_fedhelp.secagg.picker, secure_fedhelp.secagg.versions;"
        "print([m for m in ('tenseal', 'torch', 'zstandard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
