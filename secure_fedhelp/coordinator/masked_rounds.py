"""An attempt at a round with masks: rules 20 to 26 and 30 of rounds.py, pure like them.

The statements are checked here, by the same questions the members ask (secagg/masked/checks.py). Records of shares and
revealed shares are checked where their bytes are (sharing.py), before the event that tells of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.state import Attempt, Dealt, State
from secure_fedhelp.coordinator.transitions import enter, under_quorum
from secure_fedhelp.errors import (
    BadSignature,
    BudgetExhausted,
    KeyCeremonyFailed,
    NotOnRoster,
    ReplayedUpload,
    SplitView,
    UnderQuorum,
    UnmaskingFailed,
    WrongRound,
)
from secure_fedhelp.identity.signing import verify
from secure_fedhelp.secagg.masked.checks import check_dealer, check_key, shape_of
from secure_fedhelp.secagg.masked.member import LARGEST_ATTEMPTS
from secure_fedhelp.secagg.masked.statements import (
    SURVIVORS_CONTEXT,
    Place,
    SharesStatement,
    Signed,
    SurvivorsStatement,
    members_hash,
    view_hash,
)
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.threshold import threshold
from secure_fedhelp.wire.messages import Phase

#: The phases of an attempt in their order.
_ORDER: Final = (
    Phase.ADVERTISING,
    Phase.SHARING,
    Phase.COLLECTING,
    Phase.AGREEING,
    Phase.REVEALING,
    Phase.SUMMING,
)
#: Attempts at a round that a hospital may leave unfinished.
MISSES: Final = 2
_STANDS: Final = "The first one stands. Start the hospital from the folder that sent it."


# -- what a hospital says ---------------------------------------------------------------------------------------------


def post_round_key(plan: StudyPlan, state: State, event: events.RoundKeyPosted) -> State:
    """Rule 21."""
    member, signed = state.member(event.name), Signed(event.statement, event.signature)
    require_place(state, event.round, event.attempt, "a round key")
    standing = state.attempt.keys.get(event.name)
    if standing is not None:
        if standing.statement != signed.statement:
            raise ReplayedUpload(f"{event.name} has already given another key of this attempt", _STANDS)
        return state
    _require_phase(state, Phase.ADVERTISING, "a round key")
    if event.name in state.out:
        raise BudgetExhausted(f"{event.name} has declined for the rest of the study")
    if event.name in state.declines:
        raise ReplayedUpload(f"{event.name} has declined round {state.round}", "Take part again in the next round.")
    if event.name in state.attempt.barred:
        raise WrongRound(
            f"{event.name} has left {MISSES} attempts at this round unfinished", "Wait for the next round."
        )
    if event.name not in state.confirmed:
        raise KeyCeremonyFailed(
            f"{event.name} has not confirmed the key of epoch {state.key_epoch}", "Confirm the key's fingerprint first."
        )
    check_key(signed, place_of(plan, state), event.name, member.signing_key)
    attempt = replace(state.attempt, keys={**state.attempt.keys, event.name: signed})
    return replace(state, attempt=attempt).arrived(event.name)


def wanted_dealing(
    plan: StudyPlan, state: State, name: str, round_number: int, attempt: int, signed: Signed
) -> SharesStatement | None:
    """Rule 22: the checked statement of a dealing that may count now; None if this very one counts already."""
    member = state.member(name)
    require_place(state, round_number, attempt, "a dealing")
    standing = state.attempt.dealt.get(name)
    if standing is not None:
        if standing.signed.statement != signed.statement:
            raise ReplayedUpload(f"{name} has already dealt other shares in this attempt", _STANDS)
        return None
    keys, shape = state.attempt.keys, state.attempt.shape
    if state.phase is not Phase.SHARING or shape is None:
        raise _out_of_phase(state, "a dealing")
    if name not in keys:
        raise WrongRound(f"{name} gave no round key, so it has no part in this attempt", "Wait for the next one.")
    return check_dealer(signed, place_of(plan, state), name, member.signing_key, keys, state.attempt.listed, shape)


def post_shares(plan: StudyPlan, state: State, event: events.SharesPosted) -> State:
    """Rule 22, once the records are checked and stored."""
    signed = Signed(event.statement, event.signature)
    statement = wanted_dealing(plan, state, event.name, event.round, event.attempt, signed)
    if statement is None:
        return state
    dealt = Dealt(signed, frozenset(statement.records), statement.needed)
    attempt = replace(state.attempt, dealt={**state.attempt.dealt, event.name: dealt})
    return replace(state, attempt=attempt).arrived(event.name)


def agree(plan: StudyPlan, state: State, event: events.Agreed) -> State:
    """Rule 24."""
    member = state.member(event.name)
    require_place(state, event.round, event.attempt, "a signature on survivors")
    standing = state.attempt.agreed.get(event.name)
    if standing == event.signature:
        return state
    if _ORDER.index(state.phase) < _ORDER.index(Phase.AGREEING):
        raise _out_of_phase(state, "a signature on survivors")
    _require_survivor(state, event.name)
    try:
        verify(member.signing_key, SURVIVORS_CONTEXT, survivors_of(plan, state).to_bytes(), event.signature)
    except BadSignature as error:
        raise SplitView(f"{event.name} has not signed this list of survivors, but perhaps another") from error
    if standing is not None or state.phase is Phase.SUMMING:
        return state  # some schemes sign the same thing differently each time; and the sum is closed by now
    attempt = replace(state.attempt, agreed={**state.attempt.agreed, event.name: event.signature})
    return replace(state, attempt=attempt).arrived(event.name)


def wanted_reveal(state: State, name: str, round_number: int, attempt: int, reveal_sha256: str) -> bool:
    """Rule 25: whether what a survivor reveals may count now; False if it counts already or is not needed any more."""
    state.member(name)
    require_place(state, round_number, attempt, "a reveal")
    standing = state.attempt.revealed.get(name)
    if standing is not None:
        if standing != reveal_sha256:
            raise ReplayedUpload(f"{name} has already revealed other shares in this attempt", _STANDS)
        return False
    if state.phase is not Phase.SUMMING:
        _require_phase(state, Phase.REVEALING, "a reveal")
    _require_survivor(state, name)
    return state.phase is Phase.REVEALING


def reveal(state: State, event: events.Revealed) -> State:
    """Rule 25, once the shares are checked and stored."""
    if not wanted_reveal(state, event.name, event.round, event.attempt, event.reveal_sha256):
        return state
    attempt = replace(state.attempt, revealed={**state.attempt.revealed, event.name: event.reveal_sha256})
    return replace(state, attempt=attempt).arrived(event.name)


# -- what everybody may ask -------------------------------------------------------------------------------------------


def require_place(state: State, round_number: int, attempt: int, what: str) -> None:
    """WrongRound unless this is the running attempt at the running round; the study's end if it is over."""
    if (round_number, attempt) != state.place:
        raise WrongRound(
            f"{what} of round {round_number}, attempt {attempt}; the study is in round {state.round}, "
            f"attempt {state.attempt.number}"
        )
    if state.over:
        raise state.over_error()
    if state.phase not in _ORDER:
        raise _out_of_phase(state, what)


