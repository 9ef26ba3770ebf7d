"""The lock of a folder, ``unlock.json``: the folder's root key, wrapped under its unlock secret.

Members' folders and the authority's have the same lock. Changing the secret replaces this one file by another
wrapping of the same root key, so a crash leaves the old secret or the new one, and never a folder that is half each.
What it cannot do is take back what somebody has: who holds an old copy of this file *and* the old secret has the root
key for ever. If the secret was stolen together with the folder, new keys and a new folder are needed.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, model_validator

from secure_fedhelp.errors import InvalidConfiguration, StorageError, UnsealedSecret, WrongUnlockSecret
from secure_fedhelp.identity.private_files import read_private
from secure_fedhelp.identity.secret_source import USUAL, SecretSource
from secure_fedhelp.identity.unlock import Kind, Secret, Unlock
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.sections import Strict

LOCK: Final = "unlock.json"
#: Where private keys may lie under a folder; found without a lock, they are an earlier version's, in clear.
_KEY_PLACES: Final = ("keys/tls.key", "tls.key", "ca.key")
_SALT_BYTES: Final = 32

Kdf = Literal["hkdf-sha256", "scrypt-n17-r8-p1"]
_KDF: Final[dict[Kind, Kdf]] = {"key-file": "hkdf-sha256", "passphrase": "scrypt-n17-r8-p1"}


class LockFile(Strict):
    """``unlock.json``. Nothing in it is secret, but with a weak passphrase it can be guessed against."""

    format: Literal[1]
    opened_by: Kind
    #: A name, not numbers: the file cannot ask for weaker parameters than the program knows, nor for all memory.
    kdf: Kdf
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    #: Nonce, root key, tag.
    root_key: Annotated[str, Field(pattern=r"^[0-9a-f]{120}$")]
    #: Where the key file is: absolute, or relative to the folder. Only a hint, and not sealed: it may be edited.
    key_file: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> LockFile:
        if self.kdf != _KDF[self.opened_by]:
            raise ValueError(f"a {self.opened_by} does not go with {self.kdf}")
        return self

    @property
    def context(self) -> bytes:
        """What the wrapped root key is bound to: every field that says how to open it."""
        return _context(self.opened_by, self.salt)


def open_lock(folder: Path, source: SecretSource = USUAL) -> Unlock:
    """The folder's root key.

    Raises InvalidConfiguration if there is no lock or it is malformed, UnsealedSecret if there are private keys
    without one, UnlockSecretMissing, WrongUnlockSecret, UnsafePermissions for a lock or secret open to others.
    """
    lock = _read(folder)
    secret = source.present(lock.opened_by, lock.key_file, folder)
    try:
        return _unwrap(lock, secret)
    except WrongUnlockSecret as error:
        what = "key file" if lock.opened_by == "key-file" else "passphrase"
        raise WrongUnlockSecret(f"this {what} does not open {folder}") from error
    finally:
        secret.wipe()


def opened_by(folder: Path) -> str:
    """For a person: what opens the folder, and where a key file is."""
    lock = _read(folder)
    if lock.key_file is None:
        return f"{folder} is opened by its {lock.opened_by}"
    return f"{folder} is opened by the key file {(folder / lock.key_file).resolve()}"


def establish_lock(folder: Path, source: SecretSource = USUAL) -> Unlock:
    """The root key of a folder: of its lock if it has one, else of a new lock. Errors as in :func:`open_lock`."""
    if not (folder / LOCK).exists():
        _require_no_clear_keys(folder)
        return create_lock(folder, source)
    return open_lock(folder, source)


def create_lock(folder: Path, source: SecretSource = USUAL) -> Unlock:
    """A new lock with a new root key, for a folder that has none; InvalidConfiguration if it has one."""
    if (folder / LOCK).exists():
        raise InvalidConfiguration(f"{folder} already has a lock", "Use 'rekey' to change its secret.")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror or error}", "Choose another folder.") from error
    unlock = Unlock.generate()
    secret, key_file = source.new(folder)
    write_lock(folder, unlock, secret, key_file)  # on the disk before anything is sealed under it
    secret.wipe()
    return unlock


def write_lock(folder: Path, unlock: Unlock, secret: Secret, key_file: str | None = None) -> None:
    """Wrap a root key under a secret and replace the folder's ``unlock.json``, atomically."""
    salt = secrets.token_bytes(_SALT_BYTES)
    wrapped = unlock.wrapped(secret.wrapping_key(salt), _context(secret.kind, salt.hex()))
    lock = LockFile(
        format=1,
        opened_by=secret.kind,
        kdf=_KDF[secret.kind],
        salt=salt.hex(),
        root_key=wrapped.hex(),
        key_file=key_file,
    )
    text = json.dumps(lock.model_dump(exclude_none=True), indent=1) + "\n"
    write_atomic(folder / LOCK, text.encode(), 0o600)


def change_secret(folder: Path, old: SecretSource, new: SecretSource) -> None:
    """Open with the old secret, and from now on with the new one. Run again after a crash, it does what is missing.

    Raises what :func:`open_lock` raises, and InvalidConfiguration if the new secret is the old one.
    """
    unlock, lock = open_lock(folder, old), _read(folder)
    secret, key_file = new.new(folder)
    if secret.kind == lock.opened_by and _opens(lock, secret):
        raise InvalidConfiguration("the new secret is the present one", "Choose another key file or passphrase.")
    write_lock(folder, unlock, secret, key_file)
    secret.wipe()
    unlock.wipe()


def _read(folder: Path) -> LockFile:
    path = folder / LOCK
    if not path.exists():
        _require_no_clear_keys(folder)
        raise InvalidConfiguration(
            f"{folder} holds no keys: there is neither {LOCK} nor tls.key",
            "Make them with 'secure-fedhelp hospital init' (or 'coordinator init', 'consortium init').",
        )
    try:
        return LockFile.model_validate_json(read_private(path))
    except ValidationError as error:
        hint = "Restore it from a backup: without it nothing in the folder opens."
        raise InvalidConfiguration(f"{path}: {explain(error)}", hint) from error


def _unwrap(lock: LockFile, secret: Secret) -> Unlock:
    wrapping_key = secret.wrapping_key(bytes.fromhex(lock.salt))
    return Unlock.unwrapped(wrapping_key, lock.context, bytes.fromhex(lock.root_key))


def _opens(lock: LockFile, secret: Secret) -> bool:
    try:
        _unwrap(lock, secret).wipe()
    except WrongUnlockSecret:
        return False
    return True


def _require_no_clear_keys(folder: Path) -> None:
    for place in _KEY_PLACES:
        if (folder / place).exists():
            raise UnsealedSecret(f"{folder} has private keys and no lock: they lie on the disk in clear")


def _context(kind: Kind, salt: str) -> bytes:
    purpose = "secure-fedhelp lock 1"
    return canonical_bytes({"format": 1, "kdf": _KDF[kind], "opened_by": kind, "purpose": purpose, "salt": salt})
