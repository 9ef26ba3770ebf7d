"""What travels: the body of an upload and the published sum, as bytes and back. numpy only.

The coordinator's whole arithmetic is here: :class:`SumAccumulator` adds residues modulo each prime. It never expands a
seed and holds no key. Every byte comes from somebody else, so lengths and canonical form are checked before anything is
used. Formats (docs/architecture.md), with count ciphertexts of N residues for each prime in w little-endian bytes each:

    body  seed: 32 bytes | residues: count x primes x N x w bytes
    sum   residues: count x primes x N x w bytes | for each hospital in sorted order: its seed of 32 bytes
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import CiphertextNotCanonical, CiphertextWrongLength, ProtocolError, ReplayedUpload
from secure_fedhelp.secagg.profiles import SEED_BYTES, Profile

Residues = NDArray[np.uint64]
#: Anything flat with bytes in it; wrap a memory-mapped file in a memoryview.
Data = bytes | bytearray | memoryview

#: Residues unpacked at a time, 256 KiB: checking and adding stay in the cache, and a body is never copied whole.
_BLOCK = 2**15


def add_modulo(total: Residues, other: Residues, moduli: Residues | int) -> None:
    """``total`` becomes total + other, in place, modulo one prime or an array of them that broadcasts.

    Both are below the primes already. No overflow: a prime has at most 60 bits. The second line subtracts where that
    does not go below zero; below zero it wraps to a huge number, which is not the minimum.
    """
    np.add(total, other, out=total)
    np.minimum(total, total - np.asarray(moduli, dtype=np.uint64), out=total)


def pack_residues(profile: Profile, residues: Residues) -> bytes:
    """Residues of any shape, one after another, in ``profile.residue_bytes`` little-endian bytes each."""
    low = np.dtype({"names": ["low"], "formats": [f"V{profile.residue_bytes}"], "itemsize": 8})
    wide: NDArray[np.void] = np.ascontiguousarray(residues, dtype="<u8").reshape(-1).view(low)
    return wide["low"].tobytes()


def unpack_residues(profile: Profile, data: Data) -> Residues:
    """The inverse of :func:`pack_residues`, flat and not yet checked; ``data`` holds whole residues."""
    width = profile.residue_bytes
    count = len(data) // width
    residues = np.empty(count, dtype=np.uint64)
    # Eight bytes are read at each residue and those of the next ones cleared. The last would read beyond the end.
    inside = max(0, count - (-(-8 // width) - 1))
    words: Residues = np.ndarray((inside,), dtype="<u8", buffer=data, strides=(width,))
    np.bitwise_and(words, np.uint64(2 ** (8 * width) - 1), out=residues[:inside])
    for i in range(inside, count):
        residues[i] = int.from_bytes(data[i * width : (i + 1) * width], "little")
    return residues


def pack_body(profile: Profile, seed: bytes, residues: Residues) -> bytes:
    """The body of an upload from its seed and residues [count, primes, N]."""
    return b"".join([seed, pack_residues(profile, residues)])


def check_body(profile: Profile, length: int, body: Data) -> None:
    """Refuse a body that is not exactly one upload of ``length`` values, before anything else looks at it.

    Raises CiphertextWrongLength, or CiphertextNotCanonical if a residue is not below its prime: such a residue has a
    second name for the same value, so hash and signature would no longer fix what was summed.
    """
    _, packed = _split_body(profile, length, body)
    for start, block in _blocks(profile, packed):
        _require_canonical(profile, start, block)


class SumAccumulator:
    """The sum of one round's bodies: add each once, then :meth:`finish`. Holds 8 bytes a residue, and a block."""

    def __init__(self, profile: Profile, length: int) -> None:
        self._profile = profile
        self._length = length
        self._moduli = profile.moduli_column()
        self._total = np.zeros(_shape(profile, profile.ciphertexts(length)), dtype=np.uint64)
        self._seeds: dict[str, bytes] = {}

    @property
    def total(self) -> Residues:
        """The running sum [count, primes, N], each residue below its prime; masks are taken off it in place."""
        return self._total

    def add(self, name: str, body: Data) -> None:
        """Add the body of hospital ``name``. Raises ReplayedUpload for a second one, or as :func:`check_body`.

        Each block is checked and added while it is in the cache. A refused body leaves the sum as it was: what had been
        added of it is taken back.
        """
        if name in self._seeds:
            raise ReplayedUpload(f"{name} is already in the sum")
        seed, packed = _split_body(self._profile, self._length, body)
        for start, block in _blocks(self._profile, packed):
            try:
                _require_canonical(self._profile, start, block)
            except CiphertextNotCanonical:
                self._take_back(packed, start)
                raise
            add_modulo(self._total[start : start + len(block)], block, self._moduli)
        self._seeds[name] = bytes(seed)

    def _take_back(self, packed: memoryview, until: int) -> None:
        for start, block in _blocks(self._profile, packed):
            if start < until:
                add_modulo(self._total[start : start + len(block)], self._moduli - block, self._moduli)

    def finish(self) -> bytes:
        """The published sum. Raises ProtocolError if nothing was added."""
        if not self._seeds:
            raise ProtocolError("no upload to sum")
        seeds = [self._seeds[name] for name in sorted(self._seeds)]
        return b"".join([pack_residues(self._profile, self._total), *seeds])