def require_since(state: State, round_number: int, attempt: int, phase: Phase, what: str) -> None:
    """WrongRound unless the running attempt has come to ``phase``."""
    require_place(state, round_number, attempt, what)
    if _ORDER.index(state.phase) < _ORDER.index(phase):
        raise _out_of_phase(state, what)


def place_of(plan: StudyPlan, state: State) -> Place:
    """The running attempt, as statements name it."""
    return Place(plan.hash, state.round, state.attempt.number)


def survivors_of(plan: StudyPlan, state: State) -> SurvivorsStatement:
    """The list that survivors sign."""
    return SurvivorsStatement(
        study=plan.hash,
        round=state.round,
        attempt=state.attempt.number,
        members=tuple(sorted(state.attempt.keys)),
        survivors={name: upload.header.body_sha256 for name, upload in state.uploads.items()},
        view=state.attempt.view,
    )


def needed(plan: StudyPlan, state: State) -> int:
    """How many must do their part in the running phase of an attempt, for it to go on."""
    minimum = plan.aggregation.minimum_cohort
    if state.phase is Phase.ADVERTISING:
        return minimum
    t = threshold(plan.aggregation.masks, len(state.attempt.keys))
    return t if state.phase is Phase.AGREEING else max(t, minimum)


# -- from phase to phase ----------------------------------------------------------------------------------------------


