"""The state of a study as the coordinator knows it: one frozen value. Changed by rounds.py only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from secure_fedhelp.errors import FedHelpError, NotOnRoster, StudyEnded
from secure_fedhelp.study.canonical import GENESIS
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import Phase, StudyState, UploadHeader, reason_error

NO_DEADLINE = math.inf


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
class State:
    """Everything the rules of a round depend on.

    ``active`` hospitals are those somebody waits for: present, and not out for good. ``published`` maps the cohort of
    the round before to its bodies' hashes, so that an upload whose confirmation got lost is recognised.
    """

    phase: Phase
    deadline: float
    version: int = 1
    round: int = 0
    key_epoch: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    present: frozenset[str] = frozenset()
    #: How often each member has said goodbye.
    goodbyes: Mapping[str, int] = field(default_factory=dict)
    out: frozenset[str] = frozenset()
    maker: str = ""
    fingerprint: str = ""
    confirmed: Mapping[str, bytes] = field(default_factory=dict)
    #: Keys of earlier epochs, for members that come back and catch up.
    earlier_keys: Mapping[int, PostedKey] = field(default_factory=dict)
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
    def awaited(self) -> frozenset[str]:
        """Who has neither uploaded nor declined in the round being collected, and is waited for."""
        return self.active - self.uploads.keys() - self.declines.keys()

    @property
    def over(self) -> bool:
        return self.phase in (Phase.FINISHED, Phase.ENDED)

    def member(self, name: str) -> Member:
        """The member's card and keys; NotOnRoster if it has not joined."""
        if name not in self.members:
            raise NotOnRoster(f"{name} has not joined this study", "Join first.")
        return self.members[name]

    def key(self, epoch: int) -> PostedKey:
        """What is known of an epoch's key; an empty fingerprint before it was posted."""
        if epoch == self.key_epoch:
            return PostedKey(self.maker, self.fingerprint, self.confirmed)
        return self.earlier_keys.get(epoch, PostedKey("", "", {}))

    def over_error(self) -> FedHelpError:
        """What to tell a member that wants to go on with a study that is over."""
        return StudyEnded("the study has finished") if self.phase is Phase.FINISHED else reason_error(self.reason)

    def end(self, error: FedHelpError) -> State:
        """The same study, ended early by ``error``; everything is kept."""
        reason = f"{type(error).__name__}: {error.message}"
        return replace(self, phase=Phase.ENDED, deadline=NO_DEADLINE, reason=reason)


def absent_names(plan: StudyPlan, state: State) -> tuple[str, ...]:
    """Plan hospitals nobody waits for, except those out for good: never joined, silent too long, or gone."""
    return tuple(sorted({h.name for h in plan.hospitals} - state.present - state.out))


def public_state(plan: StudyPlan, state: State) -> StudyState:
    """What every member is told."""
    waits_for_keys = state.phase in (Phase.KEYING, Phase.COLLECTING, Phase.SUMMING)
    return StudyState(
        version=state.version,
        phase=state.phase,
        round=state.round,
        key_epoch=state.key_epoch,
        maker=state.maker,
        absent=absent_names(plan, state),
        declined=tuple(sorted(state.out)),
        reason=state.reason,
        unconfirmed=tuple(sorted(state.members.keys() - state.confirmed.keys())) if waits_for_keys else (),
    )
