"""Rules 28 to 31 in the docstring of rounds.py, each by its number; and the message on the wire."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from consortia import Consortium
from plans import example_plan
from pure_studies import MaskedStudy, PureStudy
from servers import NOW, Cast, Server, Site, new_coordinator, running

from secure_fedhelp.coordinator import events, rounds
from secure_fedhelp.coordinator.progress import describe
from secure_fedhelp.coordinator.state import State, public_state
from secure_fedhelp.errors import FedHelpError, HospitalsLeft, NotOnRoster, PlanChanged, UnderQuorum, UnmaskingFailed
from secure_fedhelp.secagg.profiles import profile
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import Phase

NAMES = ("alpha", "beta", "gamma", "delta")


def plan_with(masks: str, minimum: int = 2, **changes: object) -> StudyPlan:
    return example_plan(
        hospitals=[{"name": n, "tier": "small", "nominal_patients": 40} for n in NAMES],
        study__rounds=3,
        aggregation__masks=masks,
        aggregation__minimum_cohort=minimum,
        aggregation__round_deadline_seconds=100,
        aggregation__answer_deadline_seconds=10,
        aggregation__gather_deadline_seconds=1000,
        **changes,
    )


PLAIN, PLAIN_OF_THREE = plan_with("none"), plan_with("none", 3)
REPAIRING, STRICT = plan_with("repairing"), plan_with("strict")
BODY = b"1" * profile("standard").body_bytes(PLAIN.largest_length)


def left(study: PureStudy, *names: str) -> State:
    for name in names:
        study.do(events.Withdrew(name=name))
    return study.state


def end_of(study: PureStudy) -> tuple[type, str]:
    assert study.state.phase is Phase.ENDED
    error = public_state(study.plan, study.state).ended_error()
    assert error is not None
    return type(error), error.message


def at(phase: Phase, plan: StudyPlan) -> MaskedStudy:
    return MaskedStudy(plan, *NAMES).keyed().until(phase)


# -- rule 28: who is gone ---------------------------------------------------------------------------------------------


def test_28_who_has_not_joined_may_say_that_it_does_not() -> None:
    study = PureStudy(PLAIN, "alpha")
    state = left(study, "delta")
    assert state.gone == {"delta"}
    assert state.present == {"alpha"}
    study.is_quiet(events.Withdrew(name="delta"))


def test_28_a_stranger_leaves_nothing() -> None:
    PureStudy(PLAIN).refuses(events.Withdrew(name="stranger"), NotOnRoster)


def test_28_joining_takes_it_back() -> None:
    study = PureStudy(PLAIN, "alpha", "beta")
    left(study, "delta")
    study.do(study.hospitals["delta"].joined())
    assert study.state.gone == frozenset()
    study.do(study.hospitals["gamma"].joined())
    assert study.state.phase is Phase.KEYING
    assert study.state.present == set(NAMES)


def test_28_who_is_gone_is_absent_and_comes_back_between_rounds() -> None:
    study = PureStudy(PLAIN, *NAMES).keyed()
    left(study, "delta")
    assert public_state(PLAIN, study.state).absent == ("delta",)
    for name in NAMES[:3]:
        study.do(study.hospitals[name].uploaded(BODY, **study.place))
    assert study.state.phase is Phase.SUMMING
    study.do(study.hospitals["delta"].joined())
    study.publish()
    assert "delta" in study.state.awaited


def test_28_leaving_without_end_stops_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal keeps every change, and nobody shall fill the disk with them."""
    monkeypatch.setattr(rounds, "GOODBYES", 3)
    study = PureStudy(PLAIN, *NAMES).keyed()
    for _ in range(3):
        left(study, "delta")
        study.do(study.hospitals["delta"].joined())
    study.is_quiet(events.Withdrew(name="delta"))
    study.is_quiet(events.Left(name="delta"))


