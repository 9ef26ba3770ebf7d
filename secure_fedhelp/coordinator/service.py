"""The gRPC handlers: who is calling, is it well-formed and small enough, then one event for the keeper.

No rule of a round is decided here. Each handler runs in a thread of the pool. How many a hospital may hold at once is
for calls.py, which stands before every handler; of what may wait (watch, streams) the newest of a kind takes the
older one's place.
"""

# ruff: noqa: N802  the handlers' names are those of the proto file
from __future__ import annotations

import math
from collections.abc import Iterator

import grpc

from secure_fedhelp.coordinator.admission import Admission
from secure_fedhelp.coordinator.calls import LIVE_CALLS
from secure_fedhelp.coordinator.door import Door
from secure_fedhelp.coordinator.events import Declined, Joined, KeyConfirmed, KeyPosted, Left, Uploaded, Withdrew
from secure_fedhelp.coordinator.keeper import Keeper
from secure_fedhelp.coordinator.masked_service import MaskedHandlers
from secure_fedhelp.coordinator.state import public_state
from secure_fedhelp.coordinator.streams import Streams
from secure_fedhelp.errors import (
    CiphertextWrongLength,
    FedHelpError,
    MessageTooLarge,
    PlanChanged,
    ProtocolError,
    StorageError,
    WrongRound,
)
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.chunks import joined_pieces
from secure_fedhelp.wire.failures import answering
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import CoordinatorServicer
from secure_fedhelp.wire.messages import CHUNK_BYTES, Phase, UploadHeader

Context = grpc.ServicerContext

#: Around a sealed study key: the KEM's ciphertext (1120 bytes), the tag, and room to spare.
_SEALING_BYTES = 4096


def pool_size(plan: StudyPlan) -> int:
    """Threads for a plan: all calls that its hospitals may have open, and some to refuse more with."""
    return LIVE_CALLS * len(plan.hospitals) + 4


