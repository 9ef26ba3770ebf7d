from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("card",)
    CARD_FIELD_NUMBER: _ClassVar[int]
    card: bytes
    def __init__(self, card: _Optional[bytes] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("known_version", "wait_seconds")
    KNOWN_VERSION_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    known_version: int
    wait_seconds: float
    def __init__(self, known_version: _Optional[int] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class StudyState(_message.Message):
    __slots__ = ("version", "phase", "round", "key_epoch", "maker", "absent", "declined", "reason", "unconfirmed", "attempt")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KEY_EPOCH_FIELD_NUMBER: _ClassVar[int]
    MAKER_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNCONFIRMED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    version: int
    phase: str
    round: int
    key_epoch: int
    maker: str
    absent: _containers.RepeatedScalarFieldContainer[str]
    declined: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    unconfirmed: _containers.RepeatedScalarFieldContainer[str]
    attempt: int
    def __init__(self, version: _Optional[int] = ..., phase: _Optional[str] = ..., round: _Optional[int] = ..., key_epoch: _Optional[int] = ..., maker: _Optional[str] = ..., absent: _Optional[_Iterable[str]] = ..., declined: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., unconfirmed: _Optional[_Iterable[str]] = ..., attempt: _Optional[int] = ...) -> None: ...

class RosterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Card(_message.Message):
    __slots__ = ("name", "coordinator", "card")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    name: str
    coordinator: bool
    card: bytes
    def __init__(self, name: _Optional[str] = ..., coordinator: _Optional[bool] = ..., card: _Optional[bytes] = ...) -> None: ...

class PostKeyRequest(_message.Message):
    __slots__ = ("head", "sealed")
    class Head(_message.Message):
        __slots__ = ("epoch", "fingerprint")
        EPOCH_FIELD_NUMBER: _ClassVar[int]
        FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
        epoch: int
        fingerprint: str
        def __init__(self, epoch: _Optional[int] = ..., fingerprint: _Optional[str] = ...) -> None: ...
    class Sealed(_message.Message):
        __slots__ = ("member", "sealed")
        MEMBER_FIELD_NUMBER: _ClassVar[int]
        SEALED_FIELD_NUMBER: _ClassVar[int]
        member: str
        sealed: bytes
        def __init__(self, member: _Optional[str] = ..., sealed: _Optional[bytes] = ...) -> None: ...
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    head: PostKeyRequest.Head
    sealed: PostKeyRequest.Sealed
    def __init__(self, head: _Optional[_Union[PostKeyRequest.Head, _Mapping]] = ..., sealed: _Optional[_Union[PostKeyRequest.Sealed, _Mapping]] = ...) -> None: ...

class KeyRequest(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class SealedStudyKey(_message.Message):
    __slots__ = ("maker", "sealed", "fingerprint", "confirmations")
    class ConfirmationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    MAKER_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATIONS_FIELD_NUMBER: _ClassVar[int]
    maker: str
    sealed: bytes
    fingerprint: str
    confirmations: _containers.ScalarMap[str, bytes]
    def __init__(self, maker: _Optional[str] = ..., sealed: _Optional[bytes] = ..., fingerprint: _Optional[str] = ..., confirmations: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class KeyConfirmation(_message.Message):
    __slots__ = ("epoch", "fingerprint", "signature")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    fingerprint: str
    signature: bytes
    def __init__(self, epoch: _Optional[int] = ..., fingerprint: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AttemptRequest(_message.Message):
    __slots__ = ("round", "attempt")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    round: int
    attempt: int
    def __init__(self, round: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class MaskStatement(_message.Message):
    __slots__ = ("round", "attempt", "name", "statement", "signature")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    round: int
    attempt: int
    name: str
    statement: bytes
    signature: bytes
    def __init__(self, round: _Optional[int] = ..., attempt: _Optional[int] = ..., name: _Optional[str] = ..., statement: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class PostSharesRequest(_message.Message):
    __slots__ = ("head", "record")
    class Record(_message.Message):
        __slots__ = ("holder", "record")
        HOLDER_FIELD_NUMBER: _ClassVar[int]
        RECORD_FIELD_NUMBER: _ClassVar[int]
        holder: str
        record: bytes
        def __init__(self, holder: _Optional[str] = ..., record: _Optional[bytes] = ...) -> None: ...
    HEAD_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    head: MaskStatement
    record: PostSharesRequest.Record
    def __init__(self, head: _Optional[_Union[MaskStatement, _Mapping]] = ..., record: _Optional[_Union[PostSharesRequest.Record, _Mapping]] = ...) -> None: ...

class DeliveredShares(_message.Message):
    __slots__ = ("dealer", "record")
    DEALER_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    dealer: MaskStatement
    record: bytes
    def __init__(self, dealer: _Optional[_Union[MaskStatement, _Mapping]] = ..., record: _Optional[bytes] = ...) -> None: ...

class Survivors(_message.Message):
    __slots__ = ("bodies", "signatures")
    class BodiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SignaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    BODIES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    bodies: _containers.ScalarMap[str, str]
    signatures: _containers.ScalarMap[str, bytes]
    def __init__(self, bodies: _Optional[_Mapping[str, str]] = ..., signatures: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class Agreement(_message.Message):
    __slots__ = ("round", "attempt", "signature")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    round: int
    attempt: int
    signature: bytes
    def __init__(self, round: _Optional[int] = ..., attempt: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RevealedShares(_message.Message):
    __slots__ = ("round", "attempt", "reveal")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    round: int
    attempt: int
    reveal: bytes
    def __init__(self, round: _Optional[int] = ..., attempt: _Optional[int] = ..., reveal: _Optional[bytes] = ...) -> None: ...

class UploadHead(_message.Message):
    __slots__ = ("round", "header", "signature", "offset")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    round: int
    header: bytes
    signature: bytes
    offset: int
    def __init__(self, round: _Optional[int] = ..., header: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class UploadRequest(_message.Message):
    __slots__ = ("head", "chunk")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    head: UploadHead
    chunk: bytes
    def __init__(self, head: _Optional[_Union[UploadHead, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadState(_message.Message):
    __slots__ = ("offset", "accepted")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    offset: int
    accepted: bool
    def __init__(self, offset: _Optional[int] = ..., accepted: _Optional[bool] = ...) -> None: ...

class RoundDecline(_message.Message):
    __slots__ = ("round", "reason", "signature")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    round: int
    reason: str
    signature: bytes
    def __init__(self, round: _Optional[int] = ..., reason: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class TranscriptRequest(_message.Message):
    __slots__ = ("from_round",)
    FROM_ROUND_FIELD_NUMBER: _ClassVar[int]
    from_round: int
    def __init__(self, from_round: _Optional[int] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("round", "offset")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    round: int
    offset: int
    def __init__(self, round: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class GoodbyeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: str
    def __init__(self, study: _Optional[str] = ...) -> None: ...
