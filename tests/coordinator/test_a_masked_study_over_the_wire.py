"""Masked rounds over mutual TLS: drop-outs, restarts and lies in every phase."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from consortia import Consortium
from plans import example_plan
from servers import MaskedCast, Raw, running, sum_of

from secure_fedhelp.errors import (
    BadSignature,
    FedHelpError,
    ForgedShare,
    MessageTooLarge,
    NotOnRoster,
    ProtocolError,
    ReplayedUpload,
    SplitView,
    UnderQuorum,
    UnmaskingFailed,
    WrongRound,
)
from secure_fedhelp.secagg.masked.member import Dealing
from secure_fedhelp.secagg.masked.statements import RECORD_BYTES, STATEMENT_BYTES, Signed
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.failures import named_error
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.messages import Phase, decline_statement
from secure_fedhelp.wire.transcript import verify_transcript

NAMES = ("alpha", "beta", "gamma", "delta")
A_B_C = NAMES[:3]
PHASES = (Phase.ADVERTISING, Phase.SHARING, Phase.COLLECTING, Phase.AGREEING, Phase.REVEALING)


def plan_with(masks: str) -> StudyPlan:
    return example_plan(
        hospitals=[{"name": n, "tier": "small", "nominal_patients": 40} for n in NAMES],
        study__rounds=2,
        channels__0__length=5000,
        aggregation__masks=masks,
        aggregation__minimum_cohort=2,
    )


REPAIRING, STRICT = plan_with("repairing"), plan_with("strict")


def started(consortium: Consortium, folder: Path, plan: StudyPlan) -> Iterator[MaskedCast]:
    with running(folder, plan) as server:
        cast = MaskedCast(consortium, server, plan)
        cast.join()
        cast.make_key()
        yield cast
        cast.close()


@pytest.fixture
def cast(consortium: Consortium, folder: Path) -> Iterator[MaskedCast]:
    yield from started(consortium, folder, REPAIRING)


@pytest.fixture
def strict(consortium: Consortium, folder: Path) -> Iterator[MaskedCast]:
    yield from started(consortium, folder, STRICT)


def to(cast: MaskedCast, phase: Phase) -> MaskedCast:
    """Everybody takes every step before ``phase``."""
    while cast.state().phase is not phase:
        cast.act()
    return cast


def check_sum(cast: MaskedCast, number: int, *cohort: str) -> dict[str, object]:
    """The published sum is that of the cohort's values without masks, and the transcript verifies."""
    client = cast.clients["alpha"]
    lines = client.transcript(0)
    publics = {name: site.key.public_hex for name, site in cast.sites.items()}
    coordinator = json.loads(client.coordinator_card())["signing_key"]
    entry = verify_transcript(lines, coordinator, publics, cast.plan)[number]
    assert [u.hospital for u in entry.cohort] == sorted(cohort)
    expected = sum_of({name: cast.body(name, number) for name in cohort}, cast.plan)
    assert client.download(number, entry.sum_bytes) == expected
    return entry.model_dump()


# -- drop-outs and restarts -------------------------------------------------------------------------------------------


def test_two_masked_rounds(cast: MaskedCast) -> None:
    for number in range(2):
        to(cast, Phase.REVEALING)
        assert cast.state().attempt == 0
        cast.act()
        cast.until(Phase.FINISHED if number else Phase.ADVERTISING)
    assert [a["hospital"] for a in check_sum(cast, 0, *NAMES)["agreed"]] == sorted(NAMES)  # type: ignore[index, attr-defined]
    check_sum(cast, 1, *NAMES)
    told = "\n".join(cast.server.told)
    assert "masks: repairing; of 4 hospitals 3 must stay to the end" in told
    assert "round 2, attempt 1: 4 of 4 hospitals shared" in told


