"""The state of a study as the coordinator knows it: one frozen value. Changed by rounds.py only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from secure_fedhelp.errors import FedHelpError, NotOnRoster, StudyEnded
from secure_fedhelp.secagg.masked.graph import Graph
from secure_fedhelp.secagg.masked.statements import Signed
from secure_fedhelp.study.canonical import GENESIS
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import NO_VIEW, Phase, StudyState, UploadHeader, reason_error

NO_DEADLINE = math.inf
#: Phases in which a member's confirmation of the epoch's key is asked for.
_WITH_KEY = frozenset(Phase) - {Phase.GATHERING, Phase.FINISHED, Phase.ENDED}


@dataclass(frozen=True)
class Member:
    """A hospital that joined: its card byte for byte, and the public keys (hexadecimal) the card carries.

    ``expires`` is the end of the card's certificate (unix seconds).
    """

    card: bytes
    signing_key: str
    sealing_key: str
    expires: float


@dataclass(frozen=True)
class SignedHeader:
    """An accepted upload of the running round: its checked header, and the hospital's signature over it."""

    header: UploadHeader
    signature: bytes


@dataclass(frozen=True)
class SignedDecline:
    """A hospital's signed statement that it leaves out a round."""

    round: int
    reason: str
    signature: bytes


@dataclass(frozen=True)
class PostedKey:
    """Who made the study key of an epoch, its fingerprint, and the signed confirmations of it."""

    maker: str
    fingerprint: str
    confirmations: Mapping[str, bytes]


@dataclass(frozen=True)
class Dealt:
    """A member's accepted dealing: its signed statement; who holds a share, and how many of them rebuild a secret."""

    signed: Signed
    holders: frozenset[str]
    needed: int


@dataclass(frozen=True)
class Attempt:
    """One attempt at a round with masks; without masks it stays as it begins. Uploads are in the state itself.

    ``keys`` are the members' signed round keys; when they are complete, ``listed`` is the hash of them all and
    ``shape`` the graph among so many. ``dealt`` are the dealers, ``view`` the hash of keys and dealings when those are
    complete. ``agreed`` are the survivors' signatures on their list, ``revealed`` the SHA-256 of what each revealed.
    """

    number: int = 0
    missed: Mapping[str, int] = field(default_factory=dict)
    barred: frozenset[str] = frozenset()
    keys: Mapping[str, Signed] = field(default_factory=dict)
    listed: str = ""
    shape: Graph | None = None
    dealt: Mapping[str, Dealt] = field(default_factory=dict)
    view: str = NO_VIEW
    agreed: Mapping[str, bytes] = field(default_factory=dict)
    revealed: Mapping[str, str] = field(default_factory=dict)

    @property
    def lacking(self) -> frozenset[str]:
        """Dealers whose secret cannot be rebuilt from what was revealed: by the dealers' statements alone, since every
        share was checked before it counted."""
        have = self.revealed.keys()
        return frozenset(name for name, dealt in self.dealt.items() if len(dealt.holders & have) < dealt.needed)


