"""A member's certificate: asking for one, and checking one.

Names inside certificates are URIs in the manner of SPIFFE X.509-SVID: ``spiffe://CONSORTIUM/ROLE/NAME``; the CA's own
is ``spiffe://CONSORTIUM``. The subject field is for people and is never read by a check.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import TypeAdapter, ValidationError

from secure_fedhelp.errors import (
    CertificateExpired,
    CertificateRevoked,
    IdentityError,
    InvalidConfiguration,
    StorageError,
    WrongAuthority,
)
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.revocation import read_revocations
from secure_fedhelp.identity.sealed_files import read_key, write_key
from secure_fedhelp.identity.unlock import Unlock
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.sections import Name

Role = Literal["hospital", "coordinator"]

#: The one thing a role's certificate may do on a connection. A hospital has no server's right, so that it can never
#: stand in for the coordinator, whatever host name it runs on.
USAGE_OF_ROLE = {"hospital": ExtendedKeyUsageOID.CLIENT_AUTH, "coordinator": ExtendedKeyUsageOID.SERVER_AUTH}

_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Identity:
    """Whom a checked certificate names, its serial number, and when it ends (unix seconds)."""

    consortium: str
    role: Role
    name: str
    serial: int
    not_after: float


def spiffe_uri(consortium: str, role: str, name: str) -> str:
    """``spiffe://CONSORTIUM/ROLE/NAME``; InvalidConfiguration for a role or name that the rules do not allow."""
    if role not in get_args(Role):
        raise InvalidConfiguration(f"unknown role {role!r}", "The roles are hospital and coordinator.")
    return f"{authority_uri(consortium)}/{role}/{_checked('name', name)}"


def authority_uri(consortium: str) -> str:
    """``spiffe://CONSORTIUM``, the name of the consortium's CA; InvalidConfiguration for a malformed one."""
    return f"spiffe://{_checked('consortium', consortium)}"


def _checked(what: str, name: str) -> str:
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        hint = "Use a lower-case letter, then at most 62 lower-case letters, digits or hyphens."
        raise InvalidConfiguration(f"not a {what}: {name!r}", hint) from error


# --- asking ----------------------------------------------------------------------------------------------------------


def make_request(folder: Path, consortium: str, role: str, name: str, unlock: Unlock) -> Path:
    """Write ``tls.key`` (ECDSA P-256, sealed) and ``tls.csr`` into ``folder``; returns the request's path.

    The key is made here and never leaves: the request (PKCS #10) holds the public half, the name, and a signature
    that proves possession. An existing ``tls.key`` is *kept* and asked for again, so a renewal never breaks the pair
    in use; move it away first to change the key.
    """
    uri = spiffe_uri(consortium, role, name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror or error}") from error
    key_path, request_path = folder / "tls.key", folder / "tls.csr"
    if key_path.exists():
        key = pem.read_private_key(read_key(key_path, unlock), str(key_path))
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        write_key(key_path, pem.private_pem(key), unlock)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject(consortium, name))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomic(request_path, request.public_bytes(serialization.Encoding.PEM))
    return request_path


