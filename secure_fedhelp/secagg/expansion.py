"""From a 32-byte key to residues that are uniform modulo each prime: masks, and the public half of a ciphertext.

* A *mask* is as long as an upload's c0 and is added to it modulo q. c0 = m + e - a s is linear in the plaintext m, so
  a mask added to c0 is a mask in the plaintext, and NTT form does not matter: a uniform vector has a uniform transform.
  Its key is derived for one pair or one hospital, one round and one attempt (masked/roundkeys.py).
* The *c1* of a symmetric ciphertext is uniform and public, so a seed stands for it, as one does for the public
  matrices of Kyber and FrodoKEM. As in Kyber's variant 90s (specification 3.02, 2021) the generator is AES-256 in
  counter mode with the public seed as its key: processors have instructions for it, and a sum has a seed of every
  hospital.

Ciphertexts, primes and coefficients are counted through, and the i-th residue is made from the i-th 64-bit
little-endian word of the key stream of AES-256 in counter mode from zero: its lowest bits, as many as q has, if they
are below q. If they are not, the word at the same place of the next stream is taken, whose counter starts 2^64 blocks
further, and so on. So there is no bias, and any piece can be made without what comes before it. SEAL's primes lie just
below a power of two: a second word is needed once in 65,000 residues of 27 bits, and once in 10^11 of 54.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from secure_fedhelp.secagg.packing import Residues, add_modulo
from secure_fedhelp.secagg.profiles import Profile

KEY_BYTES: Final = 32
_WORD_BYTES: Final = 8
_WORDS_A_BLOCK: Final = 2
#: Words made at a time, 256 KiB: they stay in the cache while they are added.
_PIECE: Final = 2**15


def add_expanded(
    residues: Residues, profile: Profile, plus: Sequence[bytes], minus: Sequence[bytes] = (), first: int = 0
) -> None:
    """Add what the keys ``plus`` expand to, subtract what the keys ``minus`` do, modulo each prime and in place.

    ``residues`` [k, primes, N] is below the primes, before and after; it is the part of an upload that begins with
    ciphertext number ``first``, so that parts may be made apart. ValueError for an array of another shape or one that
    is not C-contiguous: masks would go into a copy, and the upload would leave without them.
    """
    shape = len(profile.moduli), profile.ring_degree
    if not residues.flags.c_contiguous or residues.dtype != np.uint64 or residues.shape[1:] != shape:
        raise ValueError(f"C-contiguous uint64 residues [count, {shape[0]}, {shape[1]}] are needed")
    moduli = profile.moduli_column()
    size = len(profile.moduli) * profile.ring_degree
    step = max(1, _PIECE // size)
    streams = [(_Stream(key, moduli, first * size), sign) for keys, sign in ((plus, 1), (minus, -1)) for key in keys]
    zeros = bytes(step * size * _WORD_BYTES)
    words = np.empty((step, *residues.shape[1:]), dtype=np.uint64)
    for start in range(0, len(residues), step):
        piece = residues[start : start + step]
        for stream, sign in streams:
            found = words[: len(piece)]
            stream.fill(found, zeros)
            add_modulo(piece, found if sign > 0 else moduli - found, moduli)


class _Stream:
    """One key's residues from place ``start`` (counted in residues) on."""

    def __init__(self, key: bytes, moduli: Residues, start: int) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key to expand has {KEY_BYTES} bytes, not {len(key)}")
        self._key, self._moduli, self._place = key, moduli, start
        self._low_bits = np.array([[(1 << int(q).bit_length()) - 1] for q in moduli[:, 0]], dtype=np.uint64)
        # Two words make a block of AES, and a ring degree is even: a piece begins with a whole block.
        self._words = _key_stream(key, start // _WORDS_A_BLOCK)

    def fill(self, residues: Residues, zeros: bytes) -> None:
        """``residues`` [k, primes, N] become the next k ciphertexts'; ``zeros`` are at least as many bytes."""
        self._words.update_into(memoryview(zeros)[: residues.nbytes], residues.reshape(-1).view(np.uint8).data)
        np.bitwise_and(residues, self._low_bits, out=residues)
        if (residues >= self._moduli).any():
            for at in zip(*np.nonzero(residues >= self._moduli), strict=True):
                residues[at] = self._again(int(np.ravel_multi_index(at, residues.shape)), int(at[1]))
        self._place += residues.size

    def _again(self, offset: int, prime: int) -> int:
        """The residue at a place whose first word was too large."""
        block, half = divmod(self._place + offset, _WORDS_A_BLOCK)
        attempt = 0
        while True:
            attempt += 1
            pair = _key_stream(self._key, (attempt << 64) + block).update(bytes(_WORDS_A_BLOCK * _WORD_BYTES))
            word = int.from_bytes(pair[half * _WORD_BYTES : (half + 1) * _WORD_BYTES], "little")
            residue = word & int(self._low_bits[prime, 0])
            if residue < int(self._moduli[prime, 0]):
                return residue


def _key_stream(key: bytes, block: int) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(16, "big"))).encryptor()
