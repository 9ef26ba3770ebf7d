"""A real coordinator on loopback with mutual TLS, in a thread of the test, and real clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

import grpc
from consortia import Consortium
from members import FINGERPRINT, Hospital, masked_body, some_body
from plans import example_plan
from unlocking import UNLOCK, add_lock

from secure_fedhelp.coordinator.server import serve
from secure_fedhelp.identity.cards import make_card
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.identity.tls import load_credentials
from secure_fedhelp.secagg.masked.member import Member, Setting
from secure_fedhelp.secagg.packing import SumAccumulator
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.client import CoordinatorClient
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import CoordinatorStub
from secure_fedhelp.wire.messages import Phase, StudyState, key_statement
from secure_fedhelp.wire.options import channel_credentials, channel_options

#: Certificates are judged by TLS libraries too, which look at the machine's clock.
NOW = time.time()
PATIENCE_SECONDS = 30.0
#: Bodies of more than two chunks of 1 MiB, so that streams have a middle.
PLAN = example_plan(study__rounds=2, aggregation__minimum_cohort=2, channels__0__length=330_000)


class Clock:
    """Seconds since the epoch, with a part that a test can add."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def sleep(self, seconds: float) -> None:
        """Sleeping makes time pass, at a hundredth of the price."""
        self.ahead += seconds
        time.sleep(seconds / 100)


@dataclass
class Server:
    """``serve`` in a thread. Start it again on the same folder for a restart."""

    folder: Path
    plan: StudyPlan
    clock: Clock = field(default_factory=Clock)
    linger_seconds: float = 60.0
    address: str = ""
    told: list[str] = field(default_factory=list)
    result: StudyState | None = None
    error: BaseException | None = None

    def start(self) -> Server:
        self._stop, self._up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._up.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        self.address = (self.folder / "address").read_text().strip()
        return self

    def _run(self) -> None:
        try:
            listen = self.address or "127.0.0.1:0"
            self.result = serve(
                self.folder, self.plan, listen, self.clock, self._tell, self.linger_seconds, stop=self._stop
            )
        except BaseException as error:
            self.error = error
            self._up.set()

    def _tell(self, line: str) -> None:
        self.told.append(line)
        if " at 127.0.0.1:" in line:
            self._up.set()

    def stop(self) -> None:
        self._stop.set()
        self.wait()

    def linger(self) -> StudyState | None:
        """Let the time of lingering pass, however late the server notices that the study is over."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            self.clock.ahead += self.linger_seconds
            self._thread.join(0.1)
        return self.wait()

    def wait(self) -> StudyState | None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        return self.result


class Site:
    """One hospital: its folder, its keys, its card and a client."""

    def __init__(self, consortium: Consortium, plan: StudyPlan, name: str) -> None:
        self.plan, self.name = plan, name
        self.folder = consortium.root / name
        if not self.folder.exists():
            consortium.member(name, now=NOW)
        self.key = SigningKey.load(self.folder / "signing.key", UNLOCK).of(plan.study.signatures)
        self.protocol = Hospital(plan, name, self.key)
        # Sealing keys must differ between hospitals, as real ones do.
        sealing = name.encode().hex().ljust(2432, "0")
        self.card = make_card(plan.hash, "hospital", name, self.key.public_hex, sealing, self.folder, self.key, UNLOCK)

    def client(self, server: Server, patience_seconds: float = 60.0, **changes: object) -> CoordinatorClient:
        credentials = load_credentials(self.folder, time.time(), UNLOCK)
        return CoordinatorClient(
            server.address,
            credentials,
            self.plan.consortium,
            clock=server.clock,
            sleep=server.clock.sleep,
            patience_seconds=patience_seconds,
            **changes,  # type: ignore[arg-type]
        )

    def confirm(self, client: CoordinatorClient, epoch: int = 0, fingerprint: str = FINGERPRINT) -> None:
        statement = key_statement(self.plan.hash, epoch, fingerprint)
        client.confirm_key(epoch, fingerprint, self.key.sign("key-confirmation", statement))

    def upload(self, client: CoordinatorClient, body: bytes, round_number: int = 0, **changes: object) -> int:
        if round_number and "previous" not in changes:
            changes["previous"] = sha256_hex(client.transcript(round_number - 1)[0])
        header = self.protocol.header(body, **({"round": round_number} | changes))
        return client.upload(round_number, header, self.protocol.sign_header(header), body)


class Cast:
    """All hospitals of a plan with a client each."""

    def __init__(self, consortium: Consortium, server: Server, plan: StudyPlan) -> None:
        self.plan, self.server = plan, server
        self.sites = {h.name: Site(consortium, plan, h.name) for h in plan.hospitals}
        self.clients = {name: site.client(server) for name, site in self.sites.items()}
        self.names = tuple(self.sites)

    def join(self) -> None:
        for name, client in self.clients.items():
            client.join(self.sites[name].card)

    def make_key(self, epoch: int = 0) -> None:
        maker = self.state().maker
        sealed = {name: f"sealed to {name}".encode() for name in self.names if name != maker}
        self.clients[maker].post_key(epoch, sealed, FINGERPRINT)
        for name, client in self.clients.items():
            self.sites[name].confirm(client, epoch)

    def body(self, name: str, round_number: int = 0) -> bytes:
        return some_body(self.plan, 100 * round_number + self.names.index(name))

    def upload(self, name: str, round_number: int = 0, **changes: object) -> int:
        return self.sites[name].upload(self.clients[name], self.body(name, round_number), round_number, **changes)

    def state(self) -> StudyState:
        return self.clients[self.names[0]].watch(0, 0.0)

    def until(self, phase: Phase, round_number: int | None = None) -> StudyState:
        """Watch until the study is there."""
        known, client, deadline = 0, self.clients[self.names[0]], time.monotonic() + PATIENCE_SECONDS
        while True:
            state = client.watch(known, 5.0)
            if state.phase is phase and round_number in (None, state.round):
                return state
            assert time.monotonic() < deadline, state
            known = state.version

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


class MaskedCast(Cast):
    """Hospitals of a plan with masks, each step as the members' own code takes it; bodies are really masked."""

    def __init__(self, consortium: Consortium, server: Server, plan: StudyPlan) -> None:
        super().__init__(consortium, server, plan)
        self._masking: dict[tuple[str, int], Member] = {}
        self.sent: dict[tuple[str, int], bytes] = {}

    def member(self, name: str, round_number: int) -> Member:
        if (name, round_number) not in self._masking:
            section = self.plan.aggregation
            setting = Setting(self.plan.hash, section.masks, section.minimum_cohort)
            publics = {n: site.key.public_hex for n, site in self.sites.items()}
            self._masking[name, round_number] = Member(setting, round_number, name, self.sites[name].key, publics)
        return self._masking[name, round_number]

    def act(self, *names: str) -> StudyState:
        """The running phase's step by each of these, if it has one."""
        steps = {
            Phase.ADVERTISING: self.advertise,
            Phase.SHARING: self.share,
            Phase.COLLECTING: self.send,
            Phase.AGREEING: self.agree,
            Phase.REVEALING: self.reveal,
        }
        at = attrgetter("phase", "round", "attempt")
        begun = self.state()
        for name in names or self.names:
            if begun.phase in steps and at(self.state()) == at(begun):
                steps[begun.phase](name)
        return self.state()

    def late(self) -> StudyState:
        """The running deadline passes."""
        before = self.state()
        self.server.clock.ahead += self.plan.aggregation.round_deadline_seconds
        return self.clients[self.names[0]].watch(before.version, 10.0)

    def advertise(self, name: str) -> None:
        number, attempt = self._at()
        self.clients[name].post_round_key(number, attempt, self.member(name, number).key(attempt))

    def share(self, name: str) -> None:
        number, attempt = self._at()
        keys = self.clients[name].round_keys(number, attempt)
        self.clients[name].post_shares(number, attempt, self.member(name, number).share(attempt, keys))

    def send(self, name: str) -> int:
        number, attempt = self._at()
        masks = self.member(name, number).mask(attempt, self.clients[name].shares(number, attempt))
        body = self.sent[name, attempt] = masked_body(self.plan, self.body(name, number), masks)
        changes: dict[str, object] = {"attempt": attempt, "view": masks.view}
        return self.sites[name].upload(self.clients[name], body, number, **changes)

    def agree(self, name: str) -> None:
        number, attempt = self._at()
        self.clients[name].agree(number, attempt, self.agreement(name))

    def agreement(self, name: str) -> bytes:
        number, attempt = self._at()
        survivors, _ = self.clients[name].survivors(number, attempt)
        return self.member(name, number).agree(attempt, survivors, sha256_hex(self.sent[name, attempt]))

    def reveal(self, name: str) -> None:
        number, attempt = self._at()
        self.clients[name].reveal(number, attempt, self.revealed(name))

    def revealed(self, name: str) -> bytes:
        number, attempt = self._at()
        self.agreement(name)  # of one that was away when the others agreed
        return self.member(name, number).reveal(attempt, self.clients[name].survivors(number, attempt)[1])

    def _at(self) -> tuple[int, int]:
        state = self.state()
        return state.round, state.attempt


