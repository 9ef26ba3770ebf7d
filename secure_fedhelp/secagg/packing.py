"""What travels: the body of an upload and the published sum, as bytes and back. numpy only.

The coordinator's whole arithmetic is here: :class:`SumAccumulator` adds residues modulo q. It never expands a seed and
holds no key. Every byte comes from somebody else, so lengths and canonical form are checked before anything is used.
Formats (docs/architecture.md), with count ciphertexts of N residues in w little-endian bytes each:

    body  seeds: count x 64 bytes | residues: count x N x w bytes
    sum   residues: count x N x w bytes | for each hospital in sorted order: count x 64 bytes
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import CiphertextNotCanonical, CiphertextWrongLength, ProtocolError, ReplayedUpload
from secure_fedhelp.secagg.profiles import SEED_BYTES, Profile

Residues = NDArray[np.uint64]
Seeds = NDArray[np.uint8]
#: Anything flat with bytes in it; wrap a memory-mapped file in a memoryview.
Data = bytes | bytearray | memoryview

#: Residues unpacked at a time: 1 MiB, so that checking and adding stay in the cache and need no second copy of a body.
_BLOCK = 2**17


def add_modulo(total: Residues, other: Residues, modulus: int) -> None:
    """``total`` becomes total + other modulo ``modulus``, in place; both are already below it.

    No overflow: a modulus has at most 60 bits. The second line subtracts where that does not go below zero; below zero
    it wraps to a huge number, which is not the minimum.
    """
    np.add(total, other, out=total)
    np.minimum(total, total - np.uint64(modulus), out=total)


def pack_residues(profile: Profile, residues: Residues) -> bytes:
    """Residues of any shape, one after another, in ``profile.residue_bytes`` little-endian bytes each."""
    wide = np.ascontiguousarray(residues, dtype="<u8").reshape(-1, 1).view(np.uint8)
    return wide[:, : profile.residue_bytes].tobytes()


def unpack_residues(profile: Profile, data: Data) -> Residues:
    """The inverse of :func:`pack_residues`, flat and not yet checked; ``data`` holds whole residues."""
    width = profile.residue_bytes
    narrow = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
    wide = np.zeros((len(narrow), 8), dtype=np.uint8)
    wide[:, :width] = narrow
    return wide.reshape(-1).view("<u8").astype(np.uint64, copy=False)


def pack_body(profile: Profile, seeds: Seeds, residues: Residues) -> bytes:
    """The body of an upload from seeds [count, 64] and residues [count, N]."""
    return seeds.tobytes() + pack_residues(profile, residues)


def check_body(profile: Profile, length: int, body: Data) -> None:
    """Refuse a body that is not exactly one upload of ``length`` values, before anything else looks at it.

    Raises CiphertextWrongLength, or CiphertextNotCanonical if a residue is not below q: such a residue has a second
    name for the same value, so hash and signature would no longer fix what was summed.
    """
    _, packed = _split_body(profile, length, body)
    _check_canonical(profile, packed)


class SumAccumulator:
    """The sum of one round's bodies: add each once, then :meth:`finish`. Holds 8 bytes for each value."""

    def __init__(self, profile: Profile, length: int) -> None:
        self._profile = profile
        self._length = length
        self._total: Residues = np.zeros(profile.ciphertexts(length) * profile.ring_degree, dtype=np.uint64)
        self._seeds: dict[str, bytes] = {}

    def add(self, name: str, body: Data) -> None:
        """Add the body of hospital ``name``. Raises ReplayedUpload for a second one, or as :func:`check_body`.

        The body is checked whole before the first residue is added, so a refused one leaves the sum as it was.
        """
        if name in self._seeds:
            raise ReplayedUpload(f"{name} is already in the sum")
        check_body(self._profile, self._length, body)
        seeds, packed = _split_body(self._profile, self._length, body)
        for place, block in _blocks(self._profile, packed):
            add_modulo(self._total[place], block, self._profile.modulus)
        self._seeds[name] = bytes(seeds)

    def finish(self) -> bytes:
        """The published sum. Raises ProtocolError if nothing was added."""
        if not self._seeds:
            raise ProtocolError("no upload to sum")
        seeds = [self._seeds[name] for name in sorted(self._seeds)]
        return b"".join([pack_residues(self._profile, self._total), *seeds])


def split_sum(
    profile: Profile, length: int, cohort: tuple[str, ...], data: Data
) -> tuple[Residues, dict[str, tuple[bytes, ...]]]:
    """A published sum as residues [count, N] and, for each hospital of ``cohort``, its count seeds of 64 bytes.

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
    count = profile.ciphertexts(length)
    packed = view[: count * profile.ring_degree * profile.residue_bytes]
    _check_canonical(profile, packed)
    chunks = [bytes(view[at : at + SEED_BYTES]) for at in range(len(packed), len(view), SEED_BYTES)]
    seeds = {name: tuple(chunks[i * count : (i + 1) * count]) for i, name in enumerate(sorted(cohort))}
    return unpack_residues(profile, packed).reshape(count, profile.ring_degree), seeds


def _split_body(profile: Profile, length: int, body: Data) -> tuple[memoryview, memoryview]:
    view = memoryview(body).cast("B")
    expected = profile.body_bytes(length)
    if len(view) != expected:
        raise CiphertextWrongLength(
            f"the upload has {len(view)} bytes; {length} values in profile {profile.name!r} take {expected}"
        )
    seeds_end = profile.ciphertexts(length) * SEED_BYTES
    return view[:seeds_end], view[seeds_end:]


def _blocks(profile: Profile, packed: memoryview) -> Iterator[tuple[slice, Residues]]:
    """The residues piece by piece: where in the flat array, and the unpacked values."""
    width = profile.residue_bytes
    for start in range(0, len(packed) // width, _BLOCK):
        block = unpack_residues(profile, packed[start * width : (start + _BLOCK) * width])
        yield slice(start, start + len(block)), block


def _check_canonical(profile: Profile, packed: memoryview) -> None:
    for place, block in _blocks(profile, packed):
        if block.max() >= profile.modulus:
            at = place.start + int(np.argmax(block >= profile.modulus))
            ciphertext, coefficient = divmod(at, profile.ring_degree)
            raise CiphertextNotCanonical(f"ciphertext {ciphertext}, coefficient {coefficient} is not below the modulus")
