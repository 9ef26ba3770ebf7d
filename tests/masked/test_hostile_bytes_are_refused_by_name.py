"""Whatever bytes come from the network, the answer is a named error or a value, soon and within bounded memory.

Every parser of bytes from the network, and where it is fuzzed:

    secagg/masked/statements.parse, five types      here
    secagg/masked/checks, Unmasking.check           here
    secagg/masked/member.Member, all steps          here, also in any order (a state machine)
    coordinator/sharing.check_records               here
    secagg/packing: body, sum, accumulator          here; algebra in tests/secagg/test_aggregation_packing.py
    secagg/sealing.SealingKey.open, StudyKey        here
    wire/messages: header, reason of an end         here; tests/wire/test_values_cross_the_wire.py
    wire/failures.named_error                       tests/wire/test_values_cross_the_wire.py
    wire/chunks.Collector                           here; tests/wire/test_values_cross_the_wire.py
    wire/transcript: a line                         here; tests/audit/test_a_lying_transcript_shows.py
    identity/cards, certificates                    here (form); tests/identity/test_cards_need_no_trust_...py
    identity/signing.verify                         here
    wire/client: what streams may hold              tests/coordinator/test_a_hostile_coordinator_...py
    coordinator/service, door: calls of members     tests/coordinator/test_server_refuses_by_name.py
    learning/foundation: a server's answer          tests/foundation/test_foundation_client.py
    privacy/entries: ledger lines (of others)       tests/privacy/test_ledger_cannot_be_rewritten.py
"""

from __future__ import annotations

import copy
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from masked import STEPS, Attempt, Cohort, names
from plans import example_plan

from secure_fedhelp.coordinator.sharing import check_records
from secure_fedhelp.errors import CiphertextWrongLength, FedHelpError, MessageTooLarge, ProtocolError
from secure_fedhelp.identity import cards
from secure_fedhelp.identity.signing import SigningKey, verify
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.masked.checks import check_dealer, check_key, check_record
from secure_fedhelp.secagg.masked.graph import graph
from secure_fedhelp.secagg.masked.member import Delivery, Member, Setting
from secure_fedhelp.secagg.masked.statements import (
    RECORD_BYTES,
    STATEMENT_BYTES,
    Place,
    Reveal,
    RoundKeyStatement,
    ShareRecord,
    SharesStatement,
    Signed,
    SurvivorsStatement,
    members_hash,
    parse,
)
from secure_fedhelp.secagg.packing import SumAccumulator, check_body, split_sum
from secure_fedhelp.secagg.profiles import PROFILES, SEED_BYTES, Profile
from secure_fedhelp.secagg.sealing import SealingKey
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.threshold import Masks, threshold
from secure_fedhelp.wire.chunks import Collector
from secure_fedhelp.wire.messages import HEADER_BYTES, parse_header, reason_error
from secure_fedhelp.wire.transcript import TranscriptChecker

GOLDEN = json.loads(Path(__file__).with_name("golden_attempt.json").read_text())
A, B, C, D = names(4)
#: More than ever is needed for a message at its size limit, also on a busy machine and with memory being traced.
SECONDS = 20.0


@dataclass(frozen=True)
class Parser:
    """Bytes in; a value or a named error out. ``valid`` is something it accepts, or would but for a signature."""

    read: Callable[[bytes], object]
    valid: bytes
    limit: int = STATEMENT_BYTES


def statement(model: Any, text: str, limit: int = STATEMENT_BYTES) -> Parser:
    return Parser(lambda data: parse(model, data, limit), text.encode(), limit)


