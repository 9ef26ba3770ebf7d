"""A coordinator with as many hospitals on its side as a plan claims to stand learns the others' sum and nothing else.

The attack (support/coalition.py) has all messages, all revealed shares and the stored states of the hospitals on its
side; here the residues are what the study key opens, so it holds that as well. Each claim is tested at both ends: with
the claimed number nothing but the sum comes out and what is left of an upload looks uniform, with one more the same
code opens the upload exactly.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from coalition import Coalition, least_likely, revealed_for
from hypothesis import given, settings
from hypothesis import strategies as st
from masked import PROFILE, STEPS, Attempt, Cohort, names

from secure_fedhelp.errors import RetryRefused, SplitView, WrongRound
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.masked.graph import graph
from secure_fedhelp.secagg.packing import Residues, SumAccumulator, pack_body
from secure_fedhelp.secagg.profiles import PROFILES
from secure_fedhelp.study.threshold import Masks, active_coalition, passive_coalition, threshold

#: Keys are fresh in every run: so unlikely an outcome is no chance.
UNLIKELY = 1e-9
#: Contributions within so much of zero, as plaintexts are: without masks any test sees them.
SPREAD = 1000
BOTH = [(masks, count) for masks in ("repairing", "strict") for count in (3, 5, 10)]


@cache
def until(count: int, masks: Masks, step: str) -> Attempt:
    """Everybody is there and ``step`` comes next ("end": nothing does). Fork it, never use it."""
    if step == "key":
        return Attempt(Cohort(count, masks, spread=SPREAD), present=set(names(count)))
    before = STEPS[STEPS.index(step) - 1] if step in STEPS else STEPS[-1]
    return until(count, masks, before).fork({}).go_on(before, before)


def only_the_sum(attack: Coalition, honest: Collection[str], attempt: int = 0) -> None:
    """Exactly one combination opens, it is the sum of the honest survivors, and no upload stands out."""
    [(which, total)] = attack.combinations()
    assert which == {(attempt, name): 1 for name in honest}
    assert (total == attack.cohort.total(honest)).all()


def looks_uniform(attack: Coalition, hospital: str) -> bool:
    profile, plain = attack.cohort.profile, attack.cohort.plain[hospital]
    return least_likely(attack.remainder(hospital), profile.modulus, plain) > UNLIKELY


def opens(attack: Coalition, hospital: str) -> bool:
    """Whether the attack computes the very contribution of this hospital."""
    found = attack.opened_alone().get(hospital)
    return found is not None and bool((found == attack.cohort.plain[hospital]).all())


# -- a coordinator that follows the protocol ---------------------------------------------------------------------------


@pytest.mark.parametrize(("masks", "count"), BOTH)
def test_the_claimed_coalition_learns_the_sum_of_the_others_and_nothing_else(masks: Masks, count: int) -> None:
    attempt = until(count, masks, "end").fork({})
    colluding = names(count)[: passive_coalition(masks, count)]
    honest = set(names(count)) - set(colluding)
    attack = Coalition(attempt.cohort, colluding).observe(attempt)
    only_the_sum(attack, honest)
    assert all(looks_uniform(attack, name) for name in honest)


@pytest.mark.parametrize(("masks", "count"), BOTH)
def test_one_hospital_more_opens_an_upload(masks: Masks, count: int) -> None:
    """So the claim is tight, and the test before this one can fail. n - 1 hospitals need no shares at all."""
    attempt = until(count, masks, "end").fork({})
    colluding = names(count)[: passive_coalition(masks, count) + 1]
    attack = Coalition(attempt.cohort, colluding).observe(attempt)
    for name in set(names(count)) - set(colluding):
        assert opens(attack, name)
        assert not looks_uniform(attack, name)


@pytest.mark.parametrize("count", [4, 5, 10])
@pytest.mark.parametrize("step", ["share", "mask", "agree", "reveal"])
def test_drop_outs_give_the_claimed_coalition_nothing_more(count: int, step: str) -> None:
    """Drop-outs have their mask secret revealed, survivors their self secret: never both."""
    gone = names(count)[-1:]
    attempt = until(count, "repairing", step).fork({step: gone}).go_on(step)
    colluding = names(count)[: threshold("repairing", count) - 2]
    attack = Coalition(attempt.cohort, colluding).observe(attempt)
    honest = set(attempt.uploads) - set(colluding)
    only_the_sum(attack, honest)
    assert all(looks_uniform(attack, name) for name in honest)


@pytest.mark.parametrize("count", [4, 5, 10])
def test_an_upload_that_came_too_late_stays_closed(count: int) -> None:
    """Its mask secret is revealed, as of any hospital that left: only the self-mask still covers it."""
    attempt, late = until(count, "repairing", "agree").fork({}), names(count)[-1]
    body = attempt.uploads.pop(late)
    attempt.present -= {late}
    attempt.go_on("agree")
    attempt.uploads[late] = body  # the coordinator has it
    for extra in (0, 1):
        colluding = names(count)[: threshold("repairing", count) - 1 + extra]
        attack = Coalition(attempt.cohort, colluding).observe(attempt)
        assert opens(attack, late) == bool(extra)
        assert looks_uniform(attack, late) != bool(extra)


@pytest.mark.parametrize("count", [4, 5, 10])
def test_a_sum_with_one_honest_hospital_in_it_is_that_hospitals_contribution(count: int) -> None:
    """Masks cannot help: with t - 1 hospitals and n - t drop-outs the agreed sum itself holds one honest upload.

    With t - 2 there are always two, whoever leaves.
    """
    t = threshold("repairing", count)
    for colluding_count, alone in ((t - 2, False), (t - 1, True)):
        colluding = names(count)[:colluding_count]
        gone = names(count)[t:]
        attempt = until(count, "repairing", "mask").fork({"mask": gone}).go_on("mask")
        attack = Coalition(attempt.cohort, colluding).observe(attempt)
        only_the_sum(attack, set(names(count)[colluding_count:t]))
        assert opens(attack, names(count)[t - 1]) == alone


@pytest.mark.parametrize("masks", ["repairing", "strict"])
def test_the_figure_that_policies_go_by_leaves_two_honest_hospitals_whoever_leaves(masks: Masks) -> None:
    for count in range(3, 200):
        assert max(threshold(masks, count), 3) - active_coalition(masks, count) >= 2


@pytest.mark.parametrize("chosen", [False, True], ids=["any", "chosen"])
def test_forty_hospitals_stand_the_claim_and_no_more(chosen: bool) -> None:
    """In the sparse graph the coalition may even choose itself after it has seen who holds whose shares."""
    attempt, count = until(40, "repairing", "end").fork({}), 40
    claimed, victim = passive_coalition("repairing", count), names(count)[-1]
    holders = sorted(attempt.dealings[victim].records)
    assert claimed == 13
    assert len(holders) == graph("repairing", count).neighbours < count
    colluding = holders[:claimed] if chosen else names(count)[:claimed]
    attack = Coalition(attempt.cohort, colluding).observe(attempt)
    honest = set(names(count)) - set(colluding)
    only_the_sum(attack, honest)
    assert all(looks_uniform(attack, name) for name in honest)
    if chosen:
        attack = Coalition(attempt.cohort, holders[: claimed + 1]).observe(attempt)
        assert opens(attack, victim)
        assert not looks_uniform(attack, victim)


def test_without_masks_the_same_tests_see_everything() -> None:
    cohort = Cohort(3, spread=SPREAD)
    for plain in cohort.plain.values():
        assert least_likely(plain, PROFILE.modulus, plain) == 0
    attempt = until(3, "repairing", "end")
    for name in names(3):
        upload = attempt.uploads[name]
        assert least_likely(upload, PROFILE.modulus, attempt.cohort.plain[name]) > UNLIKELY


# -- a coordinator that lies -------------------------------------------------------------------------------------------


def two_lists(attempt: Attempt, colluding: Collection[str], first: Collection[str]) -> Coalition:
    """Show ``first`` the full list and the other honest hospitals one without the victim, the first of ``first``."""
    attempt = attempt.fork({})
    honest = [name for name in names(attempt.cohort.count) if name not in colluding]
    victim, second = min(first), [name for name in honest if name not in first]
    view = attempt.cohort.members[victim].mask(0, attempt.deliveries(victim)).view
    everybody = attempt.survivors
    without = {name: body for name, body in everybody.items() if name != victim}
    reveals = revealed_for(attempt, first, colluding, everybody, view)
    reveals += revealed_for(attempt, second, colluding, without, view)
    return Coalition(attempt.cohort, colluding).observe(attempt, reveals)


@pytest.mark.parametrize("count", [4, 5, 7, 10])
def test_two_lists_of_survivors_never_collect_enough(count: int) -> None:
    """Whichever way the honest are split: with the claimed coalition only one half can reach the threshold."""
    attempt = until(count, "repairing", "agree")
    colluding = names(count)[: active_coalition("repairing", count)]
    honest = names(count)[len(colluding) :]
    for size in range(1, len(honest)):
        attack = two_lists(attempt, colluding, honest[:size])
        assert not attack.opened_alone()
        assert len(attack.combinations()) <= 1
        assert all(looks_uniform(attack, name) for name in honest)


@pytest.mark.parametrize("count", [4, 5, 7, 10])
def test_with_one_hospital_more_two_lists_open_an_upload(count: int) -> None:
    attempt, t = until(count, "repairing", "agree"), threshold("repairing", count)
    colluding = names(count)[: active_coalition("repairing", count) + 1]
    honest = names(count)[len(colluding) :]
    attack = two_lists(attempt, colluding, honest[: t - len(colluding)])
    assert opens(attack, min(honest))
    assert not looks_uniform(attack, min(honest))


def test_two_lists_and_forty_hospitals() -> None:
    attempt, t = until(40, "repairing", "agree"), threshold("repairing", 40)
    for extra in (0, 1):
        colluding = names(40)[: active_coalition("repairing", 40) + extra]
        honest = names(40)[len(colluding) :]
        attack = two_lists(attempt, colluding, honest[: t - len(colluding)])
        assert opens(attack, honest[0]) == bool(extra)


def test_strict_has_no_second_list() -> None:
    attempt = until(5, "strict", "agree").fork({})
    honest = names(5)[3:]
    with pytest.raises(SplitView, match="a list of 4 survivors"):
        two_lists(attempt, names(5)[:3], honest[:1])


def split_dealers(attempt: Attempt, bad: Collection[str], inner: Collection[str], shown: Collection[str]) -> Coalition:
    """Tell ``inner`` only of the dealers ``shown``, the others of all, and let those agree to everybody's upload."""
    attempt, everybody, views = attempt.fork({}), names(attempt.cohort.count), {}
    outer = [name for name in everybody if name not in {*inner, *bad}]
    told = {name: shown if name in inner else everybody for name in everybody}
    for name in everybody:
        deliveries = {d: delivery for d, delivery in attempt.deliveries(name).items() if d in told[name]}
        keys = attempt.cohort.members[name].mask(0, deliveries)
        views[name] = keys.view
        attempt.uploads[name] = attempt.cohort.upload(name, keys.plus, keys.minus)
    reveals = revealed_for(attempt, outer, bad, attempt.survivors, views[min(bad)])
    return Coalition(attempt.cohort, bad).observe(attempt, reveals, shown=told)


