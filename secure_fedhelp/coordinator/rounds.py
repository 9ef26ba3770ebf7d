"""The rules of a study, as one pure state machine: a state and an event in, a new state or a named error out.

No gRPC, files, torch or clock: ``now`` (unix seconds) is passed in, and stored bodies are told of by events. An error
leaves the state as it was. An event that changes nothing returns the same state object, so it is neither stored nor
announced. "Active" hospitals are present and not out for good.

    gathering -> keying -> collecting -> summing -> collecting | keying | finished
    gathering, keying and collecting can turn into ended, with a reason; everything is kept

Joining
 1. A hospital of the plan joins with its checked card while the study is gathering. Coming later for the first time is
    refused (StudyAlreadyStarted), because the study key is sealed to the members of the start.
 2. A member that comes again with the same keys is present again, in any phase. If the certificate of its card ends
    later than the stored card's (it was renewed), the new card takes the old one's place, so that whoever fetches the
    cards later gets a valid one. Other keys under its name, or its signing key under another name, are refused
    (DuplicateHospital). Sealing keys may be the same: they are public, and a card does not prove that its maker can
    open what is sealed, so the first to copy one could keep its owner out.
 3. Gathering ends when all hospitals of the plan are present, or at its deadline with at least ``minimum_cohort``;
    with fewer the study ends (UnderQuorum).
 4. A member that says goodbye is absent until it joins again. An accepted upload or confirmation also makes present.
    After GOODBYES of them a member's goodbyes change nothing (it is absent at the next deadline): the journal keeps
    every change, and nobody shall fill the disk with them. For the same reason it keeps a return without the card.

The study key of an epoch
 5. The key maker is the first active hospital in the plan's order. If it is lost before it posted (deadline, goodbye),
    the next one makes the key and time counts anew.
 6. It posts one sealed key for each other member, present or not, and a fingerprint. The first posting stands: the
    same fingerprint again is accepted quietly, another is refused (KeyCeremonyFailed). Time counts anew.
 7. Every member confirms the fingerprint, signed. A *differing* fingerprint during keying ends the study
    (KeyCeremonyFailed): two hospitals hold different keys, so somebody between them lies. One from a member that has
    already confirmed, or that comes after keying, is only refused (KeyCeremonyFailed): the others' key is agreed, and
    one member that says this and then that shall not end their study.
 8. Collecting starts when all active hospitals, at least ``minimum_cohort``, have confirmed; at the deadline those who
    have not are absent, and with too few left the study ends (UnderQuorum).

A round
 9. A round closes when all active hospitals have uploaded or declined and at least ``minimum_cohort`` have uploaded,
    or at its deadline: who did nothing is then absent, so a hospital that never returns costs one deadline, not one a
    round. Under the quorum it waits until the deadline for absent ones to come back; then the study ends
    (UnderQuorum, naming who is missing).
10. A signed decline counts for its round; with the reason BudgetExhausted for all rounds that follow. When declines
    leave fewer than ``minimum_cohort`` members the study ends at once (UnderQuorum), before the others train and
    spend privacy for a sum that cannot come.
11. A closed round is summed and published outside; the event Published (once, for that round) opens the next one,
    after a new study key every ``key_epoch_rounds``, or finishes the study.

An upload's header (admission.py)
12. names the caller, who joined, and has the caller's signature (NotOnRoster, IdentityError, BadSignature);
13. is for this study (PlanChanged), for the running round and epoch, and follows the last published transcript line
    (WrongRound);
14. counts once: the same body again is accepted quietly, another is refused (ReplayedUpload), as is one after a decline
    (ReplayedUpload, or BudgetExhausted if that was final);
15. comes after the caller's confirmation of the epoch's key, and names that key (KeyCeremonyFailed), so that a sum has
    one key;
16. has the plan's profile and weight and the pinned TenSEAL (CiphertextWrongParameters, VersionMismatch);
17. has exactly the plan's length (CiphertextWrongLength, MessageTooLarge);
18. witnesses a ledger that only grew (LedgerInvalid).

Restarts
19. After a restart of the coordinator the running deadline counts anew: while it was down nobody could be heard, and a
    hospital must not become absent for a silence that was the coordinator's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.admission import Constants, admit
from secure_fedhelp.coordinator.state import NO_DEADLINE, Member, SignedDecline, SignedHeader, State
from secure_fedhelp.errors import (
    DuplicateHospital,
    KeyCeremonyFailed,
    NotOnRoster,
    ProtocolError,
    ReplayedUpload,
    StudyAlreadyStarted,
    UnderQuorum,
    WrongRound,
)
from secure_fedhelp.identity.signing import verify
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import (
    DECLINE_CONTEXT,
    FINAL_REASON,
    KEY_CONTEXT,
    Phase,
    decline_statement,
    key_statement,
)

#: Goodbyes of one member that count.
GOODBYES = 1000
_TEXT_LENGTH = 128


@dataclass(frozen=True)
class Rounds:
    """The rules of one study. :meth:`start` gives the first state, :meth:`apply` every other."""

    constants: Constants

    @property
    def plan(self) -> StudyPlan:
        return self.constants.plan

    def start(self, now: float) -> State:
        return State(phase=Phase.GATHERING, deadline=now + self.plan.aggregation.gather_deadline_seconds)

    def apply(self, state: State, event: events.Event, now: float) -> State:
        """The state after ``event``; the same object if nothing changed. Raises a FedHelpError if it is refused."""
        changed = self._dispatch(state, event, now)
        if changed is state:
            return state
        return replace(self._advance(changed, now), version=state.version + 1)

    def record(self, before: State, event: events.Event, after: State) -> events.Event:
        """What to keep of an event that led from ``before`` to ``after``: enough to get there again."""
        if isinstance(event, events.Joined) and after.members is before.members:
            return events.Returned(name=event.name)
        return event

    def _dispatch(self, state: State, event: events.Event, now: float) -> State:
        match event:
            case events.Joined():
                return self._join(state, event)
            case events.Returned():
                state.member(event.name)
                return _present(state, event.name)
            case events.KeyPosted():
                return self._post_key(state, event, now)
            case events.KeyConfirmed():
                return self._confirm_key(state, event)
            case events.Uploaded():
                return self._upload(state, event)
            case events.Declined():
                return self._decline(state, event)
            case events.Published():
                return self._publish(state, event, now)
            case events.Left():
                return self._leave(state, event)
            case events.Ticked():
                return self._tick(state, now) if now >= state.deadline else state
            case events.Restarted():
                return self._restart(state, now)

    # -- joining ------------------------------------------------------------------------------------------------------

    def _join(self, state: State, event: events.Joined) -> State:
        if event.name not in {h.name for h in self.plan.hospitals}:
            raise NotOnRoster(f"the plan does not list {event.name}")
        member = Member(event.card, event.signing_key, event.sealing_key, event.expires)
        for name, other in state.members.items():
            if name != event.name and other.signing_key == member.signing_key:
                raise DuplicateHospital(f"{event.name} and {name} have the same signing key")
        earlier = state.members.get(event.name)
        if earlier is not None:
            if (earlier.signing_key, earlier.sealing_key) != (member.signing_key, member.sealing_key):
                raise DuplicateHospital(f"{event.name} has already joined with other keys")
            if member.expires > earlier.expires:
                state = replace(state, members={**state.members, event.name: member})
            return _present(state, event.name)
        if state.over:
            raise state.over_error()
        if state.phase is not Phase.GATHERING:
            raise StudyAlreadyStarted(f"the study started without {event.name}")
        return _present(replace(state, members={**state.members, event.name: member}), event.name)

    def _leave(self, state: State, event: events.Left) -> State:
        state.member(event.name)
        said = state.goodbyes.get(event.name, 0)
        if event.name not in state.present or said == GOODBYES:
            return state
        return replace(state, present=state.present - {event.name}, goodbyes={**state.goodbyes, event.name: said + 1})

    # -- the study key ------------------------------------------------------------------------------------------------

    def _post_key(self, state: State, event: events.KeyPosted, now: float) -> State:
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
        _require_text(event.fingerprint, "a fingerprint")
        if sorted(event.recipients) != sorted(state.members.keys() - {event.name}):
            raise ProtocolError("the key must be sealed to each other member, once")
        return replace(state, fingerprint=event.fingerprint, deadline=self._deadline(now))

    def _confirm_key(self, state: State, event: events.KeyConfirmed) -> State:
        member = state.member(event.name)
        if state.over:
            raise state.over_error()
        if event.epoch != state.key_epoch or not state.fingerprint:
            raise WrongRound(f"no key of epoch {event.epoch} waits for a confirmation")
        _require_text(event.fingerprint, "a fingerprint")
        statement = key_statement(self.plan.hash, event.epoch, event.fingerprint)
        verify(member.signing_key, KEY_CONTEXT, statement, event.signature)
        if event.fingerprint != state.fingerprint:
            error = KeyCeremonyFailed(
                f"{event.name} holds key {event.fingerprint[:16]} of epoch {event.epoch}, "
                f"{state.maker} posted key {state.fingerprint[:16]}"
            )
            if state.phase is not Phase.KEYING or event.name in state.confirmed:
                raise error
            return state.end(error)
        if event.name in state.confirmed:
            return _present(state, event.name)
        return _present(replace(state, confirmed={**state.confirmed, event.name: event.signature}), event.name)

    # -- a round ------------------------------------------------------------------------------------------------------

    def _upload(self, state: State, event: events.Uploaded) -> State:
        admission = admit(self.constants, state, event.name, event.header, event.signature)
        if admission.done:
            return state
        header = admission.header
        return _present(
            replace(
                state,
                uploads={**state.uploads, event.name: SignedHeader(header, event.signature)},
                witnessed={**state.witnessed, event.name: (header.ledger_entries, header.ledger_head)},
            ),
            event.name,
        )

    def _decline(self, state: State, event: events.Declined) -> State:
        member = state.member(event.name)
        _require_text(event.reason, "a reason")
        statement = decline_statement(self.plan.hash, event.round, event.name, event.reason)
        verify(member.signing_key, DECLINE_CONTEXT, statement, event.signature)
        if event.name in state.out:
            return state
        if state.over:
            raise state.over_error()
        if state.phase is not Phase.COLLECTING or event.round != state.round:
            raise WrongRound(f"a decline of round {event.round}, the study is {state.phase.value} in {state.round}")
        if event.name in state.uploads:
            raise ReplayedUpload(f"{event.name} has already uploaded in round {event.round}")
        decline = SignedDecline(event.round, event.reason, event.signature)
        if event.name in state.declines and event.reason != FINAL_REASON:
            return state
        out = state.out | {event.name} if event.reason == FINAL_REASON else state.out
        return _present(replace(state, declines={**state.declines, event.name: decline}, out=out), event.name)

    def _publish(self, state: State, event: events.Published, now: float) -> State:
        if state.phase is not Phase.SUMMING or event.round != state.round:
            raise WrongRound(f"round {event.round} is not being summed")
        following = state.round + 1
        state = replace(
            state,
            round=following,
            uploads={},
            declines={},
            published={name: upload.header.body_sha256 for name, upload in state.uploads.items()},
            previous=sha256_hex(event.line),
        )
        if following == self.plan.study.rounds:
            return replace(state, phase=Phase.FINISHED, deadline=NO_DEADLINE)
        if following % self.plan.aggregation.key_epoch_rounds == 0:
            earlier = {**state.earlier_keys, state.key_epoch: state.key(state.key_epoch)}
            return self._start_keying(replace(state, key_epoch=state.key_epoch + 1, earlier_keys=earlier), now)
        return replace(state, phase=Phase.COLLECTING, deadline=self._deadline(now))

    # -- time ---------------------------------------------------------------------------------------------------------

    def _deadline(self, now: float) -> float:
        return now + self.plan.aggregation.round_deadline_seconds

    def _restart(self, state: State, now: float) -> State:
        if state.deadline == NO_DEADLINE:
            return state
        if state.phase is Phase.GATHERING:
            return replace(state, deadline=now + self.plan.aggregation.gather_deadline_seconds)
        return replace(state, deadline=self._deadline(now))

    def _tick(self, state: State, now: float) -> State:
        """The running deadline has passed."""
        minimum = self.plan.aggregation.minimum_cohort
        if state.phase is Phase.GATHERING:
            enough = len(state.present) >= minimum
            return self._start_keying(state, now) if enough else state.end(self._under_quorum(state, state.present))
        if state.phase is Phase.KEYING:
            silent = state.active - state.confirmed.keys() if state.fingerprint else {state.maker}
            state = replace(state, present=state.present - silent)
            if len(state.active) < minimum:
                return state.end(self._under_quorum(state, state.active))
            return self._start_collecting(state, now) if state.fingerprint else state
        state = replace(state, present=state.present - state.awaited)
        if len(state.uploads) < minimum:
            return state.end(self._under_quorum(state, frozenset(state.uploads)))
        return replace(state, phase=Phase.SUMMING, deadline=NO_DEADLINE)

    def _under_quorum(self, state: State, here: frozenset[str]) -> UnderQuorum:
        missing = sorted({h.name for h in self.plan.hospitals} - here - state.out - state.declines.keys())
        message = (
            f"{len(here)} of at least {self.plan.aggregation.minimum_cohort} hospitals while {state.phase.value} "
            f"for round {state.round + 1}; missing: {', '.join(missing) or 'nobody'}"
        )
        declined = sorted(state.out | state.declines.keys())
        return UnderQuorum(message + (f"; declined: {', '.join(declined)}" if declined else ""))

    # -- going on without waiting ---------------------------------------------------------------------------------

    def _advance(self, state: State, now: float) -> State:
        """Enter the next phase if nobody is left to wait for."""
        minimum = self.plan.aggregation.minimum_cohort
        if state.phase is Phase.GATHERING and len(state.present) == len(self.plan.hospitals):
            return self._start_keying(state, now)
        possible = frozenset(state.members) - state.out - state.declines.keys()
        if state.phase in (Phase.KEYING, Phase.COLLECTING) and len(possible) < minimum:
            return state.end(self._under_quorum(state, possible))
        if state.phase is Phase.KEYING and not state.fingerprint and state.maker not in state.active:
            return self._choose_maker(state, now)
        if state.phase is Phase.KEYING and len(state.active) >= minimum and state.active <= state.confirmed.keys():
            return self._start_collecting(state, now)
        if state.phase is Phase.COLLECTING and len(state.uploads) >= minimum and not state.awaited:
            return replace(state, phase=Phase.SUMMING, deadline=NO_DEADLINE)
        return state

    def _start_keying(self, state: State, now: float) -> State:
        state = replace(state, phase=Phase.KEYING, maker="", fingerprint="", confirmed={})
        return self._choose_maker(replace(state, deadline=self._deadline(now)), now)

    def _choose_maker(self, state: State, now: float) -> State:
        """The first active hospital in the plan's order; without any, the deadline runs on and ends the study."""
        maker = next((h.name for h in self.plan.hospitals if h.name in state.active), "")
        return replace(state, maker=maker, deadline=self._deadline(now) if maker else state.deadline)

    def _start_collecting(self, state: State, now: float) -> State:
        return replace(state, phase=Phase.COLLECTING, deadline=self._deadline(now))


def _present(state: State, name: str) -> State:
    """The state in which ``name`` is present: the same object if it already is."""
    return state if name in state.present else replace(state, present=state.present | {name})


def _require_text(text: str, what: str) -> None:
    """Short and printable, so that it can stand in a message, a log and a transcript."""
    if not text or len(text) > _TEXT_LENGTH or not text.isascii() or not text.isprintable():
        raise ProtocolError(f"not {what}: {text[:_TEXT_LENGTH]!r}")
