"""Ed25519 signatures (RFC 8032) with a context, so that a signature made for one purpose is worth nothing for another.

Every signed message of the project goes through here: upload headers, transcript entries, ledger lines, key
confirmations, refusals. What is signed is ``secure-fedhelp/v1/CONTEXT``, a zero byte, and the message.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secure_fedhelp.errors import BadSignature, IdentityError
from secure_fedhelp.identity.private_files import read_private
from secure_fedhelp.study.files import write_atomic

_PRIME: Final = 2**255 - 19
_ORDER_EIGHT: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
#: The y coordinates of the curve's eight points of small order (1, 2, 4 and 8).
_SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _ORDER_EIGHT, _PRIME - _ORDER_EIGHT})


def domain_separated(context: str, message: bytes) -> bytes:
    """The bytes that are really signed. ValueError for a context that is not plain lower-case text: it must not hold
    the zero byte that ends it, or two pairs of context and message could be one byte string."""
    if not re.fullmatch(r"[a-z0-9/-]+", context):
        raise ValueError(f"not a signature context: {context!r}")
    return b"secure-fedhelp/v1/" + context.encode() + b"\0" + message


class SigningKey:
    """A member's Ed25519 private key. It never prints itself and leaves memory only by :meth:`save`."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key written by :meth:`save`.

        Raises UnsafePermissions if others can read the file, InvalidConfiguration if it is missing, IdentityError if
        it does not hold an Ed25519 key.
        """
        pem = read_private(path, "Make it with 'secure-fedhelp hospital init' (or 'coordinator init').")
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise IdentityError(f"{path} does not hold a readable private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise IdentityError(f"{path} holds another kind of key than Ed25519")
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM, readable by its owner only; StorageError if that fails."""
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomic(path, pem, 0o600)

    @property
    def public_hex(self) -> str:
        """The public key: 32 bytes as 64 lower-case hexadecimal digits."""
        return self._private.public_key().public_bytes_raw().hex()

    def sign(self, context: str, message: bytes) -> bytes:
        """The 64-byte signature of ``message`` for one purpose; ValueError for a malformed context."""
        return self._private.sign(domain_separated(context, message))

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public_hex})"


def verify(public_hex: str, context: str, message: bytes, signature: bytes) -> None:
    """Return if ``signature`` is that of ``message`` for ``context`` by ``public_hex``; raise BadSignature otherwise.

    Whatever is wrong (key, signature, context, or their form) it is BadSignature and never another exception.
    Public keys of small order and those with a second spelling are refused as well: under such a key one signature
    holds for many messages, and then a transcript proves nothing (Chalkias, Garillot, Nikolaenko, "Taming the many
    EdDSAs", SSR 2020; libsodium refuses them for the same reason, OpenSSL does not).
    """
    try:
        key = _strict_public_key(public_hex)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, domain_separated(context, message))
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadSignature(f"the signature of this {context} message does not hold") from error


def _strict_public_key(public_hex: str) -> bytes:
    """32 bytes from lower-case hexadecimal; ValueError for a non-canonical encoding or a point of small order."""
    if not re.fullmatch(r"[0-9a-f]{64}", public_hex):
        raise ValueError("not 64 lower-case hexadecimal digits")
    key = bytes.fromhex(public_hex)
    y = int.from_bytes(key, "little") & (2**255 - 1)  # the top bit is the sign of x
    if y >= _PRIME or y in _SMALL_ORDER:
        raise ValueError("a public key of small order or in a non-canonical form")
    return key