@pytest.mark.parametrize("lost_in", PHASES)
def test_a_hospital_lost_in_any_phase_is_repaired(cast: MaskedCast, lost_in: Phase) -> None:
    to(cast, lost_in)
    cast.act(*A_B_C)
    while (state := cast.state()).round == 0:
        if state.phase is lost_in:
            cast.late()
        else:
            cast.act(*A_B_C)
    cohort = NAMES if lost_in in (Phase.AGREEING, Phase.REVEALING) else A_B_C
    members = check_sum(cast, 0, *cohort)["members"]
    assert members == tuple(sorted(A_B_C if lost_in is Phase.ADVERTISING else NAMES))


@pytest.mark.parametrize("phase", PHASES)
def test_a_restart_in_any_phase(cast: MaskedCast, phase: Phase) -> None:
    to(cast, phase)
    cast.act("alpha", "beta")
    cast.server.stop()
    cast.server.start()
    while cast.state().round == 0:
        cast.act()  # also those who did it before: the same again
    check_sum(cast, 0, *NAMES)
    assert any(f"going on in phase {phase.value}" in line for line in cast.server.told)


@pytest.mark.parametrize("lost_in", [Phase.SHARING, Phase.COLLECTING, Phase.AGREEING])
def test_if_all_are_needed_a_drop_out_leads_to_another_attempt(strict: MaskedCast, lost_in: Phase) -> None:
    to(strict, lost_in)
    strict.act(*A_B_C)
    state = strict.late()
    assert (state.phase, state.attempt, state.absent) == (Phase.ADVERTISING, 1, ("delta",))
    while strict.state().round == 0:
        strict.act(*A_B_C)
    assert check_sum(strict, 0, *A_B_C)["attempt"] == 1
    assert any("ended with nothing opened: delta" in line for line in strict.server.told)


def test_too_few_to_repair_end_the_study_by_name(cast: MaskedCast) -> None:
    to(cast, Phase.COLLECTING)
    cast.act("alpha", "beta")
    assert type(cast.late().ended_error()) is UnderQuorum


def test_too_few_to_unmask_end_the_study_by_name(cast: MaskedCast) -> None:
    to(cast, Phase.REVEALING)
    cast.act("alpha", "beta")
    error = cast.late().ended_error()
    assert type(error) is UnmaskingFailed
    assert "missing: delta, gamma" in error.message


def test_who_comes_back_while_shares_are_revealed_still_helps(cast: MaskedCast) -> None:
    to(cast, Phase.AGREEING)
    cast.act(*A_B_C)
    cast.late()
    cast.clients["alpha"].goodbye()
    cast.act("beta", "gamma", "delta")
    cast.until(Phase.ADVERTISING, 1)
    check_sum(cast, 0, *NAMES)


def test_a_new_study_key_without_the_one_that_left_for_good(cast: MaskedCast) -> None:
    delta = cast.sites["delta"]
    statement = decline_statement(cast.plan.hash, 0, "delta", "BudgetExhausted")
    cast.clients["delta"].decline(0, "BudgetExhausted", delta.key.sign("decline", statement))
    while cast.state().round == 0:
        cast.act(*A_B_C)
    state = cast.state()
    assert state.phase is Phase.KEYING
    assert (state.key_epoch, state.unconfirmed) == (1, ("alpha", "beta", "gamma"))
    with pytest.raises(ProtocolError, match="each other member"):
        cast.clients["alpha"].post_key(1, {"beta": b"1", "gamma": b"2", "delta": b"3"}, "f" * 64)
    cast.clients["alpha"].post_key(1, {"beta": b"1", "gamma": b"2"}, "f" * 64)
    for name in A_B_C:
        cast.sites[name].confirm(cast.clients[name], 1)
    assert cast.clients["delta"].get_key(1).sealed == b""
    assert cast.state().phase is Phase.ADVERTISING


# -- what is refused, by name -----------------------------------------------------------------------------------------


