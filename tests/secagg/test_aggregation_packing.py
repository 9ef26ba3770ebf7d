"""The bytes that travel: fixed by golden values, and refused by name when they are not exactly what they must be."""

from __future__ import annotations

import mmap
import subprocess
import sys
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
TINY = Profile("tiny", 2, 17, 65537, 4, 0, "no security: for golden bytes")


def body_of(profile: Profile, residues: list[int], seed: int) -> bytes:
    """A body written without the code under test."""
    count = len(residues) // profile.ring_degree
    width = profile.residue_bytes
    return bytes([seed]) * (64 * count) + b"".join(r.to_bytes(width, "little") for r in residues)


def test_golden_body() -> None:
    seeds = np.stack([np.full(64, 0xAA, np.uint8), np.full(64, 0xBB, np.uint8)])
    residues = np.array([[1, 65536], [258, 0]], dtype=np.uint64)
    body = pack_body(TINY, seeds, residues)
    assert body.hex() == "aa" * 64 + "bb" * 64 + "010000" + "000001" + "020100" + "000000"
    assert len(body) == TINY.body_bytes(4) == TINY.body_bytes(3)
    check_body(TINY, 3, body)


def test_golden_sum_has_residues_first_and_seeds_in_order_of_names() -> None:
    total = SumAccumulator(TINY, 2)
    total.add("zeta", body_of(TINY, [65536, 5], 0x22))
    total.add("alpha", body_of(TINY, [3, 7], 0x11))
    data = total.finish()
    assert data.hex() == "020000" + "0c0000" + "11" * 64 + "22" * 64
    residues, seeds = split_sum(TINY, 2, ("zeta", "alpha"), data)
    assert residues.tolist() == [[2, 12]]
    assert seeds == {"alpha": (b"\x11" * 64,), "zeta": (b"\x22" * 64,)}


def test_seeds_of_several_ciphertexts_stay_with_their_hospital() -> None:
    total = SumAccumulator(TINY, 4)
    for name, start in (("b", 3), ("a", 1)):
        total.add(name, bytes([start]) * 64 + bytes([start + 1]) * 64 + bytes(12))
    _, seeds = split_sum(TINY, 4, ("a", "b"), total.finish())
    assert seeds == {"a": (b"\1" * 64, b"\2" * 64), "b": (b"\3" * 64, b"\4" * 64)}


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
    parts = [rng.integers(0, standard.modulus, (70, 2048), dtype=np.uint64) for _ in range(3)]
    total = SumAccumulator(standard, length)
    for i, part in enumerate(parts):
        total.add(f"h{i}", pack_body(standard, np.full((70, 64), i, np.uint8), part))
    residues, _ = split_sum(standard, length, ("h0", "h1", "h2"), total.finish())
    assert (residues.astype(object) == sum(part.astype(object) for part in parts) % standard.modulus).all()


def test_truncated_or_oversized_body_is_refused_by_name(standard: Profile) -> None:
    body = bytes(standard.body_bytes(3000))
    check_body(standard, 3000, body)
    for wrong in (b"", body[:-1], body + b"\0", body[: len(body) // 2], body * 2):
        with pytest.raises(CiphertextWrongLength, match=f"{len(wrong)} bytes"):
            check_body(standard, 3000, wrong)


@pytest.mark.parametrize("length", [1, 1024, 2048, 4096, 5000])
def test_body_of_another_profile_is_refused_by_its_length(length: int) -> None:
    for sender in PROFILES.values():
        for receiver in PROFILES.values():
            if sender != receiver:
                with pytest.raises(CiphertextWrongLength):
                    check_body(receiver, length, bytes(sender.body_bytes(length)))


@pytest.mark.parametrize("p", PROFILES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("place", [0, 1, -1])
def test_residue_not_below_the_modulus_is_refused_by_its_place(p: Profile, place: int) -> None:
    length = 130 * 1024 + 1  # several blocks, and the last residue in the last of them
    residues = np.zeros((p.ciphertexts(length), p.ring_degree), dtype=np.uint64)
    seeds = np.zeros((len(residues), 64), dtype=np.uint8)
    residues.reshape(-1)[place] = p.modulus - 1
    check_body(p, length, pack_body(p, seeds, residues))
    for value in (p.modulus, p.modulus + 1, 2 ** (8 * p.residue_bytes) - 1):
        residues.reshape(-1)[place] = value
        ciphertext, coefficient = divmod(place % residues.size, p.ring_degree)
        with pytest.raises(CiphertextNotCanonical, match=f"ciphertext {ciphertext}, coefficient {coefficient} "):
            check_body(p, length, pack_body(p, seeds, residues))


@settings(deadline=None)
@given(position=st.integers(0, 4 * 3 - 1), bit=st.integers(0, 7))
def test_flipped_bit_is_another_canonical_value_or_refused(position: int, bit: int) -> None:
    honest = [65536, 0, 3, 65535]
    body = bytearray(body_of(TINY, honest, 1))
    body[128 + position] ^= 1 << bit
    flipped = [int.from_bytes(body[128 + 3 * i : 131 + 3 * i], "little") for i in range(4)]
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
    assert split_sum(TINY, 2, ("a",), total.finish())[0].tolist() == [[1, 2]]


def test_refused_body_leaves_no_trace_in_the_sum(standard: Profile) -> None:
    length = 70 * standard.ring_degree
    residues = np.ones((70, standard.ring_degree), dtype=np.uint64)
    seeds = np.zeros((70, 64), dtype=np.uint8)
    total = SumAccumulator(standard, length)
    total.add("honest", pack_body(standard, seeds, residues))
    before = total.finish()
    residues[-1, -1] = standard.modulus  # in the last block, after others could have been added
    with pytest.raises(CiphertextNotCanonical):
        total.add("liar", pack_body(standard, seeds, residues))
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
        "import sys, secure_fedhelp.secagg.packing, secure_fedhelp.secagg.profiles, secure_fedhelp.secagg.versions;"
        "print([m for m in ('tenseal', 'torch', 'zstandard', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
