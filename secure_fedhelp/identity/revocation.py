"""Revocation lists (X.509 CRLs, RFC 5280) as files that people carry to each member.

The consortium's CA stands on a machine that answers no network, so a list is not fetched: its administrator sends
``revoked.crl`` and each member puts it into its folder, where running processes notice it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from cryptography import x509

from secure_fedhelp.errors import WrongAuthority
from secure_fedhelp.identity import pem

_HINT = "Copy revoked.crl from the consortium again; until it can be read, nobody is let in."


@dataclass(frozen=True)
class Revocations:
    """A checked list: its number (each list's is at least the last one's), the serials, and when it ends (unix)."""

    number: int
    serials: frozenset[int]
    not_after: float

    def contains(self, serial: int, now: float) -> bool:
        """Whether a serial number is on the list; WrongAuthority if the list ran out before ``now``.

        A list from the near future is accepted: a clock a minute slow must not keep a revoked member in.
        """
        if now > self.not_after:
            raise WrongAuthority("the revocation list ran out", "Ask the consortium for a new revoked.crl.")
        return serial in self.serials


def read_revocations(crl_pem: bytes, authority: x509.Certificate) -> Revocations:
    """The list in ``crl_pem``; WrongAuthority if it is malformed or ``authority`` did not sign it."""
    key = pem.require_p256(authority.public_key(), "consortium CA")
    try:
        crl = x509.load_pem_x509_crl(crl_pem)
        if crl.issuer != authority.subject or not crl.is_signature_valid(key):
            raise WrongAuthority("the revocation list was not signed by this consortium's CA", _HINT)
        if crl.next_update_utc is None:
            raise WrongAuthority("the revocation list does not say how long it holds", _HINT)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        serials = frozenset(entry.serial_number for entry in crl)
    except (*pem.MALFORMED, x509.ExtensionNotFound) as error:
        raise WrongAuthority("the revocation list is malformed", _HINT) from error
    return Revocations(number, serials, crl.next_update_utc.timestamp())


@dataclass
class RevocationList:
    """The revocation list of a long-running process: the file at ``path``, read again whenever it changes.

    It fails closed. :meth:`contains` raises WrongAuthority, so that nobody is let in, when the file

    * is not a list signed by the CA of ``ca_pem`` (also while it is only half copied);
    * has a lower number than one read before: an old list put back would pardon somebody;
    * is gone after it has been there once: deleting a list must not pardon either.

    A file that is absent at construction, and has been ever since, means that nothing was revoked yet: the consortium
    may never have had a reason to send one. Whoever can delete it *and* restart the process can change ``ca.crt`` as
    well, so refusing to start would stop no attacker; and the authority makes an empty list from the first day, for
    those who would rather have the file always there. Safe to call from several threads.
    """

    path: Path
    ca_pem: bytes = field(repr=False)

    def __post_init__(self) -> None:
        self._authority = pem.read_authority(self.ca_pem)
        self._lock = Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._list: Revocations | None = None
        self._expected = self.path.exists()

    def contains(self, serial: int, now: float) -> bool:
        """Whether the certificate with this serial number is revoked at ``now`` (unix seconds); WrongAuthority."""
        with self._lock:
            self._refresh()
            return self._list is not None and self._list.contains(serial, now)

    def _refresh(self) -> None:
        """Read the file if it changed. What fails a check is not remembered, so the next call reads it again."""
        try:
            with self.path.open("rb") as file:
                self._expected = True
                status = os.fstat(file.fileno())
                # A copy may keep size and time, a rename makes another inode: together they miss no replacement.
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if stamp == self._stamp:
                    return
                content = file.read()
        except FileNotFoundError as error:
            if self._expected:
                raise WrongAuthority(f"the revocation list {self.path} is gone", _HINT) from error
            return
        except OSError as error:
            raise WrongAuthority(f"cannot read the revocation list {self.path}: {error.strerror}", _HINT) from error
        fresh = read_revocations(content, self._authority)
        if self._list is not None and fresh.number < self._list.number:
            raise WrongAuthority(f"revocation list {fresh.number} took the place of list {self._list.number}", _HINT)
        self._list, self._stamp = fresh, stamp