def test_28_when_the_study_is_over_it_is_a_goodbye() -> None:
    study = PureStudy(PLAIN_OF_THREE, "alpha", "beta")
    left(study, "gamma", "delta")
    assert study.state.over
    state = left(study, "alpha")
    assert (state.present, state.gone) == ({"beta"}, {"gamma", "delta"})
    study.is_quiet(events.Withdrew(name="alpha"))


def test_28_who_is_out_for_good_only_says_goodbye() -> None:
    study = PureStudy(PLAIN, *NAMES).keyed()
    study.do(study.hospitals["delta"].declined(0))
    state = left(study, "delta")
    assert (state.gone, state.out) == (frozenset(), {"delta"})
    assert "delta" not in state.present


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("masks", ["none", "repairing"])
@pytest.mark.parametrize("name", ["alpha", "delta"])  # alpha would make the study key
def test_28_a_hospital_that_comes_and_goes_at_its_will_ends_no_study_of_others(
    masks: str, name: str, seed: int
) -> None:
    """It leaves, joins, says goodbye and does its part as it likes; the other three are enough, and do theirs."""
    chance, study = random.Random(seed), MaskedStudy(plan_with(masks, 3), *NAMES)

    def part(who: str) -> None:
        if study.state.phase is Phase.KEYING:
            if not study.state.fingerprint and study.state.maker == who:
                recipients = tuple(study.state.keyed - {who})
                posted = study.hospitals[who].posted(study.state.key_epoch)
                study.do(posted.model_copy(update={"recipients": recipients}))
            elif study.state.fingerprint:
                study.do(study.hospitals[who].confirmed(study.state.key_epoch))
        elif who in study.state.expected - study.state.done:
            uploads = masks == "none"
            study.do(study.hospitals[who].uploaded(BODY, **study.place)) if uploads else study.step(who)

    ways = {
        "leave": lambda: study.do(events.Withdrew(name=name)),
        "goodbye": lambda: study.do(events.Left(name=name)),
        "join": lambda: study.do(study.hospitals[name].joined()),
        "part": lambda: part(name),
    }
    for _ in range(300):
        before = study.state
        for _ in range(chance.randrange(3)):
            with suppress(FedHelpError):
                ways[chance.choice(["leave", *ways])]()
        for other in sorted(set(NAMES) - {name}):
            if study.state.phase is before.phase and not study.state.over:
                part(other)
        if study.state.phase is Phase.SUMMING:
            study.publish()
        elif study.state is before:
            study.late()
        if study.state.over:
            break
    assert study.state.phase is Phase.FINISHED, study.state.reason


# -- rule 29: enough or not -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("delta", "alpha", "beta", "gamma"), ("alpha", "beta", "gamma", "delta")])
def test_29_gathering_goes_on_without_who_left_at_once(order: tuple[str, ...]) -> None:
    study = PureStudy(PLAIN)
    for name in order:
        study.do(events.Withdrew(name=name) if name == "delta" else study.hospitals[name].joined())
    assert study.state.phase is Phase.KEYING
    assert study.now == 0
    assert study.state.present == set(NAMES) - {"delta"}


def test_29_gathering_ends_at_once_if_too_few_can_come_and_names_who_left() -> None:
    study = PureStudy(PLAIN_OF_THREE, "alpha", "beta")
    left(study, "gamma")
    assert study.state.phase is Phase.GATHERING
    left(study, "delta")
    error, message = end_of(study)
    assert error is HospitalsLeft
    assert "left: delta, gamma" in message
    assert study.now == 0


def test_29_a_plan_that_needs_everybody_ends_with_the_first_that_leaves() -> None:
    study = PureStudy(plan_with("strict", 4), "alpha")
    left(study, "beta")
    assert end_of(study)[0] is HospitalsLeft


