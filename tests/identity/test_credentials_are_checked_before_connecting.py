"""What is wrong with a member's files has a name before any connection is tried; what passes really speaks TLS."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest
from consortia import DAY, NOW, Consortium
from cryptography.hazmat.primitives.asymmetric import ec
from unlocking import UNLOCK, clear_pair

from secure_fedhelp.errors import (
    CertificateExpired,
    CertificateRevoked,
    IdentityError,
    InvalidConfiguration,
    StorageError,
    UnsafePermissions,
    UnsealedSecret,
    WrongAuthority,
)
from secure_fedhelp.identity.certificates import make_request
from secure_fedhelp.identity.pem import private_pem as pem_of
from secure_fedhelp.identity.sealed_files import write_key
from secure_fedhelp.identity.tls import load_credentials


@pytest.fixture
def north(tmp_path: Path) -> Consortium:
    return Consortium.create(tmp_path)


@pytest.fixture
def folder(north: Consortium) -> Path:
    return north.member("alpha")


def test_credentials_that_hold(north: Consortium, folder: Path) -> None:
    loaded = load_credentials(folder, NOW, UNLOCK)
    assert (loaded.identity.role, loaded.identity.name) == ("hospital", "alpha")
    assert loaded.ca_pem == north.ca_pem
    assert loaded.revocations is None
    (folder / "revoked.crl").write_bytes(north.crl)
    assert load_credentials(folder, NOW, UNLOCK).revocations == north.crl


def test_the_private_key_never_prints(folder: Path) -> None:
    loaded = load_credentials(folder, NOW, UNLOCK)
    body = loaded.key_pem.decode().splitlines()[1]
    for text in (repr(loaded), str(loaded), f"{loaded}"):
        assert body not in text
        assert "PRIVATE" not in text


@pytest.mark.parametrize(
    ("name", "hint"), [("tls.key", "hospital init"), ("tls.crt", "consortium sign"), ("ca.crt", "fingerprint")]
)
def test_a_missing_file_says_where_it_comes_from(folder: Path, name: str, hint: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidConfiguration, match=name) as caught:
        load_credentials(folder, NOW, UNLOCK)
    assert hint in caught.value.hint


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "tls.key").chmod(0o640)
    with pytest.raises(UnsafePermissions, match=r"tls\.key"):
        load_credentials(folder, NOW, UNLOCK)


def test_a_key_of_another_certificate_is_refused(folder: Path) -> None:
    (folder / "tls.key").unlink()
    make_request(folder, "north", "hospital", "alpha", UNLOCK)
    with pytest.raises(IdentityError, match="not the key"):
        load_credentials(folder, NOW, UNLOCK)


def test_files_that_are_not_what_their_name_says(folder: Path) -> None:
    key = (folder / "tls.key").read_bytes()
    for content, what in ((b"x" * 64, "readable"), (pem_of(ec.generate_private_key(ec.SECP384R1())), "P-256")):
        write_key(folder / "tls.key", content, UNLOCK)
        with pytest.raises(IdentityError, match=what):
            load_credentials(folder, NOW, UNLOCK)
    (folder / "tls.key").write_bytes((folder / "signing.key").read_bytes())
    with pytest.raises(StorageError, match="another file"):
        load_credentials(folder, NOW, UNLOCK)
    (folder / "tls.key").write_bytes(b"nonsense")
    with pytest.raises(UnsealedSecret):
        load_credentials(folder, NOW, UNLOCK)
    (folder / "tls.key").write_bytes(key)
    (folder / "tls.crt").write_bytes(b"nonsense")
    with pytest.raises(WrongAuthority):
        load_credentials(folder, NOW, UNLOCK)


def test_an_expired_certificate_and_one_not_yet_valid_are_named(folder: Path) -> None:
    with pytest.raises(CertificateExpired) as caught:
        load_credentials(folder, NOW + 366 * DAY, UNLOCK)
    assert "hospital init --renew" in caught.value.hint
    with pytest.raises(CertificateExpired):
        load_credentials(folder, NOW - DAY, UNLOCK)


def test_the_wrong_ca_is_named(tmp_path: Path, folder: Path) -> None:
    (folder / "ca.crt").write_bytes(Consortium.create(tmp_path / "other").ca_pem)
    with pytest.raises(WrongAuthority):
        load_credentials(folder, NOW, UNLOCK)


def test_our_own_revocation_is_named(north: Consortium, folder: Path) -> None:
    north.authority.revoke("alpha", NOW)
    (folder / "revoked.crl").write_bytes(north.crl)
    with pytest.raises(CertificateRevoked):
        load_credentials(folder, NOW, UNLOCK)


# --- real handshakes, in memory --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """TLS libraries ask the machine's clock, so these certificates are valid from 1970 to 2069, whatever it says."""
    north = Consortium.create(tmp_path_factory.mktemp("hosts"), now=0, days=36_500)
    for name, role in (("alpha", "hospital"), ("hub", "coordinator")):
        north.member(name, role, now=0, days=36_500)
    return north


def shake_hands(server: Path, client: Path, *, check_host: bool = True) -> dict[str, object]:
    """Mutual TLS between two members' folders; the server's view of the client's certificate. ssl.SSLError."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = check_host
    for context, folder in ((server_context, server), (client_context, client)):
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(*clear_pair(folder))
        context.load_verify_locations(folder / "ca.crt")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server_context.wrap_bio(up, down, server_side=True)
    two = client_context.wrap_bio(down, up, server_hostname="localhost")
    waiting = {one, two}
    for _ in range(10):
        for end in (one, two):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                waiting.discard(end)
    assert not waiting
    return dict(one.getpeercert() or {})


def test_members_shake_hands(hosts: Consortium) -> None:
    seen = shake_hands(hosts.root / "hub", hosts.root / "alpha")
    assert seen["subjectAltName"] == (("URI", "spiffe://north/hospital/alpha"),)


@pytest.mark.parametrize("check_host", [True, False])
def test_a_hospital_cannot_act_as_the_coordinators_server(hosts: Consortium, check_host: bool) -> None:
    """Neither where the client checks the host name nor where it forgot to: the certificate has no server's right."""
    with pytest.raises(ssl.SSLError, match="(?i)purpose" if not check_host else "(?i)purpose|hostname"):
        shake_hands(hosts.root / "alpha", hosts.root / "alpha", check_host=check_host)


def test_the_coordinator_cannot_act_as_a_hospital(hosts: Consortium) -> None:
    with pytest.raises(ssl.SSLError, match="(?i)purpose"):
        shake_hands(hosts.root / "hub", hosts.root / "hub")


def test_a_member_of_another_consortium_is_not_let_in(hosts: Consortium, tmp_path: Path) -> None:
    other = Consortium.create(tmp_path, now=0, days=36_500)
    with pytest.raises(ssl.SSLError):
        shake_hands(hosts.root / "hub", other.member("alpha", now=0, days=36_500))
