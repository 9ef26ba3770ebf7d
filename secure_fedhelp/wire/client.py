"""A hospital's side of the wire: the coordinator's calls as plain methods with plain values.

Every call has a deadline and survives a restart of the coordinator: it is repeated over a new connection until
``patience_seconds`` have passed without progress (then CoordinatorUnreachable). That is safe because each call is
idempotent, or refused by name when it comes twice. Any other error is raised at once, as the class the coordinator
raised. One client belongs to one thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from secure_fedhelp.errors import CoordinatorUnreachable, MessageTooLarge, ProtocolError
from secure_fedhelp.identity.cards import LARGEST_CARD_BYTES
from secure_fedhelp.identity.tls import Credentials
from secure_fedhelp.secagg.masked.member import Dealing, Delivery
from secure_fedhelp.secagg.masked.statements import RECORD_BYTES, STATEMENT_BYTES, Signed
from secure_fedhelp.wire.chunks import Collector, pieces
from secure_fedhelp.wire.connection import Answer, Connection, Dial
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import CoordinatorStub
from secure_fedhelp.wire.messages import SEALED_KEY_BYTES, WATCH_SECONDS, Phase, SealedStudyKey, StudyState

_CALL_SECONDS = 30.0
#: A stream that takes longer goes on at its offset in another call.
_STREAM_SECONDS = 600.0
_GOODBYE_SECONDS = 3.0
_LEAVE_SECONDS = 5.0
#: Most that is taken for a transcript: far above any plan, far below what would hurt.
_TRANSCRIPT_BYTES = 256 * 1024 * 1024
#: A card as a message: with its name and a little around it.
_CARD_MESSAGE_BYTES = LARGEST_CARD_BYTES + 1024
#: Signatures of the larger suite have 3373 bytes, hashes in hexadecimal 64.
_SIGNATURE_BYTES, _HASH_DIGITS = 4096, 64

Reply = TypeVar("Reply", bound=Message)


class CoordinatorClient:
    """One member's calls to the coordinator at ``address`` (HOST:PORT), which must be one of ``consortium``."""

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        consortium: str,
        *,
        coordinator_name: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        patience_seconds: float = 120.0,
        largest_roster: int = 1_000,
        dial: Dial | None = None,
    ) -> None:
        """``coordinator_name`` pins one coordinator of the consortium; None accepts any that its CA has signed.

        ``largest_roster`` bounds the cards that are taken from it, its own included, and whatever else comes once for
        each hospital. ``dial`` opens channels in another way than over TLS to the address, for simulations.
        """
        self._connection = Connection(address, credentials, consortium, coordinator_name, sleep, clock, dial)
        self._patience, self._largest_roster = patience_seconds, largest_roster
        self._up = self._down = 0

    @property
    def bytes_up(self) -> int:
        """Bytes of all messages sent so far (without TLS and HTTP/2 framing), repeated ones included."""
        return self._up

    @property
    def bytes_down(self) -> int:
        """Bytes of all messages received so far."""
        return self._down

    # -- study ----------------------------------------------------------------------------------------------------

    def join(self, card: bytes) -> None:
        """Come, or come back, with the member card. Raises DuplicateHospital, StudyAlreadyStarted, PlanChanged, ..."""
        self._run(lambda stub: self._call(stub.Join, pb.JoinRequest(card=card)))

    def watch(self, known: int, wait_s: float) -> StudyState:
        """The study's state as soon as its version is not ``known``; after ``wait_s`` (at most 20 s) at the latest."""
        wait = min(max(wait_s, 0.0), WATCH_SECONDS)
        request = pb.WatchRequest(known_version=known, wait_seconds=wait)
        reply: pb.StudyState = self._run(lambda stub: self._call(stub.Watch, request, wait + _CALL_SECONDS))
        try:
            phase = Phase(reply.phase)
        except ValueError as error:
            raise ProtocolError(f"the coordinator is in an unknown phase {reply.phase[:32]!r}") from error
        return StudyState(
            version=reply.version,
            phase=phase,
            round=reply.round,
            key_epoch=reply.key_epoch,
            maker=reply.maker,
            absent=tuple(reply.absent),
            declined=tuple(reply.declined),
            reason=reply.reason,
            unconfirmed=tuple(reply.unconfirmed),
            attempt=reply.attempt,
        )

    def roster(self) -> dict[str, bytes]:
        """The card of each hospital that joined, by name; unchecked, as the coordinator relays them."""
        return {card.name: card.card for card in self._cards() if not card.coordinator}

    def coordinator_card(self) -> bytes:
        """The coordinator's own card, unchecked."""
        return next((card.card for card in self._cards() if card.coordinator), b"")

    def _cards(self) -> list[pb.Card]:
        def read(stub: CoordinatorStub) -> list[pb.Card]:
            cards: list[pb.Card] = []
            for card in self._stream(stub.GetRoster, pb.RosterRequest()):
                if len(cards) == self._largest_roster:
                    raise MessageTooLarge(f"more than {self._largest_roster} member cards")
                if card.ByteSize() > _CARD_MESSAGE_BYTES:
                    raise MessageTooLarge(f"a member card of {card.ByteSize()} bytes, at most {_CARD_MESSAGE_BYTES}")
                cards.append(card)
            return cards

        return self._run(read)

    def goodbye(self) -> None:
        """Tell the coordinator that nobody needs to wait for this member. A coordinator that is gone is no error."""

        def call(stub: CoordinatorStub) -> None:
            self._call(stub.Goodbye, pb.GoodbyeRequest(), _GOODBYE_SECONDS)

        with contextlib.suppress(CoordinatorUnreachable):
            self._connection.run(call, _GOODBYE_SECONDS)

    def leave(self, study: str) -> None:
        """Tell the coordinator of the study with this hash that this hospital does not take part, joined or not.

        Tried for some seconds. A coordinator of an earlier version does not know the call: ProtocolError.
        """

        def call(stub: CoordinatorStub) -> None:
            self._call(stub.Leave, pb.LeaveRequest(study=study), _GOODBYE_SECONDS)

        self._connection.run(call, _LEAVE_SECONDS)

    def close(self) -> None:
        """Close the connection; the coordinator is not told anything."""
        self._connection.close()

    # -- study key ------------------------------------------------------------------------------------------------

    def post_key(self, epoch: int, sealed: dict[str, bytes], fingerprint: str) -> None:
        """The maker's call: the study key sealed to each other member, by name."""
        for name, data in sealed.items():
            if len(data) > SEALED_KEY_BYTES:
                raise MessageTooLarge(f"the key sealed to {name} has {len(data)} bytes, at most {SEALED_KEY_BYTES}")

        def parts() -> Iterator[pb.PostKeyRequest]:
            yield pb.PostKeyRequest(head=pb.PostKeyRequest.Head(epoch=epoch, fingerprint=fingerprint))
            for name, data in sealed.items():
                yield pb.PostKeyRequest(sealed=pb.PostKeyRequest.Sealed(member=name, sealed=data))

        self._run(lambda stub: self._received(stub.PostKey(self._counted(parts()), timeout=_STREAM_SECONDS)))

    def get_key(self, epoch: int) -> SealedStudyKey:
        """This member's sealed key of an epoch; ``sealed`` is empty before it was posted, and for its maker."""
        reply: pb.SealedStudyKey = self._run(lambda stub: self._call(stub.GetKey, pb.KeyRequest(epoch=epoch)))
        return SealedStudyKey(reply.maker, reply.sealed, reply.fingerprint, dict(reply.confirmations))

    def confirm_key(self, epoch: int, fingerprint: str, signature: bytes) -> None:
        """Hand in the signed statement (``key_statement``) that this member holds the key with this fingerprint."""
        request = pb.KeyConfirmation(epoch=epoch, fingerprint=fingerprint, signature=signature)
        self._run(lambda stub: self._call(stub.ConfirmKey, request))

    # -- the masks of one attempt at a round ------------------------------------------------------------------------

    def post_round_key(self, round_number: int, attempt: int, signed: Signed) -> None:
        """Hand in this member's signed round key (secagg/masked/member.py, step 1)."""
        self._run(lambda stub: self._call(stub.PostRoundKey, _statement(round_number, attempt, signed)))

    def round_keys(self, round_number: int, attempt: int) -> dict[str, Signed]:
        """The signed round key of each member of the attempt, unchecked. WrongRound while some are waited for."""

        def read(stub: CoordinatorStub) -> dict[str, Signed]:
            keys: dict[str, Signed] = {}
            request = pb.AttemptRequest(round=round_number, attempt=attempt)
            for reply in self._stream(stub.GetRoundKeys, request):
                self._require_room(keys, reply.name, "a round key")
                keys[reply.name] = _signed(reply, RECORD_BYTES)
            return keys

        return self._run(read)

    def post_shares(self, round_number: int, attempt: int, dealing: Dealing) -> None:
        """Hand in this member's dealing: the signed statement, and the sealed record of each holder (step 2)."""

        def parts() -> Iterator[pb.PostSharesRequest]:
            yield pb.PostSharesRequest(head=_statement(round_number, attempt, dealing.signed))
            for holder, record in dealing.records.items():
                yield pb.PostSharesRequest(record=pb.PostSharesRequest.Record(holder=holder, record=record))

        self._run(lambda stub: self._received(stub.PostShares(self._counted(parts()), timeout=_STREAM_SECONDS)))

    def shares(self, round_number: int, attempt: int) -> dict[str, Delivery]:
        """Each dealer's signed statement with the record for this member, if it holds one; unchecked.

        WrongRound while some dealers are waited for.
        """

        def read(stub: CoordinatorStub) -> dict[str, Delivery]:
            delivered: dict[str, Delivery] = {}
            request = pb.AttemptRequest(round=round_number, attempt=attempt)
            for reply in self._stream(stub.GetShares, request):
                self._require_room(delivered, reply.dealer.name, "shares")
                if len(reply.record) > RECORD_BYTES:
                    raise MessageTooLarge(f"a record of {len(reply.record)} bytes, at most {RECORD_BYTES}")
                signed = _signed(reply.dealer, self._largest_dealing)
                delivered[reply.dealer.name] = Delivery(signed, reply.record or None)
            return delivered

        return self._run(read)

    def survivors(self, round_number: int, attempt: int) -> tuple[dict[str, str], dict[str, bytes]]:
        """The SHA-256 of each survivor's body by name, and the signatures on that list so far; both unchecked.

        WrongRound while some uploads are waited for.
        """
        request = pb.AttemptRequest(round=round_number, attempt=attempt)
        reply: pb.Survivors = self._run(lambda stub: self._call(stub.GetSurvivors, request))
        if max(len(reply.bodies), len(reply.signatures)) > self._largest_roster:
            raise MessageTooLarge(f"more than {self._largest_roster} survivors or signatures")
        if any(len(digest) != _HASH_DIGITS for digest in reply.bodies.values()):
            raise ProtocolError("the list of survivors holds something else than SHA-256 hashes")
        if any(len(signature) > _SIGNATURE_BYTES for signature in reply.signatures.values()):
            raise MessageTooLarge(f"a signature of more than {_SIGNATURE_BYTES} bytes")
        return dict(reply.bodies), dict(reply.signatures)

    def agree(self, round_number: int, attempt: int, signature: bytes) -> None:
        """Hand in this member's signature on the list of survivors (step 4)."""
        request = pb.Agreement(round=round_number, attempt=attempt, signature=signature)
        self._run(lambda stub: self._call(stub.Agree, request))

    def reveal(self, round_number: int, attempt: int, data: bytes) -> None:
        """Hand in the shares this member reveals, as canonical bytes (step 5)."""
        request = pb.RevealedShares(round=round_number, attempt=attempt, reveal=data)
        self._run(lambda stub: self._call(stub.Reveal, request))

    # -- a round --------------------------------------------------------------------------------------------------

    def upload(self, round_number: int, header: bytes, signature: bytes, body: bytes) -> int:
        """Upload a signed body, going on at the coordinator's offset after an interruption.

        Returns the body's bytes that were sent: fewer than its length if an earlier run had sent some, 0 if it already
        counted, more if some had to be sent again.
        """
        sent = 0
        furthest = -1

        def requests(head: pb.UploadHead) -> Iterator[pb.UploadRequest]:
            nonlocal sent
            yield pb.UploadRequest(head=head)
            for piece in pieces(body, head.offset):
                sent += len(piece)
                yield pb.UploadRequest(chunk=piece)

        def attempt(stub: CoordinatorStub) -> None:
            nonlocal furthest
            head = pb.UploadHead(round=round_number, header=header, signature=signature)
            status: pb.UploadState = self._call(stub.UploadStatus, head)
            if status.accepted:
                return
            if not max(furthest, 0) <= status.offset <= len(body):
                raise ProtocolError(
                    f"the coordinator says it stores {status.offset} of {len(body)} bytes; before, {max(furthest, 0)}"
                )
            if status.offset > furthest:
                furthest = status.offset
                self._connection.heard()
            head.offset = status.offset
            done = self._received(stub.Upload(self._counted(requests(head)), timeout=_STREAM_SECONDS))
            if not done.accepted:
                raise ProtocolError("the coordinator took the upload and did not accept it")

        self._run(attempt)
        return sent

    def decline(self, round_number: int, reason: str, signature: bytes) -> None:
        """Hand in the signed statement (``decline_statement``) that this hospital leaves a round out."""
        request = pb.RoundDecline(round=round_number, reason=reason, signature=signature)
        self._run(lambda stub: self._call(stub.Decline, request))

    def transcript(self, from_round: int) -> list[bytes]:
        """Signed transcript lines from a round on, without line feeds; unchecked."""

        def read(stub: CoordinatorStub) -> bytes:
            collector = Collector(_TRANSCRIPT_BYTES)
            for chunk in self._stream(stub.GetTranscript, pb.TranscriptRequest(from_round=from_round)):
                collector.add(chunk.data)
            return collector.so_far()

        return self._run(read).splitlines()

    def download(self, round_number: int, expect_bytes: int) -> bytes:
        """The published sum of a round, exactly ``expect_bytes`` long, going on at its offset after an interruption.

        Raises WrongRound if it is not published, MessageTooLarge or CiphertextWrongLength if its length is another.
        """
        collector = Collector(expect_bytes)

        def read(stub: CoordinatorStub) -> None:
            request = pb.DownloadRequest(round=round_number, offset=len(collector))
            for chunk in self._stream(stub.Download, request):
                collector.add(chunk.data)
                if chunk.data:  # an endless stream of nothing is no progress
                    self._connection.heard()

        self._run(read)
        return collector.complete()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _run(self, operation: Callable[[CoordinatorStub], Answer]) -> Answer:
        return self._connection.run(operation, self._patience)

    def _call(self, method: Callable[..., Reply], request: Message, timeout: float = _CALL_SECONDS) -> Reply:
        self._up += request.ByteSize()
        return self._received(method(request, timeout=timeout))

    @property
    def _largest_dealing(self) -> int:
        """A dealer's statement has a name and a hash for each holder, and a little around them."""
        return min(STATEMENT_BYTES, 1024 + 160 * self._largest_roster)

    def _require_room(self, so_far: Mapping[str, object], name: str, what: str) -> None:
        """Refuse to collect more than one for each hospital there can be."""
        if name in so_far:
            raise ProtocolError(f"{what} of {name[:64]!r} came twice")
        if len(so_far) == self._largest_roster:
            raise MessageTooLarge(f"{what} of more than {self._largest_roster} hospitals")

    def _received(self, reply: Reply) -> Reply:
        self._down += reply.ByteSize()
        return reply

    def _counted(self, requests: Iterator[Reply]) -> Iterator[Reply]:
        for request in requests:
            self._up += request.ByteSize()
            yield request

    def _stream(self, method: Callable[..., Iterator[Reply]], request: Message) -> Iterator[Reply]:
        """The replies of a streaming call; the call ends with the loop over them, however that ends."""
        self._up += request.ByteSize()
        call = method(request, timeout=_STREAM_SECONDS)
        try:
            for reply in call:
                yield self._received(reply)
        finally:
            call.cancel()  # type: ignore[attr-defined]  # a gRPC call, which the generated code does not say


def _statement(round_number: int, attempt: int, signed: Signed) -> pb.MaskStatement:
    return pb.MaskStatement(round=round_number, attempt=attempt, statement=signed.statement, signature=signed.signature)


def _signed(reply: pb.MaskStatement, limit: int) -> Signed:
    """A relayed statement, unchecked; MessageTooLarge beyond ``limit`` bytes."""
    if len(reply.statement) > limit or len(reply.signature) > _SIGNATURE_BYTES:
        size = len(reply.statement) + len(reply.signature)
        raise MessageTooLarge(f"a statement of {size} bytes, at most {limit + _SIGNATURE_BYTES}")
    return Signed(reply.statement, reply.signature)
