"""The study key: the CKKS secret that all hospitals of a study share for one key epoch, and the coordinator never has.

One hospital makes it, seals it to each other (``sealing``), and all compare fingerprints before they use it.
"""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import Any, NoReturn

import numpy as np
import tenseal.sealapi as sealapi

from secure_fedhelp.errors import KeyCeremonyFailed, ProtocolError, VersionMismatch
from secure_fedhelp.secagg.layout import MemoryFile, ciphertext_form, plaintext_form
from secure_fedhelp.secagg.packing import Residues, pack_residues, unpack_residues
from secure_fedhelp.secagg.profiles import Profile
from secure_fedhelp.study.canonical import canonical_bytes


@cache
def seal_context(profile: Profile) -> Any:
    """SEAL's context for a profile; SEAL itself checks the parameters against the standard's table."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(profile.ring_degree)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(profile.ring_degree, [profile.modulus_bits]))
    level = {128: sealapi.SEC_LEVEL_TYPE.TC128, 256: sealapi.SEC_LEVEL_TYPE.TC256}[profile.security_bits]
    context = sealapi.SEALContext(parameters, True, level)
    primes = [prime.value() for prime in parameters.coeff_modulus()]
    if not context.parameters_set() or primes != [profile.modulus]:
        raise VersionMismatch(f"this SEAL library refuses profile {profile.name!r}: modulus {primes}")
    return context


class StudyKey:
    """A dense ternary secret polynomial, kept as packed residues in NTT form. Never printed, never pickled."""

    __slots__ = ("_data", "profile")

    def __init__(self, profile: Profile, data: bytes) -> None:
        """Use :meth:`generate` or :meth:`from_bytes`."""
        self.profile = profile
        self._data = bytearray(data)

    @classmethod
    def generate(cls, profile: Profile) -> StudyKey:
        """A fresh key from SEAL's generator, which seeds itself from the operating system."""
        context = seal_context(profile)
        saved = MemoryFile().save(sealapi.KeyGenerator(context).secret_key())
        record = plaintext_form(profile, context.key_parms_id(), 1.0).read(saved)
        return cls(profile, pack_residues(profile, record["residues"]))

    @classmethod
    def from_bytes(cls, profile: Profile, data: bytes) -> StudyKey:
        """The key that :meth:`to_bytes` gave; ProtocolError for anything else.

        Whoever made the key knows it anyway, so this is no defence against the maker. It stops an accident, a key of
        another profile or a weak one (zero, sparse), under which uploads would lie open to everybody.
        """
        if len(data) != profile.ring_degree * profile.residue_bytes:
            raise ProtocolError(f"a study key of {len(data)} bytes does not belong to profile {profile.name!r}")
        residues = unpack_residues(profile, data)
        if (residues >= profile.modulus).any():
            raise ProtocolError("a residue of the study key is not below the modulus")
        coefficients = _coefficients(profile, residues)
        counts = [int((coefficients == value).sum()) for value in (0, 1, profile.modulus - 1)]
        # Each of 0, 1 and -1 comes up N/3 times, give or take sqrt(2N/9); ten times that never happens by chance.
        allowed = 10 * math.sqrt(profile.ring_degree * 2 / 9)
        if sum(counts) != profile.ring_degree or max(abs(c - profile.ring_degree / 3) for c in counts) > allowed:
            raise ProtocolError("the study key is not a dense ternary polynomial")
        return cls(profile, data)

    def to_bytes(self) -> bytes:
        """The secret itself, to be sealed or put into the vault, and nowhere else."""
        if not self._data:
            raise KeyCeremonyFailed("this study key was wiped", "Its epoch is over; take the current epoch's key.")
        return bytes(self._data)

    def fingerprint(self, study: str, epoch: int) -> str:
        """SHA-256, in hexadecimal, of the key bound to the study's hash and the epoch. Public.

        The key is made from a 512-bit seed, so the hash cannot be searched; being collision resistant, it also stops a
        maker from giving two hospitals different keys under one fingerprint.
        """
        context = canonical_bytes({"epoch": epoch, "profile": self.profile.name, "study": study})
        return hashlib.sha256(b"secure-fedhelp study key fingerprint 1\n" + context + self.to_bytes()).hexdigest()

    def secret_key(self) -> Any:
        """As a SEAL SecretKey, whose own memory SEAL clears when it is destroyed."""
        context = seal_context(self.profile)
        form = plaintext_form(self.profile, context.key_parms_id(), 1.0)
        form.residues[:] = unpack_residues(self.profile, self.to_bytes())
        secret = sealapi.SecretKey()
        MemoryFile().load(secret, context, form)
        form.residues[:] = 0
        return secret

    def wipe(self) -> None:
        """Overwrite this object's copy; it is useless from then on. Copies that Python made on the way may live on."""
        self._data[:] = bytes(len(self._data))
        self._data.clear()

    def __repr__(self) -> str:
        return f"StudyKey({self.profile.name!r}, secret)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a study key is not pickled: seal it")


def _coefficients(profile: Profile, residues: Residues) -> Residues:
    """The polynomial's coefficients modulo q from its NTT form, by SEAL's own inverse transform of a ciphertext."""
    context = seal_context(profile)
    memory, ciphertext = MemoryFile(), sealapi.Ciphertext()
    form = ciphertext_form(profile, context.first_parms_id(), seeded=True)
    form.residues[:] = residues
    memory.load(ciphertext, context, form)
    sealapi.Evaluator(context).transform_from_ntt_inplace(ciphertext)
    record = ciphertext_form(profile, context.first_parms_id(), seeded=False, ntt=False).read(memory.save(ciphertext))
    return np.array(record["residues"][: profile.ring_degree], dtype=np.uint64)
