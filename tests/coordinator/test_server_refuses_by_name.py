"""Every hostile or broken message has a named refusal, and leaves nothing behind."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from consortia import Consortium
from members import some_body
from servers import NOW, PLAN, Cast, Raw, Server, Site
from unlocking import UNLOCK

from secure_fedhelp.coordinator.spool import Spool
from secure_fedhelp.errors import (
    BadSignature,
    CertificateRevoked,
    CiphertextNotCanonical,
    CiphertextWrongLength,
    DuplicateHospital,
    FedHelpError,
    IdentityError,
    LedgerInvalid,
    MessageTooLarge,
    NotOnRoster,
    PlanChanged,
    ProtocolError,
    ReplayedUpload,
    VersionMismatch,
    WrongRound,
)
from secure_fedhelp.identity.authority import Authority
from secure_fedhelp.identity.cards import make_card
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.wire.failures import named_error
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.messages import CHUNK_BYTES, Phase, UploadHeader

BODY = some_body(PLAN, 7)


def refused(raw: Raw, *parts: pb.UploadHead | bytes) -> FedHelpError:
    """The named error an upload of these parts is refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        raw.upload(*parts)
    error = named_error(caught.value)
    assert error is not None, caught.value
    return error


@pytest.fixture
def raw(cast: Cast, server: Server) -> Iterator[Raw]:
    """Hospital alpha in round 0."""
    cast.join()
    cast.make_key()
    hospital = Raw(server, cast.sites["alpha"])
    yield hospital
    hospital.channel.close()


def chunks_of(body: bytes) -> list[bytes]:
    return [body[i : i + CHUNK_BYTES] for i in range(0, len(body), CHUNK_BYTES)]


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_a_truncated_upload(raw: Raw) -> None:
    error = refused(raw, raw.head(BODY), *chunks_of(BODY[:-1]))
    assert type(error) is CiphertextWrongLength
    assert raw.status(BODY) == 0, "refused whole"
    assert raw.upload(raw.head(BODY), *chunks_of(BODY)).accepted, "and can be sent again"


def test_an_upload_that_is_too_long(raw: Raw) -> None:
    assert type(refused(raw, raw.head(BODY), *chunks_of(BODY + b"x"))) is MessageTooLarge
    assert raw.status(BODY) == 0


def test_a_body_that_is_not_the_signed_one(raw: Raw) -> None:
    assert type(refused(raw, raw.head(BODY), *chunks_of(BODY[:-1] + bytes([BODY[-1] ^ 1])))) is BadSignature
    assert raw.status(BODY) == 0


def test_a_residue_beyond_the_modulus(raw: Raw) -> None:
    body = BODY[:-7] + b"\xff" * 7
    assert type(refused(raw, raw.head(body), *chunks_of(body))) is CiphertextNotCanonical


def test_another_offset_than_the_stored_one(raw: Raw) -> None:
    assert type(refused(raw, raw.head(BODY, offset=1), BODY[1:100])) is ProtocolError


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([], ProtocolError),
        ([b"chunk"], ProtocolError),
        (["head", "head"], ProtocolError),
        (["head", b""], ProtocolError),
        (["head", b"x" * (CHUNK_BYTES + 1)], MessageTooLarge),
    ],
)
def test_a_malformed_stream(raw: Raw, parts: list[object], error: type[FedHelpError]) -> None:
    made = [raw.head(BODY) if part == "head" else part for part in parts]
    assert type(refused(raw, *made)) is error  # type: ignore[arg-type]


def test_a_round_beside_the_headers_round(raw: Raw) -> None:
    assert type(refused(raw, raw.head(BODY, number=1))) is WrongRound


def test_a_message_beyond_the_limit_does_not_reach_a_handler(raw: Raw) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw.upload(raw.head(BODY), b"x" * (2 * CHUNK_BYTES))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_forged_signature_is_refused_before_the_body_is_taken(raw: Raw) -> None:
    head = raw.head(BODY)
    head.signature = SigningKey.generate().sign("upload-header", head.header)
    assert type(refused(raw, head, *chunks_of(BODY))) is BadSignature
    assert raw.status(BODY) == 0


