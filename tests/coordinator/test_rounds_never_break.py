"""Whatever arrives in whatever order, the invariants of a study hold, and the stored events give the same state."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from members import FINGERPRINT, Hospital
from plans import example_plan

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.admission import Constants
from secure_fedhelp.coordinator.publication import transcript_entry
from secure_fedhelp.coordinator.rounds import Rounds
from secure_fedhelp.coordinator.state import public_state
from secure_fedhelp.errors import FedHelpError
from secure_fedhelp.secagg.profiles import profile
from secure_fedhelp.secagg.versions import TENSEAL_VERSION
from secure_fedhelp.wire.messages import Phase

NAMES = ("alpha", "beta", "gamma", "delta")
MINIMUM = 2
PLAN = example_plan(
    hospitals=[{"name": n, "tier": "small", "nominal_patients": 40} for n in NAMES],
    study__rounds=4,
    aggregation__minimum_cohort=MINIMUM,
    aggregation__key_epoch_rounds=2,
)
BODY_BYTES = profile("standard").body_bytes(PLAN.largest_length)
BODIES = (b"1" * BODY_BYTES, b"2" * BODY_BYTES)
RULES = Rounds(Constants(PLAN, TENSEAL_VERSION))
#: One set of keys for all examples: making and signing is what costs time.
HOSPITALS = {name: Hospital(PLAN, name) for name in NAMES}

names = st.sampled_from(NAMES)
numbers = st.integers(0, 4)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.before = self.state = RULES.start(self.now)
        self.kept: list[tuple[str, float]] = []
        self.cohorts: list[set[str]] = []

    def do(self, event: events.Event) -> None:
        self.before = self.state
        try:
            self.state = RULES.apply(self.state, event, self.now)
        except FedHelpError:
            return
        if self.state is not self.before:
            self.kept.append((events.event_json(RULES.record(self.before, event, self.state)), self.now))

    def place(self) -> dict[str, object]:
        """What a header says of where the study is."""
        return {"round": self.state.round, "key_epoch": self.state.key_epoch, "previous": self.state.previous}

    @rule(steps=st.integers(1, 8))
    def things_go_well(self, steps: int) -> None:
        """What a study does if nobody fails; without it, random events alone rarely get past the first key."""
        for _ in range(steps):
            place = {**self.place(), "ledger_entries": 9}
            if self.state.phase is Phase.SUMMING:
                self.publish()
            elif self.state.phase is Phase.KEYING and not self.state.fingerprint:
                self.post_key(NAMES[0], True, 0)
            else:
                for name in NAMES:
                    self.join(name)
                    self.confirm(name, 1)
                    self.do(HOSPITALS[name].uploaded(BODIES[0], **place))

    @rule(name=names)
    def join(self, name: str) -> None:
        self.do(HOSPITALS[name].joined())

    @rule(name=names, maker=st.booleans(), epoch=numbers)
    def post_key(self, name: str, maker: bool, epoch: int) -> None:
        name = self.state.maker if maker and self.state.maker else name
        recipients = tuple(self.state.keyed - {name})
        epoch = self.state.key_epoch if maker else epoch
        self.do(HOSPITALS[name].posted(epoch).model_copy(update={"recipients": recipients}))

    @rule(name=names, right=st.integers(0, 30))
    def confirm(self, name: str, right: int) -> None:
        self.do(HOSPITALS[name].confirmed(self.state.key_epoch, FINGERPRINT if right else "0" * 64))

    @rule(name=names, body=st.integers(0, 1), now=st.booleans(), number=numbers, entries=st.integers(0, 3))
    def upload(self, name: str, body: int, now: bool, number: int, entries: int) -> None:
        number = self.state.round if now else number
        place = {**self.place(), "round": number, "ledger_entries": number + entries}
        self.do(HOSPITALS[name].uploaded(BODIES[body], **place))

    @rule(name=names, final=st.booleans())
    def decline(self, name: str, final: bool) -> None:
        self.do(HOSPITALS[name].declined(self.state.round, "BudgetExhausted" if final else "maintenance"))

    @rule(name=names)
    def leave(self, name: str) -> None:
        self.do(events.Left(name=name))

    @rule(name=names)
    def withdraw(self, name: str) -> None:
        """After it nobody waits for this hospital: a study in which only it is lacking is not where it was."""
        self.do(events.Withdrew(name=name))
        if not self.state.over and name not in self.state.out:
            assert name not in self.state.awaited
            if self.state.phase is Phase.GATHERING:
                assert len(self.state.gone) <= len(NAMES) - MINIMUM

    @rule(seconds=st.sampled_from((1.0, 100.0, 600.0, 3600.0)))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.do(events.Ticked())

    @rule()
    def restart(self) -> None:
        self.do(events.Restarted())

    @precondition(lambda self: self.state.phase is Phase.SUMMING)
    @rule()
    def publish(self) -> None:
        entry = transcript_entry(PLAN, self.state, "0" * 64, 1)
        cohort = [upload["header"]["hospital"] for upload in entry["cohort"]]
        assert len(cohort) == len(set(cohort)) >= MINIMUM
        assert entry["round"] == len(self.cohorts)
        declined = {d["hospital"] for d in entry["declined"]}
        assert not declined & set(cohort), "nobody both declines and counts"
        assert set(cohort) | declined | set(entry["absent"]) | self.state.out == set(NAMES), "nobody is forgotten"
        self.cohorts.append(set(cohort))
        self.do(events.Published(round=self.state.round, line=str(entry).encode()))

    @invariant()
    def versions_and_rounds_only_grow(self) -> None:
        assert self.state.version - self.before.version in (0, 1)
        assert self.state.round - self.before.round in (0, 1)
        assert self.state.key_epoch - self.before.key_epoch in (0, 1)
        assert self.before.out <= self.state.out
        assert self.before.members.keys() <= self.state.members.keys() or self.state.phase is Phase.GATHERING

    @invariant()
    def what_is_over_stays_over_unless_it_never_began(self) -> None:
        if self.before.over and self.state.phase is not self.before.phase:
            assert self.state.phase is Phase.GATHERING
            assert self.before.reason.startswith("HospitalsLeft")
            assert (self.before.maker, self.before.round, self.before.confirmed) == ("", 0, {})
        if self.state.phase is Phase.FINISHED:
            assert self.state.round == PLAN.study.rounds == len(self.cohorts)
        assert bool(self.state.reason) == (self.state.phase is Phase.ENDED)

    @invariant()
    def a_closed_round_has_its_quorum(self) -> None:
        if self.state.phase is Phase.SUMMING:
            assert len(self.state.uploads) >= MINIMUM

    @invariant()
    def who_counts_has_joined_and_confirmed(self) -> None:
        assert self.state.uploads.keys() <= self.state.confirmed.keys() <= self.state.members.keys()
        assert self.state.present <= self.state.members.keys()
        assert not self.state.present & self.state.gone

    @invariant()
    def nobody_waits_for_a_cohort_that_cannot_come(self) -> None:
        if self.state.phase in (Phase.KEYING, Phase.COLLECTING):
            assert len(self.state.possible) >= MINIMUM

    @invariant()
    def the_version_is_what_members_see(self) -> None:
        assert public_state(PLAN, self.state).version == self.state.version

    def teardown(self) -> None:
        """A journal of the accepted events gives exactly this state again."""
        again = RULES.start(0.0)
        for text, at in self.kept:
            again = RULES.apply(again, events.parse_event(text), at)
        assert again == self.state


AnyOrder.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase
