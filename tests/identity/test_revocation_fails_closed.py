"""A running process notices a new revocation list, and lets nobody in when the list is broken, old or gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from consortia import DAY, NOW, Consortium
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from secure_fedhelp.errors import WrongAuthority
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.revocation import RevocationList, read_revocations


@pytest.fixture
def north(tmp_path: Path) -> Consortium:
    return Consortium.create(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "member" / "revoked.crl"


def serial_of(certificate: bytes) -> int:
    return x509.load_pem_x509_certificate(certificate).serial_number


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def test_a_new_list_is_noticed_without_a_restart(north: Consortium, path: Path) -> None:
    alpha, beta = serial_of(north.certificate("alpha")), serial_of(north.certificate("beta"))
    put(path, north.crl)
    revoked = RevocationList(path, north.ca_pem)
    assert not revoked.contains(alpha, NOW)
    north.authority.revoke("alpha", NOW)
    assert not revoked.contains(alpha, NOW)  # the consortium's own copy is not the member's
    put(path, north.crl)
    assert revoked.contains(alpha, NOW)
    assert not revoked.contains(beta, NOW)


def test_an_unchanged_list_is_not_read_again(north: Consortium, path: Path) -> None:
    """What is remembered was checked; the file is opened to look at its state, and read only when that changed."""
    alpha = serial_of(north.certificate("alpha"))
    north.authority.revoke("alpha", NOW)
    put(path, north.crl)
    revoked = RevocationList(path, north.ca_pem)
    assert revoked.contains(alpha, NOW)
    state = path.stat()
    path.write_bytes(b"x" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert revoked.contains(alpha, NOW)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with pytest.raises(WrongAuthority):
        revoked.contains(alpha, NOW)


def test_a_list_that_came_by_rename_is_noticed_at_equal_time_and_size(north: Consortium, path: Path) -> None:
    put(path, north.crl)
    revoked = RevocationList(path, north.ca_pem)
    revoked.contains(1, NOW)
    state = path.stat()
    beside = path.with_name("new")
    beside.write_bytes(b"x" * state.st_size)
    os.utime(beside, ns=(state.st_atime_ns, state.st_mtime_ns))
    beside.replace(path)
    with pytest.raises(WrongAuthority):
        revoked.contains(1, NOW)


def test_without_a_file_nothing_was_revoked_yet(north: Consortium, path: Path) -> None:
    alpha = serial_of(north.certificate("alpha"))
    revoked = RevocationList(path, north.ca_pem)
    assert not revoked.contains(alpha, NOW)
    north.authority.revoke("alpha", NOW)
    put(path, north.crl)
    assert revoked.contains(alpha, NOW)


@pytest.mark.parametrize("seen", ["at construction", "later"])
def test_deleting_the_list_pardons_nobody(north: Consortium, path: Path, seen: str) -> None:
    revoked = RevocationList(path, north.ca_pem)
    put(path, north.crl)
    if seen == "at construction":
        revoked = RevocationList(path, north.ca_pem)
    else:
        revoked.contains(1, NOW)
    path.unlink()
    with pytest.raises(WrongAuthority, match="gone"):
        revoked.contains(1, NOW)
    put(path, north.crl)
    assert not revoked.contains(1, NOW)


def test_a_half_copied_list_lets_nobody_in_until_it_is_whole(north: Consortium, path: Path) -> None:
    put(path, north.crl)
    revoked = RevocationList(path, north.ca_pem)
    assert not revoked.contains(1, NOW)
    put(path, north.crl[: len(north.crl) // 2])
    for _ in range(2):  # the failure is not remembered as a success either
        with pytest.raises(WrongAuthority, match="malformed"):
            revoked.contains(1, NOW)
    put(path, north.crl)
    assert not revoked.contains(1, NOW)


def test_an_older_list_put_back_pardons_nobody(north: Consortium, path: Path) -> None:
    alpha = serial_of(north.certificate("alpha"))
    old = north.crl
    north.authority.revoke("alpha", NOW)
    put(path, north.crl)
    revoked = RevocationList(path, north.ca_pem)
    assert revoked.contains(alpha, NOW)
    put(path, old)
    with pytest.raises(WrongAuthority, match="took the place"):
        revoked.contains(alpha, NOW)


def test_another_authoritys_list_is_refused(tmp_path: Path, north: Consortium, path: Path) -> None:
    put(path, Consortium.create(tmp_path / "other").crl)
    with pytest.raises(WrongAuthority, match="not signed"):
        RevocationList(path, north.ca_pem).contains(1, NOW)
    put(path, Consortium.create(tmp_path / "south", "south").crl)
    with pytest.raises(WrongAuthority, match="not signed"):
        RevocationList(path, north.ca_pem).contains(1, NOW)


def test_a_list_beyond_its_date_lets_nobody_in(tmp_path: Path, path: Path) -> None:
    short = Consortium.create(tmp_path, days=10)
    put(path, short.crl)
    revoked = RevocationList(path, short.ca_pem)
    assert not revoked.contains(1, NOW + 10 * DAY)
    with pytest.raises(WrongAuthority, match="ran out"):
        revoked.contains(1, NOW + 10 * DAY + 1)


def test_a_list_from_a_clock_that_is_ahead_still_revokes(north: Consortium, path: Path) -> None:
    alpha = serial_of(north.certificate("alpha"))
    north.authority.revoke("alpha", NOW + 60)
    put(path, north.crl)
    assert RevocationList(path, north.ca_pem).contains(alpha, NOW)


def test_a_list_without_a_number_is_refused(north: Consortium) -> None:
    """Without its number an old list could not be told from a new one."""
    ca = x509.load_pem_x509_certificate(north.ca_pem)
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(pem.utc(NOW))
        .next_update(pem.utc(NOW + DAY))
        .sign(north.authority._key, hashes.SHA256())
    )
    with pytest.raises(WrongAuthority, match="malformed"):
        read_revocations(crl.public_bytes(serialization.Encoding.PEM), ca)


def test_a_list_that_cannot_be_read_lets_nobody_in(north: Consortium, path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(WrongAuthority, match="cannot read"):
        RevocationList(path, north.ca_pem).contains(1, NOW)
