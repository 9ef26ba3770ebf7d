"""A teacher behind TLS by the hospital's own authority, and behind a token: from hospital.toml on."""

from __future__ import annotations

import datetime
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import (
    FedHelpError,
    FoundationUnavailable,
    InvalidConfiguration,
    StorageError,
    UnsafePermissions,
)
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.preparation import ask_teacher

SECRET = "tok.en_of-hospital~1/+=="
INPUTS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
PUBLIC = PublicSet.of(INPUTS, None)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._reply(200 if self._known() else 401, {"name": "teacher"} if self._known() else {"error": "who asks?"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["inputs"][0]
        first = np.asarray(asked["data"]).reshape(asked["shape"])[:, 0]
        data = np.stack([first, -first], axis=1)
        output = {"name": "out", "datatype": "FP32", "shape": list(data.shape), "data": data.ravel().tolist()}
        self._reply(200, {"model_name": "teacher", "model_version": "1", "outputs": [output]})

    def _known(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {SECRET}"

    def _reply(self, status: int, values: object) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def certificate(
    name: str, names: list[str], issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by, signer = issuer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=2))
    builder = builder.add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(signer, hashes.SHA256()), key


def pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, bytes]]:
    """(URL, the authority's certificate) of a teacher that wants TLS and the token."""
    folder = tmp_path_factory.mktemp("tls")
    authority, authority_key = certificate("own authority", [])
    own, key = certificate("teacher", ["localhost"], (authority.subject, authority_key))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + pem(own))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_address[1]}", pem(authority)
    server.shutdown()
    thread.join()
    server.server_close()


def asked(root: Path, url: str, more: str) -> np.ndarray:
    """What a hospital with this hospital.toml learns of its teacher."""
    text = f'name = "beta"\nconsortium = "north"\n[[foundations]]\nurl = "{url}"\n{more}\n'
    (root / "hospital.toml").write_text(text)
    folder = HospitalFolder(root)
    member = SimpleNamespace(
        folder=folder, config=folder.config(), plan=SimpleNamespace(data=SimpleNamespace(answer_shape=2))
    )
    world = SimpleNamespace(clock=lambda: 1.0, foundation=None, sleep=lambda _: None)
    (logits,) = ask_teacher(member, PUBLIC, world)  # type: ignore[arg-type,misc]
    return logits


def prepared(root: Path, ca: bytes, token: str = SECRET + "\n", mode: int = 0o600) -> str:
    (root / "ca.crt").write_bytes(ca)
    (root / "token").write_text(token)
    (root / "token").chmod(mode)
    return 'ca_file = "ca.crt"\ntoken_file = "token"'


def test_with_the_authority_and_the_token_the_teacher_answers(served: tuple[str, bytes], tmp_path: Path) -> None:
    url, ca = served
    logits = asked(tmp_path, url, prepared(tmp_path, ca))
    assert logits.tolist() == np.stack([INPUTS[:, 0], -INPUTS[:, 0]], axis=1).tolist()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "public").iterdir())
    assert SECRET.encode() not in kept


def test_without_the_authority_nothing_is_asked(served: tuple[str, bytes], tmp_path: Path) -> None:
    url, ca = served
    prepared(tmp_path, ca)
    with pytest.raises(FoundationUnavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
        asked(tmp_path, url, 'token_file = "token"')
    assert "ca_file" in caught.value.hint
    other, _ = certificate("another authority", [])
    with pytest.raises(FoundationUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        asked(tmp_path, url, prepared(tmp_path, pem(other)))


def test_a_certificate_for_another_name_is_refused(served: tuple[str, bytes], tmp_path: Path) -> None:
    url, ca = served
    with pytest.raises(FoundationUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        asked(tmp_path, url.replace("localhost", "127.0.0.1"), prepared(tmp_path, ca))


@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_its_token_the_server_says_no(token: str, served: tuple[str, bytes], tmp_path: Path) -> None:
    url, ca = served
    more = prepared(tmp_path, ca, token or SECRET)
    more = more if token else 'ca_file = "ca.crt"'
    with pytest.raises(FoundationUnavailable, match=r"HTTP 401 \(who asks\?\)") as caught:
        asked(tmp_path, url, more)
    assert "token" in caught.value.hint


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_a_token_that_others_may_read_is_not_used(mode: int, served: tuple[str, bytes], tmp_path: Path) -> None:
    url, ca = served
    with pytest.raises(UnsafePermissions, match="open to other users"):
        asked(tmp_path, url, prepared(tmp_path, ca, mode=mode))


@pytest.mark.parametrize("token", ["", "two words", "a\nb"])
def test_a_file_without_a_token_is_refused(token: str, served: tuple[str, bytes], tmp_path: Path) -> None:
    url, ca = served
    with pytest.raises(InvalidConfiguration, match="no bearer token"):
        asked(tmp_path, url, prepared(tmp_path, ca, token))


@pytest.mark.parametrize("name", ["token", "ca.crt"])
def test_a_missing_file_is_named(name: str, served: tuple[str, bytes], tmp_path: Path) -> None:
    url, ca = served
    more = prepared(tmp_path, ca)
    (tmp_path / name).unlink()
    with pytest.raises(InvalidConfiguration, match=f"{name}: no such file"):
        asked(tmp_path, url, more)
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=name):
        asked(tmp_path, url, more)


@pytest.mark.parametrize("line", ['answers = "softmax"', "largest_batch = 0", 'token = "x"', 'version = ""'])
def test_a_setting_that_is_none_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(FedHelpError, match=line.split(" ")[0]):
        asked(tmp_path, "https://x", line)
