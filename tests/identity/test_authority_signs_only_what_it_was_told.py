"""A request cannot obtain a name, a right or a second certificate that the administrator did not mean to give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from consortia import DAY, NOW, Consortium
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from unlocking import UNLOCK

from secure_fedhelp.errors import (
    CertificateExpired,
    DuplicateHospital,
    IdentityError,
    InvalidConfiguration,
    StorageError,
    UnsafePermissions,
    WrongAuthority,
)
from secure_fedhelp.identity.authority import Authority
from secure_fedhelp.identity.certificates import check_certificate


@pytest.fixture
def north(tmp_path: Path) -> Consortium:
    return Consortium.create(tmp_path)


def greedy_request(*names: x509.GeneralName, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """A request that asks for an authority's and a server's rights besides ``names``."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([Usage.SERVER_AUTH, Usage.ANY_EXTENDED_KEY_USAGE]), critical=False)
        .sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


ALPHA = x509.UniformResourceIdentifier("spiffe://north/hospital/alpha")


def test_nothing_but_the_public_key_is_taken_from_a_request(north: Consortium) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = greedy_request(ALPHA, x509.DNSName("localhost"), x509.RFC822Name("a@b.example"), key=key)
    certificate = north.authority.sign(request, "hospital", "alpha", NOW, 365)
    loaded = x509.load_pem_x509_certificate(certificate)
    assert list(loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [ALPHA]
    assert list(loaded.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [Usage.CLIENT_AUTH]
    assert not loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert loaded.public_key() == key.public_key()
    check_certificate(certificate, north.ca_pem, NOW)


def test_a_name_swapped_in_the_request_is_refused(north: Consortium) -> None:
    request = north.request("beta")
    for role, name in (("hospital", "alpha"), ("coordinator", "beta")):
        with pytest.raises(IdentityError, match="spiffe://north/hospital/beta"):
            north.authority.sign(request, role, name, NOW, 365, ("localhost",) if role == "coordinator" else ())
    for names in ([], [ALPHA, ALPHA], [ALPHA, x509.UniformResourceIdentifier("spiffe://north/coordinator/alpha")]):
        with pytest.raises(IdentityError):
            north.authority.sign(greedy_request(*names), "hospital", "alpha", NOW, 365)
    assert north.authority.issued() == []


def test_a_request_for_another_consortium_is_refused(tmp_path: Path, north: Consortium) -> None:
    south = Consortium.create(tmp_path / "south", "south")
    with pytest.raises(IdentityError, match="spiffe://south/hospital/alpha"):
        north.authority.sign(south.request("alpha"), "hospital", "alpha", NOW, 365)


def test_a_request_that_does_not_prove_its_key_is_refused(north: Consortium) -> None:
    """Otherwise somebody could have another's key certified under their own name."""
    der = x509.load_pem_x509_csr(north.request("alpha")).public_bytes(serialization.Encoding.DER)
    broken = x509.load_der_x509_csr(der[:-1] + bytes([der[-1] ^ 1])).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(IdentityError, match="not signed by the key"):
        north.authority.sign(broken, "hospital", "alpha", NOW, 365)


def test_malformed_requests_and_other_kinds_of_keys_are_refused(north: Consortium) -> None:
    other = greedy_request(ALPHA, key=ec.generate_private_key(ec.SECP384R1()))
    for request in (b"", b"nonsense", north.ca_pem, other):
        with pytest.raises(IdentityError):
            north.authority.sign(request, "hospital", "alpha", NOW, 365)


# --- one name, one member --------------------------------------------------------------------------------------------


def test_two_hospitals_cannot_have_one_name(tmp_path: Path, north: Consortium) -> None:
    north.certificate("alpha")
    second = Consortium(tmp_path / "elsewhere", north.authority)
    with pytest.raises(DuplicateHospital, match="alpha") as caught:
        second.certificate("alpha")
    assert "--renew" in caught.value.hint
    with pytest.raises(DuplicateHospital):
        second.certificate("alpha", "coordinator")
    assert len(north.authority.issued()) == 1


def test_renewal_is_asked_for(north: Consortium) -> None:
    first = north.certificate("alpha")
    second = north.authority.sign(north.request("alpha"), "hospital", "alpha", NOW, 365, renew=True)
    serials = {check_certificate(c, north.ca_pem, NOW, north.crl).serial for c in (first, second)}
    assert serials == {c.serial for c in north.authority.issued()}
    assert len(serials) == 2


def test_a_name_is_free_again_after_expiry_or_revocation(north: Consortium) -> None:
    north.certificate("alpha", days=10)
    north.certificate("alpha", now=NOW + 11 * DAY)
    north.authority.revoke("alpha", NOW + 12 * DAY)
    north.certificate("alpha", now=NOW + 12 * DAY)
    assert [c.revoked_at for c in north.authority.issued()] == [NOW + 12 * DAY, NOW + 12 * DAY, None], "ended ones too"


def test_every_certificate_is_in_the_index(north: Consortium) -> None:
    certificate = x509.load_pem_x509_certificate(north.certificate("alpha"))
    north.authority.revoke("alpha", NOW + 5)
    issued, revoked = map(json.loads, (north.authority.folder / "issued.jsonl").read_text().splitlines())
    assert issued["serial"] == revoked["serial"] == f"{certificate.serial_number:x}"
    assert (issued["event"], issued["role"], issued["name"]) == ("issued", "hospital", "alpha")
    assert issued["not_after"] == NOW + 365 * DAY
    assert revoked == {"event": "revoked", "serial": issued["serial"], "at": int(NOW) + 5}


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"event":"revoked","serial":"ff","at":1}', '{"event":"other"}'])
def test_a_malformed_index_stops_the_authority(north: Consortium, line: str) -> None:
    """It is what says which names are taken and which certificates are revoked: guessing would pardon somebody."""
    north.certificate("alpha")
    index = north.authority.folder / "issued.jsonl"
    index.write_text(index.read_text() + line + "\n")
    for step in (lambda: north.certificate("beta"), lambda: north.authority.revoke("alpha", NOW)):
        with pytest.raises(StorageError, match="line 2"):
            step()
    index.unlink()
    with pytest.raises(StorageError, match=r"issued\.jsonl"):
        north.certificate("beta")


# --- host names and dates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["*.example", "Fed.example", "fed example", "", "a..b", "-a", "a" * 64, "a.b" * 90, "x\n", "1.2.3.256"]
)
def test_wildcards_and_misspelt_hosts_are_refused(north: Consortium, host: str) -> None:
    request = north.request("hub", "coordinator")
    with pytest.raises(InvalidConfiguration, match="host name"):
        north.authority.sign(request, "coordinator", "hub", NOW, 365, ("localhost", host))
    hosts = ("fed-1.north.example", "x", "192.0.2.7", "2001:db8::1")
    certificate = x509.load_pem_x509_certificate(north.authority.sign(request, "coordinator", "hub", NOW, 365, hosts))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(n.value) for n in names] == ["spiffe://north/coordinator/hub", *hosts]


