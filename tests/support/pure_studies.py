"""Studies of the coordinator's rules alone, with hospitals that follow theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import pytest
from members import Hospital

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.admission import Constants
from secure_fedhelp.coordinator.masked_rounds import survivors_of
from secure_fedhelp.coordinator.rounds import Rounds
from secure_fedhelp.coordinator.sharing import check_reveal, deliveries
from secure_fedhelp.coordinator.state import State
from secure_fedhelp.errors import FedHelpError
from secure_fedhelp.secagg.masked.member import MaskKeys, Member, Setting
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.versions import TENSEAL_VERSION
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import Phase


class PureStudy:
    """A study in the making, without disk or network: applies events at a settable time."""

    def __init__(self, plan: StudyPlan, *joining: str) -> None:
        self.plan = plan
        self.rules = Rounds(Constants(plan, TENSEAL_VERSION))
        self.hospitals = {h.name: Hospital(plan, h.name) for h in plan.hospitals}
        self.now = 0.0
        self.state = self.rules.start(self.now)
        for name in joining:
            self.do(self.hospitals[name].joined())

    def do(self, event: events.Event) -> State:
        self.state = self.rules.apply(self.state, event, self.now)
        return self.state

    def refuses(self, event: events.Event, error: type[FedHelpError], match: str | None = None) -> None:
        with pytest.raises(error, match=match) as caught:
            self.rules.apply(self.state, event, self.now)
        assert type(caught.value) is error

    def is_quiet(self, event: events.Event) -> None:
        assert self.rules.apply(self.state, event, self.now) is self.state

    def late(self) -> State:
        self.now = self.state.deadline
        return self.do(events.Ticked())

    def keyed(self, *confirming: str) -> Self:
        epoch = self.state.key_epoch
        recipients = tuple(self.state.keyed - {self.state.maker})
        posted = self.hospitals[self.state.maker].posted(epoch)
        self.do(posted.model_copy(update={"recipients": recipients}))
        for name in confirming or self.state.active:
            self.do(self.hospitals[name].confirmed(epoch))
        return self

    @property
    def place(self) -> dict[str, object]:
        """What an upload's header says of where the study is."""
        return {"round": self.state.round, "key_epoch": self.state.key_epoch, "previous": self.state.previous}

    def publish(self, line: bytes = b"line") -> State:
        return self.do(events.Published(round=self.state.round, line=line))


class MaskedStudy(PureStudy):
    """The same with masks: each step for the hospitals named (all that can, if none is), by their own honest code.

    What a hospital says is made from what the coordinator's state would show it, and nothing is said twice unless a
    test does.
    """

    def __init__(self, plan: StudyPlan, *joining: str) -> None:
        super().__init__(plan, *joining)
        self._masking: dict[tuple[str, int], Member] = {}
        self.records: dict[tuple[int, int], dict[str, Mapping[str, bytes]]] = {}
        self.bodies: dict[tuple[int, int], dict[str, bytes]] = {}
        self.reveals: dict[tuple[int, int], dict[str, bytes]] = {}

    def member(self, name: str) -> Member:
        """The hospital's own part in the running round."""
        key = name, self.state.round
        if key not in self._masking:
            section = self.plan.aggregation
            setting = Setting(self.plan.hash, section.masks, section.minimum_cohort)
            publics = {n: h.key.public_hex for n, h in self.hospitals.items()}
            self._masking[key] = Member(setting, key[1], name, self.hospitals[name].key, publics)
        return self._masking[key]

    @property
    def at(self) -> dict[str, int]:
        return {"round": self.state.round, "attempt": self.state.attempt.number}

    def key_event(self, name: str) -> events.RoundKeyPosted:
        signed = self.member(name).key(self.state.attempt.number)
        return events.RoundKeyPosted(name=name, **self.at, statement=signed.statement, signature=signed.signature)

    def shares_event(self, name: str) -> events.SharesPosted:
        dealing = self.member(name).share(self.state.attempt.number, self.state.attempt.keys)
        self.records.setdefault(self.state.place, {})[name] = dealing.records
        signed = dealing.signed
        return events.SharesPosted(name=name, **self.at, statement=signed.statement, signature=signed.signature)

    def held_by(self, name: str) -> dict[str, bytes]:
        """The records for a holder by dealer, as they would lie beside the journal."""
        dealt = self.records.get(self.state.place, {})
        return {d: dealt[d][name] for d in self.state.attempt.dealt if name in dealt[d]}

    def upload_event(self, name: str, **changes: object) -> events.Uploaded:
        masks = self.member(name).mask(self.state.attempt.number, deliveries(self.state, self.held_by(name)))
        body = self.bodies.setdefault(self.state.place, {})[name] = self.masked(name, masks)
        values = {**self.place, "attempt": self.state.attempt.number, "view": masks.view} | changes
        return self.hospitals[name].uploaded(body, **values)

    def masked(self, name: str, masks: MaskKeys) -> bytes:
        """The body to upload: right in length; the rules never look inside."""
        size = plan_profile(self.plan).body_bytes(self.plan.largest_length)
        return f"{name} {self.state.place} ".encode().ljust(size, b".")

    def agreed_event(self, name: str) -> events.Agreed:
        survivors = survivors_of(self.plan, self.state).survivors
        signature = self.member(name).agree(self.state.attempt.number, survivors, self.body_sha256(name))
        return events.Agreed(name=name, **self.at, signature=signature)

    def body_sha256(self, name: str) -> str:
        return sha256_hex(self.bodies[self.state.place][name])

    def revealed_event(self, name: str) -> events.Revealed:
        self.agreed_event(name)  # a hospital that was away signs now
        data = self.member(name).reveal(self.state.attempt.number, self.state.attempt.agreed)
        check_reveal(self.plan, self.state, name, data, self.held_by(name))
        self.reveals.setdefault(self.state.place, {})[name] = data
        return events.Revealed(name=name, **self.at, reveal_sha256=sha256_hex(data))

    def step(self, *names: str) -> State:
        """What the running phase asks of these hospitals, or of all that are waited for."""
        make = {
            Phase.ADVERTISING: self.key_event,
            Phase.SHARING: self.shares_event,
            Phase.COLLECTING: self.upload_event,
            Phase.AGREEING: self.agreed_event,
            Phase.REVEALING: self.revealed_event,
        }[self.state.phase]
        for name in names or sorted(self.state.awaited):
            self.do(make(name))
        return self.state

    def until(self, phase: Phase, *names: str) -> Self:
        """Go on with these hospitals (or all) until ``phase``; who is not named is late where that is needed."""
        while self.state.phase is not phase:
            before = self.state.phase
            for name in sorted(self.state.awaited & set(names) if names else self.state.awaited):
                if self.state.phase is before:
                    self.step(name)
            if self.state.phase is before:
                self.late()
            assert phase is self.state.phase or not self.state.over, self.state.reason
        return self
