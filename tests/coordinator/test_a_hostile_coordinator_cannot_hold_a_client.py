"""A coordinator that answers nonsense gets a named error: no endless loop, and no memory it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
import pytest
from consortia import Consortium
from members import some_body
from servers import PLAN, Server, Site, running

from secure_fedhelp.coordinator.service import CoordinatorService
from secure_fedhelp.errors import CoordinatorUnreachable, MessageTooLarge, ProtocolError
from secure_fedhelp.identity.cards import LARGEST_CARD_BYTES
from secure_fedhelp.wire.client import CoordinatorClient
from secure_fedhelp.wire.generated import coordinator_pb2 as pb

BODY = some_body(PLAN, 7)
#: Calls after which a test takes a client to be caught.
ENOUGH = 100


@pytest.fixture
def answering(
    monkeypatch: pytest.MonkeyPatch, consortium: Consortium, folder: Path
) -> Iterator[Callable[..., CoordinatorClient]]:
    """A client of a coordinator with other handlers than the real ones."""
    ended: list[Any] = []

    def start(patience_seconds: float = 60.0, largest_roster: int = 1000, **handlers: Any) -> CoordinatorClient:
        for name, handler in handlers.items():
            monkeypatch.setattr(CoordinatorService, name, handler)
        manager = running(folder, PLAN)
        server: Server = manager.__enter__()
        site = Site(consortium, PLAN, "alpha")
        client = site.client(server, patience_seconds, largest_roster=largest_roster)
        ended.extend([client, manager])
        return client

    yield start
    client, manager = ended
    client.close()
    manager.__exit__(None, None, None)


@pytest.mark.parametrize("offset", [len(BODY) + 1, 2**63])
def test_an_offset_beyond_the_body(answering: Callable[..., CoordinatorClient], offset: int) -> None:
    client = answering(UploadStatus=lambda *_: pb.UploadState(offset=offset), Upload=lambda *_: pb.UploadState())
    with pytest.raises(ProtocolError, match=f"stores {offset} of {len(BODY)} bytes"):
        client.upload(0, b"header", b"signature", BODY)


def test_an_offset_that_shrinks(answering: Callable[..., CoordinatorClient]) -> None:
    """It would count as progress each time it grows again."""
    offsets = iter([10, 20, 10])

    def upload(_: object, requests: Iterator[pb.UploadRequest], context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    client = answering(UploadStatus=lambda *_: pb.UploadState(offset=next(offsets)), Upload=upload)
    with pytest.raises(ProtocolError, match="stores 10 of .* before, 20"):
        client.upload(0, b"header", b"signature", BODY)


def test_empty_pieces_are_no_progress(answering: Callable[..., CoordinatorClient]) -> None:
    calls: list[None] = []

    def download(_: object, request: pb.DownloadRequest, context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        calls.append(None)
        yield pb.Chunk()
        code = grpc.StatusCode.UNAVAILABLE if len(calls) < ENOUGH else grpc.StatusCode.INVALID_ARGUMENT
        context.abort(code, "not now")

    client = answering(patience_seconds=20.0, Download=download)
    with pytest.raises(CoordinatorUnreachable):
        client.download(0, 100)


@pytest.mark.parametrize("card", [pb.Card(card=b"x" * 2 * LARGEST_CARD_BYTES), pb.Card(name="x" * 100_000)])
def test_a_card_that_is_too_large(answering: Callable[..., CoordinatorClient], card: pb.Card) -> None:
    client = answering(GetRoster=lambda *_: iter([card]))
    with pytest.raises(MessageTooLarge, match="member card of"):
        client.roster()


def test_a_roster_without_end(answering: Callable[..., CoordinatorClient]) -> None:
    client = answering(largest_roster=3, GetRoster=lambda *_: repeat(pb.Card(name="alpha"), 4))
    with pytest.raises(MessageTooLarge, match="more than 3 member cards"):
        client.roster()


# -- what it sends in masked steps ------------------------------------------------------------------------------------


def key_of(name: str, statement: bytes = b"{}", signature: bytes = b"") -> pb.MaskStatement:
    return pb.MaskStatement(name=name, statement=statement, signature=signature)


@pytest.mark.parametrize("key", [key_of("a", b"x" * 3000), key_of("a", signature=b"x" * 5000)])
def test_a_round_key_that_is_too_large(answering: Callable[..., CoordinatorClient], key: pb.MaskStatement) -> None:
    client = answering(GetRoundKeys=lambda *_: iter([key]))
    with pytest.raises(MessageTooLarge, match="a statement of"):
        client.round_keys(0, 0)


def test_round_keys_without_end_or_twice(answering: Callable[..., CoordinatorClient]) -> None:
    client = answering(
        largest_roster=3,
        GetRoundKeys=lambda *_: (key_of(str(i)) for i in range(4)),
        GetShares=lambda *_: repeat(pb.DeliveredShares(dealer=key_of("a")), 4),
    )
    with pytest.raises(MessageTooLarge, match="a round key of more than 3 hospitals"):
        client.round_keys(0, 0)
    with pytest.raises(ProtocolError, match="shares of 'a' came twice"):
        client.shares(0, 0)


@pytest.mark.parametrize(
    "shares",
    [
        pb.DeliveredShares(dealer=key_of("a"), record=b"x" * 3000),
        pb.DeliveredShares(dealer=key_of("a", b"x" * 2000)),  # of a roster of three
    ],
)
def test_shares_that_are_too_large(answering: Callable[..., CoordinatorClient], shares: pb.DeliveredShares) -> None:
    client = answering(largest_roster=3, GetShares=lambda *_: iter([shares]))
    with pytest.raises(MessageTooLarge):
        client.shares(0, 0)


@pytest.mark.parametrize(
    ("survivors", "error"),
    [
        (pb.Survivors(bodies={str(i): "0" * 64 for i in range(4)}), MessageTooLarge),
        (pb.Survivors(signatures={str(i): b"x" for i in range(4)}), MessageTooLarge),
        (pb.Survivors(signatures={"a": b"x" * 5000}), MessageTooLarge),
        (pb.Survivors(bodies={"a": "0" * 63}), ProtocolError),
    ],
)
def test_a_list_of_survivors_that_is_none(
    answering: Callable[..., CoordinatorClient], survivors: pb.Survivors, error: type[ProtocolError]
) -> None:
    client = answering(largest_roster=3, GetSurvivors=lambda *_: survivors)
    with pytest.raises(error) as caught:
        client.survivors(0, 0)
    assert type(caught.value) is error
