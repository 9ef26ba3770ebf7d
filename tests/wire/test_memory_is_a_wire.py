"""The channel in memory carries what the network carries: copies of messages, streams, and errors by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from secure_fedhelp.errors import DuplicateHospital, ProtocolError
from secure_fedhelp.identity.tls import Credentials
from secure_fedhelp.wire.client import CoordinatorClient
from secure_fedhelp.wire.failures import answering
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import CoordinatorServicer
from secure_fedhelp.wire.memory import MemoryChannel, MemoryContext

CERTIFICATE = b"the caller's certificate"


class Servicer(CoordinatorServicer):
    """Handlers that note what reaches them."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.callers: list[object] = []
        self.ended = False

    def Join(self, request: pb.JoinRequest, context: MemoryContext) -> pb.Done:
        self.callers.append(context.auth_context()["x509_pem_cert"])
        with answering(context):  # type: ignore[arg-type]
            if request.card == b"twice":
                raise DuplicateHospital("st-anna came twice", "Ask who else has the key.")
            if request.card == b"broken":
                raise ZeroDivisionError
            self.requests.append(request)
            return pb.Done()

    def PostKey(self, requests: Iterator[pb.PostKeyRequest], context: MemoryContext) -> pb.Done:
        self.requests += list(requests)
        return pb.Done()

    def Download(self, request: pb.DownloadRequest, context: MemoryContext) -> Iterator[pb.Chunk]:
        try:
            for piece in (b"ab", b"cd", b"ef"):
                yield pb.Chunk(data=piece)
        finally:
            self.ended = True


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
def client(servicer: Servicer) -> CoordinatorClient:
    credentials = Credentials(b"", b"", CERTIFICATE, None, None)  # type: ignore[arg-type]
    return CoordinatorClient(
        "127.0.0.1:1",
        credentials,
        "north",
        dial=lambda mine: MemoryChannel(servicer, mine.certificate_pem),
        sleep=lambda _: None,
        patience_seconds=0.0,
    )


def test_a_call_reaches_the_handler_as_a_copy_under_the_callers_certificate(
    servicer: Servicer, client: CoordinatorClient
) -> None:
    client.join(b"card")
    assert servicer.callers == [[CERTIFICATE]]
    (request,) = servicer.requests
    request.card = b"changed here"
    client.join(b"card")
    assert servicer.requests[1].card == b"card"


def test_an_error_arrives_as_its_class_with_its_hint(client: CoordinatorClient) -> None:
    with pytest.raises(DuplicateHospital, match="st-anna came twice") as caught:
        client.join(b"twice")
    assert caught.value.hint == "Ask who else has the key."


def test_a_handler_that_breaks_is_no_traceback_and_no_success(client: CoordinatorClient) -> None:
    with pytest.raises(ProtocolError, match="INTERNAL internal error"):
        client.join(b"broken")


def test_streams_go_both_ways_and_are_counted(servicer: Servicer, client: CoordinatorClient) -> None:
    client.post_key(2, {"beta": b"sealed"}, "f" * 64)
    assert [r.WhichOneof("part") for r in servicer.requests] == ["head", "sealed"]
    assert client.bytes_up == sum(r.ByteSize() for r in servicer.requests)
    assert client.download(0, 6) == b"abcdef"
    assert servicer.ended


def test_a_stream_that_is_given_up_ends_at_its_handler(servicer: Servicer) -> None:
    channel = MemoryChannel(servicer, CERTIFICATE)
    call = channel.unary_stream(
        "/secure_fedhelp.v1.Coordinator/Download",
        request_serializer=pb.DownloadRequest.SerializeToString,
        response_deserializer=pb.Chunk.FromString,
    )
    replies = call(pb.DownloadRequest(), timeout=1.0)
    assert next(replies).data == b"ab"
    replies.cancel()
    assert servicer.ended
