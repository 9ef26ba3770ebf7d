"""A certificate that is not exactly what the consortium signed for this role and name is refused with its reason."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from consortia import DAY, NOW, Consortium
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from unlocking import UNLOCK

from secure_fedhelp.errors import (
    CertificateExpired,
    CertificateRevoked,
    FedHelpError,
    IdentityError,
    InvalidConfiguration,
    RevocationsUnreadable,
    StorageError,
    UnsafePermissions,
    WrongAuthority,
)
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.certificates import (
    Identity,
    certificate_fingerprint,
    check_certificate,
    make_request,
    request_fingerprint,
    spiffe_uri,
)

Kind = TypeVar("Kind", bound=x509.ExtensionType)


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return Consortium.create(tmp_path_factory.mktemp("north"))


@pytest.fixture(scope="module")
def alpha(north: Consortium) -> bytes:
    return north.certificate("alpha")


def test_a_certificate_says_who_it_is(north: Consortium, alpha: bytes) -> None:
    identity = check_certificate(alpha, north.ca_pem, NOW, north.crl)
    serial = x509.load_pem_x509_certificate(alpha).serial_number
    assert identity == Identity("north", "hospital", "alpha", serial, NOW + 365 * DAY)


def test_a_coordinator_certificate_bears_its_hosts(north: Consortium) -> None:
    certificate = north.certificate("coordinator", "coordinator")
    assert check_certificate(certificate, north.ca_pem, NOW).role == "coordinator"
    names = _extension(certificate, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert list(_extension(certificate, x509.ExtendedKeyUsage)) == [Usage.SERVER_AUTH]


def _extension(certificate: bytes, kind: type[Kind]) -> Kind:
    return x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(kind).value


# --- the wrong authority ---------------------------------------------------------------------------------------------


def test_another_consortium_of_the_same_name_is_the_wrong_authority(tmp_path: Path, alpha: bytes) -> None:
    impostor = Consortium.create(tmp_path)
    with pytest.raises(WrongAuthority):
        check_certificate(alpha, impostor.ca_pem, NOW)


def test_another_consortium_is_the_wrong_authority(tmp_path: Path, north: Consortium) -> None:
    south = Consortium.create(tmp_path, "south")
    with pytest.raises(WrongAuthority):
        check_certificate(south.certificate("alpha"), north.ca_pem, NOW)


def test_a_members_certificate_is_no_authority(north: Consortium, alpha: bytes) -> None:
    with pytest.raises(WrongAuthority):
        check_certificate(alpha, alpha, NOW)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_malformed_pem_is_the_wrong_authority(north: Consortium, alpha: bytes, text: bytes) -> None:
    with pytest.raises(WrongAuthority):
        check_certificate(text, north.ca_pem, NOW)
    with pytest.raises(WrongAuthority):
        check_certificate(alpha, text, NOW)


def test_two_certificates_in_one_file_are_refused(north: Consortium, alpha: bytes) -> None:
    with pytest.raises(WrongAuthority, match="2 certificates"):
        check_certificate(alpha + alpha, north.ca_pem, NOW)


def test_a_version_that_does_not_exist_is_a_named_error(north: Consortium, alpha: bytes) -> None:
    der = x509.load_pem_x509_certificate(alpha).public_bytes(serialization.Encoding.DER)
    version = der.index(b"\xa0\x03\x02\x01\x02") + 4
    for number in (3, 4, 255):
        with pytest.raises(FedHelpError):
            check_certificate(_pem(der[:version] + bytes([number]) + der[version + 1 :]), north.ca_pem, NOW)


@given(data=st.data())
def test_a_changed_byte_is_a_named_error(north: Consortium, alpha: bytes, data: st.DataObject) -> None:
    der = x509.load_pem_x509_certificate(alpha).public_bytes(serialization.Encoding.DER)
    place, change = data.draw(st.integers(0, len(der) - 1)), data.draw(st.integers(1, 255))
    broken = bytearray(der)
    broken[place] ^= change
    with pytest.raises(FedHelpError):
        check_certificate(_pem(bytes(broken)), north.ca_pem, NOW)


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@given(noise=st.binary(max_size=200))
def test_noise_for_a_certificate_is_a_named_error(north: Consortium, noise: bytes) -> None:
    with pytest.raises(WrongAuthority):
        check_certificate(_pem(noise), north.ca_pem, NOW)


# --- dates -----------------------------------------------------------------------------------------------------------


def test_dates(north: Consortium, alpha: bytes) -> None:
    check_certificate(alpha, north.ca_pem, NOW + 365 * DAY)
    check_certificate(alpha, north.ca_pem, NOW - 300)  # a member's clock may be a little slow
    with pytest.raises(CertificateExpired, match="ended on 2028-01-15"):
        check_certificate(alpha, north.ca_pem, NOW + 365 * DAY + 1)
    with pytest.raises(CertificateExpired, match="valid only from") as caught:
        check_certificate(alpha, north.ca_pem, NOW - 301)
    assert "clock" in caught.value.hint


def test_a_certificate_is_worth_nothing_after_its_authority_ended(tmp_path: Path) -> None:
    short = Consortium.create(tmp_path, days=10)
    certificate = short.certificate("alpha", days=10)
    with pytest.raises(CertificateExpired, match="CA"):
        check_certificate(certificate, short.ca_pem, NOW + 10 * DAY + 1)


# --- certificates that the CA's own key signed, but that are not a member's ------------------------------------------

Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]
ALPHA = x509.UniformResourceIdentifier("spiffe://north/hospital/alpha")
MEMBER_USAGE = dict.fromkeys(
    [
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ],
    False,
)


def forged(
    north: Consortium,
    *,
    names: list[x509.GeneralName] | None = None,
    usages: list[x509.ObjectIdentifier] | None = None,
    key_usage: dict[str, bool] | None = None,
    ca: bool = False,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    leave_out: type[x509.ExtensionType] | None = None,
    more: x509.ExtensionType | None = None,
) -> bytes:
    """What a careless or bribed authority could sign: a member's certificate with one thing changed."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=ca, path_length=None), True),
        (x509.KeyUsage(**{"digital_signature": True, **MEMBER_USAGE, **(key_usage or {})}), True),
        (x509.ExtendedKeyUsage([Usage.CLIENT_AUTH] if usages is None else usages), False),
        (x509.SubjectAlternativeName([ALPHA] if names is None else names), False),
    ]
    if more is not None:
        extensions.append((more, True))
    authority = x509.load_pem_x509_certificate(north.ca_pem)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(authority.subject)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alpha")]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(pem.utc(NOW))
        .not_valid_after(pem.utc(NOW + DAY))
    )
    for extension, critical in extensions:
        if leave_out is None or not isinstance(extension, leave_out):
            builder = builder.add_extension(extension, critical)
    signed = builder.sign(north.authority._key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def test_the_unchanged_forgery_is_accepted(north: Consortium) -> None:
    """So that each refusal below is for the one thing changed."""
    assert check_certificate(forged(north), north.ca_pem, NOW).name == "alpha"


COORDINATOR = x509.UniformResourceIdentifier("spiffe://north/coordinator/hub")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"names": []}, IdentityError),
        ({"names": [ALPHA, x509.UniformResourceIdentifier("spiffe://north/hospital/beta")]}, IdentityError),
        ({"names": [ALPHA, x509.DNSName("localhost")]}, IdentityError),
        ({"names": [x509.DNSName("localhost")]}, IdentityError),
        ({"names": [ALPHA, x509.RFC822Name("a@b.example")]}, IdentityError),
        ({"names": [x509.UniformResourceIdentifier("spiffe://south/hospital/alpha")]}, WrongAuthority),
        ({"names": [x509.UniformResourceIdentifier("https://north/hospital/alpha")]}, WrongAuthority),
        ({"names": [x509.UniformResourceIdentifier("spiffe://north/admin/alpha")]}, WrongAuthority),
        ({"names": [x509.UniformResourceIdentifier("spiffe://north/hospital/alpha/beta")]}, IdentityError),
        ({"names": [x509.UniformResourceIdentifier("spiffe://north/hospital/")]}, IdentityError),
        ({"names": [COORDINATOR]}, IdentityError),  # a coordinator's name with a client's right
        ({"names": [COORDINATOR, x509.RFC822Name("a@b.example")], "usages": [Usage.SERVER_AUTH]}, IdentityError),
        ({"usages": [Usage.SERVER_AUTH]}, IdentityError),  # a hospital that could act as the coordinator's server
        ({"usages": [Usage.CLIENT_AUTH, Usage.SERVER_AUTH]}, IdentityError),
        ({"usages": [Usage.ANY_EXTENDED_KEY_USAGE]}, IdentityError),
        ({"key_usage": {"key_cert_sign": True}}, IdentityError),
        ({"key_usage": {"key_encipherment": True}}, IdentityError),
        ({"key_usage": {"digital_signature": False, "crl_sign": True}}, IdentityError),
        ({"ca": True}, IdentityError),
        ({"leave_out": x509.BasicConstraints}, IdentityError),
        ({"leave_out": x509.KeyUsage}, IdentityError),
        ({"leave_out": x509.ExtendedKeyUsage}, IdentityError),
        ({"leave_out": x509.SubjectAlternativeName}, IdentityError),
        ({"key": ec.generate_private_key(ec.SECP384R1())}, IdentityError),
        ({"key": rsa.generate_private_key(65537, 2048)}, IdentityError),
        ({"more": x509.NameConstraints([x509.DNSName("x.example")], None)}, WrongAuthority),
    ],
    ids=str,
)
def test_a_certificate_with_other_names_or_rights_is_refused(
    north: Consortium, change: dict[str, object], error: type[IdentityError]
) -> None:
    with pytest.raises(IdentityError) as caught:
        check_certificate(forged(north, **change), north.ca_pem, NOW)  # type: ignore[arg-type]
    assert type(caught.value) is error


