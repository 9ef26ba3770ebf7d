"""The one-way valve: the only way from private training to an upload.

> What leaves a hospital is a function of public things and of outputs of mechanisms written in the ledger.

An upload is made from a :class:`Released` and nothing else, and only :class:`ReleaseGate` makes one, in this order:

1. the executed event is the plan's, the noise was fit for deployment, the channels are the plan's, values are finite;
2. values are clipped to their channel's bound (post-processing, so it costs nothing);
3. the budget holds one more event, over everything this ledger has already paid for;
4. the caller spools the values (``before_spending``), so that a crash does not cost epsilon twice;
5. **spend**: the ledger entry is written and synced;
6. **release**: the :class:`Released` is returned.

This guards against mistakes, not against an enemy inside the process, for whom Python has no walls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NoReturn
from weakref import WeakSet

import numpy as np

from secure_fedhelp.errors import BudgetExhausted, InvalidContribution, NotReleasable
from secure_fedhelp.privacy.accountant import epsilon, within_budget
from secure_fedhelp.privacy.entries import ChannelRelease, LedgerEntry
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import DpSgd, planned_event
from secure_fedhelp.privacy.noise import NoiseName
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.channel import Vector, clip_to_bound
from secure_fedhelp.study.plan import StudyPlan

_GATE: Final = object()


class Released:
    """Values that may leave: each channel as a read-only float64 vector within its bound, and the entry that paid.

    Only the gate makes one; anything else raises NotReleasable, as do subclasses, copies and changes.
    """

    __slots__ = ("__weakref__", "_channels", "_clipped", "_entry")
    _channels: Mapping[str, Vector]
    _clipped: Mapping[str, int]
    _entry: LedgerEntry

    def __init__(
        self, token: object, entry: LedgerEntry, channels: Mapping[str, bytes], clipped: Mapping[str, int]
    ) -> None:
        if token is not _GATE:
            raise NotReleasable("only the release gate makes a released value")
        # Arrays over immutable bytes: unlike a read-only view of an array, nobody can make them writeable again.
        vectors = {name: np.frombuffer(data, dtype="<f8") for name, data in channels.items()}
        object.__setattr__(self, "_channels", MappingProxyType(vectors))
        object.__setattr__(self, "_clipped", MappingProxyType(dict(clipped)))
        object.__setattr__(self, "_entry", entry)
        _ISSUED.add(self)

    @property
    def channels(self) -> Mapping[str, Vector]:
        return self._channels

    @property
    def clipped(self) -> Mapping[str, int]:
        """How many values of each channel were cut to its bound."""
        return self._clipped

    @property
    def entry(self) -> LedgerEntry:
        """The ledger entry that paid for these values."""
        return self._entry

    @property
    def index(self) -> int:
        return self._entry.index

    def __init_subclass__(cls) -> NoReturn:
        raise NotReleasable("a released value has no subclasses")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise NotReleasable("a released value cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise NotReleasable("a released value cannot be changed")

    def __reduce__(self) -> NoReturn:
        raise NotReleasable("a released value cannot be copied or stored; the gate recovers it from its ledger entry")


_ISSUED: Final[WeakSet[Released]] = WeakSet()


def require_released(value: object) -> Released:
    """``value``, if the gate issued this very object; NotReleasable otherwise, whatever it looks like."""
    if type(value) is not Released or value not in _ISSUED:
        raise NotReleasable(f"a {type(value).__name__} that the release gate did not issue")
    return value


@dataclass(frozen=True)
class PrivateOutput:
    """What private training hands to the gate.

    ``event`` is what was *executed*, not what was asked for. ``post_processed`` names the channels computed from the
    mechanism's output and public things only; the others are its output itself.
    """

    channels: Mapping[str, Vector]
    event: DpSgd
    post_processed: frozenset[str]
    noise_source: NoiseName


class ReleaseGate:
    """The gate of one hospital in one study.

    The budget is compared with everything in the ledger, of every study: one ledger is one set of patients. Events
    are compared at the plan's delta, whatever delta their own study used.
    """

    def __init__(self, ledger: Ledger, plan: StudyPlan, hospital: str) -> None:
        if ledger.hospital != hospital:
            raise NotReleasable(f"the ledger of {ledger.hospital} cannot pay for {hospital}")
        self._ledger, self._plan, self._privacy = ledger, plan, plan.privacy_of(hospital)
        self._event = planned_event(self._privacy)

    def epsilon_spent(self) -> float:
        """Epsilon of everything in this ledger, at the plan's delta."""
        return epsilon(self._ledger.events(), self._privacy.delta)

    def check_affordable(self, round: int) -> float:
        """Epsilon after one more of the plan's events, for ``round`` (from 0). To be asked before training.

        Raises BudgetExhausted if that is above the plan's budget (by more than a millionth, see
        :data:`secure_fedhelp.privacy.accountant.BUDGET_TOLERANCE`).
        """
        after = epsilon([*self._ledger.events(), self._event], self._privacy.delta)
        if not within_budget(after, self._privacy.epsilon):
            raise BudgetExhausted(
                f"round {round + 1} would bring epsilon from {self.epsilon_spent():.6g} to {after:.6g}, "
                f"the budget is {self._privacy.epsilon:g} at delta {self._privacy.delta:g}"
            )
        return after

    def release(
        self,
        round: int,
        output: PrivateOutput,
        before_spending: Callable[[Mapping[str, Vector]], None] | None = None,
    ) -> Released:
        """Check, clip, spend, then release (see the top of this file).

        ``before_spending`` is given the clipped channels while nothing is spent yet, to keep them for
        :meth:`recover`. Raises NotReleasable if the output is not the plan's mechanism's, InvalidContribution for NaN,
        infinity or a wrong length, BudgetExhausted, and StorageError if the ledger cannot be written: then nothing
        was spent and nothing may leave.
        """
        self._require_planned(output)
        vectors, clipped = self._clip(output.channels)
        self.check_affordable(round)
        if before_spending is not None:
            before_spending(MappingProxyType({name: np.frombuffer(data, "<f8") for name, data in vectors.items()}))
        entry = self._ledger.append(
            self._event,
            study=self._plan.hash,
            round=round,
            unit=self._privacy.unit,
            delta=self._privacy.delta,
            channels=self._describe(vectors, output.post_processed),
            noise_source=output.noise_source,
        )
        return Released(_GATE, entry, vectors, clipped)

    def recover(self, round: int, channels: Mapping[str, Vector]) -> Released | None:
        """The same release again, after a crash between spending and uploading; nothing is spent twice.

        ``channels`` are the values that ``before_spending`` was given. None if no entry of this study and round names
        exactly these values: then they were never paid for, and must not leave.
        """
        if set(channels) != {c.name for c in self._plan.channels}:
            return None
        vectors, clipped = self._clip(channels)
        hashes = {name: sha256_hex(data) for name, data in vectors.items()}
        for entry in self._ledger.entries:
            if (entry.study, entry.round) == (self._plan.hash, round) and entry.values() == hashes:
                return Released(_GATE, entry, vectors, clipped)
        return None

    def _require_planned(self, output: PrivateOutput) -> None:
        if output.event != self._event:
            raise NotReleasable(f"training executed {output.event}, the plan allows {self._event}")
        seeded_allowed = output.noise_source == "seeded-research" and self._plan.study.mode == "research"
        if output.noise_source != "system" and not seeded_allowed:
            raise NotReleasable(f"noise of source {output.noise_source!r} in {self._plan.study.mode} mode")
        wanted = {c.name for c in self._plan.channels}
        if set(output.channels) != wanted:
            raise NotReleasable(f"channels {sorted(output.channels)}, the plan says {sorted(wanted)}")
        if not output.post_processed <= wanted:
            raise NotReleasable(f"post-processed channels {sorted(output.post_processed)} are not all in the plan")

    def _clip(self, channels: Mapping[str, Vector]) -> tuple[dict[str, bytes], dict[str, int]]:
        """Each channel's clipped values as little-endian float64 bytes, and how many were clipped."""
        vectors: dict[str, bytes] = {}
        clipped: dict[str, int] = {}
        for channel in self._plan.channels:
            values = np.asarray(channels[channel.name], dtype=np.float64)
            if values.shape != (channel.length,):
                raise InvalidContribution(
                    f"channel {channel.name}: shape {values.shape}, the plan says ({channel.length},)"
                )
            cut, clipped[channel.name] = clip_to_bound(values, channel.bound)
            vectors[channel.name] = cut.astype("<f8").tobytes()
        return vectors, clipped

    def _describe(self, vectors: Mapping[str, bytes], post_processed: frozenset[str]) -> list[ChannelRelease]:
        direct = sorted(set(vectors) - post_processed)
        return [
            ChannelRelease(
                name=name,
                mechanism="post-processing" if name in post_processed else self._event.kind,
                derived_from=(direct[0] if direct else self._event.kind) if name in post_processed else None,
                values_sha256=sha256_hex(data),
            )
            for name, data in vectors.items()
        ]
