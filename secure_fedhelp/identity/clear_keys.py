"""Private keys that an earlier version left on the disk in clear, sealed where they lie.

What lay in clear once may lie on in unused blocks and in backups. Who has reason to fear that makes new keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.identity.lock import LOCK, create_lock, open_lock
from secure_fedhelp.identity.private_files import read_private
from secure_fedhelp.identity.sealed_files import is_sealed, write_key
from secure_fedhelp.identity.secret_source import SecretSource
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.identity.unlock import Unlock


def seal_clear_keys(folder: Path, keys: Path, names: Sequence[str], source: SecretSource) -> tuple[Unlock, list[Path]]:
    """Seal the files ``names`` in ``keys`` under the lock of ``folder``, which is made if missing.

    Returns the root key and the files that were sealed; what is sealed already stays, so running it again goes on. A
    ``signing.key`` of an earlier version, Ed25519 alone, gets an ML-DSA-65 key beside it. Raises InvalidConfiguration
    if none of the keys is there, and what :func:`secure_fedhelp.identity.lock.open_lock` raises.
    """
    present = [keys / name for name in names if (keys / name).exists()]
    if not present:
        raise InvalidConfiguration(f"{folder} holds no private keys", "Check the path.")
    unlock = open_lock(folder, source) if (folder / LOCK).exists() else create_lock(folder, source)
    sealed = []
    for path in present:
        data = read_private(path)
        if not is_sealed(data):
            if path.name == "signing.key":
                data = SigningKey.from_clear_pem(data).to_private_bytes()
            write_key(path, data, unlock)
            sealed.append(path)
    return unlock, sealed
