"""What happened, in a few words for the coordinator's operator. Rounds, attempts and epochs count from 1 for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.state import State, absent_names
from secure_fedhelp.secagg.masked.graph import graph
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.threshold import active_coalition, passive_coalition, threshold
from secure_fedhelp.wire.messages import ENDED_WORDS, Phase


def describe(plan: StudyPlan, before: State, event: events.Event, after: State) -> list[str]:
    """Lines for a person about one accepted event and the change of phase that followed, if any."""
    lines = [_event_line(plan, event, after)]
    if before.phase is Phase.GATHERING and after.phase is Phase.KEYING:
        lines.append(masks_line(plan, len(after.members)))
    if after.maker != before.maker and after.maker:
        lines.append(f"key epoch {after.key_epoch + 1}: {after.maker} makes the study key")
    if after.round == before.round and after.attempt.number != before.attempt.number:
        lines.append(f"{_where(before)} ended with nothing opened: {_why(before)}; trying again")
    if (after.phase, after.place) != (before.phase, before.place):
        lines.append(_phase_line(plan, after))
    newly_absent = set(absent_names(plan, after)) - set(absent_names(plan, before))
    if newly_absent and not isinstance(event, events.Left | events.Withdrew):
        lines.append(f"absent: {_names(newly_absent)}")
    return [line for line in lines if line]


def masks_line(plan: StudyPlan, members: int) -> str:
    """What the masks of a round with so many hospitals can repair and which coalitions they stand."""
    masks = plan.aggregation.masks
    if masks == "none":
        return "masks: none; the coordinator together with any one hospital could open every upload"
    shape, needed = graph(masks, members), threshold(masks, members)
    chance = "no chance involved" if shape.failure_bits == math.inf else f"failing at most 2^-{shape.failure_bits:.0f}"
    return (
        f"masks: {masks}; of {members} hospitals {needed} must stay to the end, each secret is shared with k = "
        f"{shape.neighbours} and rebuilt by h = {shape.holders_needed} ({chance}); stands "
        f"{active_coalition(masks, members)} hospitals beside a coordinator that lies, "
        f"{passive_coalition(masks, members)} beside one that follows the rules "
        f"({plan.coalition[1]} and {plan.coalition[0]} in the smallest round)"
    )


def _event_line(plan: StudyPlan, event: events.Event, after: State) -> str:
    match event:
        case events.Joined():
            return f"{event.name} joined ({len(after.present)} of {len(plan.hospitals)} present)"
        case events.KeyPosted():
            return f"{event.name} posted the study key (fingerprint {event.fingerprint[:16]})"
        case events.KeyConfirmed():
            return f"{event.name} confirmed key {event.fingerprint[:16]}"
        case events.RoundKeyPosted():
            return f"{event.name} is ready"
        case events.Uploaded():
            return f"{event.name} uploaded"
        case events.Declined():
            return f"{event.name} declined round {event.round + 1}: {event.reason}"
        case events.Published():
            return f"round {event.round + 1} of {plan.study.rounds} published"
        case events.Left():
            return f"{event.name} said goodbye"
        case events.Withdrew():
            return f"{event.name} says that it does not take part; its own log says why"
        case _:
            return ""


def _phase_line(plan: StudyPlan, after: State) -> str:
    attempt, uploads = after.attempt, len(after.uploads)
    match after.phase:
        case Phase.ADVERTISING:
            return f"{_where(after)}: waiting until {_names(after.awaited)} are ready"
        case Phase.SHARING:
            return f"{_where(after)}: {len(attempt.keys)} of {len(plan.hospitals)} hospitals take part"
        case Phase.COLLECTING if attempt.dealt:
            return f"{_where(after)}: {len(attempt.dealt)} of {len(attempt.keys)} hospitals shared"
        case Phase.COLLECTING:
            return f"round {after.round + 1} of {plan.study.rounds}: waiting for {_names(after.awaited)}"
        case Phase.AGREEING:
            lost = attempt.dealt.keys() - after.uploads.keys()
            repair = f"; repairing: {_names(lost)} left after uploading nothing" if lost else ""
            return f"{_where(after)}: {uploads} of {len(attempt.dealt)} hospitals uploaded{repair}"
        case Phase.REVEALING:
            return f"{_where(after)}: {len(attempt.agreed)} of {uploads} hospitals agreed on what is added"
        case Phase.SUMMING if attempt.revealed:
            return f"{_where(after)}: {len(attempt.revealed)} of {uploads} hospitals revealed; unmasking the sum"
        case Phase.SUMMING:
            return f"round {after.round + 1}: adding {uploads} uploads"
        case Phase.FINISHED:
            return "the study has finished"
        case Phase.ENDED:
            return f"{ENDED_WORDS}{after.reason}"
        case _:
            return f"phase: {after.phase.value}"


def _where(state: State) -> str:
    return f"round {state.round + 1}, attempt {state.attempt.number + 1}"


def _why(before: State) -> str:
    """What an attempt lacked when its deadline passed."""
    missing = _names(before.expected - before.done)
    match before.phase:
        case Phase.SHARING:
            return f"{missing} dealt no shares"
        case Phase.COLLECTING:
            return f"{missing} uploaded nothing, and all are needed"
        case _:
            return f"{missing} did not agree on what is added, and all are needed"


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nobody"
