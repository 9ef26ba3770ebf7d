"""A connection that TLS refuses is told apart from a coordinator that is not there."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from consortia import DAY, Consortium
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from servers import NOW, PLAN, Clock, Server, Site, new_coordinator, running
from unlocking import UNLOCK, clear_pair

from secure_fedhelp.errors import (
    CertificateExpired,
    CoordinatorUnreachable,
    IdentityError,
    InvalidConfiguration,
    PlanChanged,
    ProtocolError,
    StorageError,
    WrongAuthority,
)
from secure_fedhelp.identity import issuing, pem
from secure_fedhelp.identity.tls import Credentials, load_credentials
from secure_fedhelp.wire import probe as probing
from secure_fedhelp.wire.client import CoordinatorClient
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import CoordinatorStub
from secure_fedhelp.wire.options import channel_credentials, channel_options


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Another consortium of the same name, with an authority of its own."""
    consortium = Consortium.create(tmp_path_factory.mktemp("strangers"), now=NOW)
    consortium.member("coordinator", "coordinator", now=NOW)
    return consortium


def client_of(server: Server, credentials: Credentials, **changes: object) -> CoordinatorClient:
    values = {"patience_seconds": 5.0, "clock": server.clock, "sleep": server.clock.sleep} | changes
    return CoordinatorClient(server.address, credentials, PLAN.consortium, **values)  # type: ignore[arg-type]


@pytest.fixture
def alpha(consortium: Consortium) -> Credentials:
    return load_credentials(Site(consortium, PLAN, "alpha").folder, NOW, UNLOCK)


def test_a_coordinator_of_another_authority(server: Server, strangers: Consortium) -> None:
    credentials = load_credentials(Site(strangers, PLAN, "alpha").folder, NOW, UNLOCK)
    with pytest.raises(WrongAuthority, match="the coordinator's certificate"):
        client_of(server, credentials).watch(0, 0.0)


def test_our_own_certificate_of_another_authority(server: Server, strangers: Consortium, alpha: Credentials) -> None:
    other = load_credentials(Site(strangers, PLAN, "alpha").folder, NOW, UNLOCK)
    with pytest.raises(WrongAuthority):
        client_of(server, replace(other, ca_pem=alpha.ca_pem)).watch(0, 0.0)


