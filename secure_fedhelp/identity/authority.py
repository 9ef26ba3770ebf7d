"""The consortium's own certificate authority: one folder, on a machine that needs no network.

ca.key         the CA's private key, sealed           ca.crt       its certificate: every member keeps a copy
issued.jsonl   every certificate signed or revoked    revoked.crl  the revocation list: send it to every member
unlock.json    the lock of ca.key (identity/lock.py)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secure_fedhelp.errors import DuplicateHospital, IdentityError, InvalidConfiguration, StorageError
from secure_fedhelp.identity import issuing, pem
from secure_fedhelp.identity.certificates import authority_uri, consortium_of, require_valid, spiffe_uri
from secure_fedhelp.identity.issued import IssuedCertificate, IssuedLine, RevokedLine, append_lines, read_issued
from secure_fedhelp.identity.private_files import read_public
from secure_fedhelp.identity.sealed_files import read_key, write_key
from secure_fedhelp.identity.unlock import Unlock
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.files import write_atomic

_DAY_SECONDS = 86_400
_LONGEST_DAYS = 36_500
_HINT_INIT = "Make an authority with 'secure-fedhelp consortium init FOLDER --name CONSORTIUM'."


class AuthorityRecord:
    """What a CA's folder tells whoever does not open its private key."""

    def __init__(self, folder: Path, certificate: x509.Certificate) -> None:
        self.folder = folder
        self.consortium = consortium_of(certificate)
        self._certificate = certificate

    @classmethod
    def read(cls, folder: Path) -> AuthorityRecord:
        """The record of a folder; InvalidConfiguration if there is no authority in it."""
        return AuthorityRecord(folder, pem.read_authority(read_public(folder / "ca.crt", _HINT_INIT)))

    @property
    def ca_pem(self) -> bytes:
        """The CA's certificate: public, and the one thing that must reach every member unchanged."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issued(self) -> list[IssuedCertificate]:
        """Every certificate signed so far, oldest first."""
        return read_issued(self.folder / "issued.jsonl")


class Authority(AuthorityRecord):
    """A consortium's CA: signs requests, and revokes. Use :meth:`create` once, :meth:`open` afterwards."""

    def __init__(self, folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        super().__init__(folder, certificate)
        self._key = key

    @classmethod
    def create(cls, folder: Path, consortium: str, now: float, days: int, unlock: Unlock) -> Authority:
        """A new CA, valid for ``days`` from ``now`` (unix seconds), with an empty index and revocation list.

        InvalidConfiguration if the folder already holds an authority: its key is never overwritten.
        """
        authority_uri(consortium)  # refuses a malformed name before anything is written
        not_after = _end(now, days)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {error.strerror}") from error
        with _locked(folder):
            if (folder / "ca.key").exists():
                raise InvalidConfiguration(f"{folder} already holds an authority", "Choose another folder.")
            key = ec.generate_private_key(ec.SECP256R1())
            authority = cls(folder, key, issuing.authority_certificate(key, consortium, now, not_after))
            write_atomic(folder / "issued.jsonl", b"")
            write_atomic(folder / "ca.crt", authority.ca_pem)
            authority._write_revocations(now)
            # The key comes last: a folder with a key is a whole authority.
            write_key(folder / "ca.key", pem.private_pem(key), unlock)
        return authority

    @classmethod
    def open(cls, folder: Path, unlock: Unlock) -> Authority:
        """An authority made before. InvalidConfiguration if there is none; UnsafePermissions if others can read its
        key, UnsealedSecret if it is in clear; IdentityError if key and certificate are not a pair."""
        key = pem.read_private_key(read_key(folder / "ca.key", unlock, _HINT_INIT), str(folder / "ca.key"))
        certificate = pem.read_authority(read_public(folder / "ca.crt", _HINT_INIT))
        if pem.public_der(key.public_key()) != pem.public_der(certificate.public_key()):
            raise IdentityError(f"{folder}: ca.key is not the key of ca.crt", "Restore the authority's folder.")
        return cls(folder, key, certificate)

    def sign(
        self,
        csr_pem: bytes,
        role: str,
        name: str,
        now: float,
        days: int,
        dns_names: Sequence[str] = (),
        *,
        renew: bool = False,
    ) -> bytes:
        """The PEM certificate for a request, valid for ``days`` from ``now``; its serial is recorded first.

        From the request nothing is taken but the public key: names and rights come from the arguments alone, whatever
        else it asks for. Raises IdentityError if the request is malformed, does not prove possession of its key or
        does not name this very role and name; DuplicateHospital if the name has a valid certificate and ``renew`` is
        not set; CertificateExpired if the CA's ended; InvalidConfiguration for ``days`` beyond the CA's end or host
        names that do not fit the role. ``dns_names`` (host names and IP addresses) are for the coordinator, which
        needs at least one; a hospital has none, so nobody's client would take it for a server.
        """
        key = issuing.key_of_request(csr_pem, spiffe_uri(self.consortium, role, name))
        hosts = issuing.host_names(role, dns_names)
        not_after = self._require_own_life(_end(now, days), now)
        with _locked(self.folder):
            if not renew and any(c.name == name and c.valid(now) for c in self.issued()):
                raise DuplicateHospital(
                    f"{name} already has a valid certificate",
                    f"If {name} itself asks for a new one, add --renew; if its key is lost or stolen, revoke it first.",
                )
            member = (self.consortium, role, name)
            certificate = issuing.member_certificate(self._certificate, self._key, key, member, hosts, now, not_after)
            append_lines(self.folder / "issued.jsonl", [_line(certificate, role, name)])
        return certificate.public_bytes(serialization.Encoding.PEM)

    def revoke(self, name: str, now: float) -> list[IssuedCertificate]:
        """Revoke every certificate of ``name``, write ``revoked.crl`` anew, and return those revoked just now.

        Those that have ended too: a hospital that restarts judges a member's card at the time when it came, and what
        was signed with a stolen key shall not pass because the certificate of that time has ended since.
        Running it again revokes nothing more and heals a list lost in a crash. IdentityError if the name never had a
        certificate, CertificateExpired if the CA's ended (then none of its certificates is accepted any more).
        """
        require_valid(self._certificate, now, "the consortium CA's certificate")
        with _locked(self.folder):
            known = [c for c in self.issued() if c.name == name]
            if not known:
                hint = "'secure-fedhelp consortium list' shows every name."
                raise IdentityError(f"no certificate was ever issued to {name!r}", hint)
            fresh = [c for c in known if c.revoked_at is None]
            if fresh:
                lines = [RevokedLine(serial=f"{c.serial:x}", at=int(now)) for c in fresh]
                append_lines(self.folder / "issued.jsonl", lines)
            self._write_revocations(now)
        return fresh

    def _write_revocations(self, now: float) -> None:
        revoked = {c.serial: c.revoked_at for c in self.issued() if c.revoked_at is not None}
        crl = issuing.revocation_list(self._certificate, self._key, revoked, now)
        write_atomic(self.folder / "revoked.crl", crl)

    def _require_own_life(self, not_after: int, now: float) -> int:
        """``not_after`` if the CA lives as long: a certificate past its CA's end would fail before its own date."""
        require_valid(self._certificate, now, "the consortium CA's certificate")
        end = int(self._certificate.not_valid_after_utc.timestamp())
        if not_after > end:
            raise InvalidConfiguration(
                f"the certificate would outlive the consortium's CA, which ends on {pem.when(end)}",
                f"Ask for at most --days {(end - int(now)) // _DAY_SECONDS}, or make a new authority.",
            )
        return not_after


def _end(now: float, days: int) -> int:
    if not 1 <= days <= _LONGEST_DAYS:
        raise InvalidConfiguration(f"{days} days of validity", f"Use 1 to {_LONGEST_DAYS} days.")
    return int(now) + days * _DAY_SECONDS


def _line(certificate: x509.Certificate, role: str, name: str) -> IssuedLine:
    return IssuedLine(
        serial=f"{certificate.serial_number:x}",
        role=role,  # type: ignore[arg-type]  # spiffe_uri has checked it
        name=name,
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        key_sha256=sha256_hex(pem.public_der(certificate.public_key())),
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time: two administrators must not both find a name free."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot open {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
