"""Signatures with a context, so that a signature made for one purpose is worth nothing for another.

Every signed message of the project goes through here: upload headers, transcript entries, ledger lines, key
confirmations, refusals. There are two suites, and a study's plan names one:

``ed25519``             Ed25519 (RFC 8032). Key 32 bytes, signature 64. Signed: ``secure-fedhelp/v1/CONTEXT``, a zero
                        byte, the message.
``ed25519+ml-dsa-65``   Ed25519 and ML-DSA-65 (FIPS 204). Key 32 + 1952 bytes, signature 64 + 3309. Both sign
                        ``secure-fedhelp/v1/ed25519+ml-dsa-65/CONTEXT``, a zero byte, the message, and *both must hold*:
                        a forger needs to break elliptic curves and lattices.

The suite is part of what is signed, so half of a hybrid signature is no signature of the other suite. A verifier takes
the suite from the length of the public key, which it has from a card that was checked under the plan, and never from
the signature: nobody can strip a half. The context parameter of ML-DSA stays empty, because Ed25519 has none: the
purpose is in the message, for both halves in one place, where they cannot come to differ.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secure_fedhelp.errors import BadSignature, IdentityError
from secure_fedhelp.identity.sealed_files import read_key, write_key
from secure_fedhelp.identity.unlock import Unlock
from secure_fedhelp.study.sections import Signatures

ED25519: Final = "ed25519"
HYBRID: Final = "ed25519+ml-dsa-65"
#: A public key, and a signature, of either suite in lower-case hexadecimal.
PUBLIC_PATTERN: Final = r"^([0-9a-f]{64}|[0-9a-f]{3968})$"
SIGNATURE_PATTERN: Final = r"^([0-9a-f]{128}|[0-9a-f]{6746})$"

_DOMAIN: Final[dict[Signatures, bytes]] = {
    ED25519: b"secure-fedhelp/v1/",
    HYBRID: b"secure-fedhelp/v1/ed25519+ml-dsa-65/",  # no context has a plus: the two never meet
}
_PUBLIC_BYTES: Final[dict[Signatures, int]] = {ED25519: 32, HYBRID: 32 + 1952}
_SIGNATURE_BYTES: Final[dict[Signatures, int]] = {ED25519: 64, HYBRID: 64 + 3309}
_SEED_BYTES: Final = 32

_PRIME: Final = 2**255 - 19
_ORDER_EIGHT: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
#: The y coordinates of the curve's eight points of small order (1, 2, 4 and 8).
_SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _ORDER_EIGHT, _PRIME - _ORDER_EIGHT})


def domain_separated(context: str, message: bytes, suite: Signatures = ED25519) -> bytes:
    """The bytes that are really signed. ValueError for a context that is not plain lower-case text: it must not hold
    the zero byte that ends it, or two pairs of context and message could be one byte string."""
    if not re.fullmatch(r"[a-z0-9/-]+", context):
        raise ValueError(f"not a signature context: {context!r}")
    return _DOMAIN[suite] + context.encode() + b"\0" + message


class SigningKey:
    """A member's private signing keys, as one suite uses them. Never printed, never pickled.

    It holds both keys always, so that a hospital can take part in studies of either suite; :attr:`public_hex` and
    :meth:`sign` are those of :attr:`suite`. The privacy ledger is signed in ``ed25519``: it outlives a study.
    """

    def __init__(self, ed25519: Ed25519PrivateKey, ml_dsa: MLDSA65PrivateKey, suite: Signatures = ED25519) -> None:
        self._ed25519, self._ml_dsa, self.suite = ed25519, ml_dsa, suite

    @classmethod
    def generate(cls) -> SigningKey:
        """New keys from the operating system's random source."""
        return cls(Ed25519PrivateKey.generate(), MLDSA65PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, data: bytes) -> SigningKey:
        """From 64 secret bytes: the Ed25519 key, then the ML-DSA-65 seed; IdentityError for another length."""
        if len(data) != 2 * _SEED_BYTES:
            raise IdentityError(f"a private signing key has {2 * _SEED_BYTES} bytes, not {len(data)}")
        return cls(
            Ed25519PrivateKey.from_private_bytes(data[:_SEED_BYTES]),
            MLDSA65PrivateKey.from_seed_bytes(data[_SEED_BYTES:]),
        )

    @classmethod
    def from_clear_pem(cls, pem: bytes) -> SigningKey:
        """The Ed25519 key of an earlier version's PEM file, with a new ML-DSA-65 key; IdentityError."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise IdentityError("the signing key's file does not hold a readable private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise IdentityError("the signing key's file holds another kind of key than Ed25519")
        return cls(private, MLDSA65PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, unlock: Unlock) -> SigningKey:
        """Read keys written by :meth:`save`.

        Raises what :func:`secure_fedhelp.identity.sealed_files.read_key` raises, IdentityError for another content.
        """
        return cls.from_private_bytes(
            read_key(path, unlock, "Make it with 'secure-fedhelp hospital init' (or 'coordinator init').")
        )

    def save(self, path: Path, unlock: Unlock) -> None:
        """Write both keys, sealed, readable by their owner only; StorageError if that fails."""
        write_key(path, self.to_private_bytes(), unlock)

    def to_private_bytes(self) -> bytes:
        """64 secret bytes for a sealed file: the Ed25519 key, then the ML-DSA-65 seed."""
        return self._ed25519.private_bytes_raw() + self._ml_dsa.private_bytes_raw()

    def derive(self, purpose: str) -> bytes:
        """32 secret bytes that follow from the Ed25519 key, for one purpose (HKDF, RFC 5869): for what must be the same
        in every folder that holds this key. They tell nothing of the key, nor of other purposes' bytes."""
        info = b"secure-fedhelp/v1/derived\0" + purpose.encode()
        return HKDF(SHA256(), 32, salt=None, info=info).derive(self._ed25519.private_bytes_raw())

    def of(self, suite: Signatures) -> SigningKey:
        """The same keys, signing in ``suite``."""
        return SigningKey(self._ed25519, self._ml_dsa, suite)

    @property
    def public_hex(self) -> str:
        """The suite's public key in lower-case hexadecimal: Ed25519's 32 bytes, and in the hybrid ML-DSA's 1952."""
        public = self._ed25519.public_key().public_bytes_raw()
        if self.suite == HYBRID:
            public += self._ml_dsa.public_key().public_bytes_raw()
        return public.hex()

    def sign(self, context: str, message: bytes) -> bytes:
        """The suite's signature of ``message`` for one purpose; ValueError for a malformed context."""
        signed = domain_separated(context, message, self.suite)
        signature = self._ed25519.sign(signed)
        return signature + self._ml_dsa.sign(signed) if self.suite == HYBRID else signature

    def __repr__(self) -> str:
        return f"SigningKey({self.suite}, public={self.public_hex[:64]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is not pickled: it is kept in its sealed file")