@dataclass(frozen=True)
class State:
    """Everything the rules of a round depend on.

    ``version`` grows with each change that members can see, so that an upload does not wake all that watch.
    ``active`` hospitals are those somebody waits for: present, and not out for good. ``published`` maps the cohort of
    the round before to its bodies' hashes, so that an upload whose confirmation got lost is recognised.
    """

    phase: Phase
    deadline: float
    version: int = 1
    round: int = 0
    key_epoch: int = 0
    #: The round that the epoch began with.
    epoch_began: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    present: frozenset[str] = frozenset()
    #: Hospitals of the plan that have said that they do not take part; never present.
    gone: frozenset[str] = frozenset()
    #: How often each hospital has said goodbye, or that it does not take part.
    goodbyes: Mapping[str, int] = field(default_factory=dict)
    out: frozenset[str] = frozenset()
    maker: str = ""
    fingerprint: str = ""
    confirmed: Mapping[str, bytes] = field(default_factory=dict)
    #: Keys of earlier epochs, for members that come back and catch up.
    earlier_keys: Mapping[int, PostedKey] = field(default_factory=dict)
    attempt: Attempt = field(default_factory=Attempt)
    uploads: Mapping[str, SignedHeader] = field(default_factory=dict)
    declines: Mapping[str, SignedDecline] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    #: Last witnessed ledger of each member: number of entries, and head.
    witnessed: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    #: SHA-256 of the last transcript line.
    previous: str = GENESIS
    reason: str = ""

    @property
    def active(self) -> frozenset[str]:
        return self.present - self.out

    @property
    def place(self) -> tuple[int, int]:
        """Which attempt at which round."""
        return self.round, self.attempt.number

    @property
    def keyed(self) -> frozenset[str]:
        """Who gets the study key of an epoch and confirms it: all members but those out for good."""
        return frozenset(self.members) - self.out

    @property
    def possible(self) -> frozenset[str]:
        """Members that may still take part in the round, here or not, or have done their part in its running phase."""
        left = self.gone - self.done
        return frozenset(self.members) - self.out - self.declines.keys() - self.attempt.barred - left

    @property
    def expected(self) -> frozenset[str]:
        """Who has a part in the running phase of the round, here or not."""
        match self.phase:
            case Phase.SHARING:
                return frozenset(self.attempt.keys)
            case Phase.COLLECTING if self.attempt.dealt:
                return frozenset(self.attempt.dealt)
            case Phase.ADVERTISING | Phase.COLLECTING:
                return self.possible
            case Phase.AGREEING | Phase.REVEALING:
                return frozenset(self.uploads)
            case _:
                return frozenset()

    @property
    def done(self) -> frozenset[str]:
        """Who has done its part in the running phase of the round."""
        parts: Mapping[Phase, Mapping[str, object]] = {
            Phase.ADVERTISING: self.attempt.keys,
            Phase.SHARING: self.attempt.dealt,
            Phase.COLLECTING: self.uploads,
            Phase.AGREEING: self.attempt.agreed,
            Phase.REVEALING: self.attempt.revealed,
        }
        return frozenset(parts.get(self.phase, ()))

    @property
    def awaited(self) -> frozenset[str]:
        """Who has a part in the running phase of the round, has not done it, and is waited for."""
        return self.active & self.expected - self.done

    @property
    def over(self) -> bool:
        return self.phase in (Phase.FINISHED, Phase.ENDED)

    def member(self, name: str) -> Member:
        """The member's card and keys; NotOnRoster if it has not joined."""
        if name not in self.members:
            raise NotOnRoster(f"{name} has not joined this study", "Join first.")
        return self.members[name]

    def arrived(self, name: str) -> State:
        """The state in which ``name`` is present, and not gone: the same object if it already is."""
        here = self.present | {name}
        return self if name in self.present else replace(self, present=here, gone=self.gone - {name})

    def left(self, name: str, *, gone: bool) -> State:
        """The state in which ``name`` is absent, and, if it does not mean to come back, ``gone``; counted once more."""
        return replace(
            self,
            present=self.present - {name},
            gone=self.gone | {name} if gone else self.gone,
            goodbyes={**self.goodbyes, name: self.goodbyes.get(name, 0) + 1},
        )

    def key(self, epoch: int) -> PostedKey:
        """What is known of an epoch's key; an empty fingerprint before it was posted."""
        if epoch == self.key_epoch:
            return PostedKey(self.maker, self.fingerprint, self.confirmed)
        return self.earlier_keys.get(epoch, PostedKey("", "", {}))

    def over_error(self) -> FedHelpError:
        """What to tell a member that wants to go on with a study that is over: StudyEnded, of whatever it ended, so
        that who asks late knows that it is not itself at fault."""
        if self.phase is Phase.FINISHED:
            return StudyEnded("the study has finished")
        error = reason_error(self.reason)
        return error if isinstance(error, StudyEnded) else StudyEnded(f"the study has ended ({self.reason})")

    def end(self, error: FedHelpError) -> State:
        """The same study, ended early by ``error``; everything is kept."""
        reason = f"{type(error).__name__}: {error.message}"
        return replace(self, phase=Phase.ENDED, deadline=NO_DEADLINE, reason=reason)


def absent_names(plan: StudyPlan, state: State) -> tuple[str, ...]:
    """Plan hospitals nobody waits for, except those out for good: never joined, silent too long, or gone."""
    return tuple(sorted({h.name for h in plan.hospitals} - state.present - state.out))


def seen_by_members(plan: StudyPlan, state: State) -> tuple[StudyState, str]:
    """What a member may be waiting for: the public state, version apart, and whether there is a key to be fetched."""
    return replace(public_state(plan, state), version=0), state.fingerprint


def public_state(plan: StudyPlan, state: State) -> StudyState:
    """What every member is told."""
    return StudyState(
        version=state.version,
        phase=state.phase,
        round=state.round,
        key_epoch=state.key_epoch,
        maker=state.maker,
        absent=absent_names(plan, state),
        declined=tuple(sorted(state.out)),
        reason=state.reason,
        unconfirmed=tuple(sorted(state.keyed - state.confirmed.keys())) if state.phase in _WITH_KEY else (),
        attempt=state.attempt.number,
    )
