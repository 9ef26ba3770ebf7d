"""One root key for the members' folders of all tests, and the lock that opens it by a key file beside them."""

from __future__ import annotations

from pathlib import Path

from secure_fedhelp.identity.lock import write_lock
from secure_fedhelp.identity.sealed_files import read_key
from secure_fedhelp.identity.unlock import Secret, Unlock

UNLOCK = Unlock(bytes(range(32)))
_KEY = bytes(range(32, 64))


def add_lock(folder: Path) -> None:
    """Give a folder the lock that ``open_lock(folder)`` opens to UNLOCK; the key file lies beside the folder."""
    key_file = folder.parent / "tests.unlock"
    if not key_file.exists():
        key_file.touch(mode=0o600)
        key_file.write_text(_KEY.hex() + "\n", encoding="ascii")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_lock(folder, UNLOCK, Secret("key-file", _KEY), str(key_file))


def clear_pair(folder: Path) -> tuple[Path, Path]:
    """The certificate and a copy of the key in clear, for Python's own TLS, which reads keys from files only."""
    clear = folder / "tls.clear"
    clear.touch(mode=0o600)
    clear.write_bytes(read_key(folder / "tls.key", UNLOCK))
    return folder / "tls.crt", clear
