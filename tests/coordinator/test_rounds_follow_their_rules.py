"""Each rule in the docstring of rounds.py, by its number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from members import Hospital
from plans import example_plan
from pure_studies import PureStudy

from secure_fedhelp.coordinator import events, rounds
from secure_fedhelp.coordinator.state import NO_DEADLINE, State, public_state
from secure_fedhelp.errors import (
    BadSignature,
    BudgetExhausted,
    CiphertextWrongLength,
    CiphertextWrongParameters,
    DuplicateHospital,
    FedHelpError,
    IdentityError,
    KeyCeremonyFailed,
    KeyEpochRolledBack,
    LedgerInvalid,
    MessageTooLarge,
    NotOnRoster,
    PlanChanged,
    ProtocolError,
    ReplayedUpload,
    SplitView,
    StudyAlreadyStarted,
    StudyEnded,
    UnderQuorum,
    VersionMismatch,
    WrongRound,
)
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.secagg.profiles import profile
from secure_fedhelp.wire.messages import Phase

NAMES = ("alpha", "beta", "gamma", "delta")
PLAN = example_plan(
    hospitals=[{"name": n, "tier": "small", "nominal_patients": 40} for n in NAMES],
    study__rounds=3,
    aggregation__minimum_cohort=2,
    aggregation__key_epoch_rounds=2,
    aggregation__round_deadline_seconds=100,
    aggregation__gather_deadline_seconds=1000,
)
BODY_BYTES = profile("standard").body_bytes(PLAN.largest_length)
BODY = b"1" * BODY_BYTES


class Study(PureStudy):
    def __init__(self, *joining: str) -> None:
        super().__init__(PLAN, *joining)

    def upload(self, *names: str, **changes: object) -> State:
        for name in names:
            self.do(self.hospitals[name].uploaded(BODY, **(self.place | changes)))
        return self.state


def collecting(*joining: str) -> Study:
    study = Study(*(joining or NAMES))
    if study.state.phase is Phase.GATHERING:
        study.late()
    return study.keyed()


# -- rules 1 to 4: joining ---------------------------------------


def test_1_only_hospitals_of_the_plan_join() -> None:
    Study().refuses(Hospital(PLAN, "mallory").joined(), NotOnRoster)


def test_1_nobody_joins_for_the_first_time_after_the_start() -> None:
    collecting("alpha", "beta").refuses(Hospital(PLAN, "delta").joined(), StudyAlreadyStarted)


def test_2_the_same_card_again_changes_nothing() -> None:
    study = Study("alpha")
    study.is_quiet(study.hospitals["alpha"].joined())


def test_2_a_renewed_card_with_the_same_keys_takes_the_first_ones_place() -> None:
    study = collecting("alpha", "beta", "gamma")
    study.do(events.Left(name="alpha"))
    renewed = study.hospitals["alpha"].joined(card=b"renewed", expires=2e9)
    study.do(renewed)
    assert "alpha" in study.state.present
    assert study.state.members["alpha"].card == b"renewed"
    study.is_quiet(renewed)


def test_2_a_card_whose_certificate_does_not_end_later_replaces_nothing() -> None:
    """Else two cards in turn would fill the journal."""
    study = collecting("alpha", "beta", "gamma")
    study.do(study.hospitals["alpha"].joined(card=b"renewed", expires=2e9))
    study.is_quiet(study.hospitals["alpha"].joined())
    study.is_quiet(study.hospitals["alpha"].joined(card=b"another of the same certificate", expires=2e9))
    study.do(events.Left(name="alpha"))
    study.do(study.hospitals["alpha"].joined())
    assert study.state.members["alpha"].card == b"renewed"
    assert "alpha" in study.state.present


def test_2_other_keys_under_a_taken_name_are_refused() -> None:
    study = Study("alpha")
    study.refuses(Hospital(PLAN, "alpha").joined(), DuplicateHospital, "other keys")
    alpha = study.hospitals["alpha"]
    study.refuses(Hospital(PLAN, "alpha", alpha.key, "another").joined(), DuplicateHospital, "other keys")


def test_2_one_signing_key_under_two_names_is_refused() -> None:
    study = Study("alpha")
    study.refuses(Hospital(PLAN, "beta", study.hospitals["alpha"].key).joined(), DuplicateHospital, "same signing key")


def test_2_who_copies_a_sealing_key_keeps_nobody_out() -> None:
    study = Study("alpha")
    study.do(Hospital(PLAN, "beta", sealing_key="sealing key of gamma").joined())
    study.do(study.hospitals["gamma"].joined())
    assert study.state.present == {"alpha", "beta", "gamma"}


def test_3_gathering_ends_when_all_are_there() -> None:
    study = Study("alpha", "beta", "gamma")
    assert study.state.phase is Phase.GATHERING
    study.do(study.hospitals["delta"].joined())
    assert (study.state.phase, study.state.maker) == (Phase.KEYING, "alpha")


def test_3_gathering_ends_at_its_deadline_with_enough() -> None:
    study = Study("gamma", "delta")
    study.now = study.state.deadline - 1
    study.is_quiet(events.Ticked())
    assert study.late().phase is Phase.KEYING
    assert study.state.maker == "gamma"


def test_3_too_few_at_the_deadline_end_the_study_and_are_named() -> None:
    state = Study("gamma").late()
    assert state.phase is Phase.ENDED
    error = public_state(PLAN, state).ended_error()
    assert isinstance(error, UnderQuorum)
    assert "missing: alpha, beta, delta" in error.message


def test_3_who_left_before_the_start_is_not_counted() -> None:
    study = Study("gamma", "delta")
    study.do(events.Left(name="delta"))
    assert study.late().phase is Phase.ENDED


def test_4_goodbye_means_absent_until_the_next_join() -> None:
    study = collecting()
    study.do(events.Left(name="delta"))
    assert public_state(PLAN, study.state).absent == ("delta",)
    study.is_quiet(events.Left(name="delta"))
    study.upload("alpha", "beta", "gamma")
    assert study.state.phase is Phase.SUMMING
    study.do(study.hospitals["delta"].joined())
    assert public_state(PLAN, study.state).absent == ()


def test_4_an_upload_makes_present_again() -> None:
    study = collecting()
    study.do(events.Left(name="delta"))
    study.upload("delta")
    assert "delta" in study.state.present


def test_4_goodbyes_without_end_stop_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "GOODBYES", 3)
    study = collecting()
    for _ in range(3):
        study.do(events.Left(name="delta"))
        study.do(study.hospitals["delta"].joined())
    study.is_quiet(events.Left(name="delta"))
    assert "delta" in study.state.present
    study.do(events.Left(name="gamma"))
    assert "gamma" not in study.state.present, "each has its own count"


def test_4_only_members_return() -> None:
    Study("alpha").refuses(events.Returned(name="beta"), NotOnRoster)


def test_4_a_stranger_cannot_say_goodbye() -> None:
    Study("alpha").refuses(events.Left(name="beta"), NotOnRoster)


# -- rules 5 to 8: the study key ---------------------------------------


def test_5_the_next_makes_the_key_if_the_first_is_silent() -> None:
    study = Study(*NAMES)
    first = study.state.deadline
    assert study.late().maker == "beta"
    assert study.state.deadline == first + 100
    assert public_state(PLAN, study.state).absent == ("alpha",)
    study.refuses(study.hospitals["alpha"].posted(), WrongRound, "made by beta")


def test_5_the_next_makes_the_key_at_once_if_the_first_says_goodbye() -> None:
    study = Study(*NAMES)
    assert study.do(events.Left(name="alpha")).maker == "beta"
    study.do(study.hospitals["alpha"].joined())
    assert study.state.maker == "beta"


def test_5_a_study_whose_makers_all_stay_silent_ends() -> None:
    study = Study(*NAMES)
    while study.state.phase is Phase.KEYING:
        study.late()
    assert study.state.phase is Phase.ENDED


def test_5_if_everybody_left_who_comes_back_makes_the_key() -> None:
    study = Study(*NAMES)
    for name in NAMES:
        study.do(events.Left(name=name))
    assert study.state.maker == ""
    assert study.do(study.hospitals["gamma"].joined()).maker == "gamma"


@pytest.mark.parametrize("recipients", [("beta", "gamma"), ("alpha", "beta", "gamma"), ("beta", "gamma", "gamma")])
def test_6_the_key_goes_to_each_other_member_once(recipients: tuple[str, ...]) -> None:
    study = Study(*NAMES)
    study.refuses(study.hospitals["alpha"].posted().model_copy(update={"recipients": recipients}), ProtocolError)


def test_6_the_key_goes_to_absent_members_too() -> None:
    study = Study(*NAMES)
    study.do(events.Left(name="delta"))
    study.do(study.hospitals["alpha"].posted())
    assert study.state.fingerprint


def test_6_the_first_posting_stands() -> None:
    study = Study(*NAMES)
    study.do(study.hospitals["alpha"].posted())
    study.is_quiet(study.hospitals["alpha"].posted())
    study.refuses(study.hospitals["alpha"].posted(fingerprint="0" * 64), KeyCeremonyFailed)


def test_6_posting_renews_the_deadline_so_that_all_have_time_to_confirm() -> None:
    study = Study(*NAMES)
    study.now = study.state.deadline - 1
    study.do(study.hospitals["alpha"].posted())
    assert study.state.deadline == study.now + 100


def test_6_a_key_for_another_epoch_or_before_the_start_is_refused() -> None:
    Study("alpha").refuses(Hospital(PLAN, "alpha").posted(), WrongRound)
    study = Study(*NAMES)
    study.refuses(study.hospitals["alpha"].posted(epoch=1), WrongRound)


@pytest.mark.parametrize("fingerprint", ["", "x" * 200, "line\nfeed", "umläut"])
def test_6_a_fingerprint_is_short_plain_text(fingerprint: str) -> None:
    study = Study(*NAMES)
    study.refuses(study.hospitals["alpha"].posted(fingerprint=fingerprint), ProtocolError)


def without_delta() -> Study:
    """Round 1 waits for its key: delta has left for good in round 0."""
    study = collecting()
    study.do(study.hospitals["delta"].declined(0))
    study.upload("alpha", "beta", "gamma")
    study.publish()
    return study


def test_6_who_left_for_good_gets_no_key_any_more() -> None:
    study = without_delta()
    everybody = study.hospitals["alpha"].posted(1)
    study.refuses(everybody, ProtocolError, "left for good")
    study.do(everybody.model_copy(update={"recipients": ("beta", "gamma")}))
    assert public_state(PLAN, study.state).unconfirmed == ("alpha", "beta", "gamma")


def test_6_who_left_for_good_never_makes_a_key() -> None:
    study = collecting()
    study.do(study.hospitals["alpha"].declined(0))
    study.upload("beta", "gamma", "delta")
    assert study.publish().maker == "beta"


def test_7_who_left_for_good_has_no_say_in_a_key() -> None:
    study = without_delta()
    study.do(study.hospitals["alpha"].posted(1).model_copy(update={"recipients": ("beta", "gamma")}))
    for fingerprint in ("f" * 64, "0" * 64):
        study.refuses(study.hospitals["delta"].confirmed(1, fingerprint), BudgetExhausted)
    assert study.state.phase is Phase.KEYING


def test_7_a_differing_fingerprint_ends_the_study() -> None:
    study = Study(*NAMES)
    study.do(study.hospitals["alpha"].posted())
    study.do(study.hospitals["beta"].confirmed(fingerprint="0" * 64))
    assert study.state.phase is Phase.ENDED
    assert isinstance(public_state(PLAN, study.state).ended_error(), KeyCeremonyFailed)
    study.refuses(study.hospitals["alpha"].confirmed(), StudyEnded)


def test_7_who_has_confirmed_cannot_end_the_study_by_confirming_another_key() -> None:
    study = Study(*NAMES)
    study.do(study.hospitals["alpha"].posted())
    study.do(study.hospitals["beta"].confirmed())
    study.refuses(study.hospitals["beta"].confirmed(fingerprint="0" * 64), KeyCeremonyFailed)
    assert study.state.phase is Phase.KEYING


def test_7_after_keying_a_differing_fingerprint_is_only_refused() -> None:
    study = Study(*NAMES).keyed("alpha", "beta", "gamma")
    study.late()
    for phase in (Phase.COLLECTING, Phase.SUMMING):
        assert study.state.phase is phase
        for name in ("alpha", "delta"):
            study.refuses(study.hospitals[name].confirmed(fingerprint="0" * 64), KeyCeremonyFailed)
        study.upload("alpha", "beta", "gamma")


def test_7_a_confirmation_signed_by_another_is_refused() -> None:
    study = Study(*NAMES)
    study.do(study.hospitals["alpha"].posted())
    forged = study.hospitals["alpha"].confirmed().model_copy(update={"name": "beta"})
    study.refuses(forged, BadSignature)
    assert study.state.phase is Phase.KEYING


def test_7_nothing_to_confirm_before_the_key_is_there() -> None:
    study = Study(*NAMES)
    study.refuses(study.hospitals["alpha"].confirmed(), WrongRound)


def test_7_confirming_twice_changes_nothing() -> None:
    study = Study(*NAMES)
    study.do(study.hospitals["alpha"].posted())
    study.do(study.hospitals["beta"].confirmed())
    study.is_quiet(study.hospitals["beta"].confirmed())
    assert public_state(PLAN, study.state).unconfirmed == ("alpha", "delta", "gamma")


def test_8_collecting_starts_when_all_active_confirmed() -> None:
    study = Study(*NAMES).keyed()
    assert (study.state.phase, study.state.round, study.state.deadline) == (Phase.COLLECTING, 0, 100)


def test_8_who_does_not_confirm_in_time_is_absent() -> None:
    study = Study(*NAMES).keyed("alpha", "gamma")
    assert study.late().phase is Phase.COLLECTING
    assert public_state(PLAN, study.state).absent == ("beta", "delta")


def test_8_too_few_confirmations_end_the_study() -> None:
    study = Study(*NAMES).keyed("alpha")
    assert study.late().phase is Phase.ENDED
    assert "missing: beta, delta, gamma" in study.state.reason


def test_8_waits_for_the_absent_while_too_few_are_left() -> None:
    study = Study(*NAMES).keyed("alpha")
    for name in ("beta", "gamma", "delta"):
        study.do(events.Left(name=name))
    assert study.state.phase is Phase.KEYING
    study.do(study.hospitals["beta"].confirmed())
    assert study.state.phase is Phase.COLLECTING


# -- rules 9 to 11: a round ---------------------------------------


def test_9_a_round_closes_when_all_have_acted() -> None:
    study = collecting()
    study.upload("alpha", "beta", "gamma")
    assert study.state.phase is Phase.COLLECTING
    study.do(study.hospitals["delta"].declined(0, "maintenance"))
    assert (study.state.phase, study.state.deadline) == (Phase.SUMMING, NO_DEADLINE)
    assert sorted(study.state.uploads) == ["alpha", "beta", "gamma"]


def test_9_a_silent_hospital_costs_one_deadline_not_one_a_round() -> None:
    study = collecting()
    study.upload("alpha", "beta", "gamma")
    assert study.late().phase is Phase.SUMMING
    study.publish()
    study.upload("alpha", "beta", "gamma")
    assert study.state.phase is Phase.SUMMING


def test_9_under_quorum_at_the_deadline_names_who_is_missing() -> None:
    study = collecting()
    study.upload("beta")
    state = study.late()
    assert state.phase is Phase.ENDED
    assert "1 of at least 2 hospitals while collecting for round 1; missing: alpha, delta, gamma" in state.reason
    assert state.uploads.keys() == {"beta"}, "everything is kept"


def test_9_under_quorum_waits_for_absent_members_to_come_back() -> None:
    study = collecting()
    for name in ("beta", "gamma", "delta"):
        study.do(events.Left(name=name))
    study.upload("alpha")
    assert study.state.phase is Phase.COLLECTING
    study.upload("gamma")
    assert study.state.phase is Phase.SUMMING


def test_10_a_decline_is_for_its_round_only() -> None:
    study = collecting()
    study.do(study.hospitals["delta"].declined(0, "maintenance"))
    study.is_quiet(study.hospitals["delta"].declined(0, "maintenance"))
    study.refuses(study.hospitals["delta"].uploaded(BODY), ReplayedUpload, "declined round 0")
    study.upload("alpha", "beta", "gamma")
    study.publish()
    assert "delta" in study.state.awaited
    assert public_state(PLAN, study.state).declined == ()


def test_10_an_exhausted_budget_is_for_good() -> None:
    study = collecting()
    study.do(study.hospitals["delta"].declined(0, "maintenance"))
    study.do(study.hospitals["delta"].declined(0))
    study.is_quiet(study.hospitals["delta"].declined(0))
    study.upload("alpha", "beta", "gamma")
    study.publish()
    assert public_state(PLAN, study.state).declined == ("delta",)
    study.refuses(study.hospitals["delta"].uploaded(BODY, round=1), BudgetExhausted)
    study.keyed("alpha", "beta", "gamma")
    assert study.state.phase is Phase.COLLECTING, "nobody waits for the key of a hospital that is out"
    assert "delta" not in study.state.awaited


def test_10_declines_below_the_quorum_end_the_study_before_others_spend() -> None:
    study = collecting()
    for name in ("alpha", "beta"):
        study.do(study.hospitals[name].declined(0))
    assert study.state.phase is Phase.COLLECTING
    study.do(study.hospitals["gamma"].declined(0))
    assert study.state.phase is Phase.ENDED
    assert "declined: alpha, beta, gamma" in study.state.reason


def test_10_a_decline_must_be_signed_for_this_round() -> None:
    study = collecting()
    study.refuses(study.hospitals["delta"].declined(1), WrongRound)
    forged = study.hospitals["delta"].declined(0).model_copy(update={"reason": "maintenance"})
    study.refuses(forged, BadSignature)
    study.refuses(study.hospitals["delta"].declined(0, "two\nlines"), ProtocolError)


def test_10_a_decline_after_an_upload_comes_too_late() -> None:
    study = collecting()
    study.upload("delta")
    study.refuses(study.hospitals["delta"].declined(0), ReplayedUpload)


def test_11_rounds_go_on_with_a_new_key_each_epoch_and_finish() -> None:
    study = collecting()
    seen = []
    while study.state.phase is not Phase.FINISHED:
        if study.state.phase is Phase.KEYING:
            study.keyed()
        seen.append((study.state.round, study.state.key_epoch))
        study.upload(*NAMES)
        study.publish()
    assert seen == [(0, 0), (1, 0), (2, 1)]
    assert study.state.round == 3
    study.refuses(study.hospitals["alpha"].declined(2), StudyEnded)
    study.refuses(study.hospitals["alpha"].posted(1), StudyEnded)


def test_11_a_new_key_follows_a_round_in_which_somebody_left_for_good() -> None:
    study = without_delta()
    assert (study.state.phase, study.state.round, study.state.key_epoch) == (Phase.KEYING, 1, 1)
    study.keyed("alpha", "beta", "gamma")
    study.upload("alpha", "beta", "gamma")
    assert study.publish().phase is Phase.COLLECTING, "the epoch's rounds count from its own beginning"
    assert study.state.key_epoch == 1


def test_11_a_decline_for_one_round_needs_no_new_key() -> None:
    study = collecting()
    study.do(study.hospitals["delta"].declined(0, "maintenance"))
    study.upload("alpha", "beta", "gamma")
    assert study.publish().phase is Phase.COLLECTING


def test_11_only_the_closed_round_is_published_once() -> None:
    study = collecting()
    study.refuses(events.Published(round=0, line=b""), WrongRound)
    study.upload(*NAMES)
    study.refuses(events.Published(round=1, line=b""), WrongRound)
    study.publish()
    study.refuses(events.Published(round=0, line=b""), WrongRound)


def test_what_no_member_can_see_wakes_nobody_that_watches() -> None:
    """Else every upload would make every hospital ask again."""
    study = collecting()
    before = study.state
    study.upload("alpha")
    assert study.state is not before
    assert study.state.version == before.version
    study.do(events.Left(name="beta"))
    assert study.state.version == before.version + 1
    keying = Study(*NAMES)
    before = keying.state
    keying.do(keying.hospitals["alpha"].posted())
    assert keying.state.version == before.version + 1, "there is a key to be fetched"


# -- rules 12 to 18: an upload's header ---------------------------------------


def other_ledger(study: Study) -> events.Event:
    study.upload(*NAMES, ledger_entries=5)
    study.publish()
    place = {"round": 1, "previous": study.state.previous}
    return study.hospitals["alpha"].uploaded(BODY, **place, ledger_entries=5, ledger_head="b" * 64)


def shorter_ledger(study: Study) -> events.Event:
    study.upload(*NAMES, ledger_entries=5)
    study.publish()
    return study.hospitals["alpha"].uploaded(BODY, round=1, previous=study.state.previous, ledger_entries=4)


def of_an_old_transcript(study: Study) -> events.Event:
    study.upload(*NAMES)
    study.publish()
    return study.hospitals["alpha"].uploaded(BODY, round=1)


def another_body(study: Study) -> events.Event:
    study.upload("alpha")
    return study.hospitals["alpha"].uploaded(b"2" * BODY_BYTES)


def another_body_after_the_round(study: Study) -> events.Event:
    study.upload(*NAMES)
    study.publish()
    return study.hospitals["alpha"].uploaded(b"2" * BODY_BYTES)


def forged(study: Study) -> events.Event:
    signature = SigningKey.generate().sign("upload-header", study.hospitals["alpha"].header(BODY))
    return study.hospitals["alpha"].uploaded(BODY).model_copy(update={"signature": signature})


def header_of(**changes: object) -> Callable[[Study], events.Event]:
    return lambda study: study.hospitals["alpha"].uploaded(BODY, **changes)


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        (header_of(hospital="mallory"), NotOnRoster),
        (header_of(hospital="beta"), IdentityError),
        (forged, BadSignature),
        (header_of(study="0" * 64), PlanChanged),
        (header_of(round=1), WrongRound),
        (header_of(key_epoch=1), WrongRound),
        (header_of(attempt=1), WrongRound),
        (header_of(view="1" * 64), SplitView),
        (header_of(previous="1" * 64), WrongRound),
        (of_an_old_transcript, WrongRound),
        (header_of(key_fingerprint="0" * 64), KeyCeremonyFailed),
        (another_body, ReplayedUpload),
        (another_body_after_the_round, ReplayedUpload),
        (header_of(profile="compact"), CiphertextWrongParameters),
        (header_of(weight=0.5), CiphertextWrongParameters),
        (header_of(tenseal="0.3.16"), VersionMismatch),
        (header_of(body_bytes=BODY_BYTES - 1), CiphertextWrongLength),
        (header_of(body_bytes=BODY_BYTES + 1), MessageTooLarge),
        (shorter_ledger, LedgerInvalid),
        (other_ledger, LedgerInvalid),
        (header_of(profile="p" * 5000), MessageTooLarge),
        (header_of(weight=1), ProtocolError),
        (header_of(weight="1.0"), ProtocolError),
        (header_of(round=-1), ProtocolError),
        (header_of(format=1), ProtocolError),
        (header_of(extra=1), ProtocolError),
    ],
)
def test_12_to_18_a_wrong_header_is_refused_by_name(
    attack: Callable[[Study], events.Event], error: type[FedHelpError]
) -> None:
    study = collecting()
    event = attack(study)
    study.refuses(event, error)


def test_12_who_has_not_joined_cannot_upload() -> None:
    study = collecting("alpha", "beta")
    study.refuses(study.hospitals["delta"].uploaded(BODY), NotOnRoster)


def test_13_an_old_round_is_over() -> None:
    study = collecting()
    study.upload("alpha", "beta", "gamma")
    study.late()
    study.refuses(study.hospitals["delta"].uploaded(BODY), WrongRound)
    study.publish()
    study.refuses(study.hospitals["delta"].uploaded(BODY), WrongRound)


def test_13_an_upload_under_the_key_of_an_earlier_epoch_is_named() -> None:
    study = without_delta()
    stale = study.hospitals["alpha"].uploaded(BODY, round=1, previous=study.state.previous)
    study.refuses(stale, KeyEpochRolledBack)
    study.keyed("alpha", "beta", "gamma")
    study.refuses(stale, KeyEpochRolledBack)
    of_the_round_before = study.hospitals["delta"].uploaded(BODY)
    study.refuses(of_the_round_before, BudgetExhausted)


def test_13_who_comes_too_late_for_a_round_of_an_earlier_epoch_is_only_late() -> None:
    study = collecting()
    study.do(study.hospitals["beta"].declined(0))
    study.upload("alpha", "gamma")
    study.late()
    study.publish()
    study.refuses(study.hospitals["delta"].uploaded(BODY), WrongRound)


def test_13_no_upload_after_the_end() -> None:
    study = collecting()
    study.late()
    study.refuses(study.hospitals["alpha"].uploaded(BODY), UnderQuorum)


def test_14_the_same_body_again_is_accepted_quietly_even_after_the_round() -> None:
    study = collecting()
    study.upload("alpha")
    again = study.hospitals["alpha"].uploaded(BODY)
    study.is_quiet(again)
    study.upload("beta", "gamma", "delta")
    study.is_quiet(again)
    study.publish()
    study.is_quiet(again)


def test_15_no_upload_before_the_key_is_confirmed() -> None:
    study = Study(*NAMES).keyed("alpha", "beta", "gamma")
    study.late()
    study.do(study.hospitals["delta"].joined())
    study.refuses(study.hospitals["delta"].uploaded(BODY), KeyCeremonyFailed)
    study.do(study.hospitals["delta"].confirmed())
    study.upload("delta")
    assert "delta" in study.state.uploads


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"a":NaN}', b"[" * 3000])
def test_a_header_that_is_no_header(data: bytes) -> None:
    study = collecting()
    study.refuses(events.Uploaded(name="alpha", header=data, signature=b""), ProtocolError)


def test_a_header_in_another_spelling() -> None:
    study = collecting()
    header = study.hospitals["alpha"].header(BODY).replace(b'"format":2', b'"format": 2')
    signature = study.hospitals["alpha"].sign_header(header)
    study.refuses(events.Uploaded(name="alpha", header=header, signature=signature), ProtocolError, "canonical")


# -- rule 19: restarts ---------------------------------------


def test_19_a_restart_renews_the_running_deadline() -> None:
    study = Study("alpha")
    study.now = 900
    assert study.do(events.Restarted()).deadline == 900 + 1000
    study = collecting()
    study.now = 90
    assert study.do(events.Restarted()).deadline == 90 + 100
    study.late()
    study.is_quiet(events.Restarted())
