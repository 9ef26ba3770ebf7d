"""A whole study over mutual TLS: what hospitals get is what they can check on their own."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from consortia import Consortium
from members import FINGERPRINT
from plans import example_plan
from servers import NOW, PLAN, Cast, Raw, Server, running, sum_of
from unlocking import UNLOCK

from secure_fedhelp.errors import (
    KeyCeremonyFailed,
    NotOnRoster,
    ProtocolError,
    StudyAlreadyStarted,
    StudyEnded,
    UnderQuorum,
    WrongRound,
)
from secure_fedhelp.identity.cards import check_card, make_card
from secure_fedhelp.identity.signing import verify
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.wire.generated import coordinator_pb2 as pb
from secure_fedhelp.wire.messages import Phase, decline_statement, key_statement


def check_line(line: bytes, previous: str, coordinator_key: str, keys: dict[str, str]) -> dict[str, object]:
    """An independent check of one transcript line, from docs/architecture.md alone."""
    record = json.loads(line)
    assert canonical_bytes(record) == line
    entry = record["entry"]
    verify(coordinator_key, "transcript-entry", canonical_bytes(entry), bytes.fromhex(record["signature"]))
    assert entry["previous"] == previous
    for upload in entry["cohort"]:
        header = upload["header"]
        verify(keys[header["hospital"]], "upload-header", canonical_bytes(header), bytes.fromhex(upload["signature"]))
        assert (header["round"], header["study"]) == (entry["round"], PLAN.hash)
    for decline in entry["declined"]:
        statement = decline_statement(PLAN.hash, entry["round"], decline["hospital"], decline["reason"])
        verify(keys[decline["hospital"]], "decline", statement, bytes.fromhex(decline["signature"]))
    return entry


def test_two_rounds_from_join_to_goodbye(cast: Cast, server: Server, consortium: Consortium) -> None:
    cast.join()
    assert cast.until(Phase.KEYING).maker == "alpha"
    assert not cast.clients["beta"].get_key(0).sealed, "not posted yet"
    cast.make_key()
    cast.until(Phase.COLLECTING, 0)
    for name in cast.names:
        assert cast.upload(name) == len(cast.body(name))
    cast.until(Phase.COLLECTING, 1)
    gamma = cast.sites["gamma"]
    statement = decline_statement(PLAN.hash, 1, "gamma", "BudgetExhausted")
    cast.clients["gamma"].decline(1, "BudgetExhausted", gamma.key.sign("decline", statement))
    for name in ("alpha", "beta"):
        cast.upload(name, 1)
    assert cast.until(Phase.FINISHED).declined == ("gamma",)

    client = cast.clients["beta"]
    now = time.time()
    coordinator = check_card(client.coordinator_card(), consortium.ca_pem, PLAN, now)
    cards = {name: check_card(card, consortium.ca_pem, PLAN, now) for name, card in client.roster().items()}
    assert cards.keys() == set(cast.names)
    keys = {name: card.signing_key for name, card in cards.items()}
    lines, previous = client.transcript(0), "0" * 64
    assert b"".join(line + b"\n" for line in lines) == (server.folder / "transcript.jsonl").read_bytes()
    for number, (line, cohort) in enumerate(zip(lines, [cast.names, ("alpha", "beta")], strict=True)):
        entry = check_line(line, previous, coordinator.signing_key, keys)
        assert [u["header"]["hospital"] for u in entry["cohort"]] == list(cohort)
        data = client.download(number, int(str(entry["sum_bytes"])))
        assert data == sum_of({name: cast.body(name, number) for name in cohort})
        assert hashlib.sha256(data).hexdigest() == entry["sum_sha256"]
        previous = hashlib.sha256(line).hexdigest()
    assert client.transcript(1) == lines[1:]
    assert client.transcript(2) == []

    for one in cast.clients.values():
        one.goodbye()
    result = server.wait()
    assert result is not None
    assert result.phase is Phase.FINISHED
    assert not (server.folder / "address").exists()
    assert "the study has finished" in server.told
    roster = json.loads((server.folder / "roster.json").read_bytes())
    assert {name: canonical_bytes(card) for name, card in roster.items()} == {
        "coordinator": coordinator.to_bytes(),
        **{name: card.to_bytes() for name, card in cards.items()},
    }


def test_the_makers_signed_confirmation_comes_with_the_sealed_key(cast: Cast) -> None:
    cast.join()
    cast.make_key()
    key = cast.clients["beta"].get_key(0)
    assert (key.maker, key.sealed, key.fingerprint) == ("alpha", b"sealed to beta", FINGERPRINT)
    statement = key_statement(PLAN.hash, 0, FINGERPRINT)
    verify(cast.sites["alpha"].key.public_hex, "key-confirmation", statement, key.confirmations["alpha"])
    assert cast.clients["alpha"].get_key(0).sealed == b""
    assert cast.clients["beta"].get_key(7).sealed == b""


def test_a_member_that_missed_an_epoch_still_gets_its_key(consortium: Consortium, folder: Path) -> None:
    plan = example_plan(study__rounds=2, aggregation__key_epoch_rounds=1)
    with running(folder, plan) as server:
        cast = Cast(consortium, server, plan)
        cast.join()
        cast.make_key()
        for name in cast.names:
            cast.upload(name)
        cast.until(Phase.KEYING, 1)
        cast.make_key(1)
        cast.until(Phase.COLLECTING, 1)
        earlier = cast.clients["gamma"].get_key(0)
        assert (earlier.maker, earlier.sealed, earlier.fingerprint) == ("alpha", b"sealed to gamma", FINGERPRINT)
        cast.close()


def test_who_fetches_the_cards_gets_a_renewed_one(cast: Cast, consortium: Consortium, tmp_path: Path) -> None:
    cast.join()
    alpha, client = cast.sites["alpha"], cast.clients["alpha"]
    shutil.copytree(alpha.folder, tmp_path / "alpha")  # other tests need alpha's first certificate
    longer = consortium.authority.sign(consortium.request("alpha"), "hospital", "alpha", NOW, 366, renew=True)
    (tmp_path / "alpha" / "tls.crt").write_bytes(longer)
    sealing = json.loads(alpha.card)["sealing_key"]
    public = alpha.key.public_hex
    renewed = make_card(PLAN.hash, "hospital", "alpha", public, sealing, tmp_path / "alpha", alpha.key, UNLOCK)
    client.join(renewed)
    client.join(alpha.card)
    assert cast.clients["beta"].roster()["alpha"] == renewed


def test_a_fingerprint_that_differs_ends_the_study_for_all(cast: Cast, server: Server) -> None:
    cast.join()
    cast.clients["alpha"].post_key(0, {"beta": b"1", "gamma": b"2"}, FINGERPRINT)
    with pytest.raises(StudyEnded, match="KeyCeremonyFailed: beta holds"):
        cast.sites["beta"].confirm(cast.clients["beta"], 0, "0" * 64)
    state = cast.until(Phase.ENDED)
    assert isinstance(state.ended_error(), KeyCeremonyFailed)
    with pytest.raises(StudyEnded, match="KeyCeremonyFailed: beta holds"):
        cast.sites["gamma"].confirm(cast.clients["gamma"])


@pytest.mark.parametrize(
    ("sealed", "match"),
    [
        ({"beta": b"1"}, "each other member"),
        ({"beta": b"1", "alpha": b"2"}, "each other member"),
        ({"beta": b"1", "gamma": b""}, "nothing is sealed"),
        ({"beta": b"1", "gamma": b"x" * 100_000}, "100000 bytes"),
        ({"beta": b"1", "gamma": b"x" * 1_100_000}, "1100000 bytes"),
    ],
)
def test_a_key_that_is_not_sealed_to_all_is_refused(cast: Cast, sealed: dict[str, bytes], match: str) -> None:
    cast.join()
    with pytest.raises(ProtocolError, match=match):
        cast.clients["alpha"].post_key(0, sealed, FINGERPRINT)
    assert cast.state().phase is Phase.KEYING


def test_an_upload_twice_is_sent_once(cast: Cast) -> None:
    cast.join()
    cast.make_key()
    assert cast.upload("alpha") == len(cast.body("alpha"))
    assert cast.upload("alpha") == 0


def test_deadlines_pass_without_anybody_calling(cast: Cast, server: Server) -> None:
    cast.join()
    cast.make_key()
    for name in ("alpha", "beta"):
        cast.upload(name)
    server.clock.ahead += PLAN.aggregation.round_deadline_seconds
    assert cast.until(Phase.COLLECTING, 1).absent == ("gamma",)
    with pytest.raises(WrongRound):
        cast.upload("gamma")
    cast.clients["gamma"].join(cast.sites["gamma"].card)
    assert cast.state().absent == ()


def test_a_study_that_never_gathers_ends_and_says_who_is_missing(cast: Cast, server: Server) -> None:
    cast.clients["beta"].join(cast.sites["beta"].card)
    server.clock.ahead += PLAN.aggregation.gather_deadline_seconds
    error = cast.until(Phase.ENDED).ended_error()
    assert isinstance(error, UnderQuorum)
    assert "missing: alpha, gamma" in error.message
    with pytest.raises(NotOnRoster):
        cast.clients["alpha"].roster()
    with pytest.raises(UnderQuorum):
        cast.clients["alpha"].join(cast.sites["alpha"].card)
    assert server.linger() is not None, "nobody says goodbye for ever"


def test_who_comes_late_is_told(consortium: Consortium, cast: Cast, server: Server) -> None:
    for name in ("alpha", "beta"):
        cast.clients[name].join(cast.sites[name].card)
    server.clock.ahead += PLAN.aggregation.gather_deadline_seconds
    cast.until(Phase.KEYING)
    with pytest.raises(StudyAlreadyStarted):
        cast.clients["gamma"].join(cast.sites["gamma"].card)
    with pytest.raises(NotOnRoster):
        cast.clients["gamma"].roster()


def test_no_sum_before_it_is_published(cast: Cast) -> None:
    cast.join()
    with pytest.raises(WrongRound):
        cast.clients["alpha"].download(0, 10)


def test_a_watch_returns_when_something_happens(cast: Cast) -> None:
    known = cast.state().version
    seen = []
    thread = threading.Thread(target=lambda: seen.append(cast.clients["beta"].watch(known, 20.0)))
    begin = time.monotonic()
    thread.start()
    cast.clients["alpha"].join(cast.sites["alpha"].card)
    thread.join(10)
    assert seen
    assert seen[0].version != known
    assert time.monotonic() - begin < 10


def test_a_newer_watch_frees_the_older(cast: Cast, server: Server) -> None:
    known = cast.state().version
    seen = []
    older = cast.sites["beta"].client(server)
    thread = threading.Thread(target=lambda: seen.append(older.watch(known, 20.0)))
    begin = time.monotonic()
    thread.start()
    while thread.is_alive() and time.monotonic() - begin < 10:
        cast.clients["beta"].watch(known, 0.05)
    assert seen == [cast.state()]
    assert time.monotonic() - begin < 10


def test_waiting_calls_of_one_hospital_leave_room_for_the_others(cast: Cast, server: Server) -> None:
    known = cast.state().version
    greedy = [Raw(server, cast.sites["alpha"]) for _ in range(10)]
    request = pb.WatchRequest(known_version=known, wait_seconds=20)
    calls = [raw.stub.Watch.future(request, timeout=20) for raw in greedy for _ in range(10)]
    begin = time.monotonic()
    cast.clients["beta"].join(cast.sites["beta"].card)
    assert time.monotonic() - begin < 10
    for call in calls:
        call.cancel()
    for raw in greedy:
        raw.channel.close()


def test_after_the_end_nothing_is_accepted(cast: Cast) -> None:
    cast.join()
    cast.make_key()
    for number in range(2):
        cast.until(Phase.COLLECTING, number)
        for name in cast.names:
            cast.upload(name, number)
    cast.until(Phase.FINISHED)
    with pytest.raises(StudyEnded):
        cast.clients["alpha"].post_key(0, {"beta": b"1", "gamma": b"1"}, FINGERPRINT)
    assert cast.upload("alpha", 1) == 0, "its last upload counts; the confirmation may have got lost"