HEADER = {
    "attempt": 0, "body_bytes": 14400, "body_sha256": "1" * 64, "format": 2, "hospital": "alpha", "key_epoch": 0,
    "key_fingerprint": "4" * 64, "ledger_entries": 1, "ledger_head": "2" * 64, "previous": "5" * 64,
    "profile": "standard", "round": 0, "seeds_sha256": "6" * 64, "study": "3" * 64, "tenseal": "0.3.18",
    "view": "0" * 64, "weight": 0.25,
}  # fmt: skip
ENTRY = {
    "absent": ["beta"], "agreed": [{"hospital": "alpha", "signature": "0" * 128}], "attempt": 0,
    "cohort": [{"header": HEADER, "signature": "0" * 128}],
    "declined": [{"hospital": "gamma", "reason": "BudgetExhausted", "signature": "0" * 128}], "format": 2,
    "key_epoch": 0, "members": ["alpha"], "previous": "0" * 64, "round": 0, "study": "3" * 64, "sum_bytes": 1,
    "sum_sha256": "0" * 64, "view": "0" * 64,
}  # fmt: skip
CARD = {
    "certificate": "x", "format": 1, "name": "alpha", "plan_hash": "0" * 64, "possession": "0" * 128,
    "role": "hospital", "sealing_key": "0" * 2432, "signature": "00", "signing_key": "0" * 64, "study": "0" * 64,
}  # fmt: skip


