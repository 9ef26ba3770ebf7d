"""From PEM bytes to checked X.509 values, and fingerprints for people to compare.

Everything malformed becomes a named error here, so that the files above only see well-formed values.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secure_fedhelp.errors import IdentityError, WrongAuthority

#: What the cryptography package raises for malformed or unknown encodings.
MALFORMED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

#: The extensions these checks understand. RFC 5280, 4.2: a critical one that is not understood must be refused.
_UNDERSTOOD: Final = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,
        x509.AuthorityKeyIdentifier.oid,
        x509.SubjectKeyIdentifier.oid,
    }
)


def read_certificate(pem: bytes, what: str = "certificate") -> x509.Certificate:
    """The one certificate in ``pem``; WrongAuthority if there is none, more than one, or it is malformed.

    A second certificate in the file could be the one that another program looks at, so there must be exactly one.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except MALFORMED as error:
        raise WrongAuthority(f"the {what} is not a readable PEM certificate") from error
    if len(certificates) != 1:
        raise WrongAuthority(f"the {what} holds {len(certificates)} certificates instead of one")
    return certificates[0]


def read_authority(ca_pem: bytes) -> x509.Certificate:
    """The consortium CA's certificate; WrongAuthority unless it may sign certificates, IdentityError unless P-256."""
    authority = read_certificate(ca_pem, "consortium CA's ca.crt")
    try:
        key = authority.public_key()
    except MALFORMED as error:  # read only now, so a certificate can be readable and its key no point of the curve
        raise WrongAuthority("the key in ca.crt is malformed") from error
    require_p256(key, "consortium CA")
    try:
        constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    except (*MALFORMED, x509.ExtensionNotFound) as error:
        raise WrongAuthority("ca.crt lacks the extensions of an authority") from error
    if not (constraints.ca and usage.key_cert_sign):
        raise WrongAuthority("ca.crt is not the certificate of an authority", "Ask the consortium for its ca.crt.")
    require_understood(authority)
    return authority


def require_understood(certificate: x509.Certificate) -> None:
    """WrongAuthority if a critical extension is not one of those that are checked here."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise WrongAuthority(f"a certificate holds an unknown critical extension, {extension.oid.dotted_string}")


def uri_names(names: x509.Extensions) -> list[str]:
    """Every URI among the subject alternative names, in order; empty if there are none. ValueError if malformed."""
    try:
        alternative = names.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return alternative.get_values_for_type(x509.UniformResourceIdentifier)


def require_p256(key: object, what: str) -> ec.EllipticCurvePublicKey:
    """``key`` if it is on NIST P-256; IdentityError otherwise: one kind of key leaves nothing to negotiate."""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise IdentityError(f"the key of the {what} is not an ECDSA P-256 key")


def read_private_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 private key from PKCS #8 PEM; IdentityError otherwise."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except MALFORMED as error:
        raise IdentityError(f"{what} does not hold a readable private key") from error
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
        raise IdentityError(f"{what} does not hold an ECDSA P-256 key")
    return key


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 PEM, not encrypted: whoever writes it uses mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_der(key: PublicKeyTypes) -> bytes:
    """The SubjectPublicKeyInfo of a public key: equal bytes, equal keys."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(data: bytes) -> str:
    """SHA-256 in sixteen groups of four digits, short enough to read out on the telephone."""
    digits = hashlib.sha256(data).hexdigest()
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def utc(seconds: float) -> datetime:
    """Unix seconds as the whole second in UTC that X.509 can write."""
    return datetime.fromtimestamp(int(seconds), UTC)


def when(seconds: float) -> str:
    """Unix seconds for a person to read."""
    return f"{utc(seconds):%Y-%m-%d %H:%M UTC}"
