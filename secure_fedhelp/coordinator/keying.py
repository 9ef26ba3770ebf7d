"""The study key of an epoch: rules 5 to 8 of rounds.py, pure like them."""

from __future__ import annotations

from dataclasses import replace

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.state import State
from secure_fedhelp.coordinator.transitions import deadline, enter, require_text, start_round, under_quorum
from secure_fedhelp.errors import BudgetExhausted, KeyCeremonyFailed, ProtocolError, WrongRound
from secure_fedhelp.identity.signing import verify
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import KEY_CONTEXT, Phase, key_statement


def start_keying(plan: StudyPlan, state: State, now: float) -> State:
    """Wait for the epoch's key from its first maker."""
    state = replace(state, maker="", fingerprint="", confirmed={})
    return _choose_maker(plan, enter(plan, state, Phase.KEYING, now), now)


def post_key(plan: StudyPlan, state: State, event: events.KeyPosted, now: float) -> State:
    """Rule 6."""
    state.member(event.name)
    if state.over:
        raise state.over_error()
    if state.phase is Phase.GATHERING or event.epoch != state.key_epoch:
        raise WrongRound(f"a key for epoch {event.epoch}, the study is {state.phase.value} in {state.key_epoch}")
    if event.name != state.maker:
        raise WrongRound(f"the key of epoch {event.epoch} is made by {state.maker}, not by {event.name}")
    if state.fingerprint:
        if event.fingerprint != state.fingerprint:
            raise KeyCeremonyFailed(f"{event.name} has already posted another key for epoch {event.epoch}")
        return state
    require_text(event.fingerprint, "a fingerprint")
    if sorted(event.recipients) != sorted(state.keyed - {event.name}):
        raise ProtocolError("the key must be sealed to each other member that has not left for good, once")
    return replace(state, fingerprint=event.fingerprint, deadline=deadline(plan, Phase.KEYING, now))


def confirm_key(plan: StudyPlan, state: State, event: events.KeyConfirmed) -> State:
    """Rule 7."""
    member = state.member(event.name)
    if state.over:
        raise state.over_error()
    if event.epoch != state.key_epoch or not state.fingerprint:
        raise WrongRound(f"no key of epoch {event.epoch} waits for a confirmation")
    require_text(event.fingerprint, "a fingerprint")
    verify(member.signing_key, KEY_CONTEXT, key_statement(plan.hash, event.epoch, event.fingerprint), event.signature)
    if event.name in state.out and event.name not in state.confirmed:
        raise BudgetExhausted(f"{event.name} has declined for the rest of the study and gets no key any more")
    if event.fingerprint != state.fingerprint:
        error = KeyCeremonyFailed(
            f"{event.name} holds key {event.fingerprint[:16]} of epoch {event.epoch}, "
            f"{state.maker} posted key {state.fingerprint[:16]}"
        )
        if state.phase is not Phase.KEYING or event.name in state.confirmed:
            raise error
        return state.end(error)
    if event.name in state.confirmed:
        return state.arrived(event.name)
    return replace(state, confirmed={**state.confirmed, event.name: event.signature}).arrived(event.name)


def late(plan: StudyPlan, state: State, now: float) -> State:
    """The deadline has passed: who was silent is absent."""
    silent = state.active - state.confirmed.keys() if state.fingerprint else {state.maker}
    state = replace(state, present=state.present - silent)
    if len(state.active) < plan.aggregation.minimum_cohort:
        return state.end(under_quorum(plan, state, state.active))
    return start_round(plan, state, now) if state.fingerprint else state


def advance(plan: StudyPlan, state: State, now: float) -> State:
    """Go on without waiting: to the next maker if this one is lost, to the round if all have confirmed."""
    if not state.fingerprint and state.maker not in state.active:
        return _choose_maker(plan, state, now)
    enough = len(state.active) >= plan.aggregation.minimum_cohort
    return start_round(plan, state, now) if enough and state.active <= state.confirmed.keys() else state


def _choose_maker(plan: StudyPlan, state: State, now: float) -> State:
    """The first active hospital in the plan's order; without any, the deadline runs on and ends the study."""
    maker = next((h.name for h in plan.hospitals if h.name in state.active), "")
    return replace(state, maker=maker, deadline=deadline(plan, Phase.KEYING, now) if maker else state.deadline)