class Raw:
    """A hospital that speaks the protocol as it likes, without our client's care."""

    def __init__(self, server: Server, site: Site) -> None:
        self.site = site
        credentials = channel_credentials(load_credentials(site.folder, time.time(), UNLOCK))
        self.channel = grpc.secure_channel(server.address, credentials, options=channel_options())
        self.stub = CoordinatorStub(self.channel)

    def head(self, body: bytes, offset: int = 0, number: int = 0, **changes: object) -> pb.UploadHead:
        header = self.site.protocol.header(body, **changes)
        signature = self.site.protocol.sign_header(header)
        return pb.UploadHead(round=number, header=header, signature=signature, offset=offset)

    def upload(self, *parts: pb.UploadHead | bytes) -> pb.UploadState:
        def requests() -> Iterator[pb.UploadRequest]:
            for part in parts:
                if isinstance(part, pb.UploadHead):
                    yield pb.UploadRequest(head=part)
                else:
                    yield pb.UploadRequest(chunk=part)

        return self.stub.Upload(requests(), timeout=30)

    def status(self, body: bytes) -> int:
        return self.stub.UploadStatus(self.head(body), timeout=30).offset


def sum_of(bodies: dict[str, bytes], plan: StudyPlan = PLAN) -> bytes:
    """The sum that a coordinator of the plan must publish for these bodies."""
    accumulator = SumAccumulator(plan_profile(plan), plan.largest_length)
    for name, body in bodies.items():
        accumulator.add(name, body)
    return accumulator.finish()


def new_coordinator(consortium: Consortium, folder: Path) -> Path:
    """A fresh coordinator folder with the keys of the consortium's member ``coordinator``."""
    add_lock(folder)
    for name in ("tls.key", "tls.crt", "ca.crt", "signing.key"):
        (folder / name).write_bytes((consortium.root / "coordinator" / name).read_bytes())
        (folder / name).chmod(0o600)
    return folder


@contextmanager
def running(folder: Path, plan: StudyPlan, **changes: object) -> Iterator[Server]:
    """A server that is stopped on the way out."""
    server = Server(folder, plan, **changes).start()  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()
