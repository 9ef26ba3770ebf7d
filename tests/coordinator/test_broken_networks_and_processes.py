"""Cut connections, killed and restarted coordinators, full disks: the study goes on, and every upload counts once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import tomli_w
from consortia import Consortium
from faults import Relay
from members import Hospital, some_body
from plans import example_plan
from servers import PATIENCE_SECONDS, PLAN, Cast, Raw, Server, sum_of
from unlocking import UNLOCK, add_lock

from secure_fedhelp.coordinator.journal import Journal
from secure_fedhelp.coordinator.running_sum import RunningSum
from secure_fedhelp.coordinator.spool import Spool
from secure_fedhelp.coordinator.state import SignedHeader, State
from secure_fedhelp.errors import (
    CiphertextWrongLength,
    CoordinatorUnreachable,
    InvalidConfiguration,
    MessageTooLarge,
    StorageError,
)
from secure_fedhelp.identity.tls import load_credentials
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.wire.client import CoordinatorClient
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.messages import CHUNK_BYTES, Phase, parse_header


def relayed(cast: Cast, name: str, relay: Relay) -> CoordinatorClient:
    credentials = load_credentials(cast.sites[name].folder, time.time(), UNLOCK)
    return CoordinatorClient(relay.address, credentials, PLAN.consortium)


# -- connections that break -------------------------------------------------------------------------------------------


def test_an_upload_goes_on_after_every_cut(cast: Cast, server: Server) -> None:
    cast.join()
    cast.make_key()
    relay = Relay(int(server.address.rpartition(":")[2]), "up", [1_500_000, 1_200_000])
    client = relayed(cast, "alpha", relay)
    body = cast.body("alpha")
    # How much was stored at the moment of a cut is the network's affair; that it is not sent again is tested below.
    assert len(body) < cast.sites["alpha"].upload(client, body) <= 3 * len(body)
    assert relay.cuts_left == 0
    for name in ("beta", "gamma"):
        cast.upload(name)
    cast.until(Phase.COLLECTING, 1)
    expected = sum_of({name: cast.body(name) for name in cast.names})
    assert client.download(0, len(expected)) == expected, "counted once"
    relay.close()
    client.close()


def test_a_download_goes_on_after_a_cut(cast: Cast, server: Server) -> None:
    cast.join()
    cast.make_key()
    for name in cast.names:
        cast.upload(name)
    cast.until(Phase.COLLECTING, 1)
    expected = sum_of({name: cast.body(name) for name in cast.names})
    relay = Relay(int(server.address.rpartition(":")[2]), "down", [1_500_000])
    client = relayed(cast, "beta", relay)
    assert client.download(0, len(expected)) == expected
    assert relay.cuts_left == 0
    assert client.bytes_down < 2 * len(expected)
    with pytest.raises(MessageTooLarge):
        client.download(0, len(expected) - 1)
    with pytest.raises(CiphertextWrongLength):
        client.download(0, len(expected) + 1)
    relay.close()
    client.close()


def test_patience_ends_with_a_name(cast: Cast, server: Server) -> None:
    client = cast.sites["alpha"].client(server, patience_seconds=30)
    client.watch(0, 0.0)
    server.stop()
    begin = time.monotonic()
    with pytest.raises(CoordinatorUnreachable, match=server.address):
        client.watch(0, 0.0)
    assert time.monotonic() - begin < 10
    client.goodbye()  # nobody is there to be told: no error
    client.close()


# -- a coordinator that stops and comes back --------------------------------------------------------------------------


def test_clients_wait_for_a_coordinator_that_restarts(cast: Cast, server: Server) -> None:
    cast.join()
    cast.make_key()
    cast.upload("alpha")
    server.stop()
    seen: list[int] = []
    credentials = load_credentials(cast.sites["beta"].folder, time.time(), UNLOCK)
    client = CoordinatorClient(server.address, credentials, PLAN.consortium)
    thread = threading.Thread(target=lambda: seen.append(cast.sites["beta"].upload(client, cast.body("beta"))))
    thread.start()
    server.start()
    thread.join(PATIENCE_SECONDS)
    assert seen == [len(cast.body("beta"))]
    assert any("going on in phase collecting" in line for line in server.told)
    cast.upload("gamma")
    cast.until(Phase.COLLECTING, 1)
    client.close()


def test_a_full_disk_stops_the_coordinator_and_hospitals_wait(
    cast: Cast, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = load_credentials(cast.sites["alpha"].folder, time.time(), UNLOCK)
    client = CoordinatorClient(server.address, credentials, PLAN.consortium)
    client.watch(0, 0.0)

    def full(*_: object) -> None:
        raise StorageError("database or disk is full")

    joined: list[None] = []
    thread = threading.Thread(target=lambda: joined.append(client.join(cast.sites["alpha"].card)))
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", full)
        thread.start()
        server.wait()
    assert isinstance(server.error, StorageError)
    server.error = None
    server.start()
    thread.join(PATIENCE_SECONDS)
    assert joined == [None]
    client.close()


def test_a_second_coordinator_on_the_same_folder_or_port_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="another coordinator"):
        Server(server.folder, PLAN).start()
    add_lock(tmp_path / "other")
    for name in ("tls.key", "tls.crt", "ca.crt", "signing.key"):
        (tmp_path / "other" / name).write_bytes((server.folder / name).read_bytes())
        (tmp_path / "other" / name).chmod(0o600)
    with pytest.raises(InvalidConfiguration, match="cannot listen"):
        Server(tmp_path / "other", PLAN, address=server.address).start()


# -- the real process -------------------------------------------------------------------------------------------------


class Process:
    """``secure-fedhelp coordinator serve`` as an operator starts it."""

    def __init__(self, folder: Path, plan_path: Path) -> None:
        self.folder, self.plan_path, self.address = folder, plan_path, "127.0.0.1:0"

    def start(self) -> None:
        arguments = ["--folder", str(self.folder), "--plan", str(self.plan_path), "--listen", self.address]
        program = "from secure_fedhelp.cli.coordinator import app; app()"
        # Only the coordinator's own part of the command line: what it imports is what a test looks at.
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.lines = [self.process.stdout.readline()]
        while " at 127.0.0.1:" not in self.lines[-1]:
            assert self.lines[-1], self.lines
            self.lines.append(self.process.stdout.readline())
        self.address = self.lines[-1].split(" at ")[1].strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def process(folder: Path, tmp_path: Path) -> Iterator[Process]:
    path = tmp_path / "plan.toml"
    path.write_text(tomli_w.dumps(PLAN.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    started = Process(folder, path)
    started.start()
    yield started
    started.kill()


def test_kill_9_in_the_middle_of_an_upload(consortium: Consortium, process: Process) -> None:
    server = Server(process.folder, PLAN, address=process.address)
    cast = Cast(consortium, server, PLAN)
    cast.join()
    cast.make_key()
    alpha, body = cast.sites["alpha"], cast.body("alpha")
    header = alpha.protocol.header(body)
    stored = process.folder / "uploads" / f"00000-00-alpha-{parse_header(header).body_sha256}"

    raw, go_on = Raw(server, alpha), threading.Event()

    def half() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(head=raw.head(body))
        yield pb.UploadRequest(chunk=body[:CHUNK_BYTES])
        go_on.wait(PATIENCE_SECONDS)

    call = raw.stub.Upload.future(half(), timeout=PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not stored.exists() or stored.stat().st_size < CHUNK_BYTES:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    go_on.set()
    assert isinstance(call.exception(), grpc.RpcError)
    raw.channel.close()
    process.start()

    credentials = load_credentials(alpha.folder, time.time(), UNLOCK)
    client = CoordinatorClient(process.address, credentials, PLAN.consortium)
    assert alpha.upload(client, body) == len(body) - CHUNK_BYTES, "resumed at its offset"
    for name in ("beta", "gamma"):
        cast.upload(name)
    cast.until(Phase.COLLECTING, 1)
    expected = sum_of({name: cast.body(name) for name in cast.names})
    assert client.download(0, len(expected)) == expected, "counted once"
    process.process.send_signal(signal.SIGTERM)
    output, _ = process.process.communicate(timeout=PATIENCE_SECONDS)
    assert process.process.returncode == 0
    assert "start again with the same folder" in output
    process.start()
    assert cast.state().round == 1, "the state was kept"
    entry = json.loads((process.folder / "transcript.jsonl").read_bytes())["entry"]
    assert [u["header"]["hospital"] for u in entry["cohort"]] == list(cast.names)
    client.close()
    cast.close()


LIGHT = """
import sys, threading, time
from pathlib import Path
import secure_fedhelp.cli.coordinator, secure_fedhelp.wire.client
from secure_fedhelp.coordinator.server import serve
from secure_fedhelp.study.plan import load_plan
stop = threading.Event()
plan = load_plan(Path(sys.argv[2]))
state = serve(Path(sys.argv[1]), plan, "127.0.0.1:0", time.time, lambda line: stop.set(), 0, stop)
heavy = {"torch", "tenseal", "opacus", "sklearn", "monai", "scipy"} & {name.partition(".")[0] for name in sys.modules}
assert not heavy, heavy
print(state.phase)
"""


def test_the_coordinator_runs_without_torch_and_tenseal(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(tomli_w.dumps(PLAN.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(folder), str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "gathering"), done.stderr


# -- memory -----------------------------------------------------------------------------------------------------------


def peak_of_a_sum(folder: Path, hospitals: int) -> float:
    """Largest memory of a running sum of so many uploads, in bodies."""
    plan = example_plan(
        channels__0__length=100_000,
        hospitals=[{"name": f"h{i}", "tier": "small", "nominal_patients": 40} for i in range(hospitals)],
    )
    chosen = plan_profile(plan)
    spool = Spool(folder, chosen, plan.length_of)
    state = State(phase=Phase.COLLECTING, deadline=0.0)
    for i in range(hospitals):
        body = some_body(plan, i)
        header = parse_header(Hospital(plan, f"h{i}").header(body))
        spool.append(header, body)
        state = replace(state, uploads={**state.uploads, f"h{i}": SignedHeader(header, b"")})
    tracemalloc.start()
    RunningSum(spool, chosen, plan.length_of).finish(state, (), ())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / chosen.body_bytes(plan.largest_length)


def test_the_memory_of_a_sum_does_not_grow_with_the_hospitals(tmp_path: Path) -> None:
    few, many = peak_of_a_sum(tmp_path / "few", 3), peak_of_a_sum(tmp_path / "many", 24)
    assert many < few + 0.1, "the hospitals' seeds, and nothing else"
    assert many < 5, "the sum in words of eight bytes, and packed while it is written; bodies are mapped"
