"""Making a coordinator's folder: its keys and its certificate request."""

from __future__ import annotations

from pathlib import Path

from secure_fedhelp.identity.certificates import make_request
from secure_fedhelp.identity.signing import SigningKey


def init_coordinator(folder: Path, consortium: str, name: str) -> Path:
    """Create or complete the folder and return the path of the certificate request; private keys never leave it."""
    request = make_request(folder, consortium, "coordinator", name)
    if not (folder / "signing.key").exists():  # kept: a transcript goes on under the key it began with
        SigningKey.generate().save(folder / "signing.key")
    return request
