"""Encrypting one contribution and decrypting a cohort's sum, by SEAL's CKKS (Cheon, Kim, Kim, Song, ASIACRYPT 2017).

Encryption is symmetric, since every hospital holds the study key: half the noise sources, and c1 is uniform, so a seed
stands for it. N real values fill the N/2 complex slots of one ciphertext.

SEAL has seeded ciphertexts too, but takes five times as long to expand a seed as to decrypt, and a sum has one seed of
every hospital. So c1 comes from our own expansion. SEAL encrypts with a c1 of its own, c0 = m + e - c1 s, and the
product with the secret is moved to ours: what "decrypts" from (c0, c1 - a) is m + e - a s. The result is an encryption
as before: the same noise e, and a uniform a that is independent of it; SEAL's c1 is forgotten.
"""

from __future__ import annotations

import os

import numpy as np
import tenseal.sealapi as sealapi
from numpy.typing import NDArray

from secure_fedhelp.errors import CapacityExceeded, InvalidContribution
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.keys import StudyKey, seal_context
from secure_fedhelp.secagg.layout import MemoryFile, ciphertext_form, plaintext_form
from secure_fedhelp.secagg.packing import Data, Residues, pack_body, split_sum
from secure_fedhelp.secagg.profiles import SEED_BYTES, Profile

Vector = NDArray[np.float64]
Slots = NDArray[np.complex128]


class Cipher:
    """One hospital's use of the study key. For one thread of one process; SEAL holds the interpreter lock anyway."""

    def __init__(self, profile: Profile, key: StudyKey) -> None:
        if key.profile != profile:
            raise ValueError(f"a key of profile {key.profile.name!r} for a cipher of profile {profile.name!r}")
        self.profile = profile
        self._key = key
        self._context = seal_context(profile)
        secret = key.secret_key()
        self._encryptor = sealapi.Encryptor(self._context, secret)
        self._decryptor = sealapi.Decryptor(self._context, secret)
        self._encoder = sealapi.CKKSEncoder(self._context)
        self._evaluator = sealapi.Evaluator(self._context)
        self._memory = MemoryFile()
        form = len(profile.moduli), profile.ring_degree, self._context.first_parms_id(), 2.0**profile.scale_bits
        self._ciphertext, self._plaintext = ciphertext_form(*form), plaintext_form(*form)

    def forget(self) -> None:
        """Overwrite the study key: its epoch is over. SEAL clears its own copy with this object."""
        self._key.wipe()

    def encrypt(self, values: Vector) -> bytes:
        """The body of an upload for ``values`` [L]; raises as :meth:`encrypt_residues`."""
        return pack_body(self.profile, *self.encrypt_residues(values))

    def encrypt_residues(self, values: Vector) -> tuple[bytes, Residues]:
        """A seed and the c0 residues [count, primes, N] of ``values`` [L], the last ciphertext zero-padded.

        Whatever is to be added modulo q to the plaintext, such as a mask, may be added to these residues instead:
        c0 = m + e - a s is linear in m. Raises InvalidContribution for NaN or infinity, CapacityExceeded for a value
        beyond ``profile.largest_sum``.
        """
        slots = self._slots(values)
        # The same seed twice under one key would show the difference of two contributions: 256 fresh bits each time.
        seed = os.urandom(SEED_BYTES)
        return seed, self.encrypt_slots(slots, seed)

    def decrypt_sum(self, data: Data, cohort: tuple[str, ...], length: int) -> Vector:
        """The cohort's sum [L], each value within ``profile.error_bound(len(cohort))``; raises as ``split_sum``.

        For key holders only. An exact decryption must not leave them: with a few of them the key follows by linear
        algebra (Li and Micciancio, EUROCRYPT 2021).
        """
        residues, seeds = split_sum(self.profile, length, cohort, data)
        return self.decrypt_slots(residues, tuple(seeds.values())).view(np.float64).reshape(-1)[:length]

    def encrypt_slots(self, slots: Slots, seed: bytes, first: int = 0) -> Residues:
        """The c0 residues [k, primes, N] of slots [k, N/2]: an upload's ciphertexts from number ``first`` on."""
        residues = np.zeros((len(slots), len(self.profile.moduli), self.profile.ring_degree), dtype=np.uint64)
        add_expanded(residues, self.profile, (), (seed,), first)
        plaintext, ciphertext, minus_ours = sealapi.Plaintext(), sealapi.Ciphertext(), sealapi.Ciphertext()
        scale, (c0, c1) = 2.0**self.profile.scale_bits, self._ciphertext.residues
        c0[:] = 0
        for i, row in enumerate(slots):
            self._encoder.encode(row.tolist(), scale, plaintext)
            self._encryptor.encrypt_symmetric(plaintext, ciphertext)
            c1[:] = residues[i]
            self._memory.load(minus_ours, self._context, self._ciphertext)
            self._evaluator.add_inplace(ciphertext, minus_ours)
            self._decryptor.decrypt(ciphertext, plaintext)
            residues[i] = self._plaintext.read(self._memory.save(plaintext))
        return residues

    def decrypt_slots(self, residues: Residues, seeds: tuple[bytes, ...], first: int = 0) -> Slots:
        """The slots [k, N/2] of a sum's ciphertexts from number ``first`` on: c0 [k, primes, N] and all seeds."""
        expanded = np.zeros_like(residues)
        add_expanded(expanded, self.profile, seeds, (), first)
        slots = np.empty((len(residues), self.profile.ring_degree // 2), dtype=np.complex128)
        ciphertext, plaintext, (c0, c1) = sealapi.Ciphertext(), sealapi.Plaintext(), self._ciphertext.residues
        for i in range(len(residues)):
            c0[:], c1[:] = residues[i], expanded[i]
            self._memory.load(ciphertext, self._context, self._ciphertext)
            self._decryptor.decrypt(ciphertext, plaintext)
            slots[i] = self._encoder.decode_complex(plaintext)
        return slots

    def _slots(self, values: Vector) -> Slots:
        """Values [L] checked, padded with zeros and paired: complex slots [count, N/2]."""
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 1 or not values.size:
            raise InvalidContribution(f"a contribution is one vector of values, not shape {values.shape}")
        if not np.isfinite(values).all():
            raise InvalidContribution("NaN or infinity in the contribution")
        largest = float(np.abs(values).max())
        if largest > self.profile.largest_sum:
            limit = self.profile.largest_sum
            raise CapacityExceeded(f"a value of {largest:g} in profile {self.profile.name!r}, which holds {limit:g}")
        padded = np.zeros((self.profile.ciphertexts(values.size), self.profile.ring_degree))
        padded.reshape(-1)[: values.size] = values
        return padded.view(np.complex128)
