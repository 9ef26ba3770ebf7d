"""The rules of a study, as one pure state machine: a state and an event in, a new state or a named error out.

No gRPC, files, torch or clock: ``now`` (unix seconds) is passed in, and stored bodies are told of by events. An error
leaves the state as it was. An event that changes nothing returns the same state object, so it is neither stored nor
announced. "Active" hospitals are present and not out for good. m is the plan's ``minimum_cohort``.

    without masks   gathering -> keying -> collecting -> summing -> collecting | keying | finished
    with masks      gathering -> keying -> advertising -> sharing -> collecting -> agreeing -> revealing -> summing
                    -> advertising | keying | finished; sharing, collecting and agreeing may lead back to advertising
    every phase but summing lasts until its deadline at most; all can turn into ended, with a reason; everything is kept

Joining
 1. A hospital of the plan joins with its checked card while the study is gathering. Coming later for the first time is
    refused (StudyAlreadyStarted), because the study key is sealed to the members of the start.
 2. A member that comes again with the same keys is present again, in any phase. If the certificate of its card ends
    later than the stored card's (it was renewed), the new card takes the old one's place, so that whoever fetches the
    cards later gets a valid one. Other keys under its name, or its signing key under another name, are refused
    (DuplicateHospital). Sealing keys may be the same: they are public, and a card does not prove that its maker can
    open what is sealed, so the first to copy one could keep its owner out.
 3. Gathering ends when all hospitals of the plan are present, or at its deadline with at least m; with fewer the study
    ends (UnderQuorum).
 4. A member that says goodbye is absent until it joins again. Whatever is accepted of it also makes present. After
    GOODBYES of them a member's goodbyes change nothing (it is absent at the next deadline): the journal keeps every
    change, and nobody shall fill the disk with them. For the same reason it keeps a return without the card.

The study key of an epoch (keying.py)
 5. The key maker is the first active hospital in the plan's order. If it is lost before it posted (deadline, goodbye),
    the next one makes the key and time counts anew.
 6. It posts one sealed key for each other member, present or not, that is not out for good, and a fingerprint. The
    first posting stands: the same fingerprint again is accepted quietly, another is refused (KeyCeremonyFailed). Time
    counts anew.
 7. Each of them confirms the fingerprint, signed. A *differing* fingerprint during keying ends the study
    (KeyCeremonyFailed): two hospitals hold different keys, so somebody between them lies. One from a member that has
    already confirmed, or that comes after keying, is only refused (KeyCeremonyFailed): the others' key is agreed, and
    one member that says this and then that shall not end their study. Who is out for good has no say (BudgetExhausted).
 8. The round starts when all active hospitals, at least m, have confirmed; at the deadline those who have not are
    absent, and with too few left the study ends (UnderQuorum).

A round
 9. Without masks, a round closes when all active hospitals have uploaded or declined and at least m have uploaded, or
    at its deadline: who did nothing is then absent, so a hospital that never returns costs one deadline, not one a
    round. Under the quorum it waits until the deadline for absent ones to come back; then the study ends
    (UnderQuorum, naming who is missing).
10. A signed decline counts for its round; with the reason BudgetExhausted for all rounds that follow. With masks it is
    possible while advertising, and refused (ReplayedUpload) after the hospital's round key, for then the others count
    on it. When declines leave fewer than m members the study ends at once (UnderQuorum), before the others train and
    spend privacy for a sum that cannot come.
11. A closed round is summed and published outside; the event Published (once, for that round) opens the next one, or
    finishes the study. A new study key comes first every ``key_epoch_rounds``, and after a round in which somebody left
    for good: who has left shall open nothing any more.

An upload's header (admission.py)
12. names the caller, who joined, and has the caller's signature (NotOnRoster, IdentityError, BadSignature);
13. is for this study (PlanChanged), for the running round, attempt and epoch, and follows the last published transcript
    line (WrongRound; KeyEpochRolledBack if it is for this round under the key of an earlier epoch);
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

An attempt at a round with masks (masked_rounds.py; the protocol is in secagg/masked/member.py)
20. Everything a hospital says in it is for the running round and attempt (WrongRound), comes in its phase (WrongRound),
    and counts once: the same again is accepted quietly, in later phases too; another is refused (ReplayedUpload).
21. *Advertising.* Hospitals that have confirmed the study key (KeyCeremonyFailed) post their signed round keys. It
    closes when all active ones have posted or declined and at least m have posted; at its deadline the silent ones are
    absent, and with fewer than m keys the study ends (UnderQuorum). Who posted is a *member* of the attempt; n is their
    number, and t follows from it (study/threshold.py).
22. *Sharing.* Each member posts its dealing: a signed statement made from this list of members (SplitView), with the
    graph's number of holders, and the records it names (ForgedShare). It closes when no active member is waited for and
    max(t, m) have dealt; at its deadline the silent ones are absent, and fewer dealers lead to a fresh attempt.
23. *Collecting.* Only dealers upload (WrongRound), under the view of all keys and dealings (SplitView). It closes when
    no active dealer is waited for and max(t, m) have uploaded: if t = n, all of them. At its deadline the silent ones
    are absent; fewer uploads lead to a fresh attempt if t = n, else the study ends (UnderQuorum): hospitals refuse a
    retry that could open a difference. Who has uploaded is a *survivor*.
24. *Agreeing.* Survivors sign the list of survivors (SplitView if it is another's). It closes when no active survivor
    is waited for and t have signed; at its deadline fewer lead to a fresh attempt if t = n, else the study ends
    (UnderQuorum). Signatures that come later, while revealing, are kept too.
25. *Revealing.* Survivors reveal shares, also those that come back. It closes as soon as the shares of every dealer can
    be put together; what comes after that is not needed, and is accepted quietly. At its deadline the study ends
    (UnmaskingFailed): shares are out, and never again is there another attempt at this round.
26. *A fresh attempt* begins with advertising and with nothing of the one before: its uploads are erased, and who was
    silent in it is absent. After LARGEST_ATTEMPTS, or with fewer than m active hospitals, the study ends (UnderQuorum).
    Who has left MISSES attempts at a round unfinished has no part in its later ones (WrongRound) if m remain without
    it, so that one hospital cannot hold up all others for ever.
27. If the shares rebuild something else than their dealer committed to, its masks stay in the sum: the study ends
    (UnmaskingFailed, naming the dealer).

Leaving
28. A hospital of the plan that says that it does not take part is *gone*, also if it has not joined: it is absent, and
    nobody waits for it to come back. By joining, or whatever else is accepted of it, it takes that back. These count as
    goodbyes do (rule 4); of a hospital that is out for good, and when the study is over, they are goodbyes.
29. Gathering ends when all hospitals of the plan that are not gone are present, at least m. As soon as fewer than m
    are not gone the study ends (HospitalsLeft, naming them), and likewise between rounds and in the phases in which a
    member's part is not promised to the others (keying, advertising, collecting): who has done its part in the running
    phase still counts.
30. An attempt with masks in which all who lack are gone does at once what it would do at its deadline.
31. A study that ended (HospitalsLeft) while it gathered gathers anew when the coordinator's process starts again:
    nothing was agreed on or spent, and who left because of a mistake has corrected it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from secure_fedhelp.coordinator import events, keying, masked_rounds
from secure_fedhelp.coordinator.admission import Constants, admit
from secure_fedhelp.coordinator.state import (
    NO_DEADLINE,
    Attempt,
    Member,
    SignedDecline,
    SignedHeader,
    State,
    seen_by_members,
)
from secure_fedhelp.coordinator.transitions import (
    deadline,
    enter,
    require_text,
    start_round,
    too_few_possible,
    under_quorum,
)
from secure_fedhelp.errors import (
    DuplicateHospital,
    HospitalsLeft,
    ReplayedUpload,
    StudyAlreadyStarted,
    UnmaskingFailed,
    WrongRound,
)
from secure_fedhelp.identity.signing import verify
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import DECLINE_CONTEXT, FINAL_REASON, Phase, decline_statement, reason_error
from secure_fedhelp.wire.transcript import epoch_ends

#: Goodbyes of one member that count.
GOODBYES = 1000


def _may_gather_again(state: State) -> bool:
    """Rule 31: no hospital was ever asked for a key."""
    gathered = state.maker or state.key_epoch or state.round
    return state.phase is Phase.ENDED and not gathered and isinstance(reason_error(state.reason), HospitalsLeft)


@dataclass(frozen=True)
class Rounds:
    """The rules of one study. :meth:`start` gives the first state, :meth:`apply` every other."""

    constants: Constants

    @property
    def plan(self) -> StudyPlan:
        return self.constants.plan

    def start(self, now: float) -> State:
        return State(phase=Phase.GATHERING, deadline=deadline(self.plan, Phase.GATHERING, now))

    def apply(self, state: State, event: events.Event, now: float) -> State:
        """The state after ``event``; the same object if nothing changed. Raises a FedHelpError if it is refused."""
        changed = self._dispatch(state, event, now)
        if changed is state:
            return state
        after = self._advance(changed, now)
        seen = seen_by_members(self.plan, after) != seen_by_members(self.plan, state)
        return replace(after, version=state.version + seen)

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
                return state.arrived(event.name)
            case events.KeyPosted():
                return keying.post_key(self.plan, state, event, now)
            case events.KeyConfirmed():
                return keying.confirm_key(self.plan, state, event)
            case events.RoundKeyPosted():
                return masked_rounds.post_round_key(self.plan, state, event)
            case events.SharesPosted():
                return masked_rounds.post_shares(self.plan, state, event)
            case events.Agreed():
                return masked_rounds.agree(self.plan, state, event)
            case events.Revealed():
                return masked_rounds.reveal(state, event)
            case events.Uploaded():
                return self._upload(state, event)
            case events.Declined():
                return self._decline(state, event)
            case events.Published() | events.SumLost():
                return self._close(state, event, now)
            case events.Left():
                return self._leave(state, event)
            case events.Withdrew():
                return self._withdraw(state, event)
            case events.Ticked():
                return self._tick(state, now) if now >= state.deadline else state
            case events.Restarted() if _may_gather_again(state):
                return replace(self.start(now), version=state.version, goodbyes=state.goodbyes)
            case events.Restarted():
                ends = deadline(self.plan, state.phase, now)
                return state if state.deadline == NO_DEADLINE else replace(state, deadline=ends)

    # -- joining ------------------------------------------------------------------------------------------------------

    def _join(self, state: State, event: events.Joined) -> State:
        self.plan.require_listed(event.name)
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
            return state.arrived(event.name)
        if state.over:
            raise state.over_error()
        if state.phase is not Phase.GATHERING:
            raise StudyAlreadyStarted(f"the study started without {event.name}")
        return replace(state, members={**state.members, event.name: member}).arrived(event.name)

    def _leave(self, state: State, event: events.Left) -> State:
        state.member(event.name)
        if event.name not in state.present or state.goodbyes.get(event.name, 0) == GOODBYES:
            return state
        return state.left(event.name, gone=False)

    def _withdraw(self, state: State, event: events.Withdrew) -> State:
        self.plan.require_listed(event.name)
        gone = event.name not in state.out and not state.over
        if state.goodbyes.get(event.name, 0) == GOODBYES or event.name in state.gone:
            return state
        return state.left(event.name, gone=gone) if gone or event.name in state.present else state

    # -- a round ------------------------------------------------------------------------------------------------------

    def _upload(self, state: State, event: events.Uploaded) -> State:
        admission = admit(self.constants, state, event.name, event.header, event.signature)
        if admission.done:
            return state
        header = admission.header
        return replace(
            state,
            uploads={**state.uploads, event.name: SignedHeader(header, event.signature)},
            witnessed={**state.witnessed, event.name: (header.ledger_entries, header.ledger_head)},
        ).arrived(event.name)

    def _decline(self, state: State, event: events.Declined) -> State:
        member = state.member(event.name)
        require_text(event.reason, "a reason")
        statement = decline_statement(self.plan.hash, event.round, event.name, event.reason)
        verify(member.signing_key, DECLINE_CONTEXT, statement, event.signature)
        if event.name in state.out:
            return state
        if state.over:
            raise state.over_error()
        if event.round == state.round and event.name in state.uploads:
            raise ReplayedUpload(f"{event.name} has already uploaded in round {event.round}")
        if event.round == state.round and event.name in state.attempt.keys:
            raise ReplayedUpload(
                f"{event.name} has already given its key of round {event.round}",
                "Decline before the round's key, or leave: the others repair the sum or try again.",
            )
        open_in = Phase.COLLECTING if self.plan.aggregation.masks == "none" else Phase.ADVERTISING
        if state.phase is not open_in or event.round != state.round:
            raise WrongRound(f"a decline of round {event.round}, the study is {state.phase.value} in {state.round}")
        decline = SignedDecline(event.round, event.reason, event.signature)
        if event.name in state.declines and event.reason != FINAL_REASON:
            return state
        out = state.out | {event.name} if event.reason == FINAL_REASON else state.out
        return replace(state, declines={**state.declines, event.name: decline}, out=out).arrived(event.name)

    def _close(self, state: State, event: events.Published | events.SumLost, now: float) -> State:
        if state.phase is not Phase.SUMMING or event.round != state.round:
            raise WrongRound(f"round {event.round} is not being summed")
        if isinstance(event, events.SumLost):
            return state.end(UnmaskingFailed(event.message))
        following = state.round + 1
        left = any(decline.reason == FINAL_REASON for decline in state.declines.values())
        state = replace(
            state,
            round=following,
            attempt=Attempt(),
            uploads={},
            declines={},
            published={name: upload.header.body_sha256 for name, upload in state.uploads.items()},
            previous=sha256_hex(event.line),
        )
        if following == self.plan.study.rounds:
            return enter(self.plan, state, Phase.FINISHED, now)
        if epoch_ends(self.plan, state.epoch_began, following, left):
            earlier = {**state.earlier_keys, state.key_epoch: state.key(state.key_epoch)}
            state = replace(state, key_epoch=state.key_epoch + 1, epoch_began=following, earlier_keys=earlier)
            return keying.start_keying(self.plan, state, now)
        return start_round(self.plan, state, now)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _tick(self, state: State, now: float) -> State:
        """The running deadline has passed."""
        minimum = self.plan.aggregation.minimum_cohort
        if state.phase is Phase.GATHERING:
            if len(state.present) < minimum:
                return state.end(under_quorum(self.plan, state, state.present))
            return keying.start_keying(self.plan, state, now)
        if state.phase is Phase.KEYING:
            return keying.late(self.plan, state, now)
        if self.plan.aggregation.masks != "none":
            return masked_rounds.late(self.plan, state, now)
        state = replace(state, present=state.present - state.awaited)
        if len(state.uploads) < minimum:
            return state.end(under_quorum(self.plan, state, state.done))
        return enter(self.plan, state, Phase.SUMMING, now)

    def _advance(self, state: State, now: float) -> State:
        """Enter the next phase if nobody is left to wait for."""
        minimum = self.plan.aggregation.minimum_cohort
        if state.phase is Phase.GATHERING:
            waited_for = frozenset(h.name for h in self.plan.hospitals) - state.gone
            if len(waited_for) < minimum:
                return state.end(too_few_possible(self.plan, state, waited_for))
            return keying.start_keying(self.plan, state, now) if waited_for <= state.present else state
        if state.phase in (Phase.KEYING, Phase.ADVERTISING, Phase.COLLECTING) and len(state.possible) < minimum:
            return state.end(too_few_possible(self.plan, state, state.possible))
        if state.phase is Phase.KEYING:
            return keying.advance(self.plan, state, now)
        if self.plan.aggregation.masks != "none":
            return masked_rounds.advance(self.plan, state, now)
        if state.phase is Phase.COLLECTING and len(state.uploads) >= minimum and not state.awaited:
            return enter(self.plan, state, Phase.SUMMING, now)
        return state