def split_sum(profile: Profile, length: int, cohort: tuple[str, ...], data: Data) -> tuple[Residues, dict[str, bytes]]:
    """A published sum as residues [count, primes, N] and the seed of each hospital of ``cohort``.

    Raises CiphertextWrongLength, CiphertextNotCanonical, or ProtocolError for an empty cohort or a name listed twice.
    """
    if not cohort or len(set(cohort)) != len(cohort):
        raise ProtocolError(f"a cohort needs members, each listed once, not {list(cohort)}")
    expected = profile.sum_bytes(length, len(cohort))
    view = memoryview(data).cast("B")
    if len(view) != expected:
        raise CiphertextWrongLength(
            f"the sum has {len(view)} bytes; {length} values of {len(cohort)} hospitals take {expected}",
            "Nothing was decrypted. Fetch the sum again, and compare its hash with the transcript's.",
        )
    packed = view[: profile.residues_bytes(length)]
    residues = np.empty(_shape(profile, profile.ciphertexts(length)), dtype=np.uint64)
    for start, block in _blocks(profile, packed):
        _require_canonical(profile, start, block)
        residues[start : start + len(block)] = block
    seeds = [bytes(view[at : at + SEED_BYTES]) for at in range(len(packed), len(view), SEED_BYTES)]
    return residues, dict(zip(sorted(cohort), seeds, strict=True))


def _split_body(profile: Profile, length: int, body: Data) -> tuple[memoryview, memoryview]:
    view = memoryview(body).cast("B")
    expected = profile.body_bytes(length)
    if len(view) != expected:
        raise CiphertextWrongLength(
            f"the upload has {len(view)} bytes; {length} values in profile {profile.name!r} take {expected}"
        )
    return view[:SEED_BYTES], view[SEED_BYTES:]


def _shape(profile: Profile, ciphertexts: int) -> tuple[int, int, int]:
    return ciphertexts, len(profile.moduli), profile.ring_degree


def _blocks(profile: Profile, packed: memoryview) -> Iterator[tuple[int, Residues]]:
    """Some ciphertexts at a time: the number of the first, and the residues [k, primes, N] unpacked."""
    size = len(profile.moduli) * profile.ring_degree
    step = max(1, _BLOCK // size)
    for start in range(0, len(packed) // (size * profile.residue_bytes), step):
        piece = packed[start * size * profile.residue_bytes : (start + step) * size * profile.residue_bytes]
        yield start, unpack_residues(profile, piece).reshape(_shape(profile, -1))


def _require_canonical(profile: Profile, start: int, block: Residues) -> None:
    beyond = block >= profile.moduli_column()
    if beyond.any():
        ciphertext, prime, coefficient = (int(i) for i in np.argwhere(beyond)[0])
        raise CiphertextNotCanonical(
            f"ciphertext {start + ciphertext}, coefficient {coefficient} is not below the modulus"
            f" {profile.moduli[prime]}"
        )