def read_line(data: bytes) -> object:
    """A line of a coordinator that signs whatever it writes, if it is such a line at all."""
    key = coordinator_key()
    try:
        entry = json.loads(data)["entry"]
        data = canonical_bytes(
            {"entry": entry, "signature": key.sign("transcript-entry", canonical_bytes(entry)).hex()}
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return TranscriptChecker(key.public_hex, {"alpha": "0" * 64}, example_plan()).check(data)


@cache
def coordinator_key() -> SigningKey:
    return SigningKey.generate()


PARSERS = {
    "round key": statement(RoundKeyStatement, GOLDEN["round_keys"]["alpha"]["statement"], RECORD_BYTES),
    "shares": statement(SharesStatement, GOLDEN["shares"]["alpha"]["statement"]),
    "record": statement(ShareRecord, GOLDEN["shares"]["alpha"]["records"]["delta"], RECORD_BYTES),
    "survivors": statement(SurvivorsStatement, GOLDEN["survivors"]["statement"]),
    "reveal": statement(Reveal, GOLDEN["reveals"]["alpha"]),
    "header": Parser(parse_header, canonical_bytes(HEADER), HEADER_BYTES),
    "card": Parser(cards._parse, canonical_bytes(CARD), cards.LARGEST_CARD_BYTES),
    "transcript line": Parser(read_line, canonical_bytes({"entry": ENTRY, "signature": "0" * 128})),
}
EACH = pytest.mark.parametrize("kind", PARSERS)


def named(read: Callable[[], object]) -> object:
    """A value, or None after a named error; every other exception is a failure of the test."""
    try:
        return read()
    except FedHelpError:
        return None


@EACH
def test_what_is_valid_is_read(kind: str) -> None:
    """But for the card and the line, whose signatures are checked as they are read."""
    assert (named(lambda: PARSERS[kind].read(PARSERS[kind].valid)) is None) == (kind in ("card", "transcript line"))


@EACH
@settings(max_examples=60)
@given(data=st.binary(max_size=400))
def test_noise_is_a_named_error(kind: str, data: bytes) -> None:
    assert named(lambda: PARSERS[kind].read(data)) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("0" * 64),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Valid bytes with some places changed: bytes, or values of its JSON by others."""
    if draw(st.booleans()):
        changed = bytearray(valid)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(changed)))
            until = min(len(changed), at + draw(st.integers(0, 8)))
            changed[at:until] = draw(st.binary(max_size=8) | st.just(bytes(changed[at:until]) * 2))
        return bytes(changed)
    value = json.loads(valid)
    for _ in range(draw(st.integers(1, 2))):
        inside: Any = value
        while isinstance(inside, (dict, list)) and inside:
            place = draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
            if not isinstance(inside[place], (dict, list)) or draw(st.booleans()):
                what = draw(st.sampled_from(["replace", "drop", "add"]))
                if what == "replace":
                    inside[place] = draw(JSON)
                elif what == "drop":
                    del inside[place]
                elif isinstance(inside, dict):
                    inside[draw(st.text(max_size=8))] = draw(JSON)
                else:
                    inside.append(draw(JSON))
                break
            inside = inside[place]
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass")


@EACH
@settings(max_examples=150)
@given(data=st.data())
def test_a_changed_message_is_a_named_error_or_has_one_spelling(kind: str, data: st.DataObject) -> None:
    parser = PARSERS[kind]
    changed = data.draw(mutated(parser.valid))
    value = named(lambda: parser.read(changed))
    if value is not None:
        found = value.to_bytes() if hasattr(value, "to_bytes") else canonical_bytes(value.model_dump())  # type: ignore[attr-defined]
        assert found == changed


def floods(limit: int) -> Iterator[tuple[str, bytes]]:
    """JSON at the size limit that is deep, wide or long."""
    yield "deep lists", b"[" * limit
    yield "deep lists that end", b"[" * (limit // 2) + b"]" * (limit // 2)
    yield "deep objects", b'{"a":' * (limit // 5)
    yield "an entry of deep lists", b'{"entry":' + b"[" * (limit - 20)
    yield "many keys", b"{" + b",".join(b'"k%d":1' % i for i in range(limit // 14)) + b"}"
    yield "one key often", b"{" + b",".join([b'"round":1'] * (limit // 11)) + b"}"
    yield "many items", b"[" + b",".join([b"1"] * (limit // 2 - 2)) + b"]"
    yield "digits", b"1" * limit
    yield "a number of digits", b'{"round":' + b"1" * (limit - 10) + b"}"
    yield "an exponent", b'{"round":1e' + b"9" * (limit - 12) + b"}"
    yield "one string", b'"' + b"a" * (limit - 2) + b'"'
    yield "escapes", b'{"study":"' + b"\\u0000" * ((limit - 12) // 6) + b'"}'
    yield "no text", b"\xff" * limit
    for field in ("records", "survivors", "self_shares"):
        yield (
            f"wrong {field}",
            b'{"%s":{' % field.encode() + b",".join(b'"K%d":""' % i for i in range((limit - 20) // 13)) + b"}}",
        )
    for field in ("members", "absent"):
        inner = b'"%s":[' % field.encode() + b",".join([b"1"] * ((limit - 40) // 2)) + b"]"
        yield f"wrong {field}", b"{" + inner + b"}"
        yield f"an entry of wrong {field}", b'{"entry":{' + inner + b"}}"


@EACH
def test_the_largest_messages_take_little_memory_and_time(kind: str) -> None:
    parser = PARSERS[kind]
    for what, data in floods(parser.limit):
        assert len(data) <= parser.limit, what
        tracemalloc.start()
        began = time.perf_counter()
        try:
            assert named(lambda data=data: parser.read(data)) is None, what
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < max(2**20, 96 * parser.limit), (what, peak)
        assert time.perf_counter() - began < SECONDS, what


@EACH
def test_what_is_longer_than_any_message_is_not_even_read(kind: str) -> None:
    if kind == "transcript line":
        return  # the whole stream has a limit, wire/client.py
    with pytest.raises((MessageTooLarge, ProtocolError)):
        PARSERS[kind].read(b" " * (PARSERS[kind].limit + 1))


# -- statements in their place -----------------------------------------------------------------------------------------


@cache
def until(step: str) -> Attempt:
    """Four hospitals before ``step``; fork it before use."""
    if step == "key":
        return Attempt(Cohort(4), present=set(names(4)))
    before = STEPS[STEPS.index(step) - 1] if step in STEPS else STEPS[-1]
    return until(before).fork({}).go_on(before, before)


@settings(max_examples=60)
@given(data=st.data())
def test_checks_of_a_changed_statement_end_by_name(data: st.DataObject) -> None:
    attempt = until("end")
    public, place, shape = attempt.cohort.publics[B], attempt.place, graph("repairing", 4)
    key, dealing = attempt.keys[B], attempt.dealings[B]
    signature = data.draw(st.sampled_from([key.signature, dealing.signed.signature]) | st.binary(max_size=80))
    changed = data.draw(mutated(key.statement))
    if changed != key.statement or signature != key.signature:
        assert named(lambda: check_key(Signed(changed, signature), place, B, public)) is None
    dealt, listed = data.draw(mutated(dealing.signed.statement)), members_hash(attempt.keys)
    if dealt != dealing.signed.statement or signature != dealing.signed.signature:
        signed = Signed(dealt, signature)
        assert named(lambda: check_dealer(signed, place, B, public, attempt.keys, listed, shape)) is None
    record, right = data.draw(mutated(dealing.records[A])), parse(SharesStatement, dealing.signed.statement)
    if record != dealing.records[A]:
        assert named(lambda: check_record(record, right, A)) is None
        assert named(lambda: check_records(right, {**dealing.records, A: record}) or True) is None


@settings(max_examples=80)
@given(data=st.data())
def test_a_changed_reveal_is_refused(data: st.DataObject) -> None:
    attempt = until("end")
    right = attempt.reveals[A].to_bytes()
    changed = data.draw(mutated(right) | st.binary(max_size=50))
    holder = data.draw(st.sampled_from([*names(4), "hospital-009", ""]))
    if (changed, holder) != (right, A):
        assert named(lambda: attempt.unmasking.check(holder, changed)) is None


def signed(attempt: Attempt, name: str) -> st.SearchStrategy[Signed]:
    """A round key or dealing as it is, changed, or noise."""
    whole = [attempt.keys[name], attempt.dealings[name].signed]
    statements_ = st.sampled_from([s.statement for s in whole])
    return st.sampled_from(whole) | st.builds(
        Signed,
        statements_.flatmap(mutated) | st.binary(max_size=40),
        st.sampled_from([s.signature for s in whole]) | st.binary(max_size=70),
    )


@settings(max_examples=80)
@given(data=st.data())
def test_a_member_given_anything_answers_or_refuses_by_name(data: st.DataObject) -> None:
    """At any step, with any mapping: a refusal leaves its memory as it was."""
    end = until("end")
    attempt = until(data.draw(st.sampled_from([*STEPS, "end"]))).fork({})
    member, before = attempt.cohort.members[A], attempt.cohort.members[A].to_bytes()
    name = st.sampled_from([*names(4), "hospital-009"]) | st.text(max_size=5)
    some = st.sampled_from(names(4)).flatmap(lambda n: signed(end, n))
    number = data.draw(st.integers(-2, 70))
    number = data.draw(st.sampled_from([0, number]))
    keys: dict[str, Signed] = {**data.draw(st.dictionaries(name, some, max_size=3))}
    if data.draw(st.booleans()):
        keys = {**end.keys, **keys}
    record = st.none() | st.binary(max_size=60) | st.sampled_from(list(end.dealings[B].records.values()))
    delivered = {**data.draw(st.dictionaries(name, st.builds(Delivery, some, record), max_size=3))}
    if data.draw(st.booleans()):
        delivered = {**attempt.deliveries(A), **delivered}
    digests = st.sampled_from([*end.survivors.values(), "", "0" * 64]) | st.text(max_size=70)
    survivors = {**data.draw(st.dictionaries(name, digests, max_size=3))}
    if data.draw(st.booleans()):
        survivors = {**end.survivors, **survivors}
    signatures = {**data.draw(st.dictionaries(name, st.binary(max_size=70), max_size=3))}
    if data.draw(st.booleans()):
        signatures = {**end.signatures, **signatures}
    steps: dict[str, Callable[[], object]] = {
        "key": lambda: member.key(number),
        "share": lambda: member.share(number, keys),
        "mask": lambda: member.mask(number, delivered),
        "agree": lambda: member.agree(number, survivors, end.survivors[A]),
        "reveal": lambda: member.reveal(number, signatures),
    }
    if named(steps[data.draw(st.sampled_from(STEPS))]) is None:
        assert member.to_bytes() == before
    attempt.cohort.restart(A)  # and what it stored can be read again


# -- a coordinator that does anything in any order ---------------------------------------------------------------------


@cache
def signers() -> Any:
    return Cohort(4).signers


OTHERS = st.just({B, C, D}) | st.sets(st.sampled_from([B, C, D]))


class LyingCoordinator(RuleBasedStateMachine):
    """One honest hospital of four; coordinator and the others do what they like, with two sets of keys an attempt.

    What must never happen is written as invariants over everything the honest hospital ever answered.
    """

    @initialize(masks=st.sampled_from(["repairing", "strict"]))
    def begin(self, masks: Masks) -> None:
        self.masks = masks
        self.publics = {name: key.public_hex for name, key in signers().items()}
        self.me = self.member(A)
        self.others: dict[tuple[int, int, str], Member] = {}
        self.listed: dict[int, dict[str, Signed]] = {}
        self.which: dict[int, int] = {}
        self.uploads: dict[int, set[tuple[tuple[bytes, ...], tuple[bytes, ...], str]]] = {}
        self.agreed: dict[int, set[bytes]] = {}
        self.lists: dict[int, dict[str, str]] = {}
        self.reveals: dict[int, set[bytes]] = {}
        self.order: list[tuple[str, int]] = []

    def member(self, name: str, stored: bytes | None = None) -> Member:
        setting = Setting("5" * 64, self.masks, 2)
        return Member(setting, 0, name, signers()[name], self.publics, stored=stored, draw=Random(1))

    def other(self, attempt: int, variant: int, name: str) -> Member:
        """A hospital without a memory: another one in each attempt and variant."""
        found = self.others.get((attempt, variant, name))
        if found is None:
            found = self.others[attempt, variant, name] = self.member(name)
            found.key(attempt)
        return found

    @rule(further=st.sampled_from([1, 1, 1, 2, 0, -1]))
    def ask_for_a_key(self, further: int) -> None:
        self.move_on(self.me.attempt + further)

    def move_on(self, attempt: int) -> None:
        before = self.me.attempt
        if named(lambda: self.me.key(attempt)) is not None and attempt > before:
            self.order.append(("moved on", attempt))

    @precondition(lambda self: self.me.attempt >= 0)
    @rule(variant=st.sampled_from([0, 0, 1]), who=OTHERS)
    def show_keys(self, variant: int, who: set[str]) -> None:
        self.list_keys(variant, who)

    def list_keys(self, variant: int, who: set[str]) -> None:
        attempt = self.me.attempt
        keys = {name: self.other(attempt, variant, name).key(attempt) for name in sorted(who)}
        keys[A] = self.me.key(attempt)
        if named(lambda: self.me.share(attempt, keys)) is not None:
            self.listed[attempt], self.which[attempt] = keys, variant

    @precondition(lambda self: self.me.attempt in self.listed)
    @rule(who=OTHERS, again=st.sampled_from([False, False, True]))
    def show_dealers(self, who: set[str], again: bool) -> None:
        self.list_dealers(who, again)

    def list_dealers(self, who: set[str], again: bool) -> None:
        attempt = self.me.attempt
        keys, variant = self.listed[attempt], self.which[attempt]
        mine = self.me.share(attempt, keys)
        delivered = {A: Delivery(mine.signed, mine.records.get(A))}
        for name in sorted(who & keys.keys()):
            dealer = self.other(attempt, variant, name)
            if again:  # it deals once more, to the same list
                dealer = self.member(name, dealer.to_bytes())
            dealt = named(lambda dealer=dealer: dealer.share(attempt, keys))
            if dealt is not None:
                delivered[name] = Delivery(dealt.signed, dealt.records.get(A))  # type: ignore[attr-defined]
        masks = named(lambda: self.me.mask(attempt, delivered))
        if masks is not None:
            self.uploads.setdefault(attempt, set()).add((masks.plus, masks.minus, masks.view))  # type: ignore[attr-defined]
            self.order.append(("uploaded", attempt))

    @precondition(lambda self: self.me.attempt in self.listed)
    @rule(who=OTHERS, mark=st.sampled_from("01"), mine=st.sampled_from([True, True, False]))
    def show_survivors(self, who: set[str], mark: str, mine: bool) -> None:
        self.list_survivors(who, mark, mine)

    def list_survivors(self, who: set[str], mark: str, mine: bool) -> None:
        attempt = self.me.attempt
        survivors = dict.fromkeys(who, mark * 64) | ({A: "a" * 64} if mine else {})
        signature = named(lambda: self.me.agree(attempt, survivors, "a" * 64))
        if isinstance(signature, bytes):
            self.agreed.setdefault(attempt, set()).add(signature)
            self.lists[attempt] = survivors

    @precondition(lambda self: self.me.attempt in self.lists)
    @rule(who=OTHERS.map(lambda some: some | {A}), wrong=st.sampled_from([False, False, True]))
    def show_signatures(self, who: set[str], wrong: bool) -> None:
        self.list_signatures(who, wrong)

    def list_signatures(self, who: set[str], wrong: bool) -> None:
        attempt = self.me.attempt
        keys = self.listed[attempt]
        statement_ = SurvivorsStatement(
            study="5" * 64,
            round=0,
            attempt=attempt,
            members=tuple(sorted(keys)),
            survivors=self.lists[attempt],
            view="0" * 64 if wrong else next(iter(self.uploads[attempt]))[2],
        )
        signatures = {name: signers()[name].sign("survivors", statement_.to_bytes()) for name in who}
        answered = named(lambda: self.me.reveal(attempt, signatures))
        if isinstance(answered, bytes):
            if attempt not in self.reveals:
                assert not wrong
                assert len(who) >= threshold(self.masks, len(keys))
            self.reveals.setdefault(attempt, set()).add(answered)
            self.order.append(("revealed", attempt))

    @rule(steps=st.integers(1, 3))
    def behave_for_a_while(self, steps: int) -> None:
        """As the protocol wants it, or a story would seldom come to its end."""
        everybody, attempt = {B, C, D}, max(0, self.me.attempt)
        for _ in range(steps):
            if self.me.attempt < 0:
                self.move_on(0)
            elif attempt not in self.listed:
                self.list_keys(0, everybody)
            elif attempt not in self.uploads:
                self.list_dealers(everybody, again=False)
            elif attempt not in self.lists:
                self.list_survivors(everybody, "0", mine=True)
            else:
                self.list_signatures({A, *everybody}, wrong=False)

    @rule()
    def die_and_come_back(self) -> None:
        self.me = self.member(A, self.me.to_bytes())

    @invariant()
    def one_answer_an_attempt(self) -> None:
        for answers in (getattr(self, "uploads", {}), getattr(self, "agreed", {}), getattr(self, "reveals", {})):
            assert all(len(each) == 1 for each in answers.values())

    @invariant()
    def no_second_sum_of_the_same_values(self) -> None:
        """Whoever went on after an upload is needed to open the first attempt, as all are, and never reveals for it."""
        order = getattr(self, "order", [])
        for at, (what, attempt) in enumerate(order):
            later = [what for what, number in order[at:] if number > attempt]
            if what == "uploaded" and "moved on" in later:
                count = len(self.listed[attempt])
                assert threshold(self.masks, count) == count
                assert attempt not in self.reveals
            if what == "revealed":
                assert "moved on" not in later

    @invariant()
    def never_both_secrets(self) -> None:
        for attempt, answers in getattr(self, "reveals", {}).items():
            for answer in answers:
                reveal = parse(Reveal, answer)
                assert (reveal.study, reveal.round, reveal.attempt) == ("5" * 64, 0, attempt)
                assert not reveal.self_shares.keys() & reveal.mask_shares.keys()
                assert reveal.self_shares.keys() <= self.lists[attempt].keys()
                assert not reveal.mask_shares.keys() & self.lists[attempt].keys()


TestLyingCoordinator = LyingCoordinator.TestCase
TestLyingCoordinator.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


# -- bodies, sums, keys, streams ---------------------------------------------------------------------------------------

TINY = Profile("tiny", 8, (12289, 40961), 4, 0, "a test")


@settings(max_examples=100)
@given(data=st.data(), length=st.integers(1, 20))
def test_any_body_or_sum_is_summed_or_refused(data: st.DataObject, length: int) -> None:
    size = data.draw(st.sampled_from([TINY.body_bytes(length), TINY.sum_bytes(length, 2)]) | st.integers(0, 120))
    body = data.draw(st.binary(min_size=size, max_size=size))
    accumulator = SumAccumulator(TINY, length)
    before = accumulator.total.copy()
    fine = named(lambda: check_body(TINY, length, body) or True)
    assert (named(lambda: accumulator.add(A, body) or True) is None) == (fine is None)
    if fine is None:
        assert (accumulator.total == before).all()
    for cohort in ((A, B), (A,), (), (A, A)):
        found = named(lambda cohort=cohort: split_sum(TINY, length, cohort, body))
        assert found is None or (found[0] < TINY.moduli_column()).all()  # type: ignore[index]


@pytest.mark.parametrize("name", PROFILES)
def test_a_body_of_the_right_length_and_any_content_takes_no_more_memory_than_its_size(name: str) -> None:
    profile = PROFILES[name]
    length = 8 * profile.ring_degree
    noise = np.random.default_rng(1).bytes(profile.body_bytes(length) - 3 * SEED_BYTES)
    body = bytes(SEED_BYTES) + noise + b"\xff" * 2 * SEED_BYTES  # as a body and as a sum, its last residue is too large
    tracemalloc.start()
    try:
        assert named(lambda: check_body(profile, length, body)) is None
        assert named(lambda: check_body(profile, length, body[:-1])) is None
        assert named(lambda: split_sum(profile, length, (A,), body)) is None
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body) + 2**21
    finally:
        tracemalloc.stop()


@settings(max_examples=40)
@given(data=st.data())
def test_any_sealed_key_or_study_key_is_refused_by_name(data: st.DataObject) -> None:
    key, sealed = sealed_example()
    changed = bytearray(sealed)
    changed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    assert key.open(sealed, b"context") == b"secret"
    for other in (bytes(changed), sealed[: data.draw(st.integers(0, len(sealed) - 1))], data.draw(st.binary())):
        assert named(lambda other=other: key.open(other, b"context")) is None
    profile = PROFILES["compact"]
    assert named(lambda: StudyKey.from_bytes(profile, data.draw(st.binary(max_size=200)))) is None
    noise = Random(data.draw(st.integers(0, 2**32))).randbytes(profile.key_bytes)
    assert named(lambda: StudyKey.from_bytes(profile, noise)) is None


@cache
def sealed_example() -> tuple[SealingKey, bytes]:
    from secure_fedhelp.secagg.sealing import seal

    key = SealingKey.generate()
    return key, seal(key.public_hex, b"secret", b"context")


@settings(max_examples=60)
@given(pieces=st.lists(st.binary(max_size=50), max_size=12), limit=st.integers(0, 200))
def test_a_collector_holds_exactly_what_was_expected(pieces: list[bytes], limit: int) -> None:
    collector, kept = Collector(limit), b""
    for piece in pieces:
        if len(kept) + len(piece) > limit:
            with pytest.raises(MessageTooLarge):
                collector.add(piece)
        else:
            collector.add(piece)
            kept += piece
        assert collector.so_far() == kept
    if len(kept) == limit:
        assert collector.complete() == kept
    else:
        with pytest.raises(CiphertextWrongLength):
            collector.complete()


@settings(max_examples=80)
@given(
    public=st.text(max_size=70) | st.just("0" * 64) | st.just("0" * 3968),
    context=st.sampled_from(["survivors", "", "A", "a\0b"]),
    message=st.binary(max_size=30),
    signature=st.binary(max_size=70) | st.just(bytes(64)) | st.just(bytes(3373)),
)
def test_no_signature_of_anything_is_accepted_by_chance(
    public: str, context: str, message: bytes, signature: bytes
) -> None:
    assert named(lambda: verify(public, context, message, signature) or True) is None


@given(text=st.text(max_size=60) | st.sampled_from(["SplitView: two lists", "Exception: no", "FedHelpError", ": "]))
def test_any_reason_of_an_end_is_a_named_error(text: str) -> None:
    assert isinstance(reason_error(text), FedHelpError)


def test_a_place_is_only_what_it_says() -> None:
    """Statements of two places never compare equal, however their fields are spelt."""
    value = json.loads(GOLDEN["round_keys"]["alpha"]["statement"])
    for field, other in (("study", "6" * 64), ("round", 4), ("attempt", 0)):
        changed = copy.deepcopy(value)
        changed[field] = other
        found = parse(RoundKeyStatement, canonical_bytes(changed)).place
        assert found != Place(value["study"], value["round"], value["attempt"])
    for spelling in ("3", 3.0, True, -1, 2**31, None):
        with pytest.raises(ProtocolError):
            parse(RoundKeyStatement, canonical_bytes({**value, "round": spelling}))
