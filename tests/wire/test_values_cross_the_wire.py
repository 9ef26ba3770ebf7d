"""Errors keep their names, streams their bytes and limits, headers one spelling, addresses one meaning."""

from __future__ import annotations

import contextlib
import errno
import json
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.errors import (
    CannotJudgeNow,
    CiphertextWrongLength,
    FedHelpError,
    InvalidConfiguration,
    KeyCeremonyFailed,
    MessageTooLarge,
    ProtocolError,
    StorageError,
    StudyEnded,
    UnderQuorum,
    error_classes,
)
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.wire import chunks
from secure_fedhelp.wire.address import join_address, parse_address
from secure_fedhelp.wire.connection import _transient
from secure_fedhelp.wire.failures import answering, named_error
from secure_fedhelp.wire.messages import (
    Phase,
    StudyState,
    UploadHeader,
    decline_statement,
    key_statement,
    parse_header,
)

GOLDEN_HEADER = (
    b'{"attempt":0,"body_bytes":14400,"body_sha256":"' + b"1" * 64 + b'","format":2,"hospital":"alpha","key_epoch":0,'
    b'"key_fingerprint":"' + b"4" * 64 + b'","ledger_entries":1,"ledger_head":"' + b"2" * 64 + b'","previous":"'
    + b"5" * 64 + b'","profile":"standard","round":0,"seeds_sha256":"' + b"6" * 64 + b'","study":"'
    + b"3" * 64 + b'","tenseal":"0.3.18","view":"' + b"0" * 64 + b'","weight":0.25}'
)  # fmt: skip


class Ended(Exception):
    """What gRPC's abort raises."""


class Call(grpc.RpcError, grpc.Call):
    """A call as it looks to the other side after ``answering`` ended it."""

    def __init__(self) -> None:
        self.status: grpc.StatusCode = grpc.StatusCode.OK
        self.text = ""
        self.metadata: Any = ()

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.metadata = metadata

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.status, self.text = code, details
        raise Ended

    def trailing_metadata(self) -> Any:
        return self.metadata

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return self.text

    initial_metadata = is_active = time_remaining = cancel = add_callback = None  # type: ignore[assignment]


def ended_by(error: BaseException) -> Call:
    call = Call()
    with pytest.raises(Ended), answering(call):  # type: ignore[arg-type]
        raise error
    return call


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls", [c for c in error_classes().values() if not issubclass(c, StorageError)], ids=lambda c: c.__name__
)
def test_every_error_is_the_same_class_on_the_other_side(cls: type[FedHelpError]) -> None:
    call = ended_by(cls("what happened — ünïcode", "do this"))
    again = named_error(call)
    assert type(again) is cls
    assert (again.message, again.hint) == ("what happened — ünïcode", "do this")
    assert call.code().name == cls.status


def test_the_default_hint_arrives() -> None:
    again = named_error(ended_by(UnderQuorum("too few")))
    assert again is not None
    assert again.hint == UnderQuorum.default_hint


def test_a_full_disk_of_the_coordinator_is_no_error_of_the_hospital() -> None:
    call = ended_by(StorageError("cannot write /secret/place"))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    error = named_error(call)
    assert type(error) is CannotJudgeNow
    assert "secret" not in call.details() + error.message + error.hint


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "x"), OSError(errno.ENFILE, "x"), OSError(errno.EIO, "/secret/place"), MemoryError("x")],
)
def test_what_the_coordinator_lacks_itself_is_no_error_of_the_hospital(error: Exception) -> None:
    call = ended_by(error)
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    answered, problem = _transient(call)
    assert answered
    assert "secret" not in problem