def authority_certificate(north: Consortium, *extensions: x509.ExtensionType, key: object = None) -> bytes:
    """A certificate for the CA's own key with other extensions than the CA's."""
    own = x509.load_pem_x509_certificate(north.ca_pem)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(own.subject)
        .subject_name(own.subject)
        .public_key(key or own.public_key())  # type: ignore[arg-type]
        .serial_number(1)
        .not_valid_before(pem.utc(NOW))
        .not_valid_after(pem.utc(NOW + DAY))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(north.authority._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


CA = x509.BasicConstraints(ca=True, path_length=0)
CA_USAGE = x509.KeyUsage(**{"digital_signature": False, **MEMBER_USAGE, "key_cert_sign": True})


@pytest.mark.parametrize(
    "extensions",
    [
        (),
        (CA,),
        (x509.BasicConstraints(ca=False, path_length=None), CA_USAGE),
        (CA, CA_USAGE),  # names no consortium
        (CA, CA_USAGE, x509.SubjectAlternativeName([x509.UniformResourceIdentifier("https://north")])),
        (CA, CA_USAGE, x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://No rth")])),
    ],
)
def test_an_authority_that_lacks_something_is_the_wrong_one(
    north: Consortium, alpha: bytes, extensions: tuple[x509.ExtensionType, ...]
) -> None:
    with pytest.raises(WrongAuthority):
        check_certificate(alpha, authority_certificate(north, *extensions), NOW)


def test_an_authority_of_another_kind_of_key_is_refused(north: Consortium, alpha: bytes) -> None:
    other = rsa.generate_private_key(65537, 2048).public_key()
    with pytest.raises(IdentityError):
        check_certificate(alpha, authority_certificate(north, CA, CA_USAGE, key=other), NOW)


# --- revocation ------------------------------------------------------------------------------------------------------


def test_a_certificate_that_ended_is_still_called_revoked(tmp_path: Path) -> None:
    """Whoever forgives an end, since it checked the card before, must not forgive a stolen key with it."""
    north = Consortium.create(tmp_path)
    brief = north.certificate("alpha", days=10)
    north.authority.revoke("alpha", NOW + DAY)
    for day in (1, 11):
        with pytest.raises(CertificateRevoked):
            check_certificate(brief, north.ca_pem, NOW + day * DAY, north.crl)


def test_a_revoked_certificate_is_refused_and_a_new_one_is_not(tmp_path: Path) -> None:
    north = Consortium.create(tmp_path)
    stolen, other = north.certificate("alpha"), north.certificate("beta")
    check_certificate(stolen, north.ca_pem, NOW, north.crl)
    north.authority.revoke("alpha", NOW)
    with pytest.raises(CertificateRevoked, match="alpha"):
        check_certificate(stolen, north.ca_pem, NOW, north.crl)
    check_certificate(other, north.ca_pem, NOW, north.crl)
    (tmp_path / "alpha" / "tls.key").unlink()
    check_certificate(north.certificate("alpha"), north.ca_pem, NOW, north.crl)


def test_another_authoritys_list_is_refused_not_ignored(tmp_path: Path, north: Consortium, alpha: bytes) -> None:
    impostor = Consortium.create(tmp_path)
    for crl in (impostor.crl, b"", b"nonsense"):
        with pytest.raises((WrongAuthority, RevocationsUnreadable), match="revocation list"):
            check_certificate(alpha, north.ca_pem, NOW, crl)


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_request_proves_its_key_and_names_its_member(tmp_path: Path) -> None:
    path = make_request(tmp_path / "alpha", "north", "hospital", "alpha", UNLOCK)
    assert path == tmp_path / "alpha" / "tls.csr"
    assert (tmp_path / "alpha").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "alpha" / "tls.key").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in path.read_bytes()
    request = x509.load_pem_x509_csr(path.read_bytes())
    assert request.is_signature_valid
    assert pem.uri_names(request.extensions) == ["spiffe://north/hospital/alpha"]


def test_a_second_request_keeps_the_key_in_use(tmp_path: Path) -> None:
    path = make_request(tmp_path, "north", "hospital", "alpha", UNLOCK)
    key, print_before = (tmp_path / "tls.key").read_bytes(), request_fingerprint(path.read_bytes())
    make_request(tmp_path, "north", "hospital", "alpha", UNLOCK)
    assert (tmp_path / "tls.key").read_bytes() == key
    assert request_fingerprint(path.read_bytes()) == print_before
    (tmp_path / "tls.key").chmod(0o644)
    with pytest.raises(UnsafePermissions):
        make_request(tmp_path, "north", "hospital", "alpha", UNLOCK)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        make_request(tmp_path / "file" / "alpha", "north", "hospital", "alpha", UNLOCK)


@pytest.mark.parametrize(
    "names",
    [
        ("north", "hospital", "al/pha"),
        ("north", "hospital", "../alpha"),
        ("north", "hospital", ""),
        ("north", "hospital", "alpha\n"),
        ("north", "hospital", "Alpha"),
        ("north", "administrator", "alpha"),
        ("No rth", "hospital", "alpha"),
    ],
)
def test_names_that_could_be_ambiguous_are_refused(tmp_path: Path, names: tuple[str, str, str]) -> None:
    with pytest.raises(InvalidConfiguration):
        spiffe_uri(*names)
    with pytest.raises(InvalidConfiguration):
        make_request(tmp_path / "x", *names, UNLOCK)
    assert not (tmp_path / "x").exists()


def test_fingerprints_are_short_enough_to_read_out(north: Consortium) -> None:
    text = certificate_fingerprint(north.ca_pem)
    der = x509.load_pem_x509_certificate(north.ca_pem).fingerprint(hashes.SHA256())
    assert text.replace(" ", "") == der.hex()
    assert [len(group) for group in text.split(" ")] == [4] * 16
    with pytest.raises(IdentityError):
        request_fingerprint(b"nonsense")


def test_times_are_whole_seconds_in_utc() -> None:
    assert pem.utc(NOW + 0.9) == datetime.datetime(2027, 1, 15, 8, 0, tzinfo=datetime.UTC)