@settings(max_examples=25)
@given(data=st.data())
def test_two_lists_of_dealers_never_open_an_upload(data: st.DataObject) -> None:
    """The others may have agreed to a victim's upload and revealed its self secret: its pair masks are still there."""
    count = data.draw(st.sampled_from([4, 5, 7, 10]))
    colluding, t = active_coalition("repairing", count), threshold("repairing", count)
    honest = data.draw(st.permutations(names(count)[colluding:]))
    inner = honest[: data.draw(st.integers(1, len(honest) - 1))]
    shown = {*names(count)[:colluding], *honest[: data.draw(st.integers(max(len(inner), t - colluding), len(honest)))]}
    attack = split_dealers(until(count, "repairing", "mask"), names(count)[:colluding], inner, shown)
    assert not attack.opened_alone()
    assert all(len(which) >= t - colluding for which, _ in attack.combinations())
    assert len(attack.combinations()) <= 1


@pytest.mark.parametrize("count", [4, 5, 7])
def test_with_one_hospital_more_two_lists_of_dealers_open_an_upload(count: int) -> None:
    colluding, t = active_coalition("repairing", count) + 1, threshold("repairing", count)
    bad, honest = names(count)[:colluding], names(count)[colluding:]
    inner = honest[: t - colluding]
    opened = split_dealers(until(count, "repairing", "mask"), bad, inner, {*bad, *inner}).combinations()
    assert {frozenset(name for _, name in which) for which, _ in opened} == {frozenset(inner)}
    assert len(inner) < len(honest)  # less than the sum of all the honest, for n = 4 and 5 of one alone


