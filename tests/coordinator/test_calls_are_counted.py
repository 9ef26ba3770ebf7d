"""A member that opens calls and says nothing holds its own few threads, and nobody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from members import some_body
from servers import PLAN, Cast, Raw, Server

from secure_fedhelp.coordinator.calls import LIVE_CALLS, SILENT_SECONDS, Calls
from secure_fedhelp.errors import NotOnRoster, ProtocolError, TooManyCalls
from secure_fedhelp.wire.failures import named_error
from secure_fedhelp.wire.generated import coordinator_pb2 as pb

CONNECTIONS, CALLS_EACH = 10, 8


class Silence:
    """Requests that never come, until :meth:`end`."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def __iter__(self) -> Silence:
        return self

    def __next__(self) -> Any:
        self._over.wait(60)
        raise StopIteration

    def end(self) -> None:
        self._over.set()


def silent_calls(raw: Raw, method: str, silence: Silence) -> list[Any]:
    """Calls of a method that takes one message or many, without a first message."""
    call = raw.channel.stream_unary(f"/secure_fedhelp.v1.Coordinator/{method}")
    return [call.future(iter(silence), timeout=60) for _ in range(CALLS_EACH)]


@pytest.mark.parametrize("method", ["Upload", "PostKey", "Watch", "Join"])
def test_silent_calls_of_one_hospital_leave_room_for_the_others(cast: Cast, server: Server, method: str) -> None:
    cast.clients["alpha"].join(cast.sites["alpha"].card)
    silence = Silence()
    greedy = [Raw(server, cast.sites["alpha"]) for _ in range(CONNECTIONS)]
    calls = [call for raw in greedy for call in silent_calls(raw, method, silence)]
    deadline = time.monotonic() + 10
    while sum(call.done() for call in calls) < len(calls) - LIVE_CALLS and time.monotonic() < deadline:
        time.sleep(0.01)
    begin = time.monotonic()
    cast.clients["beta"].join(cast.sites["beta"].card)
    assert cast.clients["beta"].watch(0, 0.0).version
    assert time.monotonic() - begin < 10
    silence.end()
    for call in calls:
        call.cancel()
    for raw in greedy:
        raw.channel.close()


def test_one_call_more_is_refused_by_name_and_a_client_tries_again(cast: Cast, server: Server) -> None:
    cast.join()
    silence, raw = Silence(), Raw(server, cast.sites["alpha"])
    calls = silent_calls(raw, "Watch", silence)
    deadline = time.monotonic() + 10
    while sum(call.done() for call in calls) < CALLS_EACH - LIVE_CALLS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert {type(named_error(call.exception())) for call in calls if call.done()} == {TooManyCalls}
    threading.Timer(0.3, raw.channel.close).start()
    cast.clients["alpha"].join(cast.sites["alpha"].card)
    silence.end()


def test_what_an_honest_hospital_leaves_behind_does_not_keep_it_out(cast: Cast, server: Server) -> None:
    """Two dead connections, one in a watch and one in an upload, and it comes back with a third at once."""
    cast.join()
    cast.make_key()
    known, halfway, silence = cast.state().version, threading.Event(), Silence()
    watching, uploading = Raw(server, cast.sites["alpha"]), Raw(server, cast.sites["alpha"])
    body = some_body(PLAN, 7)

    def requests() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(head=uploading.head(body))
        yield pb.UploadRequest(chunk=body[:10])
        halfway.set()
        yield from silence

    dead = [
        watching.stub.Watch.future(pb.WatchRequest(known_version=known, wait_seconds=20), timeout=30),
        uploading.stub.Upload.future(requests(), timeout=30),
    ]
    assert halfway.wait(10)
    client = cast.sites["alpha"].client(server, patience_seconds=0.0)  # a single refusal would be its end
    client.watch(known, 0.0)
    assert cast.sites["alpha"].upload(client, body) >= len(body) - 10
    silence.end()
    for call in dead:
        call.cancel()
    for raw in (watching, uploading):
        raw.channel.close()
    client.close()


def test_a_call_without_its_request_is_named(cast: Cast, server: Server) -> None:
    raw = Raw(server, cast.sites["alpha"])
    with pytest.raises(grpc.RpcError) as caught:
        raw.channel.stream_unary("/secure_fedhelp.v1.Coordinator/Watch")(iter(()), timeout=10)
    assert type(named_error(caught.value)) is ProtocolError
    with pytest.raises(grpc.RpcError) as caught:
        raw.channel.stream_unary("/secure_fedhelp.v1.Coordinator/Nothing")(iter(()), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    raw.channel.close()


# -- silence ----------------------------------------------------------------------------------------------------------


class Context:
    """As much of a call as the count looks at."""

    def __init__(self, name: str) -> None:
        self.name, self.cancelled, self.refused = name, False, ""

    def cancel(self) -> None:
        self.cancelled = True

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.refused = dict(metadata)["fedhelp-error"]

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise RuntimeError(details)


def test_a_silent_call_is_ended_and_one_that_gets_on_is_not() -> None:
    now = 0.0
    calls = Calls(lambda context: context.name, lambda: now)  # type: ignore[attr-defined]
    silent, busy = Context("alpha"), Context("alpha")
    with calls._counted(silent), calls._counted(busy):  # type: ignore[arg-type]
        messages = calls._heard_of(iter([1, 2]), busy)  # type: ignore[arg-type]
        now = SILENT_SECONDS
        next(messages)
        now += 1
        with calls._counted(Context("beta")):  # type: ignore[arg-type]
            assert (silent.cancelled, busy.cancelled) == (True, False)
    assert not calls._heard


def test_a_call_that_ended_makes_room_and_a_stranger_is_not_counted() -> None:
    def caller(context: Any) -> str:
        if context.name == "mallory":
            raise NotOnRoster("no hospital of the study")
        return str(context.name)

    calls = Calls(caller, lambda: 0.0)
    for _ in range(2 * LIVE_CALLS):
        with calls._counted(Context("alpha")):  # type: ignore[arg-type]
            pass
    stranger = Context("mallory")
    with pytest.raises(RuntimeError), calls._counted(stranger):  # type: ignore[arg-type]
        pass
    assert stranger.refused == "NotOnRoster"
    assert not calls._heard
