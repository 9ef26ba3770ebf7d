"""Reading and making files that hold a secret: never one that somebody else on the machine can touch."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from secure_fedhelp.errors import InvalidConfiguration, StorageError, UnsafePermissions
from secure_fedhelp.study.files import sync_folder
from secure_fedhelp.study.reading import CERTIFICATE, SECRET, Kind, read_bounded, read_rest, require_fit

_UNREADABLE = "Give the file itself, a regular one that whoever runs this may read."


def read_private(path: Path, hint: str | None = None) -> bytes:
    """The content of a regular file that only its owner, who must be this process's user, may touch.

    All of this is asked of the *open* file, so that the file checked and the file read cannot be two. Raises
    UnsafePermissions if it is another user's or group or others have any right on it, InvalidConfiguration (with
    ``hint``) if it is missing, StorageError if it cannot be read.
    """
    try:
        # O_NONBLOCK: a pipe in the file's place must be refused, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _require_private(path, os.fstat(descriptor))
            require_fit(descriptor, SECRET)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return read_rest(file, SECRET)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise InvalidConfiguration(f"{path}: no such file", hint) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}", _UNREADABLE) from error


def require_own_folder(folder: Path) -> None:
    """UnsafePermissions unless ``folder`` is ours and nobody else may put files into it or take them away."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return  # whoever reads a file in it says what is missing
    except OSError as error:
        raise StorageError(f"cannot look at {folder}: {error.strerror or error}") from error
    _require_own(folder, status)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        raise UnsafePermissions(f"others may write into {folder} (mode {mode:o})", f"chmod 700 {folder}")


def _require_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path} is not a regular file", "A secret is read from a plain file only.")
    _require_own(path, status)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise UnsafePermissions(f"{path} is open to other users (mode {mode:o})", f"chmod 600 {path}")


def _require_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise UnsafePermissions(
            f"{path} belongs to another user (number {status.st_uid})", "Run the command as the file's owner."
        )


def create_private(path: Path, data: bytes) -> None:
    """A new file with mode 0600, synced; StorageError if it exists already (its content is never replaced)."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # half a secret would be taken for a whole one
            raise
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error.strerror or error}", "Choose another place.") from error


def read_public(path: Path, hint: str | None = None, kind: Kind = CERTIFICATE) -> bytes:
    """The content of a file that holds no secret; InvalidConfiguration (with ``hint``) if missing, StorageError."""
    try:
        return read_bounded(path, kind)
    except FileNotFoundError as error:
        raise InvalidConfiguration(f"{path}: no such file", hint) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}", _UNREADABLE) from error