def test_a_hospital_gets_no_host_name_and_a_coordinator_needs_one(north: Consortium) -> None:
    with pytest.raises(InvalidConfiguration, match="host"):
        north.authority.sign(north.request("alpha"), "hospital", "alpha", NOW, 365, ("localhost",))
    with pytest.raises(InvalidConfiguration, match="host") as caught:
        north.authority.sign(north.request("hub", "coordinator"), "coordinator", "hub", NOW, 365)
    assert "--dns" in caught.value.hint


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    short = Consortium.create(tmp_path, days=30)
    short.certificate("alpha", days=30)
    with pytest.raises(InvalidConfiguration, match="outlive") as caught:
        short.certificate("beta", now=NOW + DAY, days=30)
    assert "--days 29" in caught.value.hint
    after = NOW + 30 * DAY + 1
    with pytest.raises(CertificateExpired):
        short.certificate("beta", now=after, days=1)
    with pytest.raises(CertificateExpired):
        short.authority.revoke("alpha", after)


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_days_are_bounded(tmp_path: Path, north: Consortium, days: int) -> None:
    with pytest.raises(InvalidConfiguration):
        Authority.create(tmp_path / "new", "north", NOW, days, UNLOCK)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InvalidConfiguration):
        north.certificate("alpha", days=days)


