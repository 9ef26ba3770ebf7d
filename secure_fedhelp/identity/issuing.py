"""What a consortium's CA signs, as pure functions: its own certificate, a member's certificate, a revocation list.

The profile is narrow (RFC 5280): ECDSA P-256 with SHA-256 throughout, one step from CA to member, and each
certificate with the least rights its holder needs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secure_fedhelp.errors import IdentityError, InvalidConfiguration
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.certificates import USAGE_OF_ROLE, authority_uri, spiffe_uri, subject

#: Certificates begin this much before they are signed, for members whose clock is a little slow.
_CLOCK_SKEW_SECONDS = 300
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


def authority_certificate(
    key: ec.EllipticCurvePrivateKey, consortium: str, now: float, not_after: float
) -> x509.Certificate:
    """The CA's own certificate: it may sign members and lists, and no further authority (path length 0)."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium),
            x509.NameAttribute(NameOID.COMMON_NAME, "consortium certificate authority"),
        ]
    )
    return (
        _builder(name, name, key.public_key(), now - _CLOCK_SKEW_SECONDS, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(authority_uri(consortium))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )


def member_certificate(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    identity: tuple[str, str, str],
    hosts: Sequence[x509.GeneralName],
    now: float,
    not_after: float,
) -> x509.Certificate:
    """The certificate of ``identity`` (consortium, role, name) for the public ``key``.

    It may sign in a handshake (key usage digitalSignature) in its role's direction only (extended key usage), and it
    bears one URI; ``hosts`` are added for the coordinator.
    """
    consortium, role, name = identity
    uri = x509.UniformResourceIdentifier(spiffe_uri(consortium, role, name))
    begin = max(now - _CLOCK_SKEW_SECONDS, authority.not_valid_before_utc.timestamp())
    return (
        _builder(authority.subject, subject(consortium, name), key, begin, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([USAGE_OF_ROLE[role]]), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri, *hosts]), critical=False)
        .add_extension(_issuer_key(authority_key), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def revocation_list(
    authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, revoked: dict[int, float], now: float
) -> bytes:
    """The PEM list of ``revoked`` (serial number: unix seconds), signed by the CA.

    It holds until the CA's own end: people carry it, and an earlier date would stop a running study without anybody's
    fault. Its number is that of the entries, which only grow, so an old list is recognised.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(pem.utc(now))
        .next_update(authority.not_valid_after_utc)
        .add_extension(x509.CRLNumber(len(revoked)), critical=False)
        .add_extension(_issuer_key(key), critical=False)
    )
    for serial, at in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(pem.utc(at)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_of_request(csr_pem: bytes, uri: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request, and nothing else of it.

    IdentityError if the request is malformed, is not signed by its own key (somebody else's key would be certified),
    or names anything but ``uri``.
    """
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        if not request.is_signature_valid:
            raise IdentityError("the request is not signed by the key it holds", "Ask the member for a new request.")
        asked = pem.uri_names(request.extensions)
        key = request.public_key()
    except pem.MALFORMED as error:
        raise IdentityError("not a readable certificate request", "Send the file tls.csr as it is.") from error
    if asked != [uri]:
        raise IdentityError(
            f"the request names {', '.join(asked) or 'nobody'}, not {uri}",
            "Use the role and name of the request, if they are whom you spoke to; otherwise ask for a new request.",
        )
    return pem.require_p256(key, "request")


def host_names(role: str, names: Sequence[str]) -> list[x509.GeneralName]:
    """Host names and IP addresses for a coordinator's certificate; InvalidConfiguration if they do not fit.

    Wildcards are refused: a certificate for ``*.example`` would let one stolen key stand in for any host there.
    """
    if role != "coordinator":
        if names:
            raise InvalidConfiguration("a hospital's certificate holds no host name", "Leave --dns out.")
        return []
    if not names:
        raise InvalidConfiguration(
            "a coordinator's certificate needs the host name that hospitals connect to", "Add --dns HOST (or an IP)."
        )
    return [_host_name(name) for name in names]


def _host_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _HOST.fullmatch(name) or name.rsplit(".", 1)[-1].isdigit():  # the latter is a mistyped address
            raise InvalidConfiguration(
                f"not a host name: {name!r}", "Use a lower-case host name without wildcard, or an IP address."
            ) from None
        return x509.DNSName(name)


def _builder(
    issuer: x509.Name, holder: x509.Name, key: ec.EllipticCurvePublicKey, begin: float, end: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(holder)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(pem.utc(begin))
        .not_valid_after(pem.utc(end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _issuer_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    """A CA signs certificates and lists, a member signs handshakes and its card; nobody encrypts with these keys."""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