def subject(consortium: str, name: str) -> x509.Name:
    """The subject of a request or certificate: for people to read only."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def request_fingerprint(csr_pem: bytes) -> str:
    """Fingerprint of the public key in a request: the hospital and the consortium compare it by telephone.

    IdentityError for a malformed request.
    """
    try:
        return pem.fingerprint(pem.public_der(x509.load_pem_x509_csr(csr_pem).public_key()))
    except pem.MALFORMED as error:
        raise IdentityError("not a readable certificate request") from error


def certificate_fingerprint(cert_pem: bytes) -> str:
    """Fingerprint of a whole certificate (of ``ca.crt``: what every member compares); WrongAuthority if malformed."""
    return pem.fingerprint(pem.read_certificate(cert_pem).public_bytes(serialization.Encoding.DER))


# --- checking --------------------------------------------------------------------------------------------------------


def check_certificate(
    cert_pem: bytes, ca_pem: bytes, now: float, revocations: bytes | None = None, accepted: float | None = None
) -> Identity:
    """Whom ``cert_pem`` names, after every check; ``now`` in unix seconds, ``revocations`` a CRL in PEM.

    ``accepted`` is for who keeps the certificate of a signature made earlier: when it was checked before, and at which
    its own dates are judged again. The authority's dates and the revocations are judged now.

    A chain here has exactly one step: the consortium's CA signed this certificate itself. Raises WrongAuthority if it
    did not (or PEM is malformed, or the name is of another consortium, or the CRL is not the CA's), CertificateExpired
    if the certificate or the CA's is not valid now, CertificateRevoked, and IdentityError if the certificate holds
    more, less or other rights than its role has.
    """
    authority = pem.read_authority(ca_pem)
    certificate = pem.read_certificate(cert_pem)
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *pem.MALFORMED) as error:
        raise WrongAuthority("the certificate was not signed by this consortium's CA") from error
    require_valid(authority, now, "the consortium CA's certificate")
    try:  # only now, on bytes that the CA signed, are extensions parsed
        identity = _identity(certificate, authority)
    except (*pem.MALFORMED, x509.ExtensionNotFound) as error:
        raise IdentityError(f"the certificate lacks an extension or holds a malformed one: {error}") from error
    if revocations is not None and read_revocations(revocations, authority).contains(identity.serial, now):
        raise CertificateRevoked(f"the certificate of {identity.role} {identity.name} was revoked")
    # After the revocations: that a certificate has ended must not hide that its key was stolen.
    require_valid(certificate, now if accepted is None else accepted, "the certificate")
    return identity


def require_valid(certificate: x509.Certificate, now: float, what: str) -> None:
    """CertificateExpired unless ``now`` lies between the certificate's two dates, both included."""
    start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    if now < start:
        raise CertificateExpired(
            f"{what} is valid only from {pem.when(start)}", "Check this machine's clock, or wait until then."
        )
    if now > end:
        raise CertificateExpired(f"{what} ended on {pem.when(end)}")


def consortium_of(authority: x509.Certificate) -> str:
    """The consortium a CA certificate was made for; WrongAuthority if it does not say exactly one."""
    try:
        (uri,) = pem.uri_names(authority.extensions)
        if not uri.startswith("spiffe://"):
            raise ValueError(uri)
        return _NAME.validate_python(uri.removeprefix("spiffe://"))
    except pem.MALFORMED as error:  # pydantic's ValidationError is a ValueError
        raise WrongAuthority("ca.crt does not name one consortium") from error


def _identity(certificate: x509.Certificate, authority: x509.Certificate) -> Identity:
    pem.require_understood(certificate)
    consortium = consortium_of(authority)
    role, name = _role_and_name(certificate, consortium)
    extensions = certificate.extensions
    if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise IdentityError(f"the certificate of {name} would be an authority itself")
    _require_signature_use_only(extensions.get_extension_for_class(x509.KeyUsage).value, name)
    if list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) != [USAGE_OF_ROLE[role]]:
        raise IdentityError(f"the certificate of {name} has another extended key usage than a {role} has")
    pem.require_p256(certificate.public_key(), f"certificate of {name}")
    return Identity(consortium, role, name, certificate.serial_number, certificate.not_valid_after_utc.timestamp())


def _role_and_name(certificate: x509.Certificate, consortium: str) -> tuple[Role, str]:
    """Role and name from the one URI; other kinds of names are for the coordinator's host only."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = [n.value for n in names if isinstance(n, x509.UniformResourceIdentifier)]
    if len(uris) != 1:
        raise IdentityError(f"the certificate holds {len(uris)} URI names instead of one")
    for role in get_args(Role):
        prefix = f"{authority_uri(consortium)}/{role}/"
        if uris[0].startswith(prefix):
            break
    else:
        raise WrongAuthority(f"the name {uris[0]!r} is not one of a member of consortium {consortium}")
    host_names = [n for n in names if not isinstance(n, x509.UniformResourceIdentifier)]
    if not all(role == "coordinator" and isinstance(n, x509.DNSName | x509.IPAddress) for n in host_names):
        raise IdentityError(f"the certificate of {uris[0]} holds names that a {role} may not have")
    return role, _NAME.validate_python(uris[0].removeprefix(prefix))


def _require_signature_use_only(usage: x509.KeyUsage, name: str) -> None:
    other = (
        usage.content_commitment,
        usage.key_encipherment,
        usage.data_encipherment,
        usage.key_agreement,
        usage.key_cert_sign,
        usage.crl_sign,
    )
    if not usage.digital_signature or any(other):
        raise IdentityError(f"the certificate of {name} has another key usage than digitalSignature alone")
