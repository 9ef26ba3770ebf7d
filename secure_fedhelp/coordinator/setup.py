"""Making a coordinator's folder: its lock, its keys and its certificate request."""

from __future__ import annotations

from pathlib import Path

from secure_fedhelp.identity.certificates import make_request, spiffe_uri
from secure_fedhelp.identity.clear_keys import seal_clear_keys
from secure_fedhelp.identity.lock import establish_lock
from secure_fedhelp.identity.secret_source import USUAL, SecretSource
from secure_fedhelp.identity.signing import SigningKey


def init_coordinator(folder: Path, consortium: str, name: str, source: SecretSource = USUAL) -> Path:
    """Create or complete the folder and return the path of the certificate request.

    Private keys are sealed under the secret that ``source`` gives and never leave the folder. Raises what
    :func:`secure_fedhelp.identity.lock.establish_lock` raises.
    """
    spiffe_uri(consortium, "coordinator", name)  # a malformed name is refused before anything is written
    unlock = establish_lock(folder, source)
    request = make_request(folder, consortium, "coordinator", name, unlock)
    if not (folder / "signing.key").exists():  # kept: a transcript goes on under the key it began with
        SigningKey.generate().save(folder / "signing.key", unlock)
    unlock.wipe()
    return request


def seal_coordinator(folder: Path, source: SecretSource = USUAL) -> list[Path]:
    """Seal the keys that an earlier version left in clear; the files that were sealed."""
    unlock, sealed = seal_clear_keys(folder, folder, ("tls.key", "signing.key"), source)
    unlock.wipe()
    return sealed
