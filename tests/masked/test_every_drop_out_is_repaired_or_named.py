"""Hospitals leave at every point of an attempt: the others' sum is exact, or the attempt ends by name.

Between the five steps there are five points to leave at: before the keys, after them, after the shares, after the
upload (so during agreement), and during unmasking. Up to n - t hospitals that leave are repaired, t being the plan's
threshold. The common beginning of many stories is run once and forked, through each hospital's stored state.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked import STEPS, Attempt, Cohort, names, needed

from secure_fedhelp.errors import FedHelpError, ProtocolError, RetryRefused, SplitView, UnmaskingFailed
from secure_fedhelp.secagg.masked.member import LARGEST_ATTEMPTS
from secure_fedhelp.secagg.packing import Residues
from secure_fedhelp.secagg.profiles import PROFILES
from secure_fedhelp.study.threshold import Masks, threshold

SIZES = (3, 5, 10, 40)
SMALLEST = 2


@cache
def until(count: int, masks: Masks, step: str) -> Attempt:
    """Everybody is there, and ``step`` comes next. Fork it, never use it."""
    if step == "key":
        return Attempt(Cohort(count, masks), present=set(names(count)))
    before = STEPS[STEPS.index(step) - 1]
    return until(count, masks, before).fork({}).go_on(before, before)


def story(count: int, masks: Masks, step: str, gone: Collection[str]) -> Attempt:
    """These leave before ``step``, the others go on."""
    return until(count, masks, step).fork({step: gone}).go_on(step)


def the_sum(attempt: Attempt) -> Residues:
    return attempt.cohort.total(attempt.uploads)


def repaired(count: int, step: str) -> list[int]:
    """How many may leave before a step: one, and the largest number. Before the keys nobody is needed yet."""
    most = count - (SMALLEST if step == "key" else threshold("repairing", count))
    return sorted({number for number in (1, most) if 0 < number <= most})


def leaving(count: int, number: int, seed: int) -> frozenset[str]:
    return frozenset(Random(seed).sample(names(count), number))


CASES = [(count, step, number) for count in SIZES for step in STEPS for number in repaired(count, step)]
CASES.append((40, "key", 40 - 27))  # a sparse graph was planned, a full one is left


@pytest.mark.parametrize(("count", "step", "number"), CASES)
def test_whoever_leaves_the_sum_of_the_others_is_exact(count: int, step: str, number: int) -> None:
    gone = leaving(count, number, seed=count + number)
    attempt = story(count, "repairing", step, gone)
    # Who left after its upload is in the sum all the same.
    expected = set(names(count)) - (gone if step in ("key", "share", "mask") else frozenset())
    assert set(attempt.uploads) == expected
    assert (attempt.unmask() == attempt.cohort.total(expected)).all()


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize("step", STEPS)
@settings(max_examples=8)
@given(data=st.data())
def test_it_does_not_matter_which_hospitals_leave(count: int, step: str, data: st.DataObject) -> None:
    most = repaired(count, step)[-1]
    gone = data.draw(st.sets(st.sampled_from(names(count)), max_size=most))
    attempt = story(count, "repairing", step, gone)
    assert (attempt.unmask() == the_sum(attempt)).all()


@settings(max_examples=15)
@given(data=st.data())
def test_some_leave_here_and_some_there(data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([4, 5, 7, 10]))
    most = count - threshold("repairing", count)
    who = data.draw(st.lists(st.sampled_from(names(count)), max_size=most, unique=True))
    when = {name: data.draw(st.sampled_from(STEPS[1:])) for name in who}
    gone = {step: [name for name in who if when[name] == step] for step in STEPS}
    attempt = until(count, "repairing", "share").fork(gone).go_on("share")
    early = {name for name in who if when[name] in ("share", "mask")}
    assert set(attempt.uploads) == set(names(count)) - early
    assert (attempt.unmask() == the_sum(attempt)).all()


def test_an_upload_that_came_too_late_is_not_in_the_sum() -> None:
    attempt = until(5, "repairing", "agree").fork({})
    late = names(5)[2]
    body = attempt.uploads.pop(late)
    with pytest.raises(SplitView, match="leaves out"):
        attempt.cohort.members[late].agree(0, attempt.survivors, "0" * 64)
    attempt.present -= {late}
    assert (attempt.go_on("agree").unmask() == attempt.cohort.total(set(names(5)) - {late})).all()
    assert body.any()


@pytest.mark.parametrize("profile", ["exact", "standard"])
def test_several_primes_and_large_ones_are_repaired_too(profile: str) -> None:
    cohort = Cohort(5, profile=replace(PROFILES[profile], ring_degree=256))
    attempt = Attempt(cohort, gone={"mask": [names(5)[1]]})
    assert (attempt.run() == cohort.total(set(names(5)) - {names(5)[1]})).all()


# -- too many leave ----------------------------------------------------------------------------------------------------

#: What the others then meet: before the keys a list that is too small, later too few for the threshold.
NAMED: dict[str, tuple[type[FedHelpError], str]] = {
    "key": (SplitView, "at least 2 hospitals are needed"),
    "share": (SplitView, "have dealt shares"),
    "mask": (SplitView, "a list of .* survivors, at least"),
    "agree": (SplitView, "have signed this list of survivors"),
    "reveal": (UnmaskingFailed, "too few shares"),
}


def too_many(count: int, masks: Masks, step: str) -> int:
    if step == "key":
        return count - SMALLEST + 1
    if step == "reveal" and count == 40:
        return count - 13  # 14 of 27 holders are needed in the sparse graph, so with 13 left nothing can be rebuilt
    return count - threshold(masks, count) + 1


@pytest.mark.parametrize(("count", "masks"), [*((n, "repairing") for n in SIZES), (3, "strict"), (10, "strict")])
@pytest.mark.parametrize("step", STEPS)
def test_if_too_many_leave_it_ends_by_name(count: int, masks: Masks, step: str) -> None:
    error, message = NAMED[step]
    gone = leaving(count, too_many(count, masks, step), seed=count)
    with pytest.raises(error, match=message):
        story(count, masks, step, gone).unmask()


# -- strict: a fresh attempt -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize("step", ["share", "mask", "agree"])
def test_strict_tries_again_with_fresh_masks_and_the_hospitals_that_are_left(count: int, step: str) -> None:
    gone = leaving(count, 1, seed=count)
    first = until(count, "strict", step).fork({step: gone})
    with pytest.raises(SplitView):
        first.go_on(step)
    second = Attempt(first.cohort, 1, gone={"key": gone})
    left = set(names(count)) - gone
    assert (second.run() == first.cohort.total(left)).all()
    for name in left:
        assert second.keys[name].statement != first.keys[name].statement
        assert name not in first.uploads or (second.uploads[name] != first.uploads[name]).mean() > 0.99


def test_strict_may_fail_often_and_still_comes_to_its_sum() -> None:
    cohort, left = Cohort(6, "strict"), list(names(6))
    for number, step in enumerate(("mask", "agree", "share")):
        attempt = Attempt(cohort, number, gone={"key": set(names(6)) - set(left), step: [left.pop()]})
        with pytest.raises(SplitView):
            attempt.run()
    last = Attempt(cohort, LARGEST_ATTEMPTS - 1, gone={"key": set(names(6)) - set(left)})
    assert (last.run() == cohort.total(left)).all()


@pytest.mark.parametrize("masks", ["repairing", "strict"])
def test_after_a_reveal_there_is_no_other_attempt(masks: Masks) -> None:
    count = 5
    gone = leaving(count, too_many(count, masks, "reveal"), seed=1)
    attempt = until(count, masks, "reveal").fork({"reveal": gone})
    with pytest.raises(UnmaskingFailed):
        attempt.go_on("reveal").unmask()
    for name in attempt.present:
        attempt.cohort.restart(name)
        with pytest.raises(RetryRefused, match="has revealed"):
            attempt.cohort.members[name].key(1)
        assert attempt.cohort.members[name].attempt == 0


@pytest.mark.parametrize("step", ["agree", "reveal"])
def test_where_drop_outs_are_repaired_there_is_no_other_attempt_after_an_upload(step: str) -> None:
    attempt = until(5, "repairing", step).fork({})
    for name in names(5):
        with pytest.raises(RetryRefused, match="without this hospital"):
            attempt.cohort.members[name].key(1)


def test_where_drop_outs_are_repaired_there_may_be_one_before_an_upload() -> None:
    attempt = until(5, "repairing", "mask").fork({})
    second = Attempt(attempt.cohort, 1)
    assert (second.run() == attempt.cohort.total(names(5))).all()


def test_nobody_shall_try_until_chance_helps() -> None:
    member = Cohort(3, "strict").members[names(3)[0]]
    member.key(LARGEST_ATTEMPTS - 1)
    with pytest.raises(RetryRefused, match="too many"):
        member.key(LARGEST_ATTEMPTS)
    with pytest.raises(RetryRefused, match="too many"):
        member.key(2**40)


# -- hospitals that die and come back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["repairing", "strict"])
@pytest.mark.parametrize("count", [3, 5])
def test_a_restart_between_any_two_steps_changes_nothing(count: int, masks: Masks) -> None:
    def everybody_dies(_step: str, attempt: Attempt) -> None:
        for name in names(count):
            attempt.cohort.restart(name)

    cohort = Cohort(count, masks)
    assert (Attempt(cohort, before=everybody_dies).run() == cohort.total(names(count))).all()


@settings(max_examples=10)
@given(deaths=st.sets(st.tuples(st.sampled_from(STEPS), st.sampled_from(names(5)))), data=st.data())
def test_some_die_and_come_back_while_one_leaves(deaths: set[tuple[str, str]], data: st.DataObject) -> None:
    def some_die(step: str, attempt: Attempt) -> None:
        for name in names(5):
            if (step, name) in deaths:
                attempt.cohort.restart(name)

    step, name = data.draw(st.sampled_from(STEPS[1:])), data.draw(st.sampled_from(names(5)))
    attempt = Attempt(Cohort(5), gone={step: [name]}, before=some_die)
    assert (attempt.run() == the_sum(attempt)).all()


@pytest.mark.parametrize("masks", ["repairing", "strict"])
def test_every_step_asked_again_gives_the_same_bytes(masks: Masks) -> None:
    """An answer that was lost on the way is asked for again, also after a restart: never a second, different one."""

    def again() -> list[object]:
        member = attempt.cohort.members[name]
        answers: list[object] = [member.key(0)]
        if "share" in done:
            answers.append(member.share(0, attempt.keys))
        if "mask" in done:
            mask = member.mask(0, attempt.deliveries(name))
            answers.append((mask.plus, mask.minus, mask.view))
        if "agree" in done:
            answers.append(member.agree(0, attempt.survivors, attempt.survivors[name]))
        if "reveal" in done:
            answers.append(member.reveal(0, attempt.signatures))
        return answers

    attempt, name, done = until(5, masks, "key").fork({}), names(5)[1], set[str]()
    for step in STEPS:
        attempt.go_on(step, step)
        done.add(step)
        state, first = attempt.cohort.members[name].to_bytes(), again()
        assert attempt.cohort.members[name].to_bytes() == state
        attempt.cohort.restart(name)
        assert again() == first
        assert attempt.cohort.members[name].to_bytes() == state


def test_what_a_restart_finds_damaged_is_named() -> None:
    attempt = until(3, "repairing", "mask").fork({})
    stored = attempt.cohort.members[names(3)[0]].to_bytes()
    for damaged in (stored[:-1], b"{}", b"\xff", b"[]", stored.replace(b'"attempt":0', b'"attempt":"0x"')):
        with pytest.raises(ProtocolError, match="damaged"):
            attempt.cohort.member(names(3)[0], damaged)


def test_secrets_are_neither_printed_nor_in_a_traceback() -> None:
    attempt, me = until(3, "repairing", "agree").fork({}), names(3)[0]
    member = attempt.cohort.members[me]
    stored = json.loads(member.to_bytes())
    secrets = [stored[what] for what in ("self_secret", "mask_secret", "share_private")]
    secrets += [share for pair in stored["held"].values() for share in pair]
    masks = member.mask(0, attempt.deliveries(me))
    secrets += [key.hex() for key in (*masks.plus, *masks.minus)]
    damaged = json.dumps({**stored, "self_secret": [stored["self_secret"]]}).encode()
    with pytest.raises(ProtocolError) as caught:
        attempt.cohort.member(me, damaged)
    told = "".join(traceback.format_exception(caught.value))
    shown = [told, *(f"{it!r} {it}" for it in (member, member._memory, member._secrets(), masks))]
    assert not any(secret in text or bytes.fromhex(secret).hex(" ") in text for secret in secrets for text in shown)


def test_thresholds_of_this_file() -> None:
    assert [needed(Cohort(n)) for n in SIZES] == [3, 4, 7, 27]
