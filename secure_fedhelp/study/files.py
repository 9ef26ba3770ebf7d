"""Writing files so that a crash leaves the old content or the new, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from secure_fedhelp.errors import NoFileLeft, StorageError

#: What an attempt to open a file fails of when the process or the machine has nothing left to open it with.
NOTHING_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``: write beside it, fsync, rename, fsync the folder.

    The temporary file is created with ``mode`` from the start, so a secret is never readable by others, not even for
    a moment. Raises StorageError when the disk is full or the folder cannot be written; ``path`` is then unchanged.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise storage_error(f"cannot write {path}", error) from error


def storage_error(what: str, error: OSError) -> StorageError:
    """The named error of ``error``: NoFileLeft if it passes by itself, StorageError otherwise."""
    cls = NoFileLeft if error.errno in NOTHING_LEFT else StorageError
    return cls(f"{what}: {error.strerror or error}")


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