def test_a_replay_of_another_hospitals_upload(raw: Raw, cast: Cast, server: Server) -> None:
    beta = Raw(server, cast.sites["beta"])
    assert type(refused(beta, raw.head(BODY), *chunks_of(BODY))) is IdentityError
    beta.channel.close()


def test_one_upload_a_round(raw: Raw) -> None:
    assert raw.upload(raw.head(BODY), *chunks_of(BODY)).accepted
    assert raw.upload(raw.head(BODY)).accepted, "the same again is accepted quietly"
    other = some_body(PLAN, 8)
    assert type(refused(raw, raw.head(other), *chunks_of(other))) is ReplayedUpload


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"study": "0" * 64}, PlanChanged),
        ({"key_epoch": 1}, WrongRound),
        ({"tenseal": "0.3.16"}, VersionMismatch),
        ({"body_bytes": len(BODY) + 1}, MessageTooLarge),
    ],
)
def test_a_wrong_header(cast: Cast, raw: Raw, changes: dict[str, object], error: type[FedHelpError]) -> None:
    with pytest.raises(error) as caught:
        cast.upload("alpha", **changes)
    assert type(caught.value) is error


def test_a_ledger_that_lost_entries(cast: Cast, raw: Raw) -> None:
    for name in cast.names:
        cast.upload(name, ledger_entries=3)
    cast.until(Phase.COLLECTING, 1)
    with pytest.raises(LedgerInvalid):
        cast.upload("alpha", 1, ledger_entries=2)


def test_a_newer_stream_takes_the_place_of_a_dead_one(raw: Raw, cast: Cast) -> None:
    halfway, go_on = threading.Event(), threading.Event()
    ends: list[grpc.StatusCode] = []

    def requests() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(head=raw.head(BODY))
        yield pb.UploadRequest(chunk=BODY[:CHUNK_BYTES])
        halfway.set()
        go_on.wait(20)

    def dead() -> None:
        try:
            raw.stub.Upload(requests(), timeout=30)
        except grpc.RpcError as error:
            ends.append(error.code())

    thread = threading.Thread(target=dead)
    thread.start()
    assert halfway.wait(10)
    cast.sites["alpha"].upload(cast.clients["alpha"], BODY)
    thread.join(10)
    go_on.set()
    assert ends == [grpc.StatusCode.CANCELLED]
    assert cast.sites["alpha"].upload(cast.clients["alpha"], BODY) == 0


def test_a_round_that_closes_ends_the_uploads_in_it(raw: Raw, cast: Cast, server: Server) -> None:
    halfway, go_on = threading.Event(), threading.Event()

    def requests() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(head=raw.head(BODY))
        yield pb.UploadRequest(chunk=BODY[:10])
        halfway.set()
        go_on.wait(20)
        yield pb.UploadRequest(chunk=BODY[10:20])

    call = raw.stub.Upload.future(requests(), timeout=30)
    assert halfway.wait(10)
    for name in ("beta", "gamma"):
        cast.upload(name)
    server.clock.ahead += PLAN.aggregation.round_deadline_seconds
    go_on.set()
    error = named_error(call.exception())
    assert type(error) is WrongRound
    assert not any(p.name.startswith("00000-00-alpha") for p in (server.folder / "uploads").iterdir())


