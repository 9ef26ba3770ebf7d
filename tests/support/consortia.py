"""A consortium for tests: an authority and as many members as wanted, all dates counted from one fixed moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unlocking import UNLOCK, add_lock

from secure_fedhelp.identity.authority import Authority
from secure_fedhelp.identity.certificates import make_request
from secure_fedhelp.identity.signing import SigningKey

NOW = 1_800_000_000.0
DAY = 86_400.0


@dataclass(frozen=True)
class Consortium:
    root: Path
    authority: Authority

    @classmethod
    def create(cls, root: Path, name: str = "north", now: float = NOW, days: int = 3650) -> Consortium:
        return cls(root, Authority.create(root / "authority", name, now, days, UNLOCK))

    @property
    def ca_pem(self) -> bytes:
        return self.authority.ca_pem

    @property
    def crl(self) -> bytes:
        return (self.authority.folder / "revoked.crl").read_bytes()

    def request(self, name: str, role: str = "hospital") -> bytes:
        return make_request(self.root / name, self.authority.consortium, role, name, UNLOCK).read_bytes()

    def certificate(self, name: str, role: str = "hospital", now: float = NOW, days: int = 365) -> bytes:
        """A certificate for a member whose folder is made if it is not there."""
        hosts = ("localhost", "127.0.0.1") if role == "coordinator" else ()
        return self.authority.sign(self.request(name, role), role, name, now, days, hosts)

    def member(self, name: str, role: str = "hospital", now: float = NOW, days: int = 365) -> Path:
        """A member's folder with everything in it but a sealing key; UNLOCK opens it."""
        folder = self.root / name
        certificate = self.certificate(name, role, now, days)
        (folder / "tls.crt").write_bytes(certificate)
        (folder / "ca.crt").write_bytes(self.ca_pem)
        SigningKey.generate().save(folder / "signing.key", UNLOCK)
        add_lock(folder)
        return folder