def test_two_lists_of_dealers_and_forty_hospitals() -> None:
    """The victim is told of the dealers with the fewest of its neighbours among them: some are always left."""
    attempt, count = until(40, "repairing", "mask"), 40
    bad, victim = names(count)[: active_coalition("repairing", count)], names(count)[-1]
    holders = {name: dealing.records.keys() for name, dealing in attempt.dealings.items()}
    others = sorted(names(count)[len(bad) : -1], key=lambda name: (name in holders[victim]) + (victim in holders[name]))
    shown = {victim, *bad, *others[: threshold("repairing", count) - len(bad) - 1]}
    assert split_dealers(attempt, bad, [victim], shown).combinations() == []


@pytest.mark.parametrize("first", [first for size in (1, 2, 3) for first in combinations(names(5)[2:], size)])
def test_who_was_shown_other_dealers_does_not_agree(first: Collection[str]) -> None:
    """The list that t sign names one view: hospitals with another do not count."""
    attempt = until(5, "repairing", "mask").fork({})
    views = {}
    for name in names(5):
        told = names(5)[:4] if name in first and name != names(5)[4] else names(5)
        deliveries = {d: delivery for d, delivery in attempt.deliveries(name).items() if d in told}
        keys = attempt.cohort.members[name].mask(0, deliveries)
        attempt.uploads[name], views[name] = attempt.cohort.upload(name, keys.plus, keys.minus), keys.view
    everybody = {n: body for n, body in attempt.survivors.items() if n != names(5)[4]}
    signatures = {n: attempt.cohort.members[n].agree(0, everybody, everybody[n]) for n in everybody}
    differ = {n for n in everybody if views[n] != views[names(5)[0]]}
    for name in everybody:
        if differ:
            with pytest.raises(SplitView, match="perhaps another"):
                attempt.cohort.members[name].reveal(0, signatures)
        else:
            attempt.cohort.members[name].reveal(0, signatures)


