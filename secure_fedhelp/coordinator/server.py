"""The coordinator's process: from a folder of keys and a plan to a running study, and its end.

tls.key tls.crt ca.crt signing.key    the coordinator's own keys (private keys: sealed); revoked.crl, optional, and
                                      revoked.last.crl, the last good one
unlock.json                           the lock of the private keys
address                               HOST:PORT it listens on, while it runs
card                                  its member card
journal.sqlite uploads/ sums/         the study; transcript.jsonl and roster.json for everybody to read
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from secure_fedhelp.coordinator.calls import Calls
from secure_fedhelp.coordinator.door import Door
from secure_fedhelp.coordinator.keeper import Keeper
from secure_fedhelp.coordinator.roster_file import write_roster
from secure_fedhelp.coordinator.service import CoordinatorService, pool_size
from secure_fedhelp.coordinator.state import Member, State, public_state
from secure_fedhelp.errors import FedHelpError, IdentityError, InvalidConfiguration, NoFileLeft
from secure_fedhelp.identity.cards import check_card, make_card
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.revocation import RevocationList
from secure_fedhelp.identity.secret_source import USUAL, SecretSource
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.identity.tls import Credentials, load_credentials
from secure_fedhelp.identity.unlock import Unlock
from secure_fedhelp.study.files import storage_error, write_atomic
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.reading import CARD, read_bounded
from secure_fedhelp.wire.address import join_address, parse_address
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import add_CoordinatorServicer_to_server
from secure_fedhelp.wire.messages import StudyState
from secure_fedhelp.wire.options import server_credentials, server_options

#: Told one line for a person whenever something happened.
OnEvent = Callable[[str], None]

_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 2.0
_FILES = 65536
#: What the process has open for itself: the journal, gRPC's own, a sum, and some to spare.
_OWN_FILES = 64


def allow_many_files() -> None:
    """Raise this process's own limit of open files as far as it may: each connection takes one, a stranger's too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections(plan: StudyPlan) -> int:
    """How many connections may be open at once, so that there are files left for what has to be stored."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _FILES if soft == resource.RLIM_INFINITY else soft
    kept = _OWN_FILES + 2 * pool_size(plan)  # a call in progress has one or two files open
    return max(files - kept, 4 * len(plan.hospitals))


def serve(
    folder: Path,
    plan: StudyPlan,
    address: str,
    clock: Callable[[], float],
    on_event: OnEvent,
    linger_seconds: float = 60.0,
    stop: threading.Event | None = None,
    source: SecretSource = USUAL,
) -> StudyState:
    """Coordinate one study until it is over, or until SIGTERM or SIGINT (or ``stop``), and return its last state.

    A study that is over is served on until every present member has said goodbye, at most ``linger_seconds``; one that
    ended because hospitals left, also for those that have not come yet, so that they hear why. Started
    again on the same folder, an interrupted study goes on where it was. ``source`` says where the secret comes from
    that opens the folder's keys. Raises the named errors of keys, plan and folder, InvalidConfiguration if the address
    cannot be used, and StorageError if the disk fails.
    """
    stop = stop or threading.Event()
    try:
        (folder / "address").unlink(missing_ok=True)  # of a process that was killed
    except OSError as error:
        raise storage_error(f"cannot remove {folder / 'address'}", error) from error
    with _opened(folder, plan, clock, source) as (keeper, service, door, credentials, roster):
        calls = Calls(door.caller)
        with _running(service, calls, folder, plan, credentials, address) as listening:
            on_event(f"study {plan.study.name} ({plan.hash[:16]}) at {listening}")
            with _signals(stop):
                _work_until_over(keeper, clock, on_event, roster.update, linger_seconds, stop)
            keeper.stop_waiting()
        return public_state(plan, keeper.state)


@contextmanager
def in_memory(
    folder: Path, plan: StudyPlan, clock: Callable[[], float], on_event: OnEvent, source: SecretSource = USUAL
) -> Iterator[CoordinatorService]:
    """The same coordinator without a network: its handlers, for channels of wire/memory.py, while a thread works.

    Leaving waits for the thread and raises what it raised.
    """
    stop = threading.Event()
    failed: list[FedHelpError] = []

    def work() -> None:
        try:
            _work_until_over(keeper, clock, on_event, roster.update, 0.0, stop)
        except FedHelpError as error:
            failed.append(error)

    with _opened(folder, plan, clock, source) as (keeper, service, _, _, roster):
        thread = threading.Thread(target=work, name="coordinator")
        thread.start()
        try:
            yield service
        finally:
            stop.set()
            thread.join()
            keeper.stop_waiting()
        if failed:
            raise failed[0]


@contextmanager
def _opened(
    folder: Path, plan: StudyPlan, clock: Callable[[], float], source: SecretSource
) -> Iterator[tuple[Keeper, CoordinatorService, Door, Credentials, _RosterWriter]]:
    """Keys, card and stored study of a coordinator's folder, and its handlers."""
    unlock = open_lock(folder, source)
    credentials = load_credentials(folder, clock(), unlock)  # a list that is being copied is waited for
    identity = credentials.identity
    if (identity.role, identity.consortium) != ("coordinator", plan.consortium):
        raise IdentityError(
            f"the certificate is for {identity.role} {identity.name} of {identity.consortium}, "
            f"a coordinator of {plan.consortium} is needed"
        )
    key = SigningKey.load(folder / "signing.key", unlock).of(plan.study.signatures)
    card = _own_card(folder, plan, credentials, key, clock(), unlock)
    unlock.wipe()
    keeper = Keeper(folder, plan, key, clock)
    try:
        door = Door(plan, credentials.ca_pem, RevocationList(folder, credentials.ca_pem, keeper.note), clock)
        roster = _RosterWriter(folder, identity.name, card)
        yield keeper, CoordinatorService(keeper, door, card), door, credentials, roster
    finally:
        keeper.close()


