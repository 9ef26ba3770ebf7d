"""The one-way valve: the only way from private training to an upload.

> What leaves a hospital is a function of public things and of outputs of mechanisms written in the ledger.

An upload is made from a :class:`Released` and nothing else, and only :class:`ReleaseGate` makes one, in this order:

0. **reserve**: before training, the round's events are compared with both budgets and written down;
1. the executed events are the plan's, the noise was fit for deployment, the channels are the plan's, values are finite;
2. values are clipped to their channel's bound (post-processing, so it costs nothing), and each channel's proof is of a
   mechanism that the channel is declared for (privacy/channels.py);
3. the budgets hold, over everything this ledger has already paid for or reserved;
4. the caller spools the values (``before_spending``), so that a crash does not cost epsilon twice;
5. **spend**: the ledger entry is written and synced;
6. **release**: the :class:`Released` is returned.

This guards against mistakes, not against an enemy inside the process, for whom Python has no walls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NoReturn
from weakref import WeakSet

import numpy as np

from secure_fedhelp.errors import BudgetExhausted, InvalidContribution, NotReleasable
from secure_fedhelp.privacy.accountant import epsilon, within_budget
from secure_fedhelp.privacy.channels import objection
from secure_fedhelp.privacy.entries import ChannelRelease, Proof, Release, fits, open_reservations, releases
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact, paid, planned_events
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
    _entry: Release

    def __init__(
        self, token: object, entry: Release, channels: Mapping[str, bytes], clipped: Mapping[str, int]
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
    def entry(self) -> Release:
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
    """What a method hands to the gate: values by channel, and for each the proof of why it may leave.

    ``events`` are what was *executed*, not what was asked for. Proofs name them by number (``event:0``).
    """

    channels: Mapping[str, Vector]
    events: tuple[DpSgd | Gaussian | PooledExact, ...]
    proofs: Mapping[str, Proof]
    noise_source: NoiseName
    #: Channels of post-processing that also carry something of an earlier round's training, and which (from 0). A
    #: method knows no ledger, so the gate finds the release that paid for it and adds it to the proof.
    carried: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """What one hospital allows beyond the plan's own budget, and about which patients.

    ``dataset`` is the fingerprint of the hospital's patients, ``apart`` those of data sets in the ledger that share no
    patient with it (privacy/datasets.py). ``lifetime_epsilon`` limits everything a patient of this data set has ever
    taken part in.
    """

    dataset: str
    lifetime_epsilon: float = math.inf
    apart: frozenset[str] = frozenset()
    #: Releases of exact counts about these patients, of all studies: they have no epsilon, so they have a number.
    exact_releases: int = 1


class ReleaseGate:
    """The gate of one hospital in one study.

    Two budgets are kept: the plan's, for this study, and the hospital's own over all studies whose patients overlap.
    The study's events are composed at the plan's delta; those over all studies at the smallest delta that any of them
    was stated at, so that a plan with a large delta cannot make earlier studies look cheap.
    """

    def __init__(
        self, ledger: Ledger, plan: StudyPlan, hospital: str, budget: Budget, spent: Callable[[], None] = lambda: None
    ) -> None:
        """``spent`` is called when a release's entry is on the disk, before anybody gets what it paid for."""
        if ledger.hospital != hospital:
            raise NotReleasable(f"the ledger of {ledger.hospital} cannot pay for {hospital}")
        self._ledger, self._plan, self._hospital, self._budget = ledger, plan, hospital, budget
        self._spent = spent
        self._privacy = plan.privacy_of(hospital)

    def epsilon_spent(self) -> float:
        """Epsilon of this study's releases, at the plan's delta."""
        return epsilon(self._ledger.events(self._plan.hash), self._privacy.delta)

    def lifetime_spent(self) -> float:
        """Epsilon of all releases about these patients, of every study, at the smallest delta of any."""
        return epsilon(self._ledger.events(apart=self._budget.apart), self._lifetime_delta())

    def _lifetime_delta(self) -> float:
        about = [e.delta for e in self._ledger.entries if e.dataset not in self._budget.apart]
        return min([*about, self._privacy.delta])

    def check_affordable(self, round: int) -> float:
        """Epsilon of the study after ``round`` (from 0). Open reservations of other rounds and studies count.

        Raises BudgetExhausted if that is above the plan's budget, or everything together above the hospital's (by
        more than a millionth, see :data:`secure_fedhelp.privacy.accountant.BUDGET_TOLERANCE`).
        """
        own = self._ledger.reservation(self._plan.hash, round)
        wanted = [] if own is not None else paid(self._events(round))  # a reservation is counted by the ledger
        delta, limit = self._privacy.delta, self._budget.lifetime_epsilon
        after = epsilon([*self._ledger.committed(self._plan.hash), *wanted], delta)
        if not within_budget(after, self._privacy.epsilon):
            raise BudgetExhausted(
                f"round {round + 1} would bring epsilon from {self.epsilon_spent():.6g} to {after:.6g}, "
                f"the plan's budget is {self._privacy.epsilon:g} at delta {delta:g}"
            )
        if limit < math.inf:
            smallest = self._lifetime_delta()
            ever = epsilon([*self._ledger.committed(apart=self._budget.apart), *wanted], smallest)
            if not within_budget(ever, limit):
                raise BudgetExhausted(
                    f"round {round + 1} would bring epsilon over all studies from {self.lifetime_spent():.6g} to "
                    f"{ever:.6g}{self._held_by_others()}; the site policy's lifetime_epsilon is {limit:g} at delta "
                    f"{smallest:g}"
                )
        self._check_exact(round)
        return after

    def _held_by_others(self) -> str:
        """Which other studies have reserved a part of the budget, for the message."""
        others = [e for e in open_reservations(self._ledger.entries) if e.study != self._plan.hash]
        named = ", ".join(f"round {e.round + 1} of study {e.study[:16]}" for e in others)
        return f" (with what is reserved for {named}; 'hospital budget --give-back' if it is over)" if named else ""

    def _check_exact(self, round: int) -> None:
        if not any(isinstance(event, PooledExact) for event in self._events(round)):
            return
        about = [e for e in releases(self._ledger.entries) if e.dataset not in self._budget.apart]
        found = sum(isinstance(event, PooledExact) for e in about for event in e.events)
        if found >= self._budget.exact_releases:
            raise BudgetExhausted(
                f"round {round + 1} would release exact counts about these patients, and {found} such release(s) were "
                f"made before; the site policy's exact_releases is {self._budget.exact_releases}"
            )

    def reserve(self, round: int) -> None:
        """To be called before anything is trained: the round's events are written down, so that no other study takes
        the same piece of the budget. Again after a crash it does nothing, unless the patients are others by then.
        Raises BudgetExhausted, StorageError."""
        held = self._ledger.reservation(self._plan.hash, round)
        if held is not None and held.dataset != self._budget.dataset:
            self._ledger.void(held)
        self.check_affordable(round)
        if self._ledger.reservation(self._plan.hash, round) is None:
            self._ledger.reserve(
                self._events(round),
                study=self._plan.hash,
                round=round,
                delta=self._privacy.delta,
                dataset=self._budget.dataset,
                unit=self._privacy.unit,
            )

    def reserved(self, round: int) -> bool:
        """Whether a reservation of this study's round is open: neither used nor given back."""
        return self._ledger.reservation(self._plan.hash, round) is not None

    def spend_without_release(self, round: int, noise_source: NoiseName) -> None:
        """Pay for a round whose mechanism ran and whose output is unusable: that it was (training diverged, and this
        hospital goes silent) is an output too, and nobody may try again for nothing. Raises as :meth:`release`."""
        nothing = Proof.of("public", "public:plan")
        channels = {name: np.zeros(length) for name, length in self._plan.lengths(round).items()}
        output = PrivateOutput(channels, self._events(round), dict.fromkeys(channels, nothing), noise_source)
        self.release(round, output)

    def failed(self, round: int) -> bool:
        """Whether this ledger has paid for the round without a release: all of its channels are the zeros of
        :meth:`spend_without_release`."""
        return any(
            (entry.study, entry.round) == (self._plan.hash, round)
            and all(channel.mechanism == "public" for channel in entry.channels)
            for entry in releases(self._ledger.entries)
        )

    def give_back(self) -> None:
        """Void this study's open reservations: it is over, and they will not be used."""
        for entry in open_reservations(self._ledger.entries):
            if entry.study == self._plan.hash:
                self._ledger.void(entry)

    def release(
        self,
        round: int,
        output: PrivateOutput,
        before_spending: Callable[[Mapping[str, Vector]], None] | None = None,
    ) -> Released:
        """Check, clip, spend, then release (see the top of this file).

        ``before_spending`` is given the clipped channels while nothing is spent yet, to keep them for
        :meth:`recover`. Raises NotReleasable if the output is not what the plan's round executes, or a channel's proof
        is not one that the channel is declared for; InvalidContribution for NaN, infinity or a wrong length;
        BudgetExhausted; and StorageError if the ledger cannot be written: then nothing was spent and nothing may leave.
        """
        self._require_planned(round, output)
        output = replace(output, proofs=self._with_earlier(round, output))
        vectors, clipped = self._clip(round, output.channels)
        self._require_proven(round, output, vectors)
        self.check_affordable(round)
        if before_spending is not None:
            before_spending(MappingProxyType({name: np.frombuffer(data, "<f8") for name, data in vectors.items()}))
        entry = self._ledger.release(
            output.events,
            study=self._plan.hash,
            round=round,
            unit=self._privacy.unit,
            delta=self._privacy.delta,
            dataset=self._budget.dataset,
            channels=[
                ChannelRelease(name=name, values_sha256=sha256_hex(data), **output.proofs[name].model_dump())
                for name, data in vectors.items()
            ],
            noise_source=output.noise_source,
        )
        self._spent()
        return Released(_GATE, entry, vectors, clipped)

    def recover(self, round: int, channels: Mapping[str, Vector]) -> Released | None:
        """The same release again, after a crash between spending and uploading; nothing is spent twice.

        ``channels`` are the values that ``before_spending`` was given. None if no entry of this study and round names
        exactly these values: then they were never paid for, and must not leave.
        """
        if set(channels) != set(self._plan.lengths(round)):
            return None
        vectors, clipped = self._clip(round, channels)
        hashes = {name: sha256_hex(data) for name, data in vectors.items()}
        for entry in releases(self._ledger.entries):
            if (entry.study, entry.round) == (self._plan.hash, round) and entry.values() == hashes:
                return Released(_GATE, entry, vectors, clipped)
        return None

    def _events(self, round: int) -> tuple[DpSgd | Gaussian | PooledExact, ...]:
        return planned_events(self._plan, self._hospital, round)

    def _require_planned(self, round: int, output: PrivateOutput) -> None:
        planned = self._events(round)
        if output.events != planned:
            raise NotReleasable(f"executed was {_listed(output.events)}, the plan allows {_listed(planned)}")
        seeded_allowed = output.noise_source == "seeded-research" and self._plan.study.mode == "research"
        if output.noise_source != "system" and not seeded_allowed:
            raise NotReleasable(f"noise of source {output.noise_source!r} in {self._plan.study.mode} mode")
        wanted = set(self._plan.lengths(round))
        if set(output.channels) != wanted:
            raise NotReleasable(f"channels {sorted(output.channels)}, the plan says {sorted(wanted)}")
        if set(output.proofs) != wanted:
            raise NotReleasable(f"proofs of channels {sorted(output.proofs)}, the plan says {sorted(wanted)}")

    def _with_earlier(self, round: int, output: PrivateOutput) -> dict[str, Proof]:
        """The proofs, with the release of each earlier round that a channel carries something of.

        That release names what its own channel carried, so the line of releases goes back to all that is in it.
        """
        proofs = dict(output.proofs)
        for name, earlier in output.carried.items():
            proof = proofs.get(name)
            if type(proof) is not Proof or proof.mechanism != "post-processing":
                raise NotReleasable(f"channel {name} carries round {earlier + 1}, and only post-processing can")
            paid_for = [
                entry.index
                for entry in releases(self._ledger.entries)
                if (entry.study, entry.round) == (self._plan.hash, earlier) and earlier < round
            ]
            if not paid_for:
                raise NotReleasable(f"channel {name} carries round {earlier + 1}, which this ledger has not paid for")
            proofs[name] = Proof.of("post-processing", *proof.derived_from, f"entry:{self._ledger.heads[paid_for[-1]]}")
        return proofs

    def _require_proven(self, round: int, output: PrivateOutput, vectors: Mapping[str, bytes]) -> None:
        """Each channel by a mechanism it is declared for, from things that exist; public ones are zeros."""
        entries = self._ledger.sources
        for name, proof in output.proofs.items():
            if type(proof) is not Proof:
                raise NotReleasable(f"channel {name} has no proof, but {type(proof).__name__}")
            if (reason := objection(self._plan, round, name, proof)) is not None:
                raise NotReleasable(reason)
            for source in proof.derived_from:
                if source.startswith("entry:") and source not in entries:
                    raise NotReleasable(f"channel {name} derives from {source[:22]}, no paid release of this ledger")
                number = int(source[6:]) if source.startswith("event:") else None
                if number is not None and number >= len(output.events):
                    raise NotReleasable(f"channel {name} derives from event {number}, which was not executed")
                if number is not None and not fits(proof.mechanism, output.events[number]):
                    raise NotReleasable(f"channel {name}: event {number} is no {proof.mechanism}")
            if proof.mechanism == "public" and any(vectors[name]):
                raise NotReleasable(f"channel {name} is called public, and is not zero")

    def _clip(self, round: int, channels: Mapping[str, Vector]) -> tuple[dict[str, bytes], dict[str, int]]:
        """Each channel's clipped values as little-endian float64 bytes, and how many were clipped."""
        vectors: dict[str, bytes] = {}
        clipped: dict[str, int] = {}
        for name, length in self._plan.lengths(round).items():
            values = np.asarray(channels[name], dtype=np.float64)
            if values.shape != (length,):
                raise InvalidContribution(f"channel {name}: shape {values.shape}, the plan says ({length},)")
            cut, clipped[name] = clip_to_bound(values, self._plan.channel(name).bound)
            vectors[name] = cut.astype("<f8").tobytes()
        return vectors, clipped


def _listed(events: tuple[object, ...]) -> str:
    return ", ".join(str(event) for event in events) or "nothing"
