"""Who is calling: the certificate of the connection, checked on every call.

gRPC has checked that the consortium's CA signed the certificate. Each call checks it again with our own rules (one
URI, one role, dates as of now) and against the revocation list as it is now, so a hospital revoked in the middle of a
study is refused at its next call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from secure_fedhelp.errors import CertificateRevoked, IdentityError, NotOnRoster
from secure_fedhelp.identity.cards import MemberCard, check_card
from secure_fedhelp.identity.certificates import Identity, check_certificate
from secure_fedhelp.identity.revocation import RevocationList
from secure_fedhelp.study.plan import StudyPlan


@dataclass(frozen=True)
class Door:
    """Lets in the hospitals of one plan."""

    plan: StudyPlan
    ca_pem: bytes
    revocations: RevocationList
    clock: Callable[[], float]

    def caller(self, context: grpc.ServicerContext) -> str:
        """The name of the calling hospital; NotOnRoster, CertificateRevoked, CertificateExpired or IdentityError."""
        certificate = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if not isinstance(certificate, bytes):
            raise IdentityError("the connection has no client certificate")
        identity = self._current(certificate)
        if identity.role != "hospital" or identity.name not in {h.name for h in self.plan.hospitals}:
            raise NotOnRoster(f"{identity.role} {identity.name} is no hospital of study {self.plan.study.name}")
        return identity.name

    def check_card(self, name: str, data: bytes) -> tuple[MemberCard, Identity]:
        """The card that ``name`` came with, checked as every hospital will check it, and whom its certificate names.

        Raises what :func:`secure_fedhelp.identity.cards.check_card` raises, and IdentityError for another's card.
        """
        card = check_card(data, self.ca_pem, self.plan, self.clock())
        if (card.role, card.name) != ("hospital", name):
            raise IdentityError(f"{name} came with the card of {card.role} {card.name}")
        return card, self._current(card.certificate.encode())

    def _current(self, certificate_pem: bytes) -> Identity:
        now = self.clock()
        identity = check_certificate(certificate_pem, self.ca_pem, now)
        if self.revocations.contains(identity.serial, now):
            raise CertificateRevoked(f"the certificate of {identity.role} {identity.name} was revoked")
        return identity
