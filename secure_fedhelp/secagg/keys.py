"""The study key: the secrets that all hospitals of a study share for one key epoch, and the coordinator never has.

They are two: the CKKS secret, and the key of the flooding noise. All key holders derive the same noise for one
decrypted sum, so that releases of it by several hospitals are one value and cannot be averaged; and that noise follows
from a key of its own, so that it tells nothing of the CKKS secret, which it hides.

One hospital makes the key, seals it to each other (``sealing``), and all compare fingerprints before they use it.
"""

from __future__ import annotations

import hashlib
import math
import os
from functools import cache
from typing import Any, NoReturn

import numpy as np
import tenseal.sealapi as sealapi
from numpy.typing import NDArray

from secure_fedhelp.errors import KeyCeremonyFailed, ProtocolError, VersionMismatch
from secure_fedhelp.secagg.layout import MemoryFile, SavedForm, ciphertext_form, plaintext_form
from secure_fedhelp.secagg.packing import Residues, pack_residues, unpack_residues
from secure_fedhelp.secagg.profiles import FLOODING_KEY_BYTES, Profile
from secure_fedhelp.study.canonical import canonical_bytes


@cache
def seal_context(profile: Profile) -> Any:
    """SEAL's context for a profile; SEAL itself checks the parameters against the standard's table."""
    bits = [prime.bit_length() for prime in profile.key_moduli]
    primes = sealapi.CoeffModulus.Create(profile.ring_degree, bits)
    level = {128: sealapi.SEC_LEVEL_TYPE.TC128, 256: sealapi.SEC_LEVEL_TYPE.TC256}[profile.security_bits]
    context = _context(profile.ring_degree, primes, level)
    found = tuple(prime.value() for prime in primes)
    if not context.parameters_set() or found != profile.key_moduli:
        raise VersionMismatch(f"this SEAL library refuses profile {profile.name!r}: moduli {found}")
    return context


def _context(degree: int, primes: list[Any], level: Any) -> Any:
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus(primes)
    return sealapi.SEALContext(parameters, True, level)


class StudyKey:
    """A dense ternary secret polynomial, kept as packed residues in NTT form, and 32 bytes for the flooding noise.

    Never printed, never pickled.
    """

    __slots__ = ("_data", "profile")

    def __init__(self, profile: Profile, data: bytes) -> None:
        """Use :meth:`generate` or :meth:`from_bytes`."""
        self.profile = profile
        self._data = bytearray(data)

    @classmethod
    def generate(cls, profile: Profile) -> StudyKey:
        """Fresh secrets: SEAL's generator seeds itself from the operating system, the other 32 bytes come from it."""
        context = seal_context(profile)
        saved = MemoryFile().save(sealapi.KeyGenerator(context).secret_key())
        residues = pack_residues(profile, _secret_form(profile).read(saved))
        return cls(profile, residues + os.urandom(FLOODING_KEY_BYTES))

    @classmethod
    def from_bytes(cls, profile: Profile, data: bytes) -> StudyKey:
        """The key that :meth:`to_bytes` gave; ProtocolError for anything else.

        Whoever made the key knows it anyway, so this is no defence against the maker. It stops an accident, a key of
        another profile or a weak one (zero, sparse), under which uploads would lie open to everybody.
        """
        if len(data) != profile.key_bytes:
            raise ProtocolError(f"a study key of {len(data)} bytes does not belong to profile {profile.name!r}")
        residues = _secret_residues(profile, data)
        if (residues >= np.array(profile.key_moduli, dtype=np.uint64)[:, np.newaxis]).any():
            raise ProtocolError("a residue of the study key is not below the modulus")
        signs = [_signs(profile.ring_degree, q, row) for q, row in zip(profile.key_moduli, residues, strict=True)]
        counts = [int((signs[0] == value).sum()) for value in (-1, 0, 1)]
        # Each of 0, 1 and -1 comes up N/3 times, give or take sqrt(2N/9); ten times that never happens by chance.
        allowed = 10 * math.sqrt(profile.ring_degree * 2 / 9)
        dense = max(abs(count - profile.ring_degree / 3) for count in counts) <= allowed
        if not dense or sum(counts) != profile.ring_degree or any((other != signs[0]).any() for other in signs):
            raise ProtocolError("the study key is not a dense ternary polynomial")
        if not any(data[-FLOODING_KEY_BYTES:]):
            raise ProtocolError("the flooding key is zero")
        return cls(profile, data)

    def to_bytes(self) -> bytes:
        """The secrets themselves, to be sealed or put into the vault, and nowhere else."""
        if not self._data:
            raise KeyCeremonyFailed("this study key was wiped", "Its epoch is over; take the current epoch's key.")
        return bytes(self._data)

    @property
    def flooding_key(self) -> bytes:
        """The 32 secret bytes from which all key holders derive the same flooding noise."""
        return self.to_bytes()[-FLOODING_KEY_BYTES:]

    def fingerprint(self, study: str, epoch: int) -> str:
        """SHA-256, in hexadecimal, of both secrets bound to the study's hash and the epoch. Public.

        The secrets are made from 512 and 256 random bits, so the hash cannot be searched; being collision resistant, it
        also stops a maker from giving two hospitals different keys under one fingerprint.
        """
        context = canonical_bytes({"epoch": epoch, "profile": self.profile.name, "study": study})
        return hashlib.sha256(b"secure-fedhelp study key fingerprint 2\n" + context + self.to_bytes()).hexdigest()

    def secret_key(self) -> Any:
        """As a SEAL SecretKey, whose own memory SEAL clears when it is destroyed."""
        form = _secret_form(self.profile)
        form.residues[:] = _secret_residues(self.profile, self.to_bytes())
        secret = sealapi.SecretKey()
        MemoryFile().load(secret, seal_context(self.profile), form)
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


def _secret_form(profile: Profile) -> SavedForm:
    return plaintext_form(len(profile.key_moduli), profile.ring_degree, seal_context(profile).key_parms_id(), 1.0)


def _secret_residues(profile: Profile, data: bytes) -> Residues:
    return unpack_residues(profile, data[:-FLOODING_KEY_BYTES]).reshape(len(profile.key_moduli), profile.ring_degree)


def _signs(degree: int, prime: int, residues: Residues) -> NDArray[np.int8]:
    """The polynomial's coefficients as -1, 0 or 1 (2 for anything else) from its NTT form modulo one prime.

    By SEAL's own inverse transform of a ciphertext: (the polynomial, 1), since it refuses one whose c1 is zero.
    """
    context = _context(degree, [sealapi.Modulus(prime)], sealapi.SEC_LEVEL_TYPE.NONE)
    memory, ciphertext = MemoryFile(), sealapi.Ciphertext()
    form = ciphertext_form(1, degree, context.first_parms_id(), 1.0)
    form.residues[0], form.residues[1] = residues, 1
    memory.load(ciphertext, context, form)
    sealapi.Evaluator(context).transform_from_ntt_inplace(ciphertext)
    plain = ciphertext_form(1, degree, context.first_parms_id(), 1.0, ntt=False).read(memory.save(ciphertext))[0, 0]
    return np.select([plain == prime - 1, plain == 0, plain == 1], [-1, 0, 1], 2).astype(np.int8)
