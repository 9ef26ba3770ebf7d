"""A coordinator or a hospital that lies in a masked round is refused, each lie by its own error, and nothing is lost.

Statements are replayed from other attempts, rounds and studies; lists are split, shortened and extended; dealers and
holders give other shares than they committed to; keys are of small order; steps come in the wrong order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from coalition import signed_by
from masked import STEPS, Attempt, Cohort, names

from secure_fedhelp.errors import (
    BadSignature,
    FedHelpError,
    ForgedShare,
    MessageTooLarge,
    NotOnRoster,
    ProtocolError,
    SplitView,
    UnmaskingFailed,
    WrongRound,
)
from secure_fedhelp.secagg.masked.checks import check_agreement, check_dealer, check_key
from secure_fedhelp.secagg.masked.graph import Graph
from secure_fedhelp.secagg.masked.member import Dealing, Delivery, Member
from secure_fedhelp.secagg.masked.roundkeys import RoundSecrets, pair_key, usable
from secure_fedhelp.secagg.masked.shares import MASK, SELF, _seal, commitment, deal, rebuild
from secure_fedhelp.secagg.masked.statements import (
    RECORD_BYTES,
    ROUND_KEY_CONTEXT,
    SHARES_CONTEXT,
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
from secure_fedhelp.study.canonical import sha256_hex

A, B, C, D, E = names(5)


@cache
def until(step: str, **other: Any) -> Attempt:
    """Five hospitals before ``step`` ("end": after all). Fork it, never use it."""
    if step == "key":
        return Attempt(Cohort(5, signers=signers(), **other), present=set(names(5)))
    before = STEPS[STEPS.index(step) - 1] if step in STEPS else STEPS[-1]
    return until(before, **other).fork({}).go_on(before, before)


@cache
def signers() -> Any:
    return Cohort(5).signers


@cache
def elsewhere(where: str, step: str = "end") -> Attempt:
    """The same hospitals with the same signing keys, elsewhere."""
    if where == "attempt":
        return Attempt(Cohort(5, signers=signers()), 1, present=set(names(5))).go_on("key")
    if where == "round":
        return until(step, round=1)
    return until(step, study="6" * 64)


ELSEWHERE = pytest.mark.parametrize("where", ["attempt", "round", "study"])


def sign(attempt: Attempt, name: str, statement: Any, context: str) -> Signed:
    data = statement.to_bytes()
    return Signed(data, attempt.cohort.signers[name].sign(context, data))


def changed(attempt: Attempt, name: str, /, **fields: Any) -> Signed:
    """The round key of ``name`` with other fields, signed by it."""
    statement = parse(RoundKeyStatement, attempt.keys[name].statement).model_copy(update=fields)
    return sign(attempt, name, statement, ROUND_KEY_CONTEXT)


def refused(error: type[FedHelpError], match: str, member: Member, step: Callable[[], object]) -> None:
    """Refused, and the member remembers nothing of it."""
    before = member.to_bytes()
    with pytest.raises(error, match=match):
        step()
    assert member.to_bytes() == before


# -- keys --------------------------------------------------------------------------------------------------------------


def share_refused(error: type[FedHelpError], match: str, **keys: Signed | None) -> None:
    """A's own step with a list of keys in which some are others, or (None) missing."""
    attempt = until("share").fork({})
    listed = {n: k for n, k in {**attempt.keys, **{k.replace("_", "-"): v for k, v in keys.items()}}.items() if k}
    member = attempt.cohort.members[A]
    refused(error, match, member, lambda: member.share(0, listed))
    member.share(0, attempt.keys)  # the right list is still welcome


def key_of(name: str) -> str:
    return name.replace("-", "_")


@ELSEWHERE
def test_a_round_key_of_elsewhere_is_refused(where: str) -> None:
    what = "for another study, 6666" if where == "study" else "for round"
    share_refused(WrongRound, f"the round key of {B} is {what}", **{key_of(B): elsewhere(where).keys[B]})


def test_a_round_key_under_another_name_is_refused() -> None:
    share_refused(ProtocolError, f"given for {B} is of {C}", **{key_of(B): until("share").keys[C]})


