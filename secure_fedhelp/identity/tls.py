"""A member's TLS files, loaded and checked before any connection is tried.

A handshake that fails says little ("certificate verify failed"); here each cause has its name. A member's folder:

    tls.key  tls.csr        made by the member; the key never leaves        signing.key  sealing.key
    tls.crt  ca.crt         from the consortium                             revoked.crl  from the consortium, optional
    revoked.last.crl        the last good revocation list, kept by the member's own program

The keys are sealed (identity/sealed_files.py). What a TLS library needs in clear is in memory only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from secure_fedhelp.errors import IdentityError
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.certificates import Identity, check_certificate
from secure_fedhelp.identity.private_files import read_public
from secure_fedhelp.identity.revocation import RevocationList, Tell
from secure_fedhelp.identity.sealed_files import read_key
from secure_fedhelp.identity.unlock import Unlock

_HINTS = {
    "tls.key": "Make it with 'secure-fedhelp hospital init' (or 'coordinator init').",
    "tls.crt": "Send tls.csr to the consortium; 'secure-fedhelp consortium sign' answers with tls.crt.",
    "ca.crt": "Get ca.crt from the consortium and compare its fingerprint by telephone.",
}


@dataclass(frozen=True)
class Credentials:
    """What a TLS library needs, and whom the certificate names. The private key never shows in ``repr``."""

    ca_pem: bytes
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    identity: Identity
    #: The revocation list in force, or None: :func:`secure_fedhelp.identity.cards.check_card` wants it for others too.
    revocations: bytes | None = field(repr=False)


def load_credentials(
    folder: Path,
    now: float,
    unlock: Unlock,
    tell: Tell = lambda line: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Credentials:
    """The credentials in ``folder``, each file checked; ``now`` in unix seconds, ``unlock`` the root key it is under.

    A revocation list that is being copied is waited for, some seconds, with ``sleep``; ``tell`` hears if an earlier one
    has to serve (identity/revocation.py).

    Raises InvalidConfiguration for a missing file (the hint says which command makes it), UnsafePermissions for a key
    that others can read, UnsealedSecret for one in clear, StorageError for one that does not open, IdentityError for
    a key that is not the certificate's, WrongAuthority, CertificateExpired, RevocationsUnreadable, and
    CertificateRevoked if the folder's own ``revoked.crl`` lists it.
    """
    key_pem, certificate_pem = load_pair(folder, unlock)
    ca_pem = read_public(folder / "ca.crt", _HINTS["ca.crt"])
    revocations = RevocationList(folder, ca_pem, tell)
    revocations.start(now, sleep)
    identity = check_certificate(certificate_pem, ca_pem, now, revocations.in_force)
    return Credentials(ca_pem, key_pem, certificate_pem, identity, revocations.in_force)


def load_pair(folder: Path, unlock: Unlock) -> tuple[bytes, bytes]:
    """``tls.key`` and ``tls.crt`` as PEM, if they belong together. Errors as in :func:`load_credentials`."""
    key_pem = read_key(folder / "tls.key", unlock, _HINTS["tls.key"])
    certificate_pem = read_public(folder / "tls.crt", _HINTS["tls.crt"])
    key = pem.read_private_key(key_pem, str(folder / "tls.key"))
    certificate = pem.read_certificate(certificate_pem, str(folder / "tls.crt"))
    if pem.public_der(key.public_key()) != pem.public_der(certificate.public_key()):
        raise IdentityError(
            f"{folder}: tls.key is not the key of tls.crt",
            "Put back the key that tls.csr was made with, or have the present tls.csr signed.",
        )
    return key_pem, certificate_pem