class CoordinatorService(MaskedHandlers, CoordinatorServicer):
    """The handlers of one study; those of the masked steps are in masked_service.py."""

    def __init__(self, keeper: Keeper, door: Door, card: bytes) -> None:
        self._keeper, self._door, self._card = keeper, door, card
        self._plan = keeper.plan
        self._streams = Streams(tuple(h.name for h in self._plan.hospitals))
        chosen = plan_profile(self._plan)
        self._largest_sealed = chosen.key_bytes + _SEALING_BYTES

    def ended_error(self) -> FedHelpError | None:
        """What the study has ended with early, if it has: for who runs it in memory."""
        return public_state(self._plan, self._keeper.state).ended_error()

    # -- study --------------------------------------------------------------------------------------------------------

    def Join(self, request: pb.JoinRequest, context: Context) -> pb.Done:
        with answering(context):
            name = self._door.caller(context)
            card, identity = self._door.check_card(name, request.card)
            self._keeper.submit(
                Joined(
                    name=name,
                    card=request.card,
                    signing_key=card.signing_key,
                    sealing_key=card.sealing_key,
                    expires=identity.not_after,
                )
            )
            return pb.Done()

    def Watch(self, request: pb.WatchRequest, context: Context) -> pb.StudyState:
        with answering(context):
            name = self._door.caller(context)
            if not math.isfinite(request.wait_seconds):  # not a number would never come to its end
                raise ProtocolError("a watch needs a finite number of seconds")
            state = self._keeper.watch(name, request.known_version, request.wait_seconds)
            return pb.StudyState(
                version=state.version,
                phase=state.phase.value,
                round=state.round,
                key_epoch=state.key_epoch,
                maker=state.maker,
                absent=state.absent,
                declined=state.declined,
                reason=state.reason,
                unconfirmed=state.unconfirmed,
                attempt=state.attempt,
            )

    def GetRoster(self, request: pb.RosterRequest, context: Context) -> Iterator[pb.Card]:
        with answering(context):
            name = self._member(context)
            with self._streams.only(name, "read", context):
                yield pb.Card(name="coordinator", coordinator=True, card=self._card)
                for member, values in sorted(self._keeper.state.members.items()):
                    yield pb.Card(name=member, card=values.card)

    def Goodbye(self, request: pb.GoodbyeRequest, context: Context) -> pb.Done:
        with answering(context):
            self._keeper.submit(Left(name=self._door.caller(context)))
            return pb.Done()

    def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.Done:
        with answering(context):
            name = self._door.caller(context)  # for itself alone, by its certificate
            if request.study != self._plan.hash:
                raise PlanChanged(f"{name} leaves study {request.study[:16]}, this is study {self._plan.hash[:16]}")
            self._keeper.submit(Withdrew(name=name))
            return pb.Done()

    # -- study key ----------------------------------------------------------------------------------------------------

    def PostKey(self, request_iterator: Iterator[pb.PostKeyRequest], context: Context) -> pb.Done:
        with answering(context):
            name = self._member(context)
            with self._streams.only(name, "upload", context):
                head, sealed = self._read_key(name, request_iterator)
            event = KeyPosted(name=name, epoch=head.epoch, fingerprint=head.fingerprint, recipients=tuple(sealed))
            self._keeper.submit(event, sealed)
            return pb.Done()

    def _read_key(
        self, name: str, requests: Iterator[pb.PostKeyRequest]
    ) -> tuple[pb.PostKeyRequest.Head, dict[str, bytes]]:
        """The head and every sealed key; refused as soon as there are too many or one is too large."""
        first = next(requests, None)
        if first is None or first.WhichOneof("part") != "head":
            raise ProtocolError("a posted key begins with its head")
        others = self._keeper.state.keyed - {name}
        sealed: dict[str, bytes] = {}
        for request in requests:
            part = request.sealed
            if part.member not in others or part.member in sealed:
                raise ProtocolError("the key must be sealed to each other member, once")
            if not part.sealed:
                raise ProtocolError(f"nothing is sealed to {part.member}")
            if len(part.sealed) > self._largest_sealed:
                raise MessageTooLarge(f"a sealed key of {len(part.sealed)} bytes, at most {self._largest_sealed}")
            sealed[part.member] = part.sealed
        return first.head, sealed

    def GetKey(self, request: pb.KeyRequest, context: Context) -> pb.SealedStudyKey:
        with answering(context):
            name = self._member(context)
            sealed = self._keeper.sealed_key(request.epoch, name)
            key = self._keeper.state.key(request.epoch)  # after it: a sealed key never comes without its fingerprint
            return pb.SealedStudyKey(
                maker=key.maker,
                sealed=sealed,
                fingerprint=key.fingerprint,
                confirmations=dict(key.confirmations),
            )

    def ConfirmKey(self, request: pb.KeyConfirmation, context: Context) -> pb.Done:
        with answering(context):
            event = KeyConfirmed(
                name=self._member(context),
                epoch=request.epoch,
                fingerprint=request.fingerprint,
                signature=request.signature,
            )
            state = self._keeper.submit(event)
            if state.phase is Phase.ENDED:  # by this very confirmation: it was of another key
                raise state.over_error()
            return pb.Done()

    # -- a round: up --------------------------------------------------------------------------------------------------

    def UploadStatus(self, request: pb.UploadHead, context: Context) -> pb.UploadState:
        with answering(context):
            name = self._member(context)
            # From here on an older stream of this hospital writes nothing more, so the offset stays what is said now.
            with self._streams.only(name, "upload", context), self._streams.turn(name, "upload", context):
                found = self._admitted(name, request)
                if found.done:
                    return pb.UploadState(offset=found.header.body_bytes, accepted=True)
                return pb.UploadState(offset=self._keeper.spool.offset(found.header))

    def Upload(self, request_iterator: Iterator[pb.UploadRequest], context: Context) -> pb.UploadState:
        with answering(context):
            name = self._member(context)
            with self._streams.only(name, "upload", context):
                first = next(request_iterator, None)
                if first is None or first.WhichOneof("part") != "head":
                    raise ProtocolError("an upload begins with its head")
                header = self._receive(name, first.head, request_iterator, context)
            return pb.UploadState(offset=header.body_bytes, accepted=True)

    def _admitted(self, name: str, head: pb.UploadHead) -> Admission:
        """The checked header, and whether its body already counts."""
        admission = self._keeper.admit(name, head.header, head.signature)
        if admission.header.round != head.round:
            raise WrongRound(f"the upload is for round {head.round}, its header for round {admission.header.round}")
        return admission

    def _receive(
        self, name: str, head: pb.UploadHead, requests: Iterator[pb.UploadRequest], context: Context
    ) -> UploadHeader:
        """Store what comes until the body is whole and counts; its header."""
        spool = self._keeper.spool
        with self._streams.turn(name, "upload", context):
            found = self._admitted(name, head)
            header = found.header
            if found.done:
                return header
            if head.offset != spool.offset(header):
                raise ProtocolError(f"the upload goes on at byte {head.offset}, {spool.offset(header)} are stored")
        seen = self._keeper.state
        for request in requests:
            with self._streams.turn(name, "upload", context):
                if self._keeper.state is not seen:
                    seen = self._keeper.state
                    self._require_still_open(name, head, header)
                self._store(header, request)
        with self._streams.turn(name, "upload", context):
            if spool.offset(header) != header.body_bytes:
                spool.discard(header)
                raise CiphertextWrongLength("the upload ended before its last byte")
            spool.check(header)
            self._submit_upload(name, head, header)
        return header

    def _submit_upload(self, name: str, head: pb.UploadHead, header: UploadHeader) -> None:
        """A body that comes too late to count is erased: nobody needs it."""
        try:
            self._keeper.submit(Uploaded(name=name, header=head.header, signature=head.signature))
        except StorageError:
            raise
        except FedHelpError:
            self._keeper.spool.discard(header)
            raise

    def _require_still_open(self, name: str, head: pb.UploadHead, header: UploadHeader) -> None:
        """The round may have closed since the upload began: then what has arrived can never count, and is erased."""
        try:
            self._admitted(name, head)
        except StorageError:
            raise
        except FedHelpError:
            self._keeper.spool.discard(header)
            raise

    def _store(self, header: UploadHeader, request: pb.UploadRequest) -> None:
        """Append one chunk; a body that grows beyond its signed length is erased."""
        if request.WhichOneof("part") != "chunk" or not request.chunk:
            raise ProtocolError("after its head an upload holds chunks, and none is empty")
        if len(request.chunk) > CHUNK_BYTES:
            raise MessageTooLarge(f"a chunk of {len(request.chunk)} bytes, at most {CHUNK_BYTES}")
        if self._keeper.spool.offset(header) + len(request.chunk) > header.body_bytes:
            self._keeper.spool.discard(header)
            raise MessageTooLarge(f"the upload is longer than the {header.body_bytes} bytes it announced")
        self._keeper.spool.append(header, request.chunk)

    def Decline(self, request: pb.RoundDecline, context: Context) -> pb.Done:
        with answering(context):
            name = self._member(context)
            self._keeper.submit(
                Declined(name=name, round=request.round, reason=request.reason, signature=request.signature)
            )
            return pb.Done()

    # -- a round: down ------------------------------------------------------------------------------------------------

    def GetTranscript(self, request: pb.TranscriptRequest, context: Context) -> Iterator[pb.Chunk]:
        with answering(context):
            name = self._member(context)
            with self._streams.only(name, "read", context):
                for piece in joined_pieces(line + b"\n" for line in self._keeper.lines(request.from_round)):
                    yield pb.Chunk(data=piece)

    def Download(self, request: pb.DownloadRequest, context: Context) -> Iterator[pb.Chunk]:
        with answering(context):
            name = self._member(context)
            if request.round >= self._keeper.state.round:
                raise WrongRound(f"round {request.round} is not published yet")
            with self._streams.only(name, "read", context):
                offset = request.offset
                while piece := self._keeper.spool.read_sum(request.round, offset):
                    yield pb.Chunk(data=piece)
                    offset += len(piece)
