"""The gRPC handlers of the masked steps, as service.py has the others: well-formed and small enough, then one event.

Records and reveals are checked here, before the event that tells of them, in threads of the pool. What was checked
under one state may count under a later one: while the place is the same, members, dealings and survivors never change
once their phase is over, and everything else is the rules' to refuse.
"""

# ruff: noqa: N802  the handlers' names are those of the proto file
from __future__ import annotations

from collections.abc import Iterator

import grpc

from secure_fedhelp.coordinator.door import Door
from secure_fedhelp.coordinator.events import Agreed, Revealed, RoundKeyPosted, SharesPosted
from secure_fedhelp.coordinator.keeper import Keeper
from secure_fedhelp.coordinator.masked_rounds import (
    require_since,
    survivors_of,
    wanted_dealing,
    wanted_reveal,
)
from secure_fedhelp.coordinator.sharing import check_records, check_reveal, deliveries
from secure_fedhelp.coordinator.streams import Streams
from secure_fedhelp.errors import MessageTooLarge, ProtocolError
from secure_fedhelp.secagg.masked.statements import RECORD_BYTES, STATEMENT_BYTES, Signed
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.failures import answering
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.messages import Phase

Context = grpc.ServicerContext


class MaskedHandlers:
    """The part of a study's handlers that masks need; :class:`CoordinatorService` makes the fields."""

    _keeper: Keeper
    _door: Door
    _plan: StudyPlan
    _streams: Streams

    def PostRoundKey(self, request: pb.MaskStatement, context: Context) -> pb.Done:
        with answering(context):
            name = self._member(context)
            _require_size(request.statement, RECORD_BYTES, "a round key")
            self._keeper.submit(
                RoundKeyPosted(
                    name=name,
                    round=request.round,
                    attempt=request.attempt,
                    statement=request.statement,
                    signature=request.signature,
                )
            )
            return pb.Done()

    def GetRoundKeys(self, request: pb.AttemptRequest, context: Context) -> Iterator[pb.MaskStatement]:
        with answering(context):
            name, state = self._member(context), self._keeper.present()
            require_since(state, request.round, request.attempt, Phase.SHARING, "round keys are asked for")
            with self._streams.only(name, "read", context):
                for member, signed in sorted(state.attempt.keys.items()):
                    yield _statement(request, member, signed)

    def PostShares(self, request_iterator: Iterator[pb.PostSharesRequest], context: Context) -> pb.Done:
        with answering(context):
            name = self._member(context)
            with self._streams.only(name, "upload", context):
                self._receive_shares(name, request_iterator)
            return pb.Done()

    def _receive_shares(self, name: str, requests: Iterator[pb.PostSharesRequest]) -> None:
        first = next(requests, None)
        if first is None or first.WhichOneof("part") != "head":
            raise ProtocolError("a dealing begins with its statement")
        head = first.head
        _require_size(head.statement, STATEMENT_BYTES, "a dealer's statement")
        signed = Signed(head.statement, head.signature)
        statement = wanted_dealing(self._plan, self._keeper.present(), name, head.round, head.attempt, signed)
        if statement is None:
            return
        records: dict[str, bytes] = {}
        for request in requests:
            part = request.record
            if part.holder not in statement.records or part.holder in records:
                raise ProtocolError("a dealing has one record for each holder that its statement names")
            _require_size(part.record, RECORD_BYTES, "a record")
            records[part.holder] = part.record
        check_records(statement, records)
        event = SharesPosted(
            name=name, round=head.round, attempt=head.attempt, statement=head.statement, signature=head.signature
        )
        self._keeper.submit(event, records)

    def GetShares(self, request: pb.AttemptRequest, context: Context) -> Iterator[pb.DeliveredShares]:
        with answering(context):
            name = self._member(context)
            state, mine = self._keeper.held_by(name)
            require_since(state, request.round, request.attempt, Phase.COLLECTING, "shares are asked for")
            with self._streams.only(name, "read", context):
                for dealer, delivery in deliveries(state, mine).items():
                    statement = _statement(request, dealer, delivery.signed)
                    yield pb.DeliveredShares(dealer=statement, record=delivery.record or b"")

    def GetSurvivors(self, request: pb.AttemptRequest, context: Context) -> pb.Survivors:
        with answering(context):
            self._member(context)
            state = self._keeper.present()
            require_since(state, request.round, request.attempt, Phase.AGREEING, "survivors are asked for")
            bodies = dict(survivors_of(self._plan, state).survivors)
            return pb.Survivors(bodies=bodies, signatures=dict(state.attempt.agreed))

    def Agree(self, request: pb.Agreement, context: Context) -> pb.Done:
        with answering(context):
            self._keeper.submit(
                Agreed(
                    name=self._member(context),
                    round=request.round,
                    attempt=request.attempt,
                    signature=request.signature,
                )
            )
            return pb.Done()

    def Reveal(self, request: pb.RevealedShares, context: Context) -> pb.Done:
        with answering(context):
            name = self._member(context)
            _require_size(request.reveal, STATEMENT_BYTES, "a reveal")
            place, digest = (request.round, request.attempt), sha256_hex(request.reveal)
            state, mine = self._keeper.held_by(name)
            if wanted_reveal(state, name, *place, digest):
                check_reveal(self._plan, state, name, request.reveal, mine)
                event = Revealed(name=name, round=place[0], attempt=place[1], reveal_sha256=digest)
                self._keeper.submit(event, {name: request.reveal})
            return pb.Done()

    def _member(self, context: Context) -> str:
        """The calling hospital, which must have joined; NotOnRoster otherwise."""
        name = self._door.caller(context)
        self._keeper.state.member(name)
        return name


def _statement(request: pb.AttemptRequest, name: str, signed: Signed) -> pb.MaskStatement:
    return pb.MaskStatement(
        round=request.round, attempt=request.attempt, name=name, statement=signed.statement, signature=signed.signature
    )


def _require_size(data: bytes, limit: int, what: str) -> None:
    if len(data) > limit:
        raise MessageTooLarge(f"{what} of {len(data)} bytes, at most {limit}")