def test_a_round_key_that_its_owner_did_not_sign_is_refused() -> None:
    attempt = until("share")
    mine, other = attempt.keys[B], attempt.keys[C]
    unsigned = parse(RoundKeyStatement, mine.statement).model_copy(
        update={"mask_key": parse(RoundKeyStatement, other.statement).mask_key}
    )
    for signed in (
        Signed(unsigned.to_bytes(), mine.signature),
        Signed(mine.statement, other.signature),
        Signed(mine.statement, mine.signature[:-1]),
        Signed(mine.statement, b""),
        sign(attempt, C, unsigned, ROUND_KEY_CONTEXT),
        sign(attempt, B, unsigned, SHARES_CONTEXT),  # its own signature, for another purpose
    ):
        share_refused(BadSignature, "does not hold", **{key_of(B): signed})


def test_a_round_key_of_a_stranger_is_refused() -> None:
    attempt = until("share")
    stranger = Cohort(6)
    foreign = Member(
        stranger.members[A]._setting, 0, "hospital-005", stranger.signers["hospital-005"], stranger.publics
    ).key(0)
    share_refused(NotOnRoster, "hospital-005 is no hospital of this study", hospital_005=foreign)
    assert attempt.keys


def test_a_list_of_keys_without_mine_is_a_split_view() -> None:
    share_refused(SplitView, "leaves out or changes this hospital's own", **{key_of(A): None})
    share_refused(
        SplitView, "leaves out or changes", **{key_of(A): changed(until("share"), A, mask_key="09" + "00" * 31)}
    )


def test_too_small_a_list_of_keys_is_refused() -> None:
    share_refused(SplitView, "1 round keys, at least 2", **{key_of(n): None for n in (B, C, D, E)})


def test_a_second_list_of_keys_is_a_split_view() -> None:
    attempt = until("mask").fork({})
    member = attempt.cohort.members[A]
    fewer = {n: k for n, k in attempt.keys.items() if n != E}
    other = {**attempt.keys, E: changed(attempt, E, mask_key="09" + "00" * 31)}
    for keys in (fewer, other, {}):
        refused(SplitView, "a second list of the members", member, lambda keys=keys: member.share(0, keys))


#: Every encoding of a point of order 1, 2, 4 or 8 in 32 bytes (RFC 7748; the top bit is ignored).
_PRIME = 2**255 - 19
_ORDER_EIGHT = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
SMALL = [
    (u | top << 255).to_bytes(32, "little").hex()
    for u in (0, 1, _PRIME - 1, _PRIME, _PRIME + 1, *_ORDER_EIGHT)
    for top in (0, 1)
]