# -- more than one attempt ---------------------------------------------------------------------------------------------


def test_strict_after_moving_on_the_first_attempt_stays_closed_whoever_reveals() -> None:
    """Two hospitals move on, one was lied to and reveals for the first attempt, three are on the coordinator's side."""
    count, (moving, other, fooled) = 6, names(6)[3:]
    bad = names(6)[:3]
    first = until(count, "strict", "reveal").fork({})  # all six have signed one list
    for name in (*bad, fooled):
        whose = first if name == fooled else first.fork({})  # those on its side do not stand by what they have revealed
        first.reveals[name] = first.unmasking.check(name, whose.cohort.members[name].reveal(0, first.signatures))
    attack = Coalition(first.cohort, bad).observe(first)
    assert first.unmasking.waiting_for(first.reveals) == set(names(6))
    assert attack.combinations() == []

    second = Attempt(first.cohort, 1, gone={"key": [fooled]})
    assert (second.run() == first.cohort.total(set(names(6)) - {fooled})).all()
    attack.observe(second)
    only_the_sum(attack, {moving, other}, attempt=1)
    for name in (moving, other):
        with pytest.raises(WrongRound, match="a step of attempt 0"):
            first.cohort.members[name].reveal(0, first.signatures)
    with pytest.raises(RetryRefused):
        first.cohort.members[fooled].key(1)