def advance(plan: StudyPlan, state: State, now: float) -> State:
    """Enter the next phase if nobody is left to wait for, or if what was waited for is there."""
    if state.phase is Phase.REVEALING and not state.attempt.lacking:
        return enter(plan, state, Phase.SUMMING, now)
    if state.phase not in _ORDER or state.phase is Phase.SUMMING:
        return state
    if state.phase is not Phase.REVEALING and not state.awaited and len(state.done) >= needed(plan, state):
        return _next(plan, state, now)
    lacking = state.expected - state.done
    hopeless = state.phase is not Phase.ADVERTISING and lacking and lacking <= state.gone
    return late(plan, state, now) if hopeless else state


def late(plan: StudyPlan, state: State, now: float) -> State:
    """The deadline of a phase has passed: who was silent is absent."""
    silent = state.awaited
    state = replace(state, present=state.present - silent)
    if state.phase is Phase.REVEALING:
        return state.end(_not_unmasked(state))
    enough = needed(plan, state)
    if len(state.done) >= enough:
        return _next(plan, state, now)
    members = len(state.attempt.keys)
    dead = state.phase is Phase.SHARING or threshold(plan.aggregation.masks, members) == members
    if state.phase is Phase.ADVERTISING or not dead:
        return state.end(under_quorum(plan, state, state.done, enough))
    return _try_again(plan, state, now)


def _next(plan: StudyPlan, state: State, now: float) -> State:
    attempt = state.attempt
    match state.phase:
        case Phase.ADVERTISING:
            shape = shape_of(plan.aggregation.masks, attempt.keys)
            attempt = replace(attempt, listed=members_hash(attempt.keys), shape=shape)
        case Phase.SHARING:
            statements = {name: dealt.signed.statement for name, dealt in attempt.dealt.items()}
            attempt = replace(attempt, view=view_hash(attempt.keys, statements))
        case _:
            pass
    return enter(plan, replace(state, attempt=attempt), _ORDER[_ORDER.index(state.phase) + 1], now)


def _try_again(plan: StudyPlan, state: State, now: float) -> State:
    """Rule 26. Nothing of the attempt before can be opened any more: see ``late``, and member.py on retries."""
    following, minimum = state.attempt.number + 1, plan.aggregation.minimum_cohort
    if following >= LARGEST_ATTEMPTS:
        return state.end(UnderQuorum(f"{following} attempts at round {state.round + 1} have failed"))
    here = state.active - state.declines.keys()
    if len(here) < minimum:
        return state.end(under_quorum(plan, state, here))
    missed = {n: state.attempt.missed.get(n, 0) + (n in state.expected - state.done) for n in sorted(state.members)}
    barred = frozenset(name for name, times in missed.items() if times >= MISSES)
    attempt = Attempt(following, missed, barred if len(here - barred) >= minimum else frozenset())
    return enter(plan, replace(state, attempt=attempt, uploads={}), Phase.ADVERTISING, now)


def _not_unmasked(state: State) -> UnmaskingFailed:
    silent = ", ".join(sorted(state.uploads.keys() - state.attempt.revealed.keys())) or "nobody"
    return UnmaskingFailed(
        f"round {state.round + 1}, attempt {state.attempt.number + 1}: {len(state.attempt.revealed)} of "
        f"{len(state.uploads)} hospitals revealed their shares, too few for those of "
        f"{', '.join(sorted(state.attempt.lacking))}; missing: {silent}"
    )


def _require_phase(state: State, phase: Phase, what: str) -> None:
    if state.phase is not phase:
        raise _out_of_phase(state, what)


def _require_survivor(state: State, name: str) -> None:
    if name not in state.uploads:
        raise NotOnRoster(
            f"{name} has no upload in this attempt, so it has no say in unmasking it", "Wait for the next."
        )


def _out_of_phase(state: State, what: str) -> WrongRound:
    return WrongRound(f"{what}, while the study is {state.phase.value} for round {state.round}")
