"""Files that hold a secret, sealed under a folder's root key: AES-256-GCM (NIST SP 800-38D).

    magic and format (8 bytes)   nonce (12 bytes, random)   ciphertext and tag (16 bytes more than the content)

The purpose and the file's own name are associated data, so a file moved to another file's place does not open. What
this cannot show is an *older* version of the same file put back: for that there are the ledger and the transcript,
which others have witnessed. A key seals far fewer files than the 2^32 that random nonces allow.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secure_fedhelp.errors import StorageError, UnsealedSecret
from secure_fedhelp.identity.private_files import read_private, require_own_folder
from secure_fedhelp.identity.unlock import NONCE_BYTES, Unlock
from secure_fedhelp.study.files import write_atomic

#: Purposes: each has a key of its own.
PRIVATE_KEYS: Final = "private-keys"
VAULT: Final = "vault"

_MAGIC: Final = b"SFHSEAL\x01"
_START: Final = len(_MAGIC) + NONCE_BYTES
_OWNER_ONLY: Final = 0o600
_HINT: Final = "Restore the file from a backup of this very folder."


def seal(data: bytes, name: str, unlock: Unlock, purpose: str) -> bytes:
    """``data`` as the content of the sealed file ``name``."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return _MAGIC + nonce + AESGCM(unlock.key(purpose)).encrypt(nonce, data, _bound_to(name, purpose))


def unseal(sealed: bytes, path: Path, unlock: Unlock, purpose: str) -> bytes:
    """The content of the sealed file at ``path``, whose bytes are ``sealed``.

    Raises UnsealedSecret if these are no sealed file's bytes, StorageError if the file was changed, cut short, moved
    here from another name, or sealed in another folder.
    """
    if not is_sealed(sealed):
        raise UnsealedSecret(f"{path} is not sealed: its content lies on the disk in clear, or it is damaged")
    cipher, view = AESGCM(unlock.key(purpose)), memoryview(sealed)
    try:
        return cipher.decrypt(view[len(_MAGIC) : _START], view[_START:], _bound_to(path.name, purpose))
    except (InvalidTag, ValueError) as error:
        raise StorageError(f"{path} is damaged, or another file was put in its place", _HINT) from error


def is_sealed(data: bytes) -> bool:
    """Whether ``data`` begins as a sealed file does."""
    return data.startswith(_MAGIC)


def write_sealed(path: Path, data: bytes, unlock: Unlock, purpose: str) -> None:
    """Replace ``path`` by ``data``, sealed, readable by its owner only; StorageError as ``write_atomic``."""
    write_atomic(path, seal(data, path.name, unlock, purpose), _OWNER_ONLY)


def read_key(path: Path, unlock: Unlock, hint: str | None = None) -> bytes:
    """A private key's bytes from its sealed file. Errors of ``read_private`` and of :func:`unseal`, and
    UnsafePermissions for a folder that others may write into."""
    require_own_folder(path.parent)
    return unseal(read_private(path, hint), path, unlock, PRIVATE_KEYS)


def write_key(path: Path, data: bytes, unlock: Unlock) -> None:
    """Write a private key's bytes as a sealed file."""
    write_sealed(path, data, unlock, PRIVATE_KEYS)


def _bound_to(name: str, purpose: str) -> bytes:
    return b"secure-fedhelp/sealed-file/1\0" + purpose.encode() + b"\0" + name.encode()