def test_two_sums_of_the_same_values_would_give_away_who_left() -> None:
    """Why a retry is refused: hospitals that forgot their first attempt (no member of ours does) are opened."""
    first = until(5, "repairing", "end").fork({})
    with pytest.raises(RetryRefused):
        first.fork({}).cohort.members[names(5)[0]].key(1)
    attack = Coalition(first.cohort, names(5)[:2]).observe(first)
    only_the_sum(attack, names(5)[2:])
    first.cohort.members = {name: first.cohort.member(name) for name in names(5)}
    second = Attempt(first.cohort, 1, gone={"mask": [names(5)[4]]})
    second.run()
    attack.observe(second)
    assert opens(attack, names(5)[4])


def test_fewer_members_than_the_smallest_cohort_have_no_attempt() -> None:
    """Claims are for the number of members of an attempt, so nobody takes part in one that is too small."""
    cohort = Cohort(10, smallest_cohort=6, spread=SPREAD)
    attempt = Attempt(cohort, gone={"key": names(10)[5:]})
    with pytest.raises(SplitView, match="5 round keys, at least 6 hospitals"):
        attempt.run()
    short = {name: member.key(0) for name, member in list(cohort.members.items())[:5]}
    with pytest.raises(SplitView, match="5 round keys"):
        cohort.members[names(10)[0]].share(0, short)


# -- with the real encryption ------------------------------------------------------------------------------------------


def test_whoever_holds_the_study_key_decrypts_a_masked_upload_to_garbage_and_the_sum_rightly() -> None:
    profile, count = PROFILES["standard"], 5
    length = profile.ring_degree + 5
    cipher = Cipher(profile, StudyKey.generate(profile))
    values = {n: np.random.default_rng(i).uniform(-1, 1, length) for i, n in enumerate(names(count))}
    encrypted = {name: cipher.encrypt_residues(v) for name, v in values.items()}
    cohort = Cohort(count, profile=profile, plain={name: residues for name, (_, residues) in encrypted.items()})
    attempt = Attempt(cohort, gone={"mask": names(count)[:1]})
    attempt.run()
    left = names(count)[1:]

    def decrypted(residues: Residues, name: str) -> Residues:
        alone = SumAccumulator(profile, length)
        alone.add(name, pack_body(profile, encrypted[name][0], residues))
        return cipher.decrypt_sum(alone.finish(), (name,), length)

    for name in left:
        assert np.abs(decrypted(attempt.uploads[name], name)).max() > 1e4
        assert np.abs(decrypted(cohort.plain[name], name) - values[name]).max() < profile.error_bound(1)
    everybody = SumAccumulator(profile, length)
    for name in left:
        everybody.add(name, pack_body(profile, encrypted[name][0], attempt.uploads[name]))
    before = cipher.decrypt_sum(everybody.finish(), left, length)
    add_expanded(everybody.total, profile, *attempt.unmasking.masks(attempt.reveals))
    found = cipher.decrypt_sum(everybody.finish(), left, length)
    right = sum(values[name] for name in left)
    assert np.abs(before).max() > 1e4  # the self-masks are still on
    assert np.abs(found - right).max() < profile.error_bound(count - 1)

    for colluding in (left[:2], left[:3]):  # with three the sum itself holds one honest hospital's values
        attack = Coalition(cohort, colluding).observe(attempt)
        found = decrypted(attack.remainder(left[-1]), left[-1])
        alone = attack.opened_alone().get(left[-1])
        if len(colluding) == 2:
            assert np.abs(found).max() > 1e4
            assert alone is None
        else:
            assert alone is not None
            assert np.abs(decrypted(alone, left[-1]) - values[left[-1]]).max() < profile.error_bound(1)
