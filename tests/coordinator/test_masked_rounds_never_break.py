"""With masks too: whatever comes in whatever order, nothing can be opened twice, and honest hospitals can go on.

The hospitals are the members' own code (secagg/masked/member.py), which refuses a step that could open an upload. So a
coordinator whose rules ask for such a step fails here.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from members import Hospital
from plans import example_plan
from pure_studies import MaskedStudy

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.publication import signed_line, transcript_entry
from secure_fedhelp.coordinator.sharing import mask_keys
from secure_fedhelp.coordinator.state import NO_DEADLINE, State, public_state
from secure_fedhelp.errors import FedHelpError
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.threshold import threshold
from secure_fedhelp.wire.messages import Phase
from secure_fedhelp.wire.transcript import TranscriptChecker

NAMES = ("alpha", "beta", "gamma", "delta")
MINIMUM = 2
COORDINATOR = SigningKey.generate()
#: One set of signing keys for all examples.
KEYS = {name: SigningKey.generate() for name in NAMES}
MASKED = (Phase.ADVERTISING, Phase.SHARING, Phase.COLLECTING, Phase.AGREEING, Phase.REVEALING)

names = st.sampled_from(NAMES)


def plan_with(masks: str) -> StudyPlan:
    return example_plan(
        hospitals=[{"name": n, "tier": "small", "nominal_patients": 40} for n in NAMES],
        study__rounds=3,
        aggregation__masks=masks,
        aggregation__minimum_cohort=MINIMUM,
        aggregation__key_epoch_rounds=2,
        aggregation__round_deadline_seconds=100,
        aggregation__answer_deadline_seconds=10,
        aggregation__gather_deadline_seconds=1000,
    )


class AnyOrder(RuleBasedStateMachine):
    plan: StudyPlan

    def __init__(self) -> None:
        super().__init__()
        self.study = MaskedStudy(self.plan)
        self.study.hospitals = {name: Hospital(self.plan, name, key) for name, key in KEYS.items()}
        self.before = self.study.state
        self.kept: list[tuple[str, float]] = []
        self.said: list[events.Event] = []
        self.checker: TranscriptChecker | None = None
        for name in NAMES:
            self.join(name)
        while self.state.phase is Phase.KEYING:
            for name in NAMES:
                self.act(name)

    @property
    def state(self) -> State:
        return self.study.state

    def do(self, event: events.Event) -> None:
        self.before = self.state
        self.said.append(event)
        try:
            self.study.do(event)
        except FedHelpError:
            return
        if self.state is not self.before:
            kept = self.study.rules.record(self.before, event, self.state)
            self.kept.append((events.event_json(kept), self.study.now))

    # -- what hospitals do --------------------------------------------------------------------------------------------

    @rule(name=names)
    def act(self, name: str) -> None:
        """What the running phase asks of one hospital: its own code must be ready to do it."""
        hospital = self.study.hospitals[name]
        if self.state.phase is Phase.KEYING and name == self.state.maker and not self.state.fingerprint:
            recipients = tuple(self.state.keyed - {name})
            self.do(hospital.posted(self.state.key_epoch).model_copy(update={"recipients": recipients}))
        if self.state.fingerprint and name in self.state.keyed - self.state.confirmed.keys():
            self.do(hospital.confirmed(self.state.key_epoch))
        if self.state.phase not in MASKED or name not in self.state.expected - self.state.done:
            return
        make = {
            Phase.ADVERTISING: self.study.key_event,
            Phase.SHARING: self.study.shares_event,
            Phase.COLLECTING: self.study.upload_event,
            Phase.AGREEING: self.study.agreed_event,
            Phase.REVEALING: self.study.revealed_event,
        }[self.state.phase]
        self.do(make(name))
        assert name in self.before.expected

    @rule(name=names)
    def join(self, name: str) -> None:
        self.do(self.study.hospitals[name].joined())

    @rule(turns=st.integers(1, 4), without=st.sets(names, max_size=1))
    def things_go_well(self, turns: int, without: set[str]) -> None:
        for _ in range(turns):
            if self.state.phase is Phase.SUMMING:
                self.publish()
            for name in sorted(set(NAMES) - without):
                self.join(name)
                self.act(name)

    @rule(silent=names, back=st.booleans())
    def somebody_is_too_late(self, silent: str, back: bool) -> None:
        for name in NAMES:
            if name != silent and self.state.phase is not Phase.SUMMING:
                self.act(name)
        self.tick(True)
        if back:
            self.join(silent)

    @rule(name=names, final=st.booleans())
    def decline(self, name: str, final: bool) -> None:
        self.do(self.study.hospitals[name].declined(self.state.round, "BudgetExhausted" if final else "maintenance"))

    @rule(name=names)
    def leave(self, name: str) -> None:
        self.do(events.Left(name=name))

    @rule(name=names)
    def withdraw(self, name: str) -> None:
        self.do(events.Withdrew(name=name))

    @invariant()
    def nobody_waits_for_who_is_gone(self) -> None:
        """While an attempt waits, somebody who may still come is lacking."""
        state = self.state
        assert not state.present & state.gone
        if state.phase in (Phase.SHARING, Phase.COLLECTING, Phase.AGREEING, Phase.REVEALING):
            lacking = state.expected - state.done
            assert lacking - state.gone or not lacking

    @rule(which=st.integers(0, 10_000))
    def replay(self, which: int) -> None:
        """Something that was said before, at any time."""
        if self.said:
            self.do(self.said[which % len(self.said)])

    @rule(late=st.booleans())
    def tick(self, late: bool) -> None:
        late = late and self.state.deadline < NO_DEADLINE
        self.study.now = self.state.deadline if late else self.study.now + 1.0
        self.do(events.Ticked())

    @rule()
    def restart(self) -> None:
        self.do(events.Restarted())

    @precondition(lambda self: self.study.state.phase is Phase.SUMMING)
    @rule()
    def publish(self) -> None:
        """The shares fit together, and every hospital accepts the line."""
        plus, minus = mask_keys(self.plan, self.state, self.study.reveals[self.state.place])
        assert len(minus) >= len(self.state.uploads)
        assert not set(plus) & set(minus)
        line = signed_line(transcript_entry(self.plan, self.state, "0" * 64, 1), COORDINATOR)
        members = {name: member.signing_key for name, member in self.state.members.items()}
        self.checker = self.checker or TranscriptChecker(COORDINATOR.public_hex, members, self.plan)
        self.checker.check(line)
        self.do(events.Published(round=self.state.round, line=line))

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def another_attempt_begins_only_where_the_first_can_never_be_opened(self) -> None:
        if self.state.place == self.before.place or self.state.round != self.before.round:
            return
        assert self.state.attempt.number == self.before.attempt.number + 1
        assert not self.before.attempt.revealed
        assert self.before.phase in (Phase.SHARING, Phase.COLLECTING, Phase.AGREEING)
        assert not self.state.uploads
        if self.before.phase is not Phase.SHARING:
            members = len(self.before.attempt.keys)
            assert threshold(self.plan.aggregation.masks, members) == members

    @invariant()
    def a_closed_attempt_has_its_quorum(self) -> None:
        attempt = self.state.attempt
        if self.state.phase is Phase.SUMMING:
            t = threshold(self.plan.aggregation.masks, len(attempt.keys))
            assert len(self.state.uploads) >= max(t, MINIMUM)
            assert len(attempt.agreed) >= t
            assert not attempt.lacking

    @invariant()
    def each_step_is_taken_by_those_who_took_the_one_before(self) -> None:
        attempt = self.state.attempt
        assert attempt.revealed.keys() <= self.state.uploads.keys()
        assert attempt.agreed.keys() <= self.state.uploads.keys()
        assert self.state.uploads.keys() <= attempt.dealt.keys() <= attempt.keys.keys()
        assert attempt.keys.keys() <= self.state.confirmed.keys() <= self.state.members.keys()
        assert not attempt.keys.keys() & (self.state.declines.keys() | self.state.out)
        assert self.state.awaited <= self.state.expected

    @invariant()
    def versions_rounds_and_epochs_only_grow(self) -> None:
        assert self.state.version - self.before.version in (0, 1)
        assert self.state.round - self.before.round in (0, 1)
        assert self.state.key_epoch - self.before.key_epoch in (0, 1)
        assert self.before.out <= self.state.out
        assert self.state.place >= self.before.place
        if self.before.over:
            assert self.state.phase is self.before.phase
        assert public_state(self.plan, self.state).attempt == self.state.attempt.number

    def teardown(self) -> None:
        """A journal of the accepted events gives exactly this state again."""
        again = self.study.rules.start(0.0)
        for text, at in self.kept:
            again = self.study.rules.apply(again, events.parse_event(text), at)
        assert again == self.state


class Repairing(AnyOrder):
    plan = plan_with("repairing")


class Strict(AnyOrder):
    plan = plan_with("strict")


for _machine in (Repairing, Strict):
    _machine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestRepairing = Repairing.TestCase
TestStrict = Strict.TestCase
del _machine