@pytest.mark.parametrize("which", ["mask_key", "share_key"])
def test_a_key_of_small_order_is_refused_before_anything_depends_on_it(which: str) -> None:
    """With such a key everybody knows the mask. Noticed first when masks are made, it would strand the others: they
    would be in an attempt that cannot go on, and that they may not leave for another."""
    for point in SMALL:
        assert not usable(point)
    for point in SMALL[:: len(SMALL) // 4]:
        share_refused(
            ProtocolError, f"{B} is no usable X25519 key", **{key_of(B): changed(until("share"), B, **{which: point})}
        )


def test_a_key_of_small_order_makes_no_mask_and_seals_no_share() -> None:
    place = Place("5" * 64, 0, 0)
    secrets = RoundSecrets.draw(place, A, lambda count: bytes(range(count)))
    for point in SMALL:
        with pytest.raises(ProtocolError, match="no usable X25519 key"):
            pair_key(place, A, secrets.mask_secret, B, point)
        with pytest.raises(ProtocolError, match="no usable X25519 key"):
            deal(secrets, [A, B], 2, {A: secrets.statement().share_key, B: point}, "0" * 64)


# -- shares ------------------------------------------------------------------------------------------------------------


def mask_refused(error: type[FedHelpError], match: str, others: Mapping[str, Delivery | None]) -> None:
    """A's own step with deliveries of which some are others, or (None) missing."""
    attempt = until("mask").fork({})
    given = {n: d for n, d in {**attempt.deliveries(A), **others}.items() if d}
    member = attempt.cohort.members[A]
    refused(error, match, member, lambda: member.mask(0, given))
    member.key(1)  # no upload has left, so another attempt is open


def dealt(attempt: Attempt, dealer: str, /, holder: str = A, **fields: Any) -> Delivery:
    """What ``holder`` gets of a dealer that signs other fields."""
    dealing = attempt.dealings[dealer]
    statement = parse(SharesStatement, dealing.signed.statement).model_copy(update=fields)
    return Delivery(sign(attempt, dealer, statement, SHARES_CONTEXT), dealing.records[holder])


def redealt(attempt: Attempt, dealer: str, /, **fields: Any) -> Delivery:
    """A dealer that commits to another record for A."""
    record = parse(ShareRecord, attempt.dealings[dealer].records[A], RECORD_BYTES).model_copy(update=fields).to_bytes()
    records = parse(SharesStatement, attempt.dealings[dealer].signed.statement).records
    delivery = dealt(attempt, dealer, records={**records, A: sha256_hex(record)})
    return Delivery(delivery.signed, record)


@ELSEWHERE
def test_shares_of_elsewhere_are_refused(where: str) -> None:
    dealing = elsewhere(where).dealings[B]
    mask_refused(WrongRound, f"the dealing of {B} is for", {B: Delivery(dealing.signed, dealing.records[A])})


@ELSEWHERE
def test_a_record_of_elsewhere_is_forged(where: str) -> None:
    here, there = until("mask").dealings[B], elsewhere(where).dealings[B]
    mask_refused(ForgedShare, "not those it signed", {B: Delivery(here.signed, there.records[A])})
    moved = parse(ShareRecord, there.records[A])
    place = {"study": moved.study, "round": moved.round, "attempt": moved.attempt}
    mask_refused(ForgedShare, "shares of another place", {B: redealt(until("mask"), B, **place)})


def test_a_dealer_that_saw_other_keys_is_a_split_view() -> None:
    attempt = until("share").fork({})
    fewer = {n: k for n, k in attempt.keys.items() if n != E}
    dealing = attempt.cohort.members[B].share(0, fewer)
    mask_refused(SplitView, f"{B} was shown another list", {B: Delivery(dealing.signed, dealing.records[A])})


def test_shares_that_their_dealer_did_not_sign_are_refused() -> None:
    attempt = until("mask")
    mine, other = attempt.dealings[B], attempt.dealings[C]
    mask_refused(
        BadSignature, "does not hold", {B: Delivery(Signed(mine.signed.statement, other.signed.signature), None)}
    )
    mask_refused(ProtocolError, f"given for {B} are of {C}", {B: Delivery(other.signed, other.records[A])})
    as_key = attempt.cohort.signers[B].sign(ROUND_KEY_CONTEXT, mine.signed.statement)
    mask_refused(BadSignature, "does not hold", {B: Delivery(Signed(mine.signed.statement, as_key), mine.records[A])})


def test_another_dealers_or_holders_record_is_forged() -> None:
    attempt = until("mask")
    for record in (attempt.dealings[C].records[A], attempt.dealings[B].records[C]):
        mask_refused(ForgedShare, "not those it signed", {B: Delivery(attempt.dealings[B].signed, record)})
    for fields in ({"dealer": C}, {"holder": C}):
        mask_refused(ForgedShare, "another place", {B: redealt(attempt, B, **fields)})


def test_shares_that_were_not_delivered_are_named() -> None:
    mask_refused(
        ForgedShare, f"the shares of {B} .* not delivered", {B: Delivery(until("mask").dealings[B].signed, None)}
    )


@pytest.mark.parametrize("number", [2, 5, 6])
def test_a_share_with_another_holders_number_is_forged(number: int) -> None:
    mask_refused(ForgedShare, "it is number 1", {B: redealt(until("mask"), B, number=number)})


def test_a_dealer_that_commits_to_other_shares_than_it_sealed_is_named() -> None:
    attempt = until("mask")
    record = parse(ShareRecord, attempt.dealings[B].records[A])
    lies: list[tuple[dict[str, str], str]] = [
        ({"self_commitment": "0" * 64}, "not those it committed to"),
        ({"mask_commitment": "0" * 64}, "not those it committed to"),
        ({"self_commitment": record.mask_commitment, "mask_commitment": record.self_commitment}, "not those"),
        ({"sealed": ""}, "do not open"),
        ({"sealed": "00" * 80}, "do not open"),
        ({"sealed": record.sealed[:-2]}, "do not open"),
        ({"sealed": parse(ShareRecord, attempt.dealings[B].records[C]).sealed}, "do not open"),
        ({"sealed": parse(ShareRecord, attempt.dealings[C].records[A]).sealed}, "do not open"),
    ]
    for fields, match in lies:
        mask_refused(ForgedShare, match, {B: redealt(attempt, B, **fields)})


def test_a_dealer_with_another_threshold_or_other_holders_is_refused() -> None:
    attempt = until("mask")
    records = parse(SharesStatement, attempt.dealings[B].signed.statement).records
    for fields in (
        {"needed": 3},
        {"needed": 5},
        {"needed": 1},
        {"records": {n: h for n, h in records.items() if n != E}},
        {"records": {n: h for n, h in records.items() if n != B}},
        {"records": {**records, "hospital-005": "0" * 64}},
        {"records": {}},
    ):
        mask_refused(ProtocolError, "among other holders than the graph", {B: dealt(attempt, B, **fields)})


def test_in_a_sparse_graph_a_dealer_has_exactly_its_number_of_other_holders() -> None:
    attempt, listed = until("mask"), members_hash(until("mask").keys)
    shape = Graph(members=5, neighbours=3, holders_needed=2, failure_bits=0.0)

    def check(holders: tuple[str, ...], needed: int = 2) -> SharesStatement:
        signed = dealt(attempt, B, records=dict.fromkeys(holders, "0" * 64), needed=needed).signed
        return check_dealer(signed, attempt.place, B, attempt.cohort.publics[B], attempt.keys, listed, shape)

    assert set(check((A, C, E)).records) == {A, C, E}
    for holders, needed in (
        ((A, C), 2),
        ((A, C, D, E), 2),
        ((A, B, C), 2),  # in the sparse graph nobody holds its own
        ((A, C, "hospital-005"), 2),
        ((A, C, E), 1),
        ((A, C, E), 3),
        ((), 2),
    ):
        with pytest.raises(ProtocolError, match="among other holders"):
            check(holders, needed)


def test_a_list_of_dealers_without_me_is_a_split_view() -> None:
    mask_refused(SplitView, "leaves out or changes this hospital's own", {A: None})
    again = until("share").fork({}).cohort.members[A].share(0, until("share").keys)
    assert again.signed.statement != until("mask").dealings[A].signed.statement
    mask_refused(SplitView, "leaves out or changes", {A: Delivery(again.signed, again.records[A])})


def test_too_few_dealers_are_refused() -> None:
    mask_refused(SplitView, "only 3 of 5 members", {D: None, E: None})


def test_a_dealer_that_is_no_member_is_a_split_view() -> None:
    mask_refused(SplitView, "is no member of the attempt", {"hospital-009": until("mask").deliveries(A)[B]})


def test_a_second_list_of_dealers_is_a_split_view() -> None:
    attempt = until("agree").fork({})
    member = attempt.cohort.members[A]
    fewer = {n: d for n, d in attempt.deliveries(A).items() if n != E}
    refused(SplitView, "a second list of the dealers", member, lambda: member.mask(0, fewer))
    refused(SplitView, "a second list of the dealers", member, lambda: member.mask(0, {}))


# -- survivors ---------------------------------------------------------------------------------------------------------


def agree_refused(error: type[FedHelpError], match: str, survivors: Mapping[str, str], mine: str | None = None) -> None:
    attempt = until("agree").fork({})
    member = attempt.cohort.members[A]
    body = attempt.survivors[A] if mine is None else mine
    refused(error, match, member, lambda: member.agree(0, survivors, body))
    member.agree(0, attempt.survivors, attempt.survivors[A])


def test_a_list_of_survivors_without_my_upload_is_a_split_view() -> None:
    right = until("agree").survivors
    agree_refused(SplitView, "leaves out or changes", {n: b for n, b in right.items() if n != A})
    agree_refused(SplitView, "leaves out or changes", {**right, A: "0" * 64})
    agree_refused(SplitView, "leaves out or changes", right, mine="0" * 64)
    agree_refused(SplitView, "leaves out or changes", {})


def test_a_survivor_that_never_dealt_is_refused() -> None:
    agree_refused(SplitView, "never dealt", {**until("agree").survivors, "hospital-005": "0" * 64})
    early = Attempt(until("share").cohort.fork(), gone={"share": [E]}, present=set(names(5)), keys=until("share").keys)
    early.go_on("share", "mask")
    with pytest.raises(SplitView, match="never dealt"):
        early.cohort.members[A].agree(0, {**early.survivors, E: "0" * 64}, early.survivors[A])


def test_too_small_a_list_of_survivors_is_refused() -> None:
    right = until("agree").survivors
    agree_refused(SplitView, "a list of 3 survivors, at least 4", {n: right[n] for n in (A, B, C)})


def test_the_hospitals_own_smallest_cohort_counts_too() -> None:
    attempt = until("agree", smallest_cohort=5).fork({})
    four = {n: b for n, b in attempt.survivors.items() if n != E}
    with pytest.raises(SplitView, match="a list of 4 survivors, at least 5"):
        attempt.cohort.members[A].agree(0, four, four[A])


@pytest.mark.parametrize("spelling", ["", "0", "Z" * 64, "A" * 64, "0" * 65, "0" * 64 + "\n", "é" * 64])
def test_what_is_no_hash_is_refused_and_leaves_the_right_list_welcome(spelling: str) -> None:
    agree_refused(ProtocolError, "the list of survivors", {**until("agree").survivors, B: spelling})


def test_a_second_list_of_survivors_is_a_split_view() -> None:
    attempt = until("reveal").fork({})
    member, right = attempt.cohort.members[A], attempt.survivors
    for other in ({n: b for n, b in right.items() if n != E}, {**right, E: "0" * 64}, {}):
        refused(SplitView, "a second list", member, lambda other=other: member.agree(0, other, right[A]))


# -- reveals -----------------------------------------------------------------------------------------------------------


def reveal_refused(error: type[FedHelpError], match: str, signatures: Mapping[str, bytes]) -> None:
    attempt = until("reveal").fork({})
    member = attempt.cohort.members[A]
    refused(error, match, member, lambda: member.reveal(0, signatures))
    member.reveal(0, attempt.signatures)


def test_nothing_is_revealed_before_enough_have_agreed() -> None:
    right = until("reveal").signatures
    for some in ([], [A], [A, B, C], [B, C, D]):
        reveal_refused(SplitView, f"{len(some)} hospitals have signed", {n: right[n] for n in some})


def test_nothing_is_revealed_before_this_hospital_has_agreed() -> None:
    member = until("agree").fork({}).cohort.members[A]
    refused(SplitView, "before this hospital agreed", member, lambda: member.reveal(0, until("reveal").signatures))


@ELSEWHERE
def test_agreement_to_a_list_of_elsewhere_is_none(where: str) -> None:
    right, there = until("reveal").signatures, elsewhere(where).signatures
    for names_there in ([B], [B, C, D, E]):
        mixed = {**right, **{n: there[n] for n in names_there}}
        reveal_refused(SplitView, "perhaps another", mixed)


def test_agreement_to_another_list_or_view_is_none() -> None:
    attempt = until("reveal")
    right, survivors = attempt.signatures, attempt.survivors
    view = attempt.cohort.fork().members[A].mask(0, attempt.deliveries(A)).view
    assert signed_by(attempt, [B], survivors, view) == {B: right[B]}
    other_lists = (
        ({n: b for n, b in survivors.items() if n != E}, view),
        ({**survivors, E: "0" * 64}, view),
        (survivors, "0" * 64),
    )
    for listed, seen in other_lists:
        reveal_refused(SplitView, "perhaps another", {**right, **signed_by(attempt, [B], listed, seen)})


def test_a_signature_of_who_is_no_survivor_does_not_count() -> None:
    right = until("reveal").signatures
    reveal_refused(NotOnRoster, "no survivor", {**right, "hospital-005": right[B]})
    reveal_refused(SplitView, "perhaps another", {**right, B: right[C]})  # nobody counts twice


def revealed(attempt: Attempt, name: str) -> Reveal:
    return parse(Reveal, attempt.fork({}).cohort.members[name].reveal(0, attempt.signatures))


@cache
def with_a_drop_out() -> Attempt:
    """E has dealt and not uploaded; all that are left have agreed."""
    return until("mask").fork({"mask": [E]}).go_on("mask", "agree")


def test_a_holder_that_reveals_another_share_is_named() -> None:
    attempt = with_a_drop_out()
    true, other = revealed(attempt, A), revealed(attempt, B)
    lies = [
        true.model_copy(update={"self_shares": {**true.self_shares, B: "0" * 32}}),
        true.model_copy(update={"self_shares": {**true.self_shares, B: true.self_shares[C]}}),
        true.model_copy(update={"self_shares": other.self_shares}),  # another holder's, word for word
        true.model_copy(update={"mask_shares": other.mask_shares}),
        true.model_copy(update={"mask_shares": {E: true.self_shares[A]}}),
    ]
    for lie in lies:
        with pytest.raises(ForgedShare, match=f"{A} reveals a share of"):
            attempt.unmasking.check(A, lie.to_bytes())
    assert attempt.unmasking.check(A, true.to_bytes()) == true
    with pytest.raises(ForgedShare, match=f"{B} reveals a share of"):
        attempt.unmasking.check(B, true.to_bytes())


def test_a_share_too_many_or_too_few_is_refused() -> None:
    attempt = with_a_drop_out()
    true, never = revealed(attempt, A), revealed(until("reveal"), A)
    lies = [
        true.model_copy(update={"self_shares": {}}),
        true.model_copy(update={"mask_shares": {}}),
        true.model_copy(update={"self_shares": {n: s for n, s in true.self_shares.items() if n != B}}),
        true.model_copy(update={"self_shares": never.self_shares}),  # both secrets of the drop-out
        true.model_copy(update={"mask_shares": {**true.mask_shares, B: "0" * 32}}),
        true.model_copy(update={"mask_shares": {**true.mask_shares, "hospital-005": "0" * 32}}),
    ]
    for lie in lies:
        with pytest.raises(ProtocolError, match=f"{A} reveals other shares"):
            attempt.unmasking.check(A, lie.to_bytes())


@ELSEWHERE
def test_a_reveal_of_elsewhere_is_refused(where: str) -> None:
    there = elsewhere(where)
    reveal = there.reveals[A].to_bytes()
    with pytest.raises(WrongRound, match="another attempt"):
        until("reveal").unmasking.check(A, reveal)
    place = until("reveal").place
    moved = there.reveals[A].model_copy(update={"study": place.study, "round": place.round, "attempt": place.attempt})
    with pytest.raises(ForgedShare):
        until("reveal").unmasking.check(A, moved.to_bytes())


def test_a_reveal_has_one_spelling_and_a_largest_size() -> None:
    data = until("end").reveals[A].to_bytes()
    for other in (data + b"\n", b" " + data, data.replace(b'"round":0', b'"round":0.0')):
        with pytest.raises(ProtocolError):
            until("reveal").unmasking.check(A, other)
    with pytest.raises(MessageTooLarge):
        until("reveal").unmasking.check(A, data + b" " * 2**18)


def test_never_both_secrets_of_one_dealer() -> None:
    for attempt in (until("reveal"), with_a_drop_out()):
        reveal = revealed(attempt, A)
        assert not reveal.self_shares.keys() & reveal.mask_shares.keys()
        assert reveal.self_shares.keys() == set(attempt.uploads)


# -- dealers whose shares do not fit together --------------------------------------------------------------------------


def liars_shares(attempt: Attempt, liar: str, self_secret: bytes, mask_secret: bytes) -> Dealing:
    """What the liar would deal with other secrets than its own, all properly signed."""
    true = attempt.cohort.members[liar]._secrets()
    secrets = replace(true, self_secret=self_secret, mask_secret=mask_secret)
    share_keys = {n: parse(RoundKeyStatement, k.statement).share_key for n, k in attempt.keys.items()}
    statement, records = deal(secrets, names(5), 4, share_keys, members_hash(attempt.keys))
    return Dealing(sign(attempt, liar, statement, SHARES_CONTEXT), records)


def with_a_liar(lie: Callable[[Attempt], Dealing], leaves: bool) -> Attempt:
    """E deals false shares, then uploads or leaves; the others go on to the end."""
    attempt = until("mask").fork({"mask": [E]})
    true = attempt.dealings[E]
    attempt.dealings[E] = lie(attempt)
    if not leaves:  # what it uploads itself does not matter: the sum is lost
        own = {**attempt.deliveries(E), E: Delivery(true.signed, true.records[E])}
        keys = attempt.cohort.members[E].mask(0, own)
        attempt.uploads[E] = attempt.cohort.upload(E, keys.plus, keys.minus)
    return attempt.go_on("mask")


def mixed(attempt: Attempt) -> Dealing:
    """Shares on two polynomials: each share is what the dealer committed to, and together they are nothing."""
    true = attempt.cohort.members[E]._secrets()
    one = liars_shares(attempt, E, true.self_secret, true.mask_secret)
    other = liars_shares(attempt, E, bytes(16), bytes(16))
    records = {n: (one if n in (A, B) else other).records[n] for n in names(5)}
    statement = parse(SharesStatement, one.signed.statement).model_copy(
        update={"records": {n: sha256_hex(r) for n, r in records.items()}}
    )
    return Dealing(sign(attempt, E, statement, SHARES_CONTEXT), records)


def another_self_secret(attempt: Attempt) -> Dealing:
    true = attempt.cohort.members[E]._secrets()
    right = liars_shares(attempt, E, true.self_secret, true.mask_secret)
    wrong = liars_shares(attempt, E, bytes(16), true.mask_secret)
    commitment = parse(SharesStatement, right.signed.statement).self_secret
    statement = parse(SharesStatement, wrong.signed.statement).model_copy(update={"self_secret": commitment})
    return Dealing(sign(attempt, E, statement, SHARES_CONTEXT), wrong.records)


def another_mask_secret(attempt: Attempt) -> Dealing:
    true = attempt.cohort.members[E]._secrets()
    return liars_shares(attempt, E, true.self_secret, bytes(16))


@pytest.mark.parametrize(
    ("lie", "leaves", "match"),
    [
        (mixed, False, "another self secret than it committed to"),
        (mixed, True, "another mask secret than its round key's"),
        (another_self_secret, False, "another self secret"),
        (another_mask_secret, True, "another mask secret"),
    ],
)
def test_a_dealer_whose_shares_rebuild_something_else_is_named(
    lie: Callable[[Attempt], Dealing], leaves: bool, match: str
) -> None:
    attempt = with_a_liar(lie, leaves)
    with pytest.raises(UnmaskingFailed, match=f"^{E} dealt shares of {match}"):
        attempt.unmask()


def test_a_lie_about_a_secret_that_nobody_asks_for_costs_nothing() -> None:
    attempt = with_a_liar(another_self_secret, leaves=True)
    assert (attempt.unmask() == attempt.cohort.total(set(names(5)) - {E})).all()


def test_too_few_shares_rebuild_nothing() -> None:
    with pytest.raises(ProtocolError, match="2 shares, 3 are needed"):
        rebuild({1: bytes(16), 2: bytes(16)}, 3)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 48])
