"""Rules 20 to 27 in the docstring of rounds.py, and what masks change in the others, each by its number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from plans import example_plan
from pure_studies import MaskedStudy

from secure_fedhelp.coordinator import events, masked_rounds
from secure_fedhelp.coordinator.progress import describe
from secure_fedhelp.coordinator.state import State, public_state
from secure_fedhelp.errors import (
    BadSignature,
    BudgetExhausted,
    FedHelpError,
    KeyCeremonyFailed,
    LedgerInvalid,
    NotOnRoster,
    ProtocolError,
    ReplayedUpload,
    SplitView,
    UnderQuorum,
    UnmaskingFailed,
    WrongRound,
)
from secure_fedhelp.secagg.masked.statements import ROUND_KEY_CONTEXT, RoundKeyStatement, SharesStatement, parse
from secure_fedhelp.wire.messages import Phase

NAMES = ("alpha", "beta", "gamma", "delta")
#: Repairing: t = 3 of four. Strict: t = 4.
REPAIRING, STRICT = (
    example_plan(
        hospitals=[{"name": n, "tier": "small", "nominal_patients": 40} for n in NAMES],
        study__rounds=3,
        aggregation__masks=masks,
        aggregation__minimum_cohort=2,
        aggregation__round_deadline_seconds=100,
        aggregation__answer_deadline_seconds=10,
        aggregation__gather_deadline_seconds=1000,
    )
    for masks in ("repairing", "strict")
)
A_B_C = ("alpha", "beta", "gamma")


def advertising(plan: object = REPAIRING, *joining: str) -> MaskedStudy:
    study = MaskedStudy(plan, *(joining or NAMES))  # type: ignore[arg-type]
    if study.state.phase is Phase.GATHERING:
        study.late()
    return study.keyed()


def at(phase: Phase, plan: object = REPAIRING, *joining: str) -> MaskedStudy:
    """A study in which everybody did everything before ``phase``."""
    return advertising(plan, *joining).until(phase)


def ended(state: State, error: type[FedHelpError], match: str) -> None:
    assert state.phase is Phase.ENDED
    found = public_state(REPAIRING, state).ended_error()
    assert type(found) is error
    assert match in found.message


def resigned(event: events.RoundKeyPosted, by: MaskedStudy, **changes: object) -> events.RoundKeyPosted:
    """The same round key with something changed, signed by its hospital again."""
    statement = parse(RoundKeyStatement, event.statement).model_copy(update=changes).to_bytes()
    signature = by.hospitals[event.name].key.sign(ROUND_KEY_CONTEXT, statement)
    return event.model_copy(update={"statement": statement, "signature": signature})


# -- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [REPAIRING, STRICT])
def test_a_round_goes_through_its_phases_and_the_next_one_begins_with_keys(plan: object) -> None:
    study = advertising(plan)
    seen = [(study.state.phase, study.state.deadline)]
    while study.state.phase is not Phase.SUMMING:
        study.now += 1
        study.step()
        seen.append((study.state.phase, study.state.deadline))
    assert seen == [
        (Phase.ADVERTISING, 100),
        (Phase.SHARING, 1 + 10),
        (Phase.COLLECTING, 2 + 100),
        (Phase.AGREEING, 3 + 10),
        (Phase.REVEALING, 4 + 10),
        (Phase.SUMMING, float("inf")),
    ]
    assert study.publish().phase is Phase.ADVERTISING
    assert study.state.place == (1, 0)
    assert study.state.attempt == type(study.state.attempt)(), "nothing of the round before is left"


def test_all_rounds_finish() -> None:
    study = advertising()
    while study.state.phase is not Phase.FINISHED:
        study.until(Phase.SUMMING)
        study.publish()
    assert study.state.round == 3


# -- rule 10: declines ------------------------------------------------------------------------------------------------


def test_10_declines_come_while_advertising_only() -> None:
    study = advertising()
    study.do(study.hospitals["delta"].declined(0, "maintenance"))
    study.step()
    assert study.state.phase is Phase.SHARING
    assert sorted(study.state.attempt.keys) == sorted(A_B_C)
    study.refuses(study.hospitals["alpha"].declined(0, "maintenance"), ReplayedUpload, "already given its key")
    study.refuses(study.hospitals["delta"].declined(0), WrongRound)


def test_10_no_decline_after_the_round_key() -> None:
    study = advertising()
    study.step("delta")
    study.refuses(study.hospitals["delta"].declined(0), ReplayedUpload, "already given its key")


def test_10_no_round_key_after_a_decline() -> None:
    study = advertising()
    key = study.key_event("delta")
    study.do(study.hospitals["delta"].declined(0, "maintenance"))
    study.refuses(key, ReplayedUpload, "declined round 0")
    study.do(study.hospitals["delta"].declined(0))
    study.refuses(key, BudgetExhausted)


def test_10_declines_below_the_quorum_end_the_study_at_once() -> None:
    study = advertising()
    for name in A_B_C:
        study.do(study.hospitals[name].declined(0))
    ended(study.state, UnderQuorum, "declined: alpha, beta, gamma")


def test_11_a_new_study_key_after_somebody_left_for_good() -> None:
    study = advertising()
    study.do(study.hospitals["delta"].declined(0))
    study.until(Phase.SUMMING)
    assert study.publish().phase is Phase.KEYING
    study.keyed(*A_B_C)
    assert (study.state.phase, study.state.key_epoch) == (Phase.ADVERTISING, 1)
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == sorted(A_B_C)


def test_13_an_upload_of_another_attempt_is_refused() -> None:
    study = at(Phase.COLLECTING)
    study.refuses(study.upload_event("alpha", attempt=1), WrongRound)


# -- rule 19: restarts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "seconds"),
    [
        (Phase.ADVERTISING, 100),
        (Phase.SHARING, 10),
        (Phase.COLLECTING, 100),
        (Phase.AGREEING, 10),
        (Phase.REVEALING, 10),
    ],
)
def test_19_a_restart_renews_each_phases_own_deadline(phase: Phase, seconds: float) -> None:
    study = at(phase)
    study.now = 500
    assert study.do(events.Restarted()).deadline == 500 + seconds
    study.until(Phase.SUMMING)
    study.is_quiet(events.Restarted())


# -- rule 20: place, phase, once --------------------------------------------------------------------------------------


STEPS: list[tuple[Phase, Callable[[MaskedStudy, str], events.Event]]] = [
    (Phase.ADVERTISING, MaskedStudy.key_event),
    (Phase.SHARING, MaskedStudy.shares_event),
    (Phase.AGREEING, MaskedStudy.agreed_event),
    (Phase.REVEALING, MaskedStudy.revealed_event),
]


@pytest.mark.parametrize(("phase", "make"), STEPS)
def test_20_a_step_of_another_attempt_or_round_is_refused(
    phase: Phase, make: Callable[[MaskedStudy, str], events.Event]
) -> None:
    study = at(phase)
    event = make(study, "alpha")
    study.refuses(event.model_copy(update={"attempt": 1}), WrongRound, "attempt 1")
    study.refuses(event.model_copy(update={"round": 1}), WrongRound, "round 1")
    study.do(event)
    study.until(Phase.SUMMING)
    study.publish()
    study.refuses(event, WrongRound)


@pytest.mark.parametrize(("phase", "make"), STEPS[:3])
def test_20_what_is_replayed_in_a_later_attempt_is_refused_even_under_its_number(
    phase: Phase, make: Callable[[MaskedStudy, str], events.Event]
) -> None:
    """The statement itself names its attempt, and its signature covers that."""
    study = at(phase, STRICT)
    event = make(study, "alpha")
    study.until(Phase.SHARING if phase is Phase.ADVERTISING else phase)
    study.step(*A_B_C)
    study.late()  # without delta nothing can be opened
    study.until(phase)
    assert study.state.attempt.number == 1
    study.refuses(event, WrongRound)
    error = SplitView if phase is Phase.AGREEING else WrongRound
    study.refuses(event.model_copy(update={"attempt": 1}), error)


@pytest.mark.parametrize(("phase", "make"), STEPS)
def test_20_the_same_again_is_quiet_in_its_phase_and_later(
    phase: Phase, make: Callable[[MaskedStudy, str], events.Event]
) -> None:
    study = at(phase)
    event = make(study, "alpha")
    study.do(event)
    study.is_quiet(event)
    while study.state.phase is not Phase.SUMMING:
        study.step()
        study.is_quiet(event)


def test_20_a_step_before_its_phase_is_refused() -> None:
    study = at(Phase.AGREEING)
    early = [events.Revealed(name="alpha", round=0, attempt=0, reveal_sha256="0" * 64)]
    study = at(Phase.ADVERTISING)
    early.append(events.Agreed(name="alpha", round=0, attempt=0, signature=b"x"))
    early.append(events.SharesPosted(name="alpha", round=0, attempt=0, statement=b"{}", signature=b""))
    for event in early:
        study.refuses(event, WrongRound, "while the study is advertising")
    MaskedStudy(REPAIRING, *NAMES).refuses(early[0], WrongRound, "while the study is keying")


def test_20_nothing_is_said_after_the_end() -> None:
    study = at(Phase.REVEALING)
    event = study.revealed_event("alpha")
    study.late()
    study.refuses(event, UnmaskingFailed)


def test_20_who_has_not_joined_says_nothing() -> None:
    study = advertising(REPAIRING, *A_B_C)
    study.refuses(study.key_event("delta"), NotOnRoster)


# -- rule 21: advertising ---------------------------------------------------------------------------------------------


def test_21_all_active_hospitals_are_waited_for() -> None:
    study = advertising()
    study.step(*A_B_C)
    assert study.state.phase is Phase.ADVERTISING
    assert study.step("delta").phase is Phase.SHARING


def test_21_at_the_deadline_the_silent_are_absent_and_no_members() -> None:
    study = advertising()
    study.step(*A_B_C)
    assert study.late().phase is Phase.SHARING
    assert public_state(REPAIRING, study.state).absent == ("delta",)
    study.refuses(study.key_event("delta"), WrongRound)


def test_21_under_quorum_at_the_deadline_ends_the_study() -> None:
    study = advertising()
    study.step("alpha")
    ended(study.late(), UnderQuorum, "1 of at least 2 hospitals while advertising for round 1; missing: beta, delta")


def test_21_under_quorum_waits_for_absent_ones_until_the_deadline() -> None:
    study = advertising()
    for name in ("beta", "gamma", "delta"):
        study.do(events.Left(name=name))
    study.step("alpha")
    assert study.state.phase is Phase.ADVERTISING
    assert study.step("gamma").phase is Phase.SHARING


def test_21_no_round_key_before_the_study_key_is_confirmed() -> None:
    study = MaskedStudy(REPAIRING, *NAMES).keyed(*A_B_C)
    study.late()
    study.do(study.hospitals["delta"].joined())
    study.refuses(study.key_event("delta"), KeyCeremonyFailed, "not confirmed")
    study.do(study.hospitals["delta"].confirmed())
    study.step("delta")
    assert "delta" in study.state.attempt.keys


def test_21_a_second_key_of_an_attempt_is_refused() -> None:
    study = advertising()
    first = study.key_event("alpha")
    study.do(first)
    other = MaskedStudy(REPAIRING, *NAMES)
    other.hospitals = study.hospitals
    study.refuses(other.key_event("alpha"), ReplayedUpload, "another key")


def test_21_a_round_key_must_be_its_members_own() -> None:
    study = advertising()
    event = study.key_event("alpha")
    study.refuses(event.model_copy(update={"signature": bytes(64)}), BadSignature)
    study.refuses(event.model_copy(update={"name": "beta"}), ProtocolError, "is of alpha")
    study.refuses(event.model_copy(update={"statement": event.statement + b" "}), ProtocolError, "canonical")
    study.refuses(resigned(event, study, round=1), WrongRound)
    study.refuses(resigned(event, study, study="0" * 64), WrongRound)


@pytest.mark.parametrize("key", ["mask_key", "share_key"])
def test_21_a_key_that_would_stop_everybody_elses_masks_is_refused(key: str) -> None:
    study = advertising()
    event = study.key_event("alpha")
    study.refuses(resigned(event, study, **{key: "0" * 64}), ProtocolError, "no usable X25519 key")


# -- rule 22: sharing -------------------------------------------------------------------------------------------------


def test_22_enough_dealers_are_enough_at_the_deadline() -> None:
    study = at(Phase.SHARING)
    study.step(*A_B_C)
    assert study.late().phase is Phase.COLLECTING
    assert public_state(REPAIRING, study.state).absent == ("delta",)


@pytest.mark.parametrize(("plan", "dealing"), [(REPAIRING, ("alpha", "beta")), (STRICT, A_B_C)])
def test_22_too_few_dealers_lead_to_a_fresh_attempt(plan: object, dealing: tuple[str, ...]) -> None:
    study = at(Phase.SHARING, plan)
    study.step(*dealing)
    state = study.late()
    assert (state.phase, state.attempt.number, state.attempt.keys) == (Phase.ADVERTISING, 1, {})
    assert state.deadline == study.now + 100
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == sorted(dealing)


def test_22_who_left_is_not_waited_for_once_enough_have_dealt() -> None:
    study = at(Phase.SHARING)
    study.do(events.Left(name="delta"))
    study.step(*A_B_C)
    assert study.state.phase is Phase.COLLECTING


def test_22_who_gave_no_key_deals_nothing() -> None:
    study = advertising()
    study.step(*A_B_C)
    study.late()
    event = study.shares_event("alpha").model_copy(update={"name": "delta"})
    study.refuses(event, WrongRound, "gave no round key")


def test_22_a_dealing_must_be_its_members_own_and_from_this_list_of_keys() -> None:
    study = at(Phase.SHARING)
    event = study.shares_event("alpha")
    study.refuses(event.model_copy(update={"signature": bytes(64)}), BadSignature)
    study.refuses(event.model_copy(update={"name": "beta"}), ProtocolError, "are of alpha")

    def dealing(**changes: object) -> events.SharesPosted:
        statement = parse(SharesStatement, event.statement).model_copy(update=changes).to_bytes()
        signature = study.hospitals["alpha"].key.sign("round-shares", statement)
        return event.model_copy(update={"statement": statement, "signature": signature})

    records = parse(SharesStatement, event.statement).records
    fewer = {name: digest for name, digest in records.items() if name != "delta"}
    study.refuses(dealing(members="0" * 64), SplitView, "another list of round keys")
    study.refuses(dealing(needed=1), ProtocolError, "other holders than the graph")
    study.refuses(dealing(records=fewer), ProtocolError, "other holders than the graph")
    study.refuses(dealing(records=fewer | {"mallory": "0" * 64}), ProtocolError, "other holders than the graph")


def test_22_a_second_dealing_is_refused() -> None:
    study = at(Phase.SHARING)
    study.step("alpha")
    statement = study.state.attempt.dealt["alpha"].signed.statement.replace(b'"needed":3', b'"needed":2')
    event = study.shares_event("alpha").model_copy(update={"statement": statement})
    study.refuses(event, ReplayedUpload, "other shares")


# -- rule 23: collecting ----------------------------------------------------------------------------------------------


def test_23_only_dealers_upload() -> None:
    study = at(Phase.SHARING)
    study.step(*A_B_C)
    study.late()
    upload = study.upload_event("alpha").header
    header = upload.replace(b'"hospital":"alpha"', b'"hospital":"delta"')
    signature = study.hospitals["delta"].sign_header(header)
    study.refuses(events.Uploaded(name="delta", header=header, signature=signature), WrongRound, "dealt no shares")


def test_23_an_upload_under_another_view_is_refused() -> None:
    study = at(Phase.COLLECTING)
    study.refuses(study.upload_event("alpha", view="1" * 64), SplitView, "other keys and shares")
    study.refuses(study.upload_event("alpha", view="0" * 64), SplitView)


def test_23_drop_outs_are_repaired_if_enough_have_uploaded() -> None:
    study = at(Phase.COLLECTING)
    study.step(*A_B_C)
    assert study.state.phase is Phase.COLLECTING, "delta is there and waited for"
    assert study.late().phase is Phase.AGREEING
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == sorted(A_B_C)
    study.refuses(study.hospitals["delta"].uploaded(b"", **study.place), WrongRound)


def test_23_who_left_is_not_waited_for_once_enough_have_uploaded() -> None:
    study = at(Phase.COLLECTING)
    study.do(events.Left(name="delta"))
    assert study.step(*A_B_C).phase is Phase.AGREEING


def test_23_if_all_are_needed_who_left_is_waited_for_until_the_deadline() -> None:
    study = at(Phase.COLLECTING, STRICT)
    study.do(events.Left(name="delta"))
    assert study.step(*A_B_C).phase is Phase.COLLECTING
    assert study.step("delta").phase is Phase.AGREEING, "it came back in time"


def test_23_too_few_uploads_end_the_study_if_a_retry_could_open_a_difference() -> None:
    study = at(Phase.COLLECTING)
    study.step("alpha", "beta")
    ended(study.late(), UnderQuorum, "2 of at least 3 hospitals while collecting for round 1; missing: delta, gamma")


def test_23_too_few_uploads_lead_to_a_fresh_attempt_if_all_were_needed() -> None:
    study = at(Phase.COLLECTING, STRICT)
    study.step(*A_B_C)
    old = study.upload_event("alpha")
    state = study.late()
    assert (state.phase, state.place, state.uploads) == (Phase.ADVERTISING, (0, 1), {})
    assert public_state(STRICT, state).attempt == 1
    assert public_state(STRICT, state).absent == ("delta",)
    study.refuses(old, WrongRound)
    study.until(Phase.COLLECTING)
    study.refuses(old, WrongRound, "attempt 0")
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == sorted(A_B_C)


# -- rule 24: agreeing ------------------------------------------------------------------------------------------------


def test_24_all_active_survivors_are_waited_for_and_t_suffice_at_the_deadline() -> None:
    study = at(Phase.AGREEING)
    study.step(*A_B_C)
    assert study.state.phase is Phase.AGREEING
    assert study.late().phase is Phase.REVEALING
    assert sorted(study.state.attempt.agreed) == sorted(A_B_C)


def test_24_who_left_is_not_waited_for_once_t_have_signed() -> None:
    study = at(Phase.AGREEING)
    study.do(events.Left(name="delta"))
    assert study.step(*A_B_C).phase is Phase.REVEALING


def test_24_fewer_than_t_end_the_study_or_begin_a_fresh_attempt_if_all_were_needed() -> None:
    study = at(Phase.AGREEING)
    study.step("alpha", "beta")
    ended(study.late(), UnderQuorum, "2 of at least 3 hospitals while agreeing for round 1; missing: delta, gamma")
    study = at(Phase.AGREEING, STRICT)
    study.step(*A_B_C)
    assert study.late().place == (0, 1)
    study.until(Phase.SUMMING)


def test_24_another_list_of_survivors_is_refused() -> None:
    """A signature on another list is told from one on this list, whoever made it."""
    study = at(Phase.AGREEING)
    survivors = masked_rounds.survivors_of(REPAIRING, study.state)
    fewer = dict(list(survivors.survivors.items())[1:])
    for changes in ({"survivors": fewer}, {"members": survivors.members[1:]}, {"view": "0" * 64}, {"attempt": 1}):
        other = survivors.model_copy(update=changes).to_bytes()
        signature = study.hospitals["alpha"].key.sign("survivors", other)
        study.refuses(study.agreed_event("alpha").model_copy(update={"signature": signature}), SplitView)
    study.refuses(study.agreed_event("alpha").model_copy(update={"name": "beta"}), SplitView)
    study.do(study.agreed_event("alpha"))
    study.refuses(study.agreed_event("alpha").model_copy(update={"signature": b"nonsense"}), SplitView)


def test_24_who_has_not_uploaded_agrees_to_nothing() -> None:
    study = at(Phase.COLLECTING)
    study.step(*A_B_C)
    study.late()
    event = study.agreed_event("alpha")
    study.refuses(event.model_copy(update={"name": "delta"}), NotOnRoster, "no say")


def test_24_a_late_signature_is_kept_while_revealing() -> None:
    study = at(Phase.AGREEING)
    late = study.agreed_event("delta")
    study.step(*A_B_C)
    study.late()
    study.do(late)
    assert sorted(study.state.attempt.agreed) == sorted(NAMES)
    assert "delta" in study.state.present
    study = at(Phase.AGREEING)
    late = study.agreed_event("delta")
    study.step(*A_B_C)
    study.late()
    study.until(Phase.SUMMING)
    study.is_quiet(late)


# -- rule 25: revealing -----------------------------------------------------------------------------------------------


def test_25_it_closes_as_soon_as_every_secret_can_be_rebuilt() -> None:
    study = at(Phase.COLLECTING)
    study.step(*A_B_C)
    study.late()
    study.until(Phase.REVEALING)
    assert study.state.attempt.lacking == set(NAMES), "the drop-out's secret is needed too"
    study.step("alpha", "beta")
    assert study.state.phase is Phase.REVEALING
    late = study.revealed_event("gamma")
    study.do(late)
    assert study.state.phase is Phase.SUMMING
    study.is_quiet(late)


def test_25_what_is_not_needed_any_more_is_quiet() -> None:
    study = at(Phase.REVEALING)
    late = study.revealed_event("delta")
    study.step(*A_B_C)
    assert study.state.phase is Phase.SUMMING
    study.is_quiet(late)


def test_25_who_comes_back_still_reveals() -> None:
    study = at(Phase.REVEALING)
    for name in NAMES[1:]:
        study.do(events.Left(name=name))
    study.step("alpha")
    assert study.state.phase is Phase.REVEALING
    assert study.step("beta", "delta").phase is Phase.SUMMING
    assert {"beta", "delta"} <= study.state.present


@pytest.mark.parametrize("plan", [REPAIRING, STRICT])
def test_25_never_a_fresh_attempt_once_shares_are_out(plan: object) -> None:
    study = at(Phase.REVEALING, plan)
    study.step("alpha", "beta")
    state = study.late()
    ended(state, UnmaskingFailed, "2 of 4 hospitals revealed")
    assert "missing: delta, gamma" in state.reason


def test_25_only_survivors_reveal_and_each_once() -> None:
    study = at(Phase.COLLECTING)
    study.step(*A_B_C)
    study.late()
    study.until(Phase.REVEALING)
    event = study.revealed_event("alpha")
    study.refuses(event.model_copy(update={"name": "delta"}), NotOnRoster)
    study.do(event)
    study.refuses(event.model_copy(update={"reveal_sha256": "0" * 64}), ReplayedUpload, "other shares")


# -- rule 26: a fresh attempt -----------------------------------------------------------------------------------------


def test_26_who_comes_back_takes_part_in_the_fresh_attempt() -> None:
    study = at(Phase.COLLECTING, STRICT)
    study.step(*A_B_C)
    study.late()
    study.do(study.hospitals["delta"].joined())
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == sorted(NAMES)
    assert study.state.place == (0, 1)


def test_26_a_decline_of_the_round_holds_in_its_later_attempts() -> None:
    study = advertising(STRICT)
    study.do(study.hospitals["delta"].declined(0, "maintenance"))
    study.until(Phase.COLLECTING)
    study.step("alpha", "beta")
    study.late()
    assert study.state.place == (0, 1)
    study.refuses(study.key_event("delta"), ReplayedUpload)
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == ["alpha", "beta"]


def test_26_a_hospital_may_decline_for_good_before_it_tries_again() -> None:
    study = at(Phase.COLLECTING, STRICT)
    study.step(*A_B_C)
    study.late()
    study.do(study.hospitals["gamma"].declined(0))
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == ["alpha", "beta"]
    assert study.publish().phase is Phase.KEYING


def test_26_with_too_few_active_hospitals_the_study_ends() -> None:
    study = at(Phase.COLLECTING, STRICT)
    study.step("alpha")
    ended(study.late(), UnderQuorum, "1 of at least 2 hospitals while collecting for round 1")


def test_26_after_the_last_attempt_the_study_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_rounds, "LARGEST_ATTEMPTS", 3)
    monkeypatch.setattr(masked_rounds, "MISSES", 3)
    ended(delta_fails(advertising(STRICT), 3).state, UnderQuorum, "3 attempts at round 1 have failed")


def delta_fails(study: MaskedStudy, times: int) -> MaskedStudy:
    """delta takes part in the next attempts up to its upload, which never comes."""
    for _ in range(times):
        study.until(Phase.COLLECTING)
        study.step(*A_B_C)
        study.late()
        study.do(study.hospitals["delta"].joined())
    return study


def test_26_who_leaves_attempts_unfinished_again_and_again_has_no_part_in_the_next() -> None:
    study = delta_fails(advertising(STRICT), 2)
    study.refuses(study.key_event("delta"), WrongRound, "left 2 attempts at this round unfinished")
    assert study.state.awaited == set(A_B_C)
    study.until(Phase.SUMMING)
    assert study.state.place == (0, 2)
    assert study.publish().awaited == set(NAMES), "in the next round it has a part again"


def test_26_a_goodbye_just_before_the_deadline_counts_as_silence() -> None:
    study = advertising(STRICT)
    for _ in range(2):
        study.until(Phase.COLLECTING)
        study.step(*A_B_C)
        study.do(events.Left(name="delta"))
        study.late()
        study.do(study.hospitals["delta"].joined())
    study.refuses(study.key_event("delta"), WrongRound, "unfinished")


def test_26_nobody_is_left_out_without_whom_there_are_too_few() -> None:
    section = STRICT.aggregation.model_copy(update={"minimum_cohort": 3})
    study = delta_fails(advertising(STRICT.model_copy(update={"aggregation": section})), 2)
    study.until(Phase.COLLECTING, *A_B_C)
    study.step("beta", "gamma")
    study.late()
    assert study.state.place == (0, 3)
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == ["beta", "delta", "gamma"]


def test_26_what_was_witnessed_in_a_failed_attempt_stays_witnessed() -> None:
    study = at(Phase.COLLECTING, STRICT)
    study.do(study.upload_event("alpha", ledger_entries=5))
    study.step("beta")
    study.late()
    study.until(Phase.COLLECTING)
    study.refuses(study.upload_event("alpha", ledger_entries=4), LedgerInvalid)


# -- rule 27: a sum that is lost --------------------------------------------------------------------------------------


def test_27_a_lost_sum_ends_the_study() -> None:
    study = at(Phase.REVEALING)
    study.refuses(events.SumLost(round=0, message=""), WrongRound)
    study.until(Phase.SUMMING)
    study.refuses(events.SumLost(round=1, message=""), WrongRound)
    study.do(events.SumLost(round=0, message="beta dealt shares of another self secret"))
    ended(study.state, UnmaskingFailed, "beta dealt shares of another self secret")


# -- what a person reads ----------------------------------------------------------------------------------------------


def told(study: MaskedStudy, event: events.Event) -> str:
    before = study.state
    study.do(event)
    return "\n".join(describe(study.plan, before, event, study.state))


def test_the_operator_reads_where_an_attempt_is_and_what_is_repaired() -> None:
    study = advertising()
    assert "alpha is ready" in told(study, study.key_event("alpha"))
    study.step("beta", "gamma")
    assert "round 1, attempt 1: 4 of 4 hospitals take part" in told(study, study.key_event("delta"))
    study.step(*A_B_C)
    assert "round 1, attempt 1: 4 of 4 hospitals shared" in told(study, study.shares_event("delta"))
    study.step(*A_B_C)
    study.now = study.state.deadline
    lines = told(study, events.Ticked())
    assert "3 of 4 hospitals uploaded; repairing: delta left after uploading nothing" in lines
    assert "absent: delta" in lines
    study.step("alpha", "beta")
    assert "3 of 3 hospitals agreed on what is added" in told(study, study.agreed_event("gamma"))
    study.step("alpha", "beta")
    assert "3 of 3 hospitals revealed; unmasking the sum" in told(study, study.revealed_event("gamma"))


@pytest.mark.parametrize(
    ("phase", "why"),
    [
        (Phase.SHARING, "delta dealt no shares"),
        (Phase.COLLECTING, "delta uploaded nothing, and all are needed"),
        (Phase.AGREEING, "delta did not agree on what is added, and all are needed"),
    ],
)
def test_the_operator_reads_why_there_is_another_attempt(phase: Phase, why: str) -> None:
    study = at(phase, STRICT)
    study.step(*A_B_C)
    study.now = study.state.deadline
    lines = told(study, events.Ticked())
    assert f"round 1, attempt 1 ended with nothing opened: {why}; trying again" in lines
    assert "round 1, attempt 2: waiting until alpha, beta, gamma are ready" in lines


@pytest.mark.parametrize(("plan", "t", "lying"), [(REPAIRING, 3, 1), (STRICT, 4, 2)])
def test_the_operator_reads_at_the_start_what_the_masks_stand(plan: object, t: int, lying: int) -> None:
    study = MaskedStudy(plan, *A_B_C)  # type: ignore[arg-type]
    lines = told(study, study.hospitals["delta"].joined())
    assert f"of 4 hospitals {t} must stay to the end, each secret is shared with k = 4 and rebuilt by h = {t}" in lines
    assert f"stands {lying} hospitals beside a coordinator that lies" in lines