# --- the authority's folder ------------------------------------------------------------------------------------------


def test_the_folder_and_its_key_are_for_the_owner_only(north: Consortium) -> None:
    folder = north.authority.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in folder.iterdir()) == ["ca.crt", "ca.key", "issued.jsonl", "revoked.crl"]
    (folder / "ca.key").chmod(0o640)
    with pytest.raises(UnsafePermissions):
        Authority.open(folder, UNLOCK)


def test_an_authority_is_never_overwritten(north: Consortium) -> None:
    key = (north.authority.folder / "ca.key").read_bytes()
    with pytest.raises(InvalidConfiguration, match="already holds"):
        Authority.create(north.authority.folder, "north", NOW, 365, UNLOCK)
    assert (north.authority.folder / "ca.key").read_bytes() == key


def test_an_authority_goes_on_after_a_restart(north: Consortium) -> None:
    north.certificate("alpha")
    again = Authority.open(north.authority.folder, UNLOCK)
    assert (again.consortium, again.ca_pem) == ("north", north.ca_pem)
    with pytest.raises(DuplicateHospital):
        again.sign(north.request("alpha"), "hospital", "alpha", NOW, 365)


def test_a_missing_or_mixed_up_authority_is_named(tmp_path: Path, north: Consortium) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        Authority.open(tmp_path / "nowhere", UNLOCK)
    assert "consortium init" in caught.value.hint
    folder, other = north.authority.folder, Consortium.create(tmp_path / "other")
    (folder / "ca.crt").write_bytes(other.ca_pem)
    with pytest.raises(IdentityError, match="not the key"):
        Authority.open(folder, UNLOCK)
    (folder / "ca.crt").write_bytes(b"nonsense")
    with pytest.raises(WrongAuthority):
        Authority.open(folder, UNLOCK)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "authority"):
        with pytest.raises(StorageError):
            Authority.create(place, "north", NOW, 365, UNLOCK)


def test_a_folder_that_vanished_is_named(north: Consortium) -> None:
    request = north.request("alpha")
    north.authority.folder.rename(north.root / "moved")
    with pytest.raises(StorageError):
        north.authority.sign(request, "hospital", "alpha", NOW, 365)


# --- revoking --------------------------------------------------------------------------------------------------------


def test_revoking_again_heals_a_list_lost_in_a_crash(north: Consortium) -> None:
    north.certificate("alpha")
    empty = north.crl
    assert [c.name for c in north.authority.revoke("alpha", NOW)] == ["alpha"]
    (north.authority.folder / "revoked.crl").write_bytes(empty)  # as if the process had died between index and list
    assert north.authority.revoke("alpha", NOW + 1) == []
    assert len(x509.load_pem_x509_crl(north.crl)) == 1


def test_a_name_nobody_knows_cannot_be_revoked(north: Consortium) -> None:
    with pytest.raises(IdentityError, match="omega"):
        north.authority.revoke("omega", NOW)


def test_the_list_is_an_x509_crl_that_openssl_reads(north: Consortium) -> None:
    serial = x509.load_pem_x509_certificate(north.certificate("alpha")).serial_number
    north.authority.revoke("alpha", NOW)
    crl, ca = x509.load_pem_x509_crl(north.crl), x509.load_pem_x509_certificate(north.ca_pem)
    assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    assert crl.get_revoked_certificate_by_serial_number(serial) is not None
    assert crl.next_update_utc == ca.not_valid_after_utc