def test_29_who_left_before_the_deadline_is_named_apart_from_who_is_missing() -> None:
    study = PureStudy(PLAIN_OF_THREE, "alpha", "beta")
    left(study, "gamma")
    study.late()
    error, message = end_of(study)
    assert error is UnderQuorum
    assert "missing: delta; left: gamma" in message


def test_29_the_next_one_makes_the_key() -> None:
    study = PureStudy(PLAIN, *NAMES)
    assert study.state.maker == "alpha"
    left(study, "alpha")
    assert study.state.maker == "beta"
    study.keyed()
    assert study.state.phase is Phase.COLLECTING


def test_29_a_round_goes_on_without_who_left_at_once() -> None:
    study = PureStudy(PLAIN, *NAMES).keyed()
    for name in ("alpha", "beta"):
        study.do(study.hospitals[name].uploaded(BODY, **study.place))
    left(study, "gamma")
    assert study.state.phase is Phase.COLLECTING
    left(study, "delta")
    assert study.state.phase is Phase.SUMMING


def test_29_what_has_been_uploaded_counts_although_its_hospital_left() -> None:
    study = PureStudy(PLAIN_OF_THREE, *NAMES).keyed()
    for name in ("alpha", "beta"):
        study.do(study.hospitals[name].uploaded(BODY, **study.place))
    left(study, "alpha", "gamma")
    assert study.state.phase is Phase.COLLECTING
    study.do(study.hospitals["delta"].uploaded(BODY, **study.place))
    assert study.state.phase is Phase.SUMMING
    study.publish()
    assert end_of(study)[0] is HospitalsLeft, "of the next round, before anybody trains"


def test_29_too_few_left_end_a_round_at_once() -> None:
    study = PureStudy(PLAIN_OF_THREE, *NAMES).keyed()
    left(study, "gamma")
    study.do(study.hospitals["delta"].declined(0, "maintenance"))
    error, message = end_of(study)
    assert error is HospitalsLeft
    assert "2 hospitals can take part in round 1, at least 3 are needed; declined: delta; left: gamma" in message


def test_29_without_anybody_gone_the_end_is_as_before() -> None:
    study = PureStudy(PLAIN_OF_THREE, *NAMES).keyed()
    for name in ("gamma", "delta"):
        study.do(study.hospitals[name].declined(0, "maintenance"))
    assert end_of(study)[0] is UnderQuorum


# -- rule 30: an attempt with masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.ADVERTISING, Phase.SHARING, Phase.COLLECTING, Phase.AGREEING])
def test_30_an_attempt_is_repaired_without_who_left_and_without_a_deadline(phase: Phase) -> None:
    study = at(phase, REPAIRING)
    left(study, "delta")
    study.until(Phase.SUMMING)
    assert study.now == 0


@pytest.mark.parametrize("phase", [Phase.SHARING, Phase.COLLECTING, Phase.AGREEING])
def test_30_if_all_are_needed_the_others_try_again_at_once(phase: Phase) -> None:
    study = at(phase, STRICT)
    left(study, "delta")
    assert study.state.phase is phase, "the others are at work"
    study.step("alpha", "beta", "gamma")
    assert (study.state.phase, study.state.place, study.now) == (Phase.ADVERTISING, (0, 1), 0)
    assert study.state.present == {"alpha", "beta", "gamma"}
    study.until(Phase.SUMMING)
    assert sorted(study.state.uploads) == ["alpha", "beta", "gamma"]


def test_30_who_is_only_absent_is_waited_for() -> None:
    study = at(Phase.COLLECTING, STRICT)
    left(study, "delta")
    study.do(events.Left(name="gamma"))
    study.step("alpha", "beta")
    assert study.state.phase is Phase.COLLECTING
    assert study.late().place == (0, 1)


def test_30_too_few_uploads_end_the_study_at_once_if_a_retry_could_open_a_difference() -> None:
    study = at(Phase.COLLECTING, REPAIRING)
    study.step("alpha", "beta")
    left(study, "gamma", "delta")
    error, message = end_of(study)
    assert error is UnderQuorum
    assert "missing: nobody; left: delta, gamma" in message
    assert study.now == 0


