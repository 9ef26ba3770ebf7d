"""The values both sides of the wire share, their limits, and the bytes that are signed. No gRPC here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from secure_fedhelp.errors import FedHelpError, MessageTooLarge, ProtocolError, StudyEnded, error_classes
from secure_fedhelp.study.canonical import GENESIS, canonical_bytes
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.sections import Name, Sha256, Strict

#: Largest piece of a stream, and largest card, sealed key or header. Together they bound every gRPC message.
CHUNK_BYTES: Final = 1024 * 1024
SEALED_KEY_BYTES: Final = CHUNK_BYTES
HEADER_BYTES: Final = 4096
#: A gRPC message is one of the above and a little around it.
MESSAGE_BYTES: Final = CHUNK_BYTES + 64 * 1024
#: Longest wait of one ``watch``.
WATCH_SECONDS: Final = 20.0
#: Signature contexts of what both sides sign and check (docs/architecture.md).
HEADER_CONTEXT: Final = "upload-header"
TRANSCRIPT_CONTEXT: Final = "transcript-entry"
KEY_CONTEXT: Final = "key-confirmation"
DECLINE_CONTEXT: Final = "decline"
#: Before the reason why a study ended early, in the coordinator's log.
ENDED_WORDS: Final = "the study has ended: "
#: The view an upload names without masks.
NO_VIEW: Final = GENESIS
#: The reason that takes a hospital out for the rest of the study; any other is for one round.
FINAL_REASON: Final = "BudgetExhausted"
#: The reason of a hospital whose training for the round failed in an earlier run, and was paid for.
FAILED_REASON: Final = "TrainingFailed"

_Count = Annotated[int, Field(ge=0, lt=2**53)]


class Phase(StrEnum):
    """Where a study is; rounds, attempts and key epochs count from 0.

    With masks a round goes through advertising (round keys), sharing (shares of their secrets), collecting (uploads),
    agreeing (on the survivors) and revealing (shares); without, through collecting alone.
    """

    GATHERING = "gathering"
    KEYING = "keying"
    ADVERTISING = "advertising"
    SHARING = "sharing"
    COLLECTING = "collecting"
    AGREEING = "agreeing"
    REVEALING = "revealing"
    SUMMING = "summing"
    FINISHED = "finished"
    ENDED = "ended"


@dataclass(frozen=True)
class StudyState:
    """What every member may know of the study at one moment; ``version`` grows with each change that members can
    see.

    ``round`` is the round being collected, which is also the number of rounds published. ``absent`` names plan
    hospitals nobody waits for, ``declined`` those out for good, ``unconfirmed`` members whose confirmation of this
    epoch's key is missing. ``reason`` is empty until the study has ended early: ``"ErrorName: what happened"``.
    """

    version: int
    phase: Phase
    round: int
    key_epoch: int
    maker: str = ""
    absent: tuple[str, ...] = ()
    declined: tuple[str, ...] = ()
    reason: str = ""
    unconfirmed: tuple[str, ...] = ()
    attempt: int = 0

    def ended_error(self) -> FedHelpError | None:
        """The named error the study ended with, or None while it has not ended early."""
        return reason_error(self.reason) if self.phase is Phase.ENDED else None


def reason_error(reason: str) -> FedHelpError:
    """The error a reason ``"ErrorName: what happened"`` names; StudyEnded if the name is not of our tree."""
    name, _, message = reason.partition(": ")
    return error_classes().get(name, StudyEnded)(message or reason)


@dataclass(frozen=True)
class SealedStudyKey:
    """One member's sealed key of an epoch; ``sealed`` is empty for the maker and before the key was posted.

    ``confirmations`` are the signed statements of :func:`key_statement` so far. The recipient checks the *maker's*
    own among them: sealing needs only public keys, so without it the coordinator could seal a key of its own.
    """

    maker: str
    sealed: bytes
    fingerprint: str
    confirmations: Mapping[str, bytes] = field(default_factory=dict)


class UploadHeader(Strict):
    """The signed header of one upload; docs/architecture.md gives its canonical form.

    ``key_fingerprint`` and ``previous`` make each hospital a witness: of the study key it encrypted under, and of the
    transcript it has seen (SHA-256 of the last line it verified, 64 zeros before the first). A coordinator that gives
    two hospitals different keys or histories gets no transcript entry that both would accept. ``seeds_sha256`` is over
    the seeds at the body's beginning, which the published sum repeats. ``view`` is the hash of all keys and shares of
    this attempt as the hospital saw them (secagg/masked/statements.py); 64 zeros, and attempt 0, without masks.
    """

    attempt: _Count
    body_bytes: _Count
    body_sha256: Sha256
    format: Literal[2]
    hospital: Name
    key_epoch: _Count
    key_fingerprint: Sha256
    ledger_entries: _Count
    ledger_head: Sha256
    previous: Sha256
    profile: Annotated[str, Field(max_length=64)]
    round: _Count
    seeds_sha256: Sha256
    study: Sha256
    tenseal: Annotated[str, Field(max_length=32)]
    view: Sha256
    weight: float


def parse_header(data: bytes) -> UploadHeader:
    """The header in ``data``; ProtocolError unless it is exactly the canonical form, MessageTooLarge if longer.

    Only one spelling is accepted, so that two different byte strings never mean the same header.
    """
    if len(data) > HEADER_BYTES:
        raise MessageTooLarge(f"an upload header of {len(data)} bytes, at most {HEADER_BYTES}")
    try:
        header = UploadHeader.model_validate(json.loads(data), strict=True)
        canonical = canonical_bytes(header.model_dump())
    except ValidationError as error:
        raise ProtocolError(f"upload header: {explain(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the upload header is not JSON") from error
    if canonical != data:
        raise ProtocolError("the upload header is not in canonical form")
    return header


def key_statement(study: str, epoch: int, fingerprint: str) -> bytes:
    """What a member signs (context ``key-confirmation``) when it holds the study key of an epoch."""
    return canonical_bytes({"study": study, "epoch": epoch, "fingerprint": fingerprint})


def decline_statement(study: str, round_number: int, hospital: str, reason: str) -> bytes:
    """What a hospital signs (context ``decline``) when it leaves out a round, or with FINAL_REASON all that follow."""
    return canonical_bytes({"study": study, "round": round_number, "hospital": hospital, "reason": reason})