def test_sealed_shares_of_another_length_are_forged(length: int) -> None:
    """A dealer may seal and commit to anything; only two shares of 16 bytes are used."""
    attempt, shares = until("mask"), bytes(range(length))
    share_key = parse(RoundKeyStatement, attempt.keys[A].statement).share_key
    lie = {
        "sealed": _seal(attempt.place, B, A, share_key, shares).hex(),
        "self_commitment": commitment(attempt.place, B, A, SELF, shares[:16]),
        "mask_commitment": commitment(attempt.place, B, A, MASK, shares[16:]),
    }
    mask_refused(ForgedShare, "not those it committed to", {B: redealt(attempt, B, **lie)})


# -- steps in the wrong order ------------------------------------------------------------------------------------------


def test_steps_out_of_order_are_refused_by_name() -> None:
    member = until("key").fork({}).cohort.members[A]
    end = until("end")
    refused(WrongRound, "is in attempt -1", member, lambda: member.share(0, end.keys))
    refused(WrongRound, "is in attempt -1", member, lambda: member.mask(0, end.deliveries(A)))
    refused(WrongRound, "is in attempt -1", member, lambda: member.agree(0, end.survivors, "0" * 64))
    refused(WrongRound, "is in attempt -1", member, lambda: member.reveal(0, end.signatures))
    for attempt in (-1, -5):
        refused(WrongRound, "attempt", member, lambda attempt=attempt: member.key(attempt))
    keyed = until("share").fork({}).cohort.members[A]
    refused(ProtocolError, "masks before shares", keyed, lambda: keyed.mask(0, {}))
    refused(SplitView, "leaves out|never dealt", keyed, lambda: keyed.agree(0, {A: "0" * 64}, "0" * 64))
    dealt_ = until("mask").fork({}).cohort.members[A]
    refused(SplitView, "never dealt", dealt_, lambda: dealt_.agree(0, end.survivors, end.survivors[A]))