def test_a_body_that_comes_too_late_by_a_moment_is_erased(
    raw: Raw, cast: Cast, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("beta", "gamma"):
        cast.upload(name)
    check = Spool.check

    def slowly(spool: Spool, header: UploadHeader) -> None:
        check(spool, header)
        server.clock.ahead += PLAN.aggregation.round_deadline_seconds

    monkeypatch.setattr(Spool, "check", slowly)
    assert type(refused(raw, raw.head(BODY), *chunks_of(BODY))) is WrongRound
    assert not any(p.name.startswith("00000-00-alpha") for p in (server.folder / "uploads").iterdir())


# -- who is calling ---------------------------------------------------------------------------------------------------


def test_a_hospital_that_the_plan_does_not_list(consortium: Consortium, server: Server) -> None:
    consortium.member("mallory", now=NOW)
    site = Site.__new__(Site)
    site.folder, site.plan = consortium.root / "mallory", PLAN
    client = Site.client(site, server)
    with pytest.raises(NotOnRoster):
        client.watch(0, 0.0)
    with pytest.raises(NotOnRoster):
        client.join(b"")
    client.close()


def test_a_member_revoked_in_the_middle_of_the_study(tmp_path: Path, server: Server, consortium: Consortium) -> None:
    site = Site(consortium, PLAN, "alpha")
    client = site.client(server)
    client.join(site.card)
    # In a copy of the authority, because other tests need alpha's certificate.
    shutil.copytree(consortium.authority.folder, tmp_path / "authority")
    Authority.open(tmp_path / "authority", UNLOCK).revoke("alpha", time.time())
    shutil.copy(tmp_path / "authority" / "revoked.crl", server.folder / "revoked.crl")
    with pytest.raises(CertificateRevoked):
        client.watch(0, 0.0)
    whole = (server.folder / "revoked.crl").read_bytes()
    other = Site(consortium, PLAN, "beta").client(server)
    for crl in (whole[: len(whole) // 2], b"", (consortium.authority.folder / "revoked.crl").read_bytes()):
        (server.folder / "revoked.crl").write_bytes(crl)
        with pytest.raises(CertificateRevoked):  # by the last good list, also while the file is half copied or older
            client.watch(0, 0.0)
        other.watch(0, 0.0)
    client.close()
    other.close()


def test_cards_that_are_not_the_callers(cast: Cast) -> None:
    alpha, beta = cast.sites["alpha"], cast.sites["beta"]
    with pytest.raises(IdentityError):
        cast.clients["alpha"].join(beta.card)
    with pytest.raises(ProtocolError):
        cast.clients["alpha"].join(b"{}")
    with pytest.raises(ProtocolError):
        cast.clients["alpha"].join(b"x" * 100_000)
    other_study = make_card("0" * 64, "hospital", "alpha", alpha.key.public_hex, "ab", alpha.folder, alpha.key, UNLOCK)
    with pytest.raises(PlanChanged):
        cast.clients["alpha"].join(other_study)
    cast.clients["alpha"].join(alpha.card)
    key = SigningKey.generate()
    other_key = make_card(PLAN.hash, "hospital", "alpha", key.public_hex, "ab", alpha.folder, key, UNLOCK)
    with pytest.raises(DuplicateHospital):
        cast.clients["alpha"].join(other_key)


def test_a_stranger_to_the_study_gets_nothing(cast: Cast) -> None:
    client = cast.clients["alpha"]
    for call in (client.roster, client.coordinator_card, lambda: client.transcript(0), lambda: client.get_key(0)):
        with pytest.raises(NotOnRoster):
            call()


def test_a_confirmation_and_a_decline_must_be_the_callers_own(cast: Cast) -> None:
    cast.join()
    cast.clients["alpha"].post_key(0, {"beta": b"1", "gamma": b"2"}, "f" * 64)
    with pytest.raises(BadSignature):
        cast.sites["alpha"].confirm(cast.clients["beta"])
    with pytest.raises(BadSignature):
        cast.clients["beta"].decline(0, "BudgetExhausted", b"nothing")
    with pytest.raises(WrongRound):
        cast.sites["beta"].confirm(cast.clients["beta"], epoch=1)


def test_a_posted_key_begins_with_its_head(raw: Raw) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw.stub.PostKey(iter([pb.PostKeyRequest(sealed=pb.PostKeyRequest.Sealed(member="beta"))]), timeout=30)
    assert type(named_error(caught.value)) is ProtocolError
