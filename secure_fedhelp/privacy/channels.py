"""What each channel of a round may carry: the gate lets nothing else through it, and an audit asks the same again."""

from __future__ import annotations

from secure_fedhelp.privacy.entries import How, Proof
from secure_fedhelp.study.plan import StudyPlan


def objection(plan: StudyPlan, round_number: int, name: str, proof: Proof) -> str | None:
    """Why ``proof`` does not fit what the plan declares a channel of this round for; None if it does.

    ``public`` fits every channel and means zeros, which the gate checks. Noise pays for one answer: a gaussian channel
    comes from its own event and no other, or two channels would be let out for the price of one.
    """
    if proof.mechanism == "public":
        return None
    if proof.mechanism != _allowed(plan, name):
        return f"channel {name} is not declared for {proof.mechanism}"
    if proof.mechanism == "gaussian":
        own, events = f"event:{_own_event(plan, round_number, name)}", _events(proof)
        if events != [own]:
            return f"channel {name} comes from {', '.join(events) or 'no event'}, its noise is {own}"
    return None


def _allowed(plan: StudyPlan, name: str) -> How:
    declared = plan.channel(name).mechanism
    if declared != "counts":
        return declared
    return "pooled-exact" if plan.metrics is not None and plan.metrics.release == "pooled" else "gaussian"


def _own_event(plan: StudyPlan, round_number: int, name: str) -> int:
    """The place of a gaussian channel's event among the round's (privacy/mechanisms.py): after the training's."""
    if round_number == plan.measuring_round:
        return 0
    return 1 + [n for n in plan.lengths(round_number) if plan.channel(n).mechanism == "gaussian"].index(name)


def _events(proof: Proof) -> list[str]:
    return [source for source in proof.derived_from if source.startswith("event:")]
