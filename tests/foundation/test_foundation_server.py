"""The demo's server speaks the protocol over real sockets, refuses what is not it, and ends when told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from secure_fedhelp import __version__
from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import FoundationAnswerInvalid, InvalidConfiguration
from secure_fedhelp.learning.foundation import FoundationClient
from secure_fedhelp.research import foundation_server
from secure_fedhelp.research.foundation_server import FoundationServer
from secure_fedhelp.research.teacher import Teacher

RNG = np.random.default_rng(5)
TEACHER = Teacher(
    ((RNG.normal(size=(4, 6)), RNG.normal(size=6)), (RNG.normal(size=(6, 3)), RNG.normal(size=3))), (1, 2, 2)
)
PUBLIC = PublicSet.of(RNG.normal(size=(300, 1, 2, 2)).astype(np.float32), None)


@pytest.fixture(scope="module")
def server() -> Iterator[FoundationServer]:
    with FoundationServer(TEACHER, "teacher", "127.0.0.1:0") as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def http(server: FoundationServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.address}", trust_env=False) as client:
        yield client


def infer_body(**changes: object) -> dict[str, object]:
    return {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1, 2, 3, 4]} | changes]}


def test_the_client_reads_over_the_wire_what_the_teacher_says(server: FoundationServer) -> None:
    answer = FoundationClient(f"http://{server.address}", "teacher", 10.0).ask(PUBLIC, 3)
    np.testing.assert_allclose(answer.logits, TEACHER.logits(PUBLIC.inputs), rtol=1e-6)
    assert answer.model_version == TEACHER.version


def test_answers_for_every_pixel_come_over_the_wire_too() -> None:
    rng = np.random.default_rng(0)
    teacher = Teacher(((rng.normal(size=(9, 2)), np.zeros(2)),), (1, 8, 6), patch=3)
    server = FoundationServer(teacher, "pixels", "127.0.0.1:0")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        public = PublicSet.of(rng.normal(size=(5, 1, 8, 6)).astype(np.float32), None)
        client = FoundationClient(f"http://{server.address}", "pixels", 10.0)
        np.testing.assert_allclose(client.logits(public, (2, 8, 6)), teacher.logits(public.inputs), rtol=1e-6)
        with pytest.raises(FoundationAnswerInvalid, match="where .5, 2. belongs"):
            client.logits(public, 2)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_study_with_other_classes_refuses_this_teacher(server: FoundationServer) -> None:
    with pytest.raises(FoundationAnswerInvalid, match=r"shape \[256, 3\] where \[256, 2\] belongs"):
        FoundationClient(f"http://{server.address}", "teacher", 10.0).ask(PUBLIC, 2)


def test_inputs_of_another_shape_are_refused_with_the_servers_words(server: FoundationServer) -> None:
    with pytest.raises(FoundationAnswerInvalid, match="HTTP 400 .*shape"):
        FoundationClient(f"http://{server.address}", "teacher", 10.0).ask(PublicSet.of(np.ones((2, 4), "f4"), None), 3)


def test_health_and_metadata(http: httpx.Client) -> None:
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2").json() == {"name": "secure-fedhelp", "version": __version__, "extensions": []}
    assert http.get("/v2/models/teacher/ready").json() == {"name": "teacher", "ready": True}
    wanted = {
        "name": "teacher",
        "versions": [TEACHER.version],
        "platform": "numpy",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 2, 2]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert http.get("/v2/models/teacher").json() == wanted
    assert http.get(f"/v2/models/teacher/versions/{TEACHER.version}").json() == wanted


def test_the_answer_is_the_protocols(http: httpx.Client) -> None:
    answer = http.post("/v2/models/teacher/infer", json=infer_body() | {"id": "q1", "outputs": [{"name": "logits"}]})
    assert answer.headers["content-type"] == "application/json"
    logits = TEACHER.logits(np.array([1, 2, 3, 4], dtype=np.float32).reshape(1, 1, 2, 2))
    assert answer.json() == {
        "model_name": "teacher",
        "model_version": TEACHER.version,
        "id": "q1",
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 3], "data": logits.ravel().tolist()}],
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/teacher/versions/9", 404),
        ("GET", "/v2/models/teacher/../../etc", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/teacher/infer", 405),
        ("POST", "/v2/models/teacher", 405),
        ("DELETE", "/v2/models/teacher", 501),
    ],
)
def test_unknown_paths_get_the_protocols_error_body(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"not json",
        b'{"inputs": []}',
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1, 2, 3, NaN]}]}',
    ],
)
def test_a_body_that_is_no_request_is_a_400(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/v2/models/teacher/infer", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "pixels"},
        {"datatype": "FP64"},
        {"shape": [1, 4]},
        {"shape": [2, 1, 2, 2]},
        {"shape": []},
        {"data": [1, 2, 3]},
        {"data": [3e38, 3e38, 3e38, 3e38]},
    ],
)
def test_an_input_that_does_not_fit_is_a_400(http: httpx.Client, changes: dict[str, object]) -> None:
    answer = http.post("/v2/models/teacher/infer", json=infer_body(**changes))
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_an_unknown_output_is_a_400(http: httpx.Client) -> None:
    assert http.post("/v2/models/teacher/infer", json=infer_body() | {"outputs": [{"name": "x"}]}).status_code == 400


def test_a_request_beyond_the_bound_is_refused_unread(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foundation_server, "LARGEST_REQUEST_BYTES", 10)
    answer = http.post("/v2/models/teacher/infer", json=infer_body())
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


def test_a_request_without_a_length_is_refused(http: httpx.Client) -> None:
    assert http.post("/v2/models/teacher/infer", content=iter([b"{}"])).status_code == 411


def test_a_caller_that_hangs_up_does_not_end_the_server(
    server: FoundationServer, http: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close with a reset
        caller.sendall(b"POST /v2/models/teacher/infer HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert http.get("/v2/health/live").status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_handling_errors_of_ours_are_still_shown(server: FoundationServer, capfd: pytest.CaptureFixture[str]) -> None:
    for error, shown in ((ConnectionResetError("gone"), False), (RuntimeError("bug"), True)):
        try:
            raise error
        except Exception:
            server.handle_error(None, ("127.0.0.1", 1))
        assert ("Traceback" in capfd.readouterr().err) == shown


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:0", "10.0.0.1:80", "localhost", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"]
)
def test_only_loopback_is_listened_on(listen: str) -> None:
    with pytest.raises(InvalidConfiguration):
        FoundationServer(TEACHER, "teacher", listen)


def test_a_taken_port_and_a_bad_name_are_refused(server: FoundationServer) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot listen"):
        FoundationServer(TEACHER, "teacher", server.address)
    with pytest.raises(InvalidConfiguration, match="model name"):
        FoundationServer(TEACHER, "a/b", "127.0.0.1:0")


@pytest.mark.end
def test_the_process_writes_its_address_serves_without_torch_and_ends_at_sigterm(tmp_path: Path) -> None:
    TEACHER.save(tmp_path / "teacher.npz")
    program = (
        "import sys; from secure_fedhelp.cli.foundation import app; import atexit;"
        "atexit.register(lambda: print('heavy:', sorted({'torch', 'sklearn'} & set(sys.modules))));"
        "app(sys.argv[1:], standalone_mode=False)"
    )
    arguments = ["serve", "--model-file", str(tmp_path / "teacher.npz"), "--address-file", str(tmp_path / "address")]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # printed after the address file is in place
        address = (tmp_path / "address").read_text().strip()
        assert line == f"serving teacher at http://{address}\n"
        logits = FoundationClient(f"http://{address}", "teacher", 30.0).logits(PUBLIC, 3)
        np.testing.assert_allclose(logits, TEACHER.logits(PUBLIC.inputs), rtol=1e-6)
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest == "heavy: []\n"