def _work_until_over(
    keeper: Keeper,
    clock: Callable[[], float],
    on_event: OnEvent,
    roster: Callable[[State], None],
    linger_seconds: float,
    stop: threading.Event,
) -> None:
    over_since: float | None = None
    while not stop.is_set():
        try:
            done = keeper.work()
        finally:
            for line in keeper.news():
                on_event(line)
        state = keeper.state
        try:
            roster(state)
        except NoFileLeft as error:
            keeper.lacking(error)
        if state.over:
            over_since = clock() if over_since is None else over_since
            nobody = not state.present and not _still_coming(keeper, state)
            if nobody or clock() - over_since >= linger_seconds:
                return
        keeper.wait(done, _LOOK_SECONDS)
    on_event("stopped; start again with the same folder to go on")


def _still_coming(keeper: Keeper, state: State) -> bool:
    """Whether hospitals that know nothing of it yet will come to a study that others have ended by leaving."""
    known = state.members.keys() | state.gone | keeper.turned_away
    return bool(state.gone) and not {h.name for h in keeper.plan.hospitals} <= known


@contextmanager
def _running(
    service: CoordinatorService, calls: Calls, folder: Path, plan: StudyPlan, credentials: Credentials, address: str
) -> Iterator[str]:
    """A started server; gives the address it listens on, which is also in the file ``address`` while it runs."""
    host, port = parse_address(address)
    threads = pool_size(plan)
    with ThreadPoolExecutor(threads, thread_name_prefix="call") as pool:
        server = grpc.server(
            pool, interceptors=[calls], options=server_options(most_connections(plan)), maximum_concurrent_rpcs=threads
        )
        add_CoordinatorServicer_to_server(service, server)  # type: ignore[no-untyped-call]  # generated without types
        try:
            bound = server.add_secure_port(join_address(host, port), server_credentials(credentials))
        except RuntimeError as error:
            raise InvalidConfiguration(
                f"cannot listen on {address}", "Choose a free port (0 for any) and an address of this machine."
            ) from error
        server.start()
        listening = join_address(host, bound)
        try:
            write_atomic(folder / "address", f"{listening}\n".encode())
            yield listening
        finally:
            (folder / "address").unlink(missing_ok=True)
            server.stop(_GRACE_SECONDS).wait()


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set ``stop``. Only a main thread may say so; elsewhere the caller has ``stop`` itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _RosterWriter:
    """Keeps ``roster.json`` up to date: the cards whose keys verify the transcript's signatures lie beside it."""

    def __init__(self, folder: Path, name: str, card: bytes) -> None:
        self._path, self._own = folder / "roster.json", {name: card}
        self._written: Mapping[str, Member] | None = None

    def update(self, state: State) -> None:
        if state.members is not self._written:
            write_roster(self._path, self._own | {name: member.card for name, member in state.members.items()})
            self._written = state.members


def _own_card(
    folder: Path, plan: StudyPlan, credentials: Credentials, key: SigningKey, now: float, unlock: Unlock
) -> bytes:
    """The coordinator's card: the one of an earlier start if it still holds, else a new one."""
    path, name = folder / "card", credentials.identity.name
    try:
        data = read_bounded(path, CARD)
        card = check_card(data, credentials.ca_pem, plan, now)
        if (card.role, card.name, card.signing_key) == ("coordinator", name, key.public_hex):
            return data
    except (OSError, FedHelpError):
        pass  # none yet, or of another study, key or certificate
    made = make_card(plan.hash, "coordinator", name, key.public_hex, "", folder, key, unlock)
    write_atomic(path, made)
    return made
