"""Sealing a secret to one hospital: HPKE (RFC 9180) with the hybrid KEM of ML-KEM-768 and X25519.

The coordinator relays sealed study keys and cannot open them. The hybrid stays closed as long as either half holds, so
a recording of today is safe from a quantum computer of tomorrow. HPKE's base mode does not say *who* sealed: the key
ceremony signs what it sends.
"""

from __future__ import annotations

from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey, Suite

from secure_fedhelp.errors import KeyCeremonyFailed
from secure_fedhelp.study.canonical import canonical_bytes

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_PUBLIC, _X25519_PUBLIC = 1184, 32
_MLKEM_PRIVATE, _X25519_PRIVATE = 64, 32


def key_context(study: str, epoch: int, maker: str, recipient: str) -> bytes:
    """What a sealed study key is bound to: the study's hash, the key epoch, who made it and who may open it."""
    purpose = "secure-fedhelp study key 1"
    return canonical_bytes({"epoch": epoch, "maker": maker, "purpose": purpose, "recipient": recipient, "study": study})


class SealingKey:
    """A hospital's own key pair for receiving secrets. Never printed, never pickled."""

    __slots__ = ("_mlkem", "_x25519")

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        """Use :meth:`generate` or :meth:`from_private_bytes`."""
        self._mlkem = mlkem
        self._x25519 = x25519

    @classmethod
    def generate(cls) -> SealingKey:
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, data: bytes) -> SealingKey:
        """From the vault; raises KeyCeremonyFailed if these are not the bytes of a sealing key."""
        if len(data) != _MLKEM_PRIVATE + _X25519_PRIVATE:
            raise KeyCeremonyFailed(
                f"a private sealing key has 96 bytes, not {len(data)}", "Check the hospital's vault."
            )
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(data[:_MLKEM_PRIVATE]),
            X25519PrivateKey.from_private_bytes(data[_MLKEM_PRIVATE:]),
        )

    def to_private_bytes(self) -> bytes:
        """96 secret bytes for the vault: the ML-KEM seed, then the X25519 key."""
        return self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()

    @property
    def public_hex(self) -> str:
        """The public key, 1216 bytes in hexadecimal: ML-KEM-768, then X25519."""
        return (self._mlkem.public_key().public_bytes_raw() + self._x25519.public_key().public_bytes_raw()).hex()

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The secret that was sealed to this key in this very context; KeyCeremonyFailed whatever else it is."""
        try:
            return _SUITE.decrypt(sealed, MLKEM768X25519PrivateKey(self._mlkem, self._x25519), info=context)
        except (InvalidTag, ValueError) as error:
            raise KeyCeremonyFailed("the sealed key was changed, or sealed to another key or context") from error

    def __repr__(self) -> str:
        return "SealingKey(secret)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealing key is not pickled: keep it in the vault")


def seal(public_hex: str, secret: bytes, context: bytes) -> bytes:
    """``secret`` sealed to a hospital's public key, bound to ``context``; KeyCeremonyFailed for a malformed key."""
    try:
        raw = bytes.fromhex(public_hex)
        if len(raw) != _MLKEM_PUBLIC + _X25519_PUBLIC:
            raise ValueError(f"{len(raw)} bytes")
        recipient = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC:]),
        )
        return _SUITE.encrypt(secret, recipient, info=context)
    except ValueError as error:
        raise KeyCeremonyFailed(f"a member's public sealing key is malformed: {error}") from error
