"""What happened, in a few words for the coordinator's operator. Rounds count from 1 for people."""

from __future__ import annotations

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.state import State, absent_names
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import Phase


def describe(plan: StudyPlan, before: State, event: events.Event, after: State) -> list[str]:
    """Lines for a person about one accepted event and the change of phase that followed, if any."""
    lines = [_event_line(plan, event, after)]
    if after.maker != before.maker and after.maker:
        lines.append(f"key epoch {after.key_epoch + 1}: {after.maker} makes the study key")
    if (after.phase, after.round) != (before.phase, before.round):
        lines.append(_phase_line(plan, after))
    newly_absent = set(absent_names(plan, after)) - set(absent_names(plan, before))
    if newly_absent and not isinstance(event, events.Left):
        lines.append(f"absent: {', '.join(sorted(newly_absent))}")
    return [line for line in lines if line]


def _event_line(plan: StudyPlan, event: events.Event, after: State) -> str:
    match event:
        case events.Joined():
            return f"{event.name} joined ({len(after.present)} of {len(plan.hospitals)} present)"
        case events.KeyPosted():
            return f"{event.name} posted the study key (fingerprint {event.fingerprint[:16]})"
        case events.KeyConfirmed():
            return f"{event.name} confirmed key {event.fingerprint[:16]}"
        case events.Uploaded():
            return f"{event.name} uploaded"
        case events.Declined():
            return f"{event.name} declined round {event.round + 1}: {event.reason}"
        case events.Published():
            return f"round {event.round + 1} of {plan.study.rounds} published"
        case events.Left():
            return f"{event.name} said goodbye"
        case _:
            return ""


def _phase_line(plan: StudyPlan, after: State) -> str:
    match after.phase:
        case Phase.COLLECTING:
            return f"round {after.round + 1} of {plan.study.rounds}: waiting for {', '.join(sorted(after.awaited))}"
        case Phase.SUMMING:
            return f"round {after.round + 1}: adding {len(after.uploads)} uploads"
        case Phase.FINISHED:
            return "the study has finished"
        case Phase.ENDED:
            return f"the study has ended: {after.reason}"
        case _:
            return f"phase: {after.phase.value}"