def suite_of(public_hex: str) -> Signatures:
    """The suite that a public key is of, by its length; BadSignature if it is of none."""
    for suite, size in _PUBLIC_BYTES.items():
        if len(public_hex) == 2 * size:
            return suite
    raise BadSignature(f"a public signing key of {len(public_hex)} hexadecimal digits is of no known suite")


def ledger_key(public_hex: str) -> str:
    """The Ed25519 key, which signs the privacy ledger, of a public key of either suite."""
    return public_hex[: 2 * _PUBLIC_BYTES[ED25519]]


def verify(public_hex: str, context: str, message: bytes, signature: bytes) -> None:
    """Return if ``signature`` is that of ``message`` for ``context`` by ``public_hex``; raise BadSignature otherwise.

    In the hybrid suite both halves must hold. Whatever is wrong (key, signature, context, or their form) it is
    BadSignature and never another exception.
    Ed25519 keys of small order and those with a second spelling are refused as well: under such a key one signature
    holds for many messages, and then a transcript proves nothing (Chalkias, Garillot, Nikolaenko, "Taming the many
    EdDSAs", SSR 2020; libsodium refuses them for the same reason, OpenSSL does not).
    """
    suite = suite_of(public_hex)
    try:
        if len(signature) != _SIGNATURE_BYTES[suite]:
            raise ValueError(f"a signature of {len(signature)} bytes")
        signed, half = domain_separated(context, message, suite), _SIGNATURE_BYTES[ED25519]
        Ed25519PublicKey.from_public_bytes(_strict_public_key(ledger_key(public_hex))).verify(signature[:half], signed)
        if suite == HYBRID:
            lattice = MLDSA65PublicKey.from_public_bytes(_from_hex(public_hex)[_PUBLIC_BYTES[ED25519] :])
            lattice.verify(signature[half:], signed)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadSignature(f"the signature of this {context} message does not hold") from error


def _strict_public_key(public_hex: str) -> bytes:
    """32 bytes from lower-case hexadecimal; ValueError for a non-canonical encoding or a point of small order."""
    key = _from_hex(public_hex)
    y = int.from_bytes(key, "little") & (2**255 - 1)  # the top bit is the sign of x
    if y >= _PRIME or y in _SMALL_ORDER:
        raise ValueError("a public key of small order or in a non-canonical form")
    return key


def _from_hex(text: str) -> bytes:
    if not re.fullmatch(r"([0-9a-f]{2})+", text):
        raise ValueError("not lower-case hexadecimal")
    return bytes.fromhex(text)
