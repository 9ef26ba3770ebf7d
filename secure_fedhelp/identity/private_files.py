"""Reading private keys: never one that somebody else on the machine can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from secure_fedhelp.errors import InvalidConfiguration, StorageError, UnsafePermissions


def read_private(path: Path, hint: str | None = None) -> bytes:
    """The content of a file that only its owner may touch.

    The mode is read from the *open* file, so that the file checked and the file read cannot be two. Raises
    UnsafePermissions if group or others have any right on it, InvalidConfiguration (with ``hint``) if it is missing,
    StorageError if it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if mode & 0o077:
                raise UnsafePermissions(f"{path} is open to other users (mode {mode:o})", f"chmod 600 {path}")
            return file.read()
    except FileNotFoundError as error:
        raise InvalidConfiguration(f"{path}: no such file", hint) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def read_public(path: Path, hint: str | None = None) -> bytes:
    """The content of a file that holds no secret; InvalidConfiguration (with ``hint``) if missing, StorageError."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidConfiguration(f"{path}: no such file", hint) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