@pytest.mark.parametrize("plan", [REPAIRING, STRICT])
def test_30_shares_that_will_never_come_end_the_study_at_once(plan: StudyPlan) -> None:
    study = at(Phase.REVEALING, plan)
    study.step("alpha")
    left(study, "beta", "gamma", "delta")
    error, message = end_of(study)
    assert error is UnmaskingFailed
    assert "missing: beta, delta, gamma" in message


# -- rule 31: gathering anew ------------------------------------------------------------------------------------------


def test_31_a_gathering_that_ended_begins_anew_with_the_coordinators_process() -> None:
    study = PureStudy(PLAIN_OF_THREE, "alpha")
    left(study, "gamma", "delta")
    assert end_of(study)[0] is HospitalsLeft
    version, study.now = study.state.version, 500.0
    state = study.do(events.Restarted())
    assert (state.phase, state.deadline, state.gone, state.members) == (Phase.GATHERING, 1500.0, frozenset(), {})
    assert state.version > version
    for name in NAMES:
        study.do(study.hospitals[name].joined())
    assert study.state.phase is Phase.KEYING


def test_31_a_study_that_had_begun_stays_ended() -> None:
    study = PureStudy(PLAIN_OF_THREE, *NAMES)
    left(study, "gamma", "delta")
    assert end_of(study)[0] is HospitalsLeft
    study.is_quiet(events.Restarted())


def test_31_a_gathering_whose_deadline_passed_stays_ended() -> None:
    study = PureStudy(PLAIN_OF_THREE, "alpha", "beta")
    left(study, "gamma")
    study.late()
    study.is_quiet(events.Restarted())


def test_the_operator_reads_who_left() -> None:
    study = PureStudy(PLAIN, "alpha")
    before = study.state
    after = left(study, "delta")
    lines = describe(PLAIN, before, events.Withdrew(name="delta"), after)
    assert lines == ["delta says that it does not take part; its own log says why"]


# -- on the wire ------------------------------------------------------------------------------------------------------


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    made = Consortium.create(tmp_path / "consortium", now=NOW)
    made.member("coordinator", "coordinator", now=NOW)
    return made


@pytest.fixture
def server(tmp_path: Path, consortium: Consortium) -> Iterator[Server]:
    folder = tmp_path / "coordinator"
    folder.mkdir()
    with running(new_coordinator(consortium, folder), WIRE) as server:
        yield server


WIRE = example_plan(aggregation__minimum_cohort=2)


def test_a_hospital_leaves_by_its_certificate_and_the_others_are_told(server: Server, consortium: Consortium) -> None:
    names = [h.name for h in WIRE.hospitals]
    staying, *leaving = (Site(consortium, WIRE, name) for name in names)
    client = staying.client(server)
    client.join(staying.card)
    for site in leaving:
        with_client = site.client(server)
        with pytest.raises(PlanChanged):
            with_client.leave("0" * 64)  # of another study
        with_client.leave(WIRE.hash)  # without a card
        with_client.leave(WIRE.hash)
        with_client.close()
    state = client.watch(0, 0.0)
    assert state.phase is Phase.ENDED
    error = state.ended_error()
    assert isinstance(error, HospitalsLeft)
    assert error.message.endswith(f"left: {', '.join(sorted(names[1:]))}")
    client.goodbye()
    client.close()


def test_a_restarted_coordinator_knows_who_left(server: Server, consortium: Consortium) -> None:
    cast = Cast(consortium, server, WIRE)
    last = cast.names[-1]
    cast.clients[last].leave(WIRE.hash)
    server.stop()
    server.start()
    for name in cast.names[:-1]:
        cast.clients[name].join(cast.sites[name].card)
    assert cast.state().phase is Phase.KEYING
    cast.close()