def test_a_bug_sends_no_traceback() -> None:
    call = ended_by(RuntimeError("internals"))
    assert (call.code(), call.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    with pytest.raises(ProtocolError, match="INTERNAL"):
        _transient(call)


def test_a_caller_that_goes_away_is_left_to_grpc() -> None:
    with pytest.raises(grpc.RpcError), answering(Call()):  # type: ignore[arg-type]
        raise grpc.RpcError


@pytest.mark.parametrize("name", ["", "SystemExit", "Exception", "fedhelperror"])
def test_only_names_of_our_tree_become_errors(name: str) -> None:
    call = Call()
    call.metadata = (("fedhelp-error", name), ("fedhelp-message-bin", b"x"))
    assert named_error(call) is None


def test_hostile_text_is_cleaned_and_cut() -> None:
    call = Call()
    call.metadata = (("fedhelp-error", "ProtocolError"), ("fedhelp-message-bin", b"\x1b[2J\xff" + b"x" * 10_000))
    error = named_error(call)
    assert error is not None
    assert "\x1b" not in error.message
    assert len(error.message) <= 1500


def test_an_error_that_is_no_call_is_tried_again() -> None:
    assert _transient(grpc.RpcError("gone")) == (False, "gone")


@pytest.mark.parametrize(
    ("code", "details"),
    [(grpc.StatusCode.UNAVAILABLE, ""), (grpc.StatusCode.UNKNOWN, "Stream removed"), (grpc.StatusCode.CANCELLED, "")],
)
def test_what_may_pass_is_tried_again(code: grpc.StatusCode, details: str) -> None:
    call = Call()
    call.status, call.text = code, details
    assert _transient(call)[1]


def test_a_message_beyond_grpcs_limit_is_not_sent_again_and_again() -> None:
    call = Call()
    call.status, call.text = grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (2 vs. 1)"
    with pytest.raises(MessageTooLarge):
        _transient(call)


@pytest.mark.parametrize(
    ("reason", "cls", "message"),
    [
        ("UnderQuorum: too few", UnderQuorum, "too few"),
        ("KeyCeremonyFailed: a: b", KeyCeremonyFailed, "a: b"),
        ("Bogus: text", StudyEnded, "text"),
        ("no name", StudyEnded, "no name"),
    ],
)
def test_a_studys_end_has_a_name(reason: str, cls: type[FedHelpError], message: str) -> None:
    error = StudyState(1, Phase.ENDED, 0, 0, reason=reason).ended_error()
    assert type(error) is cls
    assert error.message == message
    assert StudyState(1, Phase.FINISHED, 0, 0).ended_error() is None


# -- streams ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, 200), st.integers(1, 50))
def test_pieces_join_again(data: bytes, offset: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunks, "CHUNK_BYTES", size)
        parts = list(chunks.pieces(data, offset))
        assert b"".join(parts) == data[offset:]
        assert all(0 < len(part) <= size for part in parts)


@given(st.lists(st.binary(max_size=60), max_size=12), st.integers(1, 50))
def test_short_values_join_into_full_pieces(values: list[bytes], size: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunks, "CHUNK_BYTES", size)
        parts = list(chunks.joined_pieces(values))
        assert b"".join(parts) == b"".join(values)
        assert all(len(part) == size for part in parts[:-1])


def test_a_sender_never_says_how_much_memory_we_take() -> None:
    collector = chunks.Collector(5)
    collector.add(b"123")
    with pytest.raises(MessageTooLarge):
        collector.add(b"456")
    with pytest.raises(CiphertextWrongLength):
        collector.complete()
    collector.add(b"45")
    assert collector.complete() == b"12345"


# -- headers and statements -----------------------------------------------------------------------------------------


def test_the_headers_form_is_fixed() -> None:
    header = parse_header(GOLDEN_HEADER)
    assert (header.hospital, header.weight, header.body_bytes) == ("alpha", 0.25, 14400)
    assert canonical_bytes(header.model_dump()) == GOLDEN_HEADER


def test_the_statements_form_is_fixed() -> None:
    assert key_statement("s", 1, "f") == b'{"epoch":1,"fingerprint":"f","study":"s"}'
    assert decline_statement("s", 2, "h", "r") == b'{"hospital":"h","reason":"r","round":2,"study":"s"}'


@given(st.dictionaries(st.sampled_from(sorted(UploadHeader.model_fields)), st.none() | st.integers() | st.text()))
def test_any_change_of_a_header_is_a_named_error_or_a_header(changes: dict[str, object]) -> None:
    data = canonical_bytes(json.loads(GOLDEN_HEADER) | changes)
    with contextlib.suppress(ProtocolError):
        assert canonical_bytes(parse_header(data).model_dump()) == data


@given(st.binary(max_size=300))
def test_any_bytes_are_a_named_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_header(data)


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("fed.example:8443", "fed.example", 8443), ("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:1", "::1", 1)],
)
def test_an_address_and_back(address: str, host: str, port: int) -> None:
    assert parse_address(address) == (host, port)
    assert join_address(host, port) == address


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":1", "host:x", "host:65536", "host:-1", "::1:80", "[::1]", "[host]:1", "host:²"]
)
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(InvalidConfiguration):
        parse_address(address)
