"""What the rules of several phases share: how a phase begins, how long it lasts, and the error of too few."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from secure_fedhelp.coordinator.state import NO_DEADLINE, Attempt, State
from secure_fedhelp.errors import HospitalsLeft, ProtocolError, UnderQuorum
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import Phase

_TEXT_LENGTH = 128


def deadline(plan: StudyPlan, phase: Phase, now: float) -> float:
    """When a phase that begins ``now`` is over at the latest."""
    match phase:
        case Phase.GATHERING:
            return now + plan.aggregation.gather_deadline_seconds
        case Phase.KEYING | Phase.ADVERTISING | Phase.COLLECTING:
            return now + plan.aggregation.round_deadline_seconds
        case Phase.SHARING | Phase.AGREEING | Phase.REVEALING:
            return now + plan.aggregation.answer_deadline_seconds
        case _:
            return NO_DEADLINE


def enter(plan: StudyPlan, state: State, phase: Phase, now: float) -> State:
    """The same study at the beginning of a phase."""
    return replace(state, phase=phase, deadline=deadline(plan, phase, now))


def start_round(plan: StudyPlan, state: State, now: float) -> State:
    """The first phase of a round, once its study key is there."""
    first = Phase.COLLECTING if plan.aggregation.masks == "none" else Phase.ADVERTISING
    return enter(plan, replace(state, attempt=Attempt(), uploads={}), first, now)


def under_quorum(plan: StudyPlan, state: State, here: frozenset[str], needed: int = 0) -> UnderQuorum:
    """``here`` are fewer than ``needed``, or than the smallest cohort; names who is missing."""
    names = {h.name for h in plan.hospitals}
    missing = names - here - state.out - state.declines.keys() - state.gone
    message = (
        f"{len(here)} of at least {needed or plan.aggregation.minimum_cohort} hospitals while {state.phase.value} "
        f"for round {state.round + 1}; missing: {_names(missing) or 'nobody'}"
    )
    return UnderQuorum(message + _out_or_gone(state, names - here))


def too_few_possible(plan: StudyPlan, state: State, possible: frozenset[str]) -> UnderQuorum:
    """``possible`` are all that can still come, and too few: HospitalsLeft, naming those that have left, if any has."""
    if not state.gone:
        return under_quorum(plan, state, possible)
    return HospitalsLeft(
        f"{len(possible)} hospitals can take part in round {state.round + 1}, at least "
        f"{plan.aggregation.minimum_cohort} are needed" + _out_or_gone(state, state.gone)
    )


def _out_or_gone(state: State, among: Collection[str]) -> str:
    declined, left = state.out | state.declines.keys(), state.gone.intersection(among) - state.out
    return (f"; declined: {_names(declined)}" if declined else "") + (f"; left: {_names(left)}" if left else "")


def _names(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def require_text(text: str, what: str) -> None:
    """Short and printable, so that it can stand in a message, a log and a transcript; ProtocolError otherwise."""
    if not text or len(text) > _TEXT_LENGTH or not text.isascii() or not text.isprintable():
        raise ProtocolError(f"not {what}: {text[:_TEXT_LENGTH]!r}")
