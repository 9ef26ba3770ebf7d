"""Encrypting one contribution and decrypting a cohort's sum, by SEAL's CKKS (Cheon, Kim, Kim, Song, ASIACRYPT 2017).

Encryption is symmetric, since every hospital holds the study key: half the noise sources, and c1 is uniform, so a
64-byte seed stands for it. N real values fill the N/2 complex slots of one ciphertext.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tenseal.sealapi as sealapi
from numpy.typing import NDArray

from secure_fedhelp.errors import CapacityExceeded, InvalidContribution
from secure_fedhelp.secagg.keys import StudyKey, seal_context
from secure_fedhelp.secagg.layout import MemoryFile, ciphertext_form
from secure_fedhelp.secagg.packing import Data, Residues, Seeds, pack_body, split_sum
from secure_fedhelp.secagg.profiles import SEED_BYTES, Profile

Vector = NDArray[np.float64]


class Cipher:
    """One hospital's use of the study key. For one thread of one process; SEAL holds the interpreter lock anyway."""

    def __init__(self, profile: Profile, key: StudyKey) -> None:
        if key.profile != profile:
            raise ValueError(f"a key of profile {key.profile.name!r} for a cipher of profile {profile.name!r}")
        self.profile = profile
        self._context = seal_context(profile)
        secret = key.secret_key()
        self._encryptor = sealapi.Encryptor(self._context, secret)
        self._decryptor = sealapi.Decryptor(self._context, secret)
        self._encoder = sealapi.CKKSEncoder(self._context)
        self._evaluator = sealapi.Evaluator(self._context)
        self._memory = MemoryFile()
        self._form = ciphertext_form(profile, self._context.first_parms_id(), seeded=True)

    def encrypt(self, values: Vector) -> bytes:
        """The body of an upload for ``values`` [L]; raises as :meth:`encrypt_residues`."""
        return pack_body(self.profile, *self.encrypt_residues(values))

    def encrypt_residues(self, values: Vector) -> tuple[Seeds, Residues]:
        """Seeds [count, 64] and c0 residues modulo q [count, N] of ``values`` [L], the last ciphertext zero-padded.

        Whatever is to be added modulo q to the plaintext, such as a mask, may be added to these residues instead:
        c0 = m + e - a s is linear in m. Raises InvalidContribution for NaN or infinity, CapacityExceeded for a value
        beyond ``profile.largest_sum``.
        """
        slots = self._slots(values)
        seeds = np.empty((len(slots), SEED_BYTES), dtype=np.uint8)
        residues = np.empty((len(slots), self.profile.ring_degree), dtype=np.uint64)
        plaintext, scale = sealapi.Plaintext(), 2.0**self.profile.scale_bits
        for i, row in enumerate(slots):
            self._encoder.encode(row.tolist(), scale, plaintext)
            record = self._form.read(self._memory.save(self._encryptor.encrypt_symmetric(plaintext)))
            seeds[i], residues[i] = record["seed"], record["residues"]
        return seeds, residues

    def decrypt_sum(self, data: Data, cohort: tuple[str, ...], length: int) -> Vector:
        """The cohort's sum [L], each value within ``profile.error_bound(len(cohort))``; raises as ``split_sum``.

        For key holders only. An exact decryption must not leave them: with a few of them the key follows by linear
        algebra (Li and Micciancio, EUROCRYPT 2021).
        """
        residues, seeds = split_sum(self.profile, length, cohort, data)
        first, *others = seeds.values()
        slots = np.empty((len(residues), self.profile.ring_degree // 2), dtype=np.complex128)
        total, part, plaintext = sealapi.Ciphertext(), sealapi.Ciphertext(), sealapi.Plaintext()
        for i, c0 in enumerate(residues):
            # Loading expands a seed to its c1. The summed c0 goes with the first seed, zeros with the others.
            self._load(total, c0, first[i])
            for other in others:
                self._load(part, 0, other[i])
                self._evaluator.add_inplace(total, part)
            self._decryptor.decrypt(total, plaintext)
            slots[i] = self._encoder.decode_complex(plaintext)
        return slots.view(np.float64).reshape(-1)[:length]

    def _load(self, ciphertext: Any, c0: Residues | int, seed: bytes) -> None:
        self._form.residues[:] = c0
        self._form.seed[:] = np.frombuffer(seed, dtype=np.uint8)
        self._memory.load(ciphertext, self._context, self._form)

    def _slots(self, values: Vector) -> NDArray[np.complex128]:
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