def test_an_attempt_that_is_over_does_not_come_back() -> None:
    attempt = until("mask").fork({})
    member = attempt.cohort.members[A]
    member.key(3)
    for step in (
        lambda: member.key(0),
        lambda: member.share(0, attempt.keys),
        lambda: member.mask(0, attempt.deliveries(A)),
        lambda: member.agree(0, until("agree").survivors, "0" * 64),
        lambda: member.reveal(0, until("reveal").signatures),
    ):
        refused(WrongRound, "attempt", member, step)


# -- the agreement, as coordinator and auditor check it ----------------------------------------------------------------


def agreement(attempt: Attempt, **fields: Any) -> SurvivorsStatement:
    view = attempt.cohort.fork().members[A].mask(0, attempt.deliveries(A)).view
    values: dict[str, Any] = {"members": names(5), "survivors": attempt.survivors, "view": view, **fields}
    return SurvivorsStatement(study=attempt.place.study, round=0, attempt=0, **values)


def test_an_agreement_is_that_of_enough_members_on_a_large_enough_list() -> None:
    attempt = until("reveal")
    publics, right = attempt.cohort.publics, attempt.signatures
    check_agreement("repairing", 2, agreement(attempt), right, publics)
    check_agreement("repairing", 2, agreement(attempt), {n: right[n] for n in (A, B, C, D)}, publics)
    refusals: list[tuple[SurvivorsStatement, Mapping[str, bytes], int, str]] = [
        (agreement(attempt), {n: right[n] for n in (A, B, C)}, 2, "3 hospitals have signed"),
        (agreement(attempt), right, 6, "at least 6 are needed"),
        (agreement(attempt, members=(*names(5), A)), right, 2, "a member is listed twice"),
        (agreement(attempt, members=names(4)), right, 2, "no member of the attempt"),
        (agreement(attempt, members=(*names(5), "hospital-005")), right, 2, "perhaps another"),
        (agreement(attempt, members=names(10)), right, 2, "at least 7 are needed"),
        (agreement(attempt, survivors={A: "0" * 64}, members=(A,)), right, 2, "at least 2 are needed"),
    ]
    for statement, signatures, smallest, match in refusals:
        with pytest.raises(SplitView, match=match):
            check_agreement("repairing", smallest, statement, signatures, publics)
    with pytest.raises(SplitView, match="at least 5|4 hospitals have signed"):
        check_agreement("strict", 2, agreement(attempt), {n: right[n] for n in (A, B, C, D)}, publics)


def test_the_coordinator_asks_the_same_of_a_key_as_the_members() -> None:
    attempt = until("share")
    assert check_key(attempt.keys[B], attempt.place, B, attempt.cohort.publics[B]).hospital == B
    with pytest.raises(ProtocolError, match="no usable"):
        check_key(changed(attempt, B, mask_key=SMALL[0]), attempt.place, B, attempt.cohort.publics[B])
