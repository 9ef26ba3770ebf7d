"""From a key to a mask: residues uniform modulo each prime, the same at both ends of a pair.

A mask is as long as an upload's c0 and is added to it modulo q. c0 = m + e - a s is linear in the plaintext m, so a
mask added to c0 is a mask in the plaintext, and NTT form does not matter: a uniform vector has a uniform transform.

AES-256 in counter mode gives 64-bit little-endian words. A residue is a word's lowest bits, as many as q has, if they
are below q; otherwise it is replaced, in order of place, by the next fitting word of the same key's second stream (the
counter's upper half). Rejection leaves no modulo bias at all, and the second stream keeps every other residue where it
is, so that no piece of a mask depends on how many were rejected before it. With SEAL's primes, which lie just below a
power of two, a replacement is rare.

A key makes one mask and no more: it is derived for one pair, one round and one attempt (roundkeys.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from secure_fedhelp.secagg.packing import Residues
from secure_fedhelp.secagg.profiles import Profile

KEY_BYTES: Final = 32
_WORD_BYTES: Final = 8
#: Words made at a time: 512 KiB stay in the cache, whatever the mask's length.
_BLOCK: Final = 2**16
#: First counter of the stream of replacements: 2^127 blocks after the first stream's.
_SECOND: Final = bytes([0x80]) + bytes(15)
#: Masks are added without reduction as long as their sum fits 64 bits; primes have at most 60 bits.
_LAZY: Final = 2**4


def add_masks(residues: Residues, profile: Profile, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add the masks of the keys ``plus`` to ``residues`` [count, primes, N], subtract those of ``minus``, in place.

    ``residues`` is below each prime, before and after. Each key has 32 bytes. ValueError for an array of another shape
    or one that is not C-contiguous: masks would go into a copy, and the upload would leave without them.
    """
    shape = len(profile.moduli), profile.ring_degree
    if not residues.flags.c_contiguous or residues.dtype != np.uint64 or residues.shape[1:] != shape:
        raise ValueError(f"masks need C-contiguous uint64 residues [count, {shape[0]}, {shape[1]}]")
    streams = [(_Stream(key), sign) for keys, sign in ((plus, 1), (minus, -1)) for key in keys]
    words = np.empty(_BLOCK, dtype=np.uint64)
    sums = np.empty((2, _BLOCK), dtype=np.uint64)
    for piece, modulus in _pieces(residues, profile):
        for start in range(0, len(piece), _BLOCK):
            block = piece[start : start + _BLOCK]
            _add_block(block, modulus, streams, words[: len(block)], sums[:, : len(block)])


def _add_block(
    block: Residues, modulus: int, streams: Sequence[tuple[_Stream, int]], words: Residues, sums: Residues
) -> None:
    sums[:] = 0
    waiting = 0
    for stream, sign in streams:
        stream.fill(words, modulus)
        sums[0 if sign > 0 else 1] += words
        waiting += 1
        if waiting == _LAZY - 1:
            sums %= np.uint64(modulus)
            waiting = 1
    sums %= np.uint64(modulus)
    block += sums[0]
    block += np.uint64(modulus) - sums[1]
    block %= np.uint64(modulus)


def _pieces(residues: Residues, profile: Profile) -> Iterator[tuple[Residues, int]]:
    """Flat runs of residues of one prime, in the order in which streams are consumed."""
    moduli = profile.moduli
    if len(moduli) == 1:
        yield residues.reshape(-1), moduli[0]
        return
    for ciphertext in residues.reshape(-1, len(moduli), profile.ring_degree):
        yield from zip(ciphertext, moduli, strict=True)


class _Stream:
    """One key's words, in order, without bias below the modulus asked for."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a mask's key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key
        self._first = _counter_mode(key, bytes(16))
        self._second: CipherContext | None = None

    def fill(self, words: Residues, modulus: int) -> None:
        """``words`` become this stream's next residues, uniform below ``modulus``."""
        low_bits = np.uint64((1 << modulus.bit_length()) - 1)
        _next_words(self._first, words)
        words &= low_bits
        if words.max() >= modulus:
            for place in np.flatnonzero(words >= modulus):
                words[place] = self._replacement(modulus, low_bits)

    def _replacement(self, modulus: int, low_bits: np.uint64) -> np.uint64:
        self._second = self._second or _counter_mode(self._key, _SECOND)
        word = np.empty(1, dtype=np.uint64)
        while True:
            _next_words(self._second, word)
            word &= low_bits
            if word[0] < modulus:
                return np.uint64(word[0])


def _counter_mode(key: bytes, first_counter: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(first_counter)).encryptor()


#: What is encrypted to get the key stream itself.
_ZEROS: Final = memoryview(bytes(_BLOCK * _WORD_BYTES))


def _next_words(stream: CipherContext, words: Residues) -> None:
    # A view of the same memory: the key stream is written straight into the words (little-endian machines only, as
    # SEAL itself requires).
    stream.update_into(_ZEROS[: words.nbytes], words.view(np.uint8).data)