def test_a_coordinator_that_refuses_our_certificate(
    server: Server, strangers: Consortium, alpha: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with clocks or authorities that differ: our checks pass and the server's do not."""
    other = load_credentials(Site(strangers, PLAN, "alpha").folder, NOW, UNLOCK)
    check = probing.check_certificate
    monkeypatch.setattr(
        probing, "check_certificate", lambda pem, *rest: None if pem == other.certificate_pem else check(pem, *rest)
    )
    with pytest.raises(IdentityError, match="refuses our certificate"):
        client_of(server, replace(other, ca_pem=alpha.ca_pem)).watch(0, 0.0)


def test_an_expired_certificate_of_ours(server: Server, tmp_path: Path, consortium: Consortium) -> None:
    old = NOW - 5 * DAY
    elapsed = Consortium.create(tmp_path / "elapsed", now=old)
    credentials = load_credentials(elapsed.member("alpha", now=old, days=1), old, UNLOCK)
    with pytest.raises(CertificateExpired):
        client_of(server, credentials).watch(0, 0.0)


def test_an_expired_certificate_of_the_coordinator(tmp_path: Path) -> None:
    old = NOW - 5 * DAY
    elapsed = Consortium.create(tmp_path / "elapsed", now=old)
    elapsed.member("coordinator", "coordinator", now=old, days=1)
    credentials = load_credentials(elapsed.member("alpha", now=old), old, UNLOCK)
    slow = Clock()
    slow.ahead = old - NOW  # the coordinator's clock is days behind, so it starts
    with (
        running(new_coordinator(elapsed, tmp_path / "c"), PLAN, clock=slow) as server,
        pytest.raises(CertificateExpired, match="the coordinator's certificate"),
    ):
        client_of(server, credentials, clock=time.time).watch(0, 0.0)


def test_another_consortium_coordinator_or_host(
    consortium: Consortium, server: Server, alpha: Credentials, folder: Path
) -> None:
    with pytest.raises(WrongAuthority, match="not south"):
        CoordinatorClient(server.address, alpha, "south").watch(0, 0.0)
    with pytest.raises(IdentityError, match="not another"):
        client_of(server, alpha, coordinator_name="another").watch(0, 0.0)
    assert client_of(server, alpha, coordinator_name="coordinator").watch(0, 0.0).version


def test_a_host_the_certificate_is_not_for(server: Server, consortium: Consortium, alpha: Credentials) -> None:
    with (
        tls_server(consortium.root / "coordinator", "127.0.0.2") as other,
        pytest.raises(IdentityError, match="not for 127.0.0.2"),
    ):
        CoordinatorClient(other, alpha, "north").watch(0, 0.0)
    localhost = server.address.replace("127.0.0.1", "LOCALHOST")
    assert CoordinatorClient(localhost, alpha, "north").watch(0, 0.0).version


@contextmanager
def tls_server(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """A TLS server with somebody's certificate that never says a word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*clear_pair(folder))
    with socket.create_server((host, 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    with context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(1)
                except OSError:
                    if listener.fileno() < 0:
                        return

        threading.Thread(target=accept, daemon=True).start()
        yield f"{host}:{listener.getsockname()[1]}"


def certified(consortium: Consortium, role: str, hosts: list[x509.GeneralName]) -> tuple[bytes, bytes]:
    """A key and a certificate with any role and hosts, as a careless authority would sign it."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = consortium.authority
    identity = (authority.consortium, role, "impostor")
    certificate = issuing.member_certificate(
        authority._certificate, authority._key, key.public_key(), identity, hosts, NOW, NOW + DAY
    )
    return pem.private_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("role", ["hospital", "coordinator"])
def test_a_hospital_that_plays_the_coordinator(consortium: Consortium, alpha: Credentials, role: str) -> None:
    """Two locks: our own look at the role, and the TLS library's at the certificate's usage."""
    pair = certified(consortium, role, [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    impostor = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{impostor.add_secure_port('127.0.0.1:0', grpc.ssl_server_credentials([pair]))}"
    impostor.start()
    with grpc.secure_channel(address, channel_credentials(alpha), options=channel_options()) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            CoordinatorStub(channel).Watch(pb.WatchRequest(), timeout=5)
        honest = role == "coordinator"
        expected = grpc.StatusCode.UNIMPLEMENTED if honest else grpc.StatusCode.UNAVAILABLE
        assert caught.value.code() is expected
    with pytest.raises(ProtocolError if honest else IdentityError):
        CoordinatorClient(address, alpha, "north").watch(0, 0.0)
    impostor.stop(None).wait()


def test_a_coordinator_that_calls_as_a_hospital_is_refused(consortium: Consortium, server: Server) -> None:
    credentials = load_credentials(consortium.root / "coordinator", NOW, UNLOCK)
    with pytest.raises(IdentityError, match="refuses our certificate"):
        client_of(server, credentials).watch(0, 0.0)


def test_a_server_without_tls_and_one_that_is_not_there(alpha: Credentials) -> None:
    clock = Clock()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            for _ in range(100):
                try:
                    connection, _peer = listener.accept()
                except OSError:
                    return
                connection.sendall(b"220 ready\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(CoordinatorUnreachable):
            CoordinatorClient(address, alpha, "north", patience_seconds=2, clock=clock, sleep=clock.sleep).watch(0, 0.0)
    with pytest.raises(CoordinatorUnreachable, match="refused"):
        CoordinatorClient(address, alpha, "north", patience_seconds=2, clock=clock, sleep=clock.sleep).watch(0, 0.0)


def test_an_address_is_checked_at_once(alpha: Credentials) -> None:
    with pytest.raises(InvalidConfiguration):
        CoordinatorClient("nowhere", alpha, "north")


def test_the_private_key_never_touches_the_disk(monkeypatch: pytest.MonkeyPatch, alpha: Credentials) -> None:
    opened: list[str] = []
    load = ssl.SSLContext.load_cert_chain
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda self, p: (opened.append(p), load(self, p))[1])
    with pytest.raises(OSError, match="refused"):
        probing.probe("127.0.0.1", 1, alpha, NOW, 1.0)
    assert opened[0].startswith("/proc/self/fd/")


def test_without_memory_files_the_key_is_not_written_elsewhere(
    monkeypatch: pytest.MonkeyPatch, alpha: Credentials
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(StorageError, match="memory files"):
        probing.probe("127.0.0.1", 1, alpha, NOW, 1.0)


# -- starting a coordinator -------------------------------------------------------------------------------------------


def test_a_hospitals_keys_do_not_start_a_coordinator(consortium: Consortium, tmp_path: Path) -> None:
    folder = tmp_path / "hospital"
    consortium.member("epsilon", now=NOW).rename(folder)
    with pytest.raises(IdentityError, match="hospital epsilon"):
        Server(folder, PLAN).start()


def test_a_folder_without_keys_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="tls.key"):
        Server(tmp_path, PLAN).start()


def test_the_card_is_kept_while_it_holds(folder: Path, consortium: Consortium) -> None:
    with running(folder, PLAN):
        first = (folder / "card").read_bytes()
    with running(folder, PLAN):
        assert (folder / "card").read_bytes() == first
    (folder / "card").write_bytes(b"rubbish")
    with running(folder, PLAN):
        assert (folder / "card").read_bytes() != b"rubbish"


def test_another_plan_in_the_same_folder_is_refused(folder: Path) -> None:
    with running(folder, PLAN):
        pass
    other = PLAN.model_copy(update={"study": PLAN.study.model_copy(update={"rounds": 9})})
    other = type(PLAN).model_validate(other.model_dump(mode="json"))
    with pytest.raises(PlanChanged):
        Server(folder, other).start()
