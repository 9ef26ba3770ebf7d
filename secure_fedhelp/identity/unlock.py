"""The unlock secret of a folder (a passphrase or a key file), and the root key it opens.

    unlock secret --(HKDF or scrypt, salt of the folder)--> wrapping key
    wrapping key --(opens)--> root key --(HKDF)--> one key for each purpose

The root key is random and made once; ``unlock.json`` holds it wrapped (identity/lock.py). So opening a folder costs one
scrypt however many files it has, and another passphrase is another wrapping of the same root key.

In memory, secrets are kept in buffers that are overwritten when they are done with. That reaches only so far: Python
copies ``bytes`` and strings (a passphrase typed at a prompt is a string), the interpreter does not clear freed memory,
and OpenSSL keeps its own copy of a key while a cipher object lives. Swap and core dumps are the machine's to close.
"""

from __future__ import annotations

import secrets
import unicodedata
from typing import Final, Literal, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from secure_fedhelp.errors import InvalidConfiguration, WrongUnlockSecret

Kind = Literal["key-file", "passphrase"]

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
#: NIST SP 800-63B-4, 3.1.1.2: at least 15 characters where a password is the only factor, as it is for a copied disk.
SHORTEST_PASSPHRASE: Final = 15
#: scrypt (RFC 7914) with the first of the parameters in OWASP's Password Storage Cheat Sheet: N = 2^17, r = 8, p = 1,
#: so 128 MiB of memory a guess.
_SCRYPT_N: Final = 2**17
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1


class Secret:
    """What a person remembers or a key file holds. Never printed, never pickled."""

    __slots__ = ("_value", "kind")

    def __init__(self, kind: Kind, value: bytes) -> None:
        """Use :meth:`from_passphrase`, or :func:`secure_fedhelp.identity.key_file.read_key_file`."""
        self.kind: Kind = kind
        self._value = bytearray(value)

    @classmethod
    def from_passphrase(cls, text: str) -> Secret:
        """A passphrase, in one Unicode form (NFKC), so that another keyboard gives the same bytes."""
        try:
            return cls("passphrase", unicodedata.normalize("NFKC", text).encode())
        except UnicodeEncodeError as error:
            raise InvalidConfiguration("the passphrase is not text", "Use characters that UTF-8 can write.") from error

    def wrapping_key(self, salt: bytes) -> bytes:
        """32 bytes for wrapping a root key. ``salt`` is the folder's, so one secret opens many folders by many keys.

        A key file holds 32 random bytes and needs no slow function; a passphrase gets scrypt.
        """
        if not self._value:
            raise ValueError("this unlock secret was wiped")
        if self.kind == "key-file":
            return _hkdf(self._value, salt, b"secure-fedhelp/key-file/1")
        return Scrypt(salt=salt, length=KEY_BYTES, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(self._value)

    def wipe(self) -> None:
        """Overwrite this object's copy; it is useless from then on."""
        _overwrite(self._value)

    def __repr__(self) -> str:
        return f"Secret({self.kind})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an unlock secret is not pickled")


class Unlock:
    """A folder's root key, opened: whoever holds this object can open and seal the folder's files.

    Never printed, never pickled.
    """

    __slots__ = ("_root",)

    def __init__(self, root: bytes) -> None:
        """Use :func:`secure_fedhelp.identity.lock.open_lock`. ValueError unless ``root`` has 32 bytes."""
        if len(root) != KEY_BYTES:
            raise ValueError(f"a root key has {KEY_BYTES} bytes, not {len(root)}")
        self._root = bytearray(root)

    @classmethod
    def generate(cls) -> Unlock:
        """A new root key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def key(self, purpose: str) -> bytes:
        """The 32-byte key for one purpose (HKDF-SHA256, RFC 5869); ValueError once :meth:`wipe` was called."""
        return _hkdf(self._opened(), None, b"secure-fedhelp/unlock/1/" + purpose.encode())

    def wrapped(self, wrapping_key: bytes, context: bytes) -> bytes:
        """The root key as ``unlock.json`` keeps it: nonce, then AES-256-GCM with ``context`` as associated data."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(wrapping_key).encrypt(nonce, self._opened(), context)

    @classmethod
    def unwrapped(cls, wrapping_key: bytes, context: bytes, wrapped: bytes) -> Unlock:
        """The root key that :meth:`wrapped` closed; WrongUnlockSecret if it was under another key or changed since."""
        try:
            return cls(AESGCM(wrapping_key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context))
        except (InvalidTag, ValueError) as error:
            raise WrongUnlockSecret("this is not the secret that opens the folder") from error

    def wipe(self) -> None:
        """Overwrite this object's copy of the root key; nothing can be opened or sealed with it any more."""
        _overwrite(self._root)

    def _opened(self) -> bytearray:
        # A wiped key must never seal anything: its zeros would be everybody's key.
        if not self._root:
            raise ValueError("this root key was wiped")
        return self._root

    def __repr__(self) -> str:
        return "Unlock(secret)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a root key is not pickled")


def _hkdf(key: bytearray, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key)


def _overwrite(buffer: bytearray) -> None:
    buffer[:] = bytes(len(buffer))
    buffer.clear()
