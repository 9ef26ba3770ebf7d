"""The rules of a transcript: what a coordinator (or whoever keeps the file) could try, and that it shows."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import example_plan
from runs import Scribe

from secure_fedhelp.audit.transcript import read_transcript
from secure_fedhelp.errors import KeyEpochRolledBack, StorageError, TranscriptInvalid
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.wire.transcript import (
    TranscriptChecker,
    TranscriptEntry,
    WitnessedHead,
    verify_transcript,
    witnessed_heads,
)

PLAN = example_plan(aggregation__masks="none")
GOLDEN = Path(__file__).with_name("golden_transcript.jsonl")


def fixed_scribe() -> Scribe:
    """Keys that are the same in every test run; they protect nothing."""

    def key(number: int) -> SigningKey:
        return SigningKey.from_private_bytes(bytes([number]) * 64)

    return Scribe(PLAN, key(1), {"alpha": key(2), "beta": key(3), "gamma": key(4)})


def verify(scribe: Scribe, lines: list[bytes] | None = None) -> list[TranscriptEntry]:
    chosen = scribe.lines if lines is None else lines
    return verify_transcript(chosen, scribe.coordinator.public_hex, scribe.member_keys, PLAN)


@pytest.fixture
def scribe() -> Scribe:
    return fixed_scribe()


@pytest.fixture(scope="module")
def honest() -> Scribe:
    made = fixed_scribe()
    for _ in range(4):
        made.round()
    return made


# -- the format ------------------------------------------------------------------------------------------------------


def write_golden() -> Scribe:
    """Two rounds: a full cohort, then one that declined and one that was absent."""
    made = fixed_scribe()
    made.round()
    cohort = [made.signed(made.header("alpha", 1))]
    made.publish(made.entry(cohort, declined=[made.refusal("beta", 1)]))
    return made


def test_the_format_is_that_of_the_golden_file() -> None:
    assert b"".join(line + b"\n" for line in write_golden().lines) == GOLDEN.read_bytes()


def test_the_golden_file_verifies() -> None:
    scribe = fixed_scribe()
    first, second = read_transcript(GOLDEN, scribe.coordinator.public_hex, scribe.member_keys, PLAN)
    assert [u.hospital for u in first.cohort] == ["alpha", "beta", "gamma"]
    assert ([u.hospital for u in second.cohort], second.absent) == (["alpha"], ("gamma",))
    assert [(d.hospital, d.reason) for d in second.declined] == [("beta", "BudgetExhausted")]
    assert second.previous == hashlib.sha256(GOLDEN.read_bytes().splitlines()[0]).hexdigest()


def test_heads_are_collected_by_hospital(honest: Scribe) -> None:
    heads = witnessed_heads(verify(honest))
    assert sorted(heads) == ["alpha", "beta", "gamma"]
    expected = hashlib.sha256(b"ledger of beta 2").hexdigest()
    assert heads["beta"][2] == WitnessedHead(round=2, entries=3, head=expected)


# -- the chain -------------------------------------------------------------------------------------------------------


@settings(max_examples=120)
@given(data=st.data())
def test_flipping_any_bit_shows(honest: Scribe, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, 3))
    line = bytearray(honest.lines[number])
    line[data.draw(st.integers(0, len(line) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(TranscriptInvalid, match=f"transcript entry {number}: "):
        verify(honest, [*honest.lines[:number], bytes(line), *honest.lines[number + 1 :]])


@settings(max_examples=40)
@given(chosen=st.lists(st.integers(0, 3), max_size=6))
def test_only_a_beginning_of_the_transcript_verifies(honest: Scribe, chosen: list[int]) -> None:
    lines = [honest.lines[i] for i in chosen]
    if chosen == list(range(len(chosen))):
        assert len(verify(honest, lines)) == len(lines)
    else:
        with pytest.raises(TranscriptInvalid):
            verify(honest, lines)


def test_a_history_written_anew_from_its_middle_does_not_follow(scribe: Scribe, honest: Scribe) -> None:
    scribe.round()
    scribe.round(lambda e: e.update(sum_sha256="e" * 64))
    with pytest.raises(TranscriptInvalid, match="transcript entry 2: it does not follow"):
        verify(honest, [*scribe.lines, *honest.lines[2:]])


def test_a_hospital_checks_one_line_at_a_time(honest: Scribe) -> None:
    checker = TranscriptChecker(honest.coordinator.public_hex, honest.member_keys, PLAN)
    assert [checker.check(line).round for line in honest.lines] == [0, 1, 2, 3]


# -- what a lying coordinator signs ----------------------------------------------------------------------------------

LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another study": (lambda e: e.update(study="1" * 64), "study"),
    "a skipped round": (lambda e: e.update(round=2), "round 3"),
    "an older key epoch": (lambda e: e.update(key_epoch=-1), "key_epoch"),
    "a hospital twice": (lambda e: e["cohort"].insert(0, e["cohort"][0]), "cohort is not sorted"),
    "an unsorted cohort": (lambda e: e["cohort"].reverse(), "cohort is not sorted"),
    "an upload left out silently": (lambda e: e["cohort"].pop(), "does not account for gamma"),
    "absent and in the cohort": (lambda e: e.update(absent=["beta"]), "two of cohort"),
    "a changed body": (lambda e: e["cohort"][1]["header"].update(body_sha256="2" * 64), "signature of beta"),
    "a changed weight": (lambda e: e["cohort"][1]["header"].update(weight=1.0), "signature of beta"),
    "another's signature": (
        lambda e: e["cohort"][0].update(signature=e["cohort"][1]["signature"]),
        "signature of alpha",
    ),
    "an unknown key": (lambda e: e.update(extra=1), "extra"),
    "another format": (lambda e: e.update(format=1), "format"),
    "a negative length": (lambda e: e.update(sum_bytes=-1), "sum_bytes"),
    "a float for a number": (lambda e: e.update(sum_bytes=float(e["sum_bytes"])), "canonical"),
    "somebody absent who is not in the plan": (
        lambda e: e.update(absent=["zeta"]),
        "it names zeta absent, of which the plan says nothing",
    ),
    "an absent hospital twice": (lambda e: e.update(absent=["delta", "delta"]), "absent is not sorted"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_signed_by_the_coordinator_itself_shows(lie: str, scribe: Scribe) -> None:
    change, reason = LIES[lie]
    scribe.round()
    scribe.round(change)
    with pytest.raises(TranscriptInvalid, match=f"transcript entry 1: .*{reason}"):
        verify(scribe)


def test_somebody_elses_signature_is_not_the_coordinators(scribe: Scribe) -> None:
    scribe.publish(scribe.entry([scribe.signed(scribe.header("alpha", 0))]), scribe.hospitals["alpha"])
    with pytest.raises(TranscriptInvalid, match="signature of the coordinator"):
        verify(scribe)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"round": 1}, "another study, round"), ({"study": "3" * 64}, "study"), ({"key_epoch": 1}, "epoch")],
)
def test_an_upload_of_another_round_is_no_upload_of_this_one(
    change: dict[str, Any], reason: str, scribe: Scribe
) -> None:
    """A replay: the hospital did sign the header, but for something else."""
    scribe.round(**change)
    with pytest.raises(TranscriptInvalid, match=reason):
        verify(scribe)


def test_a_stranger_in_the_cohort_shows(scribe: Scribe) -> None:
    stranger = SigningKey.generate()
    header = scribe.header("alpha", 0, hospital="zeta")
    scribe.publish(scribe.entry([scribe.signed(scribe.header("alpha", 0)), scribe.signed(header, stranger)]))
    with pytest.raises(TranscriptInvalid, match="zeta is no member"):
        verify(scribe)


def test_a_key_epoch_begins_when_somebody_left_and_not_before(scribe: Scribe) -> None:
    scribe.round()
    scribe.publish(scribe.entry([scribe.signed(scribe.header("alpha", 1))], declined=[scribe.refusal("beta", 1)]))
    cohort = [scribe.signed(scribe.header("alpha", 2, key_epoch=0))]
    scribe.publish(scribe.entry(cohort, absent=["gamma"], key_epoch=0))
    with pytest.raises(KeyEpochRolledBack, match="transcript entry 2: it has key epoch 0, in this round it is epoch 1"):
        verify(scribe)


# -- ledgers and declines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [0, 1])
def test_a_ledger_that_shrank_or_was_replaced_shows(entries: int, scribe: Scribe) -> None:
    scribe.round()
    scribe.round(ledger_entries=entries)
    with pytest.raises(TranscriptInvalid, match="had 1 entries in round 1, now it has"):
        verify(scribe)


def test_a_ledger_is_remembered_over_absent_rounds(scribe: Scribe) -> None:
    for number, names in enumerate((["alpha", "beta"], ["beta"], ["alpha", "beta"])):
        entries = {"alpha": 5 - number, "beta": number + 1}
        cohort = [scribe.signed(scribe.header(n, number, ledger_entries=entries[n])) for n in names]
        scribe.publish(scribe.entry(cohort))
    with pytest.raises(TranscriptInvalid, match="ledger of alpha had 5 entries in round 1"):
        verify(scribe)


def test_a_decline_is_signed_by_who_declined(scribe: Scribe) -> None:
    cohort = [scribe.signed(scribe.header("alpha", 0))]
    for change in ({"reason": "Maintenance"}, {"hospital": "gamma"}, {"signature": "0" * 128}):
        forged = fixed_scribe()
        refusal = {**forged.refusal("beta", 0), **change}
        forged.publish(forged.entry(cohort, declined=[refusal]))
        with pytest.raises(TranscriptInvalid, match=r"signature of .* \(decline\)"):
            verify(forged)


def test_who_left_for_good_is_accounted_for_and_cannot_come_back(scribe: Scribe) -> None:
    alpha = scribe.signed(scribe.header("alpha", 0))
    scribe.publish(scribe.entry([alpha], declined=[scribe.refusal("beta", 0)]))
    cohort = [scribe.signed(scribe.header("alpha", 1))]
    scribe.publish(scribe.entry(cohort, absent=["gamma"]))
    assert len(verify(scribe)) == 2
    scribe.round()
    with pytest.raises(TranscriptInvalid, match="beta had left"):
        verify(scribe)


def test_a_decline_of_one_round_is_for_that_round_only(scribe: Scribe) -> None:
    alpha = scribe.signed(scribe.header("alpha", 0))
    scribe.publish(scribe.entry([alpha], declined=[scribe.refusal("beta", 0, "Maintenance")]))
    scribe.round()
    assert len(verify(scribe)) == 2
    scribe.publish(scribe.entry([scribe.signed(scribe.header("alpha", 2))], absent=["gamma"]))
    with pytest.raises(TranscriptInvalid, match="account for beta"):
        verify(scribe)


def test_plan_hospitals_that_never_joined_may_be_absent(scribe: Scribe) -> None:
    del scribe.hospitals["gamma"]
    scribe.round(lambda e: e.update(absent=["gamma"]))
    assert verify(scribe)[0].absent == ("gamma",)


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"", b"null", b"{}", b"[" * 50_000, b"\xff", b'{"entry":1,"signature":""}', b"9" * 5000, b'"' * 3]
)
def test_what_is_no_entry_is_never_a_traceback(line: bytes, scribe: Scribe) -> None:
    with pytest.raises(TranscriptInvalid, match="transcript entry 0"):
        verify(scribe, [line])


def test_two_spellings_of_one_entry_are_not_both_accepted(scribe: Scribe) -> None:
    line = scribe.round()
    for other in (line.replace(b',"round"', b', "round"'), line + b" ", json.dumps(json.loads(line)).encode()):
        with pytest.raises(TranscriptInvalid, match="canonical"):
            verify(scribe, [other])


def test_a_torn_or_missing_file_is_named(tmp_path: Path, honest: Scribe) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_bytes(b"\n".join(honest.lines))
    arguments = (honest.coordinator.public_hex, honest.member_keys, PLAN)
    with pytest.raises(TranscriptInvalid, match="torn"):
        read_transcript(path, *arguments)
    with pytest.raises(StorageError, match="absent"):
        read_transcript(tmp_path / "absent.jsonl", *arguments)
    path.write_bytes(b"")
    assert read_transcript(path, *arguments) == []


def test_what_the_coordinator_did_not_sign_is_not_even_read(scribe: Scribe) -> None:
    """A line that is wrong in fifty thousand places would cost hundreds of times its size to explain."""
    scribe.round()
    line = json.loads(scribe.lines[0])
    line["entry"]["cohort"] = [{}] * 50_000
    forged = canonical_bytes(line)
    tracemalloc.start()
    with pytest.raises(TranscriptInvalid, match="signature of the coordinator") as caught:
        verify(scribe, [forged])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * len(forged)
    assert len(caught.value.message) < 200


def test_a_line_too_long_to_be_parsed_is_not(scribe: Scribe, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON takes some twenty times its length in memory, and whoever is named coordinator may send anything."""

    def parsed(line: bytes) -> None:
        raise AssertionError("read")

    scribe.round()
    huge = b'{"entry":[' + b"[]," * 100_000 + b"[]]}"
    monkeypatch.setattr("secure_fedhelp.wire.transcript.json.loads", parsed)
    with pytest.raises(TranscriptInvalid, match="bytes, at most"):
        verify(scribe, [huge])