def refused(error: type[FedHelpError], match: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    assert type(caught.value) is error


def test_everything_is_idempotent(cast: MaskedCast) -> None:
    client = cast.clients["alpha"]
    key = cast.member("alpha", 0).key(0)
    for _ in range(2):
        client.post_round_key(0, 0, key)
    to(cast, Phase.SHARING)
    dealing = cast.member("alpha", 0).share(0, client.round_keys(0, 0))
    for _ in range(2):
        client.post_shares(0, 0, dealing)
    to(cast, Phase.AGREEING)
    client.post_shares(0, 0, dealing)
    assert client.round_keys(0, 0)["alpha"] == key
    assert client.shares(0, 0)["beta"].record is not None
    signature = cast.agreement("alpha")
    for _ in range(2):
        client.agree(0, 0, signature)
    to(cast, Phase.REVEALING)
    client.agree(0, 0, signature)
    data = cast.revealed("alpha")
    for _ in range(2):
        client.reveal(0, 0, data)
    bodies, signatures = client.survivors(0, 0)
    assert bodies.keys() == signatures.keys() == set(NAMES)
    cast.act()
    cast.until(Phase.ADVERTISING, 1)
    refused(WrongRound, "attempt 0", lambda: client.reveal(0, 0, data))


def test_nothing_is_handed_out_before_its_phase_or_for_another_attempt(cast: MaskedCast) -> None:
    client = cast.clients["alpha"]
    refused(WrongRound, "while the study is advertising", lambda: client.round_keys(0, 0))
    to(cast, Phase.SHARING)
    refused(WrongRound, "while the study is sharing", lambda: client.shares(0, 0))
    to(cast, Phase.COLLECTING)
    refused(WrongRound, "while the study is collecting", lambda: client.survivors(0, 0))
    to(cast, Phase.AGREEING)
    for call in (client.round_keys, client.shares, client.survivors):
        refused(WrongRound, "attempt 1", lambda call=call: call(0, 1))  # type: ignore[misc]
        refused(WrongRound, "round 1", lambda call=call: call(1, 0))  # type: ignore[misc]


def test_forged_keys_shares_and_reveals(cast: MaskedCast) -> None:
    client = cast.clients["alpha"]
    own, others_key = cast.member("alpha", 0).key(0).statement, cast.member("beta", 0).key(0)
    refused(ProtocolError, "is of beta", lambda: client.post_round_key(0, 0, others_key))
    refused(BadSignature, "round-key", lambda: client.post_round_key(0, 0, Signed(own, b"")))
    to(cast, Phase.SHARING)
    dealing = cast.member("alpha", 0).share(0, client.round_keys(0, 0))
    swapped = Dealing(dealing.signed, dict(dealing.records, beta=dealing.records["gamma"]))
    refused(ForgedShare, "not those it signed", lambda: client.post_shares(0, 0, swapped))
    fewer = Dealing(dealing.signed, {"beta": dealing.records["beta"]})
    refused(ForgedShare, "other holders", lambda: client.post_shares(0, 0, fewer))
    stranger = Dealing(dealing.signed, dict(dealing.records, mallory=b"x"))
    refused(ProtocolError, "one record for each holder", lambda: client.post_shares(0, 0, stranger))
    to(cast, Phase.AGREEING)
    refused(SplitView, "perhaps another", lambda: client.agree(0, 0, cast.agreement("beta")))
    to(cast, Phase.REVEALING)
    data = cast.revealed("alpha")
    values = json.loads(data)
    values["self_shares"]["beta"] = "0" * 32
    forged = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    refused(ForgedShare, "alpha reveals a share of beta", lambda: client.reveal(0, 0, forged))
    client.reveal(0, 0, data)
    refused(ReplayedUpload, "other shares", lambda: client.reveal(0, 0, forged))
    refused(ProtocolError, "Reveal", lambda: cast.clients["beta"].reveal(0, 0, b"{}"))
    cast.act()
    cast.until(Phase.ADVERTISING, 1)


def test_who_is_no_survivor_has_no_say(cast: MaskedCast) -> None:
    to(cast, Phase.COLLECTING)
    cast.act(*A_B_C)
    cast.late()
    signature = cast.agreement("alpha")
    refused(NotOnRoster, "no say", lambda: cast.clients["delta"].agree(0, 0, signature))
    to_revealing = cast.act(*A_B_C)
    assert to_revealing.phase is Phase.REVEALING
    refused(NotOnRoster, "no say", lambda: cast.clients["delta"].reveal(0, 0, cast.revealed("alpha")))


def test_an_upload_with_other_masks_than_the_others_know(cast: MaskedCast) -> None:
    to(cast, Phase.COLLECTING)
    site, body = cast.sites["alpha"], cast.body("alpha")
    refused(SplitView, "other keys", lambda: site.upload(cast.clients["alpha"], body, view="1" * 64))
    refused(WrongRound, "attempt 1", lambda: site.upload(cast.clients["alpha"], body, attempt=1, view="1" * 64))


@pytest.fixture
def raw(cast: MaskedCast) -> Iterator[Raw]:
    hospital = Raw(cast.server, cast.sites["alpha"])
    yield hospital
    hospital.channel.close()


def raw_error(call: Callable[[], object]) -> type[FedHelpError]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return type(named_error(caught.value))  # type: ignore[return-value]


def test_sizes_are_bounded_before_anything_is_parsed(cast: MaskedCast, raw: Raw) -> None:
    stub = raw.stub
    statement = pb.MaskStatement(statement=b"x" * (RECORD_BYTES + 1))
    assert raw_error(lambda: stub.PostRoundKey(statement)) is MessageTooLarge
    assert raw_error(lambda: stub.Reveal(pb.RevealedShares(reveal=b"x" * (STATEMENT_BYTES + 1)))) is MessageTooLarge
    large = pb.PostSharesRequest(head=pb.MaskStatement(statement=b"x" * (STATEMENT_BYTES + 1)))
    assert raw_error(lambda: stub.PostShares(iter([large]))) is MessageTooLarge
    to(cast, Phase.SHARING)
    signed = cast.member("alpha", 0).share(0, cast.clients["alpha"].round_keys(0, 0)).signed
    head = pb.PostSharesRequest(head=pb.MaskStatement(statement=signed.statement, signature=signed.signature))

    def record(holder: str, size: int) -> pb.PostSharesRequest:
        return pb.PostSharesRequest(record=pb.PostSharesRequest.Record(holder=holder, record=b"x" * size))

    assert raw_error(lambda: stub.PostShares(iter([head, record("beta", RECORD_BYTES + 1)]))) is MessageTooLarge
    assert raw_error(lambda: stub.PostShares(iter([head, record("beta", 1), record("beta", 1)]))) is ProtocolError
    assert raw_error(lambda: stub.PostShares(iter([record("beta", 1)]))) is ProtocolError
    assert raw_error(lambda: stub.PostShares(iter([]))) is ProtocolError
    assert raw_error(lambda: stub.PostShares(iter([head]))) is ForgedShare


def test_a_stranger_to_the_study_gets_nothing(consortium: Consortium, folder: Path) -> None:
    with running(folder, REPAIRING) as server:
        cast = MaskedCast(consortium, server, REPAIRING)
        client = cast.clients["alpha"]
        for call in (client.round_keys, client.shares, client.survivors):
            refused(NotOnRoster, "has not joined", lambda call=call: call(0, 0))  # type: ignore[misc]
        key = cast.member("alpha", 0).key(0)
        refused(NotOnRoster, "has not joined", lambda: client.post_round_key(0, 0, key))
        cast.close()


def test_a_plan_without_masks_has_no_masked_steps(consortium: Consortium, folder: Path) -> None:
    plan = plan_with("none")
    with running(folder, plan) as server:
        cast = MaskedCast(consortium, server, plan)
        cast.join()
        cast.make_key()
        assert any("masks: none" in line for line in server.told)
        key = cast.member("alpha", 0).key(0)
        refused(WrongRound, "collecting", lambda: cast.clients["alpha"].post_round_key(0, 0, key))
        cast.close()
