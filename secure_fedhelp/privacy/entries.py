"""The entries of a privacy ledger: their fields, their lines, and the check of a whole file of them. No files here.

A line is canonical JSON, ``{"entry": {...}, "signature": hex}``, and ends with one line feed. Exactly one spelling of
an entry is accepted, so that its hash can be compared; unknown keys and kinds are refused, so that no accountant skips
what it does not understand. There are three kinds:

``reservation``   what the next round of a study will ask of the records; made before training, so that no two studies
                  on the same patients take the same last piece of a budget
``release``       what was executed, what left because of it, and from what each channel follows; it is *spent*
``void``          a reservation given back: its round never came

Epsilon is of the releases alone, so it never falls. A budget is compared with releases and open reservations together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from secure_fedhelp.errors import BadSignature, LedgerInvalid
from secure_fedhelp.identity.signing import SigningKey, verify
from secure_fedhelp.privacy.mechanisms import DpSgd, Event, Gaussian, Mechanism, PooledExact, paid
from secure_fedhelp.privacy.noise import NoiseName
from secure_fedhelp.study.canonical import GENESIS, canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.sections import Name, Sha256, Strict

ENTRY_CONTEXT = "ledger-entry"
#: An entry has some hundred bytes and a few for each channel; longer lines are not ours.
LARGEST_LINE_BYTES = 65_536

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

#: Where a channel's values come from: the N-th event of this very entry; an earlier entry of this ledger, by the
#: SHA-256 of its line; or something public.
Source = Annotated[
    str, Field(pattern=r"^(event:[0-9]{1,2}|entry:[0-9a-f]{64}|public:(plan|public-set|teacher|transcript))$")
]
#: How a channel's values came to be: a mechanism's own output, a function of outputs that were paid for and public
#: things (post-processing), or of public things alone.
How = Literal["dp-sgd", "gaussian", "pooled-exact", "post-processing", "public"]


class Proof(Strict):
    """Why a channel's values may leave: how they were made, and from what. It is data, so that an audit can read it.

    A mechanism's own output names its own event alone, although it may start from models that earlier events of this
    ledger made: what accountants compose is adaptive (Dwork and Roth 2014, section 3.5), so each event covers its
    output whatever earlier ones it was begun from. Post-processing names every release that is in it.
    """

    mechanism: How
    derived_from: tuple[Source, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _sources_fit(self) -> Proof:
        if list(self.derived_from) != sorted(set(self.derived_from)):
            raise ValueError("sources must be sorted, each once")
        private = [s for s in self.derived_from if not s.startswith("public:")]
        if self.mechanism == "public" and private:
            raise ValueError(f"public values cannot come from {private[0]}")
        if self.mechanism == "post-processing" and not private:
            raise ValueError("post-processing is of something that was paid for")
        if self.mechanism not in ("public", "post-processing") and [s[:6] for s in private] != ["event:"]:
            raise ValueError(f"the output of {self.mechanism} comes from one event of its own entry")
        return self

    @classmethod
    def of(cls, mechanism: How, *sources: str) -> Proof:
        """A proof from its sources, in any order."""
        return cls(mechanism=mechanism, derived_from=tuple(sorted(set(sources))))


class ChannelRelease(Proof):
    """One channel of a release, and its proof."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    #: Of the released values as little-endian float64, clipped to the channel's bound.
    values_sha256: Sha256


class _Entry(Strict):
    format: Literal[2] = 2
    #: Number of the entry in its file, from 0.
    index: _Count
    #: SHA-256 of the line before, without its line feed; 64 zeros at first.
    previous: Sha256
    hospital: Name
    #: The Ed25519 key that signs this ledger, so that a file verifies by itself; whose key it is, a card says.
    public_key: _PublicKey
    #: Unix seconds by the hospital's clock; informative, the chain gives the order.
    time: _Count
    study: Sha256
    round: _Count
    unit: Literal["patient"]
    #: The delta the study's budget is stated at; epsilon is always recomputed from the events.
    delta: Annotated[float, Field(gt=0, lt=1)]
    #: Which patients: a fingerprint under a secret of the hospital (privacy/datasets.py), so that it names nobody.
    dataset: Sha256
    events: tuple[Event, ...] = Field(max_length=100)


class Reservation(_Entry):
    """The events that a round of a study is going to execute."""

    kind: Literal["reservation"] = "reservation"
    events: tuple[Event, ...] = Field(min_length=1, max_length=100)


class Void(_Entry):
    """A reservation given back, with the same events: nothing of it was released."""

    kind: Literal["void"] = "void"
    reservation: _Count


class Release(_Entry):
    """One round's release: which mechanisms ran, and what left the hospital because of it."""

    kind: Literal["release"] = "release"
    #: Index of the reservation that this settles; None if there was none.
    reservation: _Count | None = None
    channels: tuple[ChannelRelease, ...] = Field(min_length=1, max_length=100)
    noise_source: NoiseName

    @model_validator(mode="after")
    def _channels_fit_the_events(self) -> Release:
        names = [c.name for c in self.channels]
        if names != sorted(set(names)):
            raise ValueError("channels must be sorted by name, each once")
        for channel in self.channels:
            for number in (int(s[6:]) for s in channel.derived_from if s.startswith("event:")):
                if number >= len(self.events):
                    raise ValueError(f"channel {channel.name!r} names event {number}, there are {len(self.events)}")
                if not fits(channel.mechanism, self.events[number]):
                    raise ValueError(f"channel {channel.name!r}: event {number} is no {channel.mechanism}")
        return self

    def values(self) -> dict[str, str]:
        """SHA-256 of the released values by channel."""
        return {c.name: c.values_sha256 for c in self.channels}


def fits(how: How, event: DpSgd | Gaussian | PooledExact) -> bool:
    """Whether a channel made by ``how`` may come from ``event``. Post-processing keeps the privacy of what it is done
    to, so what has none cannot be post-processed into something that leaves."""
    return not isinstance(event, PooledExact) if how == "post-processing" else how == event.kind


LedgerEntry = Reservation | Void | Release
_ENTRY: Final[TypeAdapter[LedgerEntry]] = TypeAdapter(Annotated[LedgerEntry, Field(discriminator="kind")])


def parse_entry(values: object) -> LedgerEntry:
    """An entry from plain values; pydantic's ValidationError."""
    return _ENTRY.validate_python(values)


def releases(entries: Iterable[LedgerEntry]) -> list[Release]:
    return [entry for entry in entries if isinstance(entry, Release)]


def spent(entries: Iterable[LedgerEntry]) -> list[Mechanism]:
    """What the accountants compose: the mechanisms of all releases, in order."""
    return paid(event for entry in releases(entries) for event in entry.events)


def open_reservations(entries: Iterable[LedgerEntry]) -> list[Reservation]:
    """Reservations that no release has settled and nobody has given back."""
    found: dict[int, Reservation] = {}
    for entry in entries:
        if isinstance(entry, Reservation):
            found[entry.index] = entry
        elif entry.reservation is not None:
            found.pop(entry.reservation, None)
    return list(found.values())


def committed(entries: Iterable[LedgerEntry]) -> list[Mechanism]:
    """What is spent, and what open reservations may yet spend: what a budget is compared with."""
    every = list(entries)
    return spent(every) + paid(event for r in open_reservations(every) for event in r.events)


def signed_line(entry: LedgerEntry, key: SigningKey) -> bytes:
    """The entry's line, without its line feed."""
    fields = entry.model_dump(mode="json")
    signature = key.sign(ENTRY_CONTEXT, canonical_bytes(fields))
    return canonical_bytes({"entry": fields, "signature": signature.hex()})


def check_line(line: bytes, index: int, previous: str, public_hex: str | None) -> LedgerEntry:
    """The entry of one line, once everything in it holds; ``public_hex`` None takes the key the entry itself names.

    Raises LedgerInvalid with the reason, without file or entry number: :func:`check_lines` adds those.
    """
    if len(line) > LARGEST_LINE_BYTES:
        raise LedgerInvalid(f"a line of {len(line)} bytes")
    try:
        values = json.loads(line)
        entry = parse_entry(values["entry"])
        signature = bytes.fromhex(values["signature"])
        canonical = canonical_bytes({"entry": entry.model_dump(mode="json"), "signature": signature.hex()})
    except ValidationError as error:
        raise LedgerInvalid(f"malformed: {explain(error)}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LedgerInvalid("not a signed entry in JSON") from error
    if canonical != line:
        raise LedgerInvalid("not in canonical form")
    if entry.index != index:
        raise LedgerInvalid(f"it is numbered {entry.index}: an entry is missing, doubled or moved")
    if entry.previous != previous:
        raise LedgerInvalid("it does not follow the line before: an entry was changed, dropped or moved")
    if public_hex is not None and entry.public_key != public_hex:
        raise LedgerInvalid(
            f"it names key {entry.public_key[:16]}, expected is {public_hex[:16]}",
            "Is it another hospital's? If it is your own from an earlier study, make this study's folder with "
            "'secure-fedhelp hospital init --like' the earlier one.",
        )
    try:
        verify(entry.public_key, ENTRY_CONTEXT, canonical_bytes(entry.model_dump(mode="json")), signature)
    except BadSignature as error:
        raise LedgerInvalid("its signature does not hold") from error
    return entry


def check_lines(lines: list[bytes], source: str, public_hex: str | None = None) -> list[LedgerEntry]:
    """All entries of a ledger from its lines.

    With ``public_hex`` None the first entry's key must have signed all: then the file is consistent, and whose it is
    remains to be checked. Raises LedgerInvalid naming ``source``, the entry and the reason.
    """
    return check_history(lines, source, public_hex).entries


def check_history(lines: Iterable[bytes], source: str, public_hex: str | None = None) -> History:
    """As :func:`check_lines`, with what the next entry will be held against."""
    so_far = History()
    for index, line in enumerate(lines):
        try:
            entry = check_line(line, index, so_far.head, public_hex)
            so_far.require_next(entry)
        except LedgerInvalid as error:
            raise LedgerInvalid(f"{source}: entry {index}: {error.message}", error.hint) from error
        so_far.add(entry, line)
        public_hex = entry.public_key
    return so_far


class History:
    """The entries of a ledger from its first on, and what the next one may say after them."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        #: SHA-256 of each line.
        self.heads: list[str] = []
        #: What a later release may say it derives from: releases that were paid for in full.
        self.sources: set[str] = set()
        self._open: dict[int, Reservation] = {}

    @property
    def head(self) -> str:
        return self.heads[-1] if self.heads else GENESIS

    def add(self, entry: LedgerEntry, line: bytes) -> None:
        """Take an entry that :meth:`require_next` has nothing against."""
        self.entries.append(entry)
        self.heads.append(sha256_hex(line))
        if isinstance(entry, Release) and not any(isinstance(event, PooledExact) for event in entry.events):
            self.sources.add(f"entry:{self.heads[-1]}")
        if isinstance(entry, Reservation):
            self._open[entry.index] = entry
        elif entry.reservation is not None:
            del self._open[entry.reservation]

    def reservation(self, study: str, round_number: int) -> Reservation | None:
        """The open reservation for a round of a study."""
        return next((r for r in self._open.values() if (r.study, r.round) == (study, round_number)), None)

    def require_next(self, entry: LedgerEntry) -> None:
        """Raise LedgerInvalid if ``entry`` contradicts what stands before it."""
        if self.entries and entry.hospital != self.entries[0].hospital:
            raise LedgerInvalid(f"it is of hospital {entry.hospital}, the ledger of {self.entries[0].hospital}")
        if isinstance(entry, Reservation):
            if self.reservation(entry.study, entry.round) is not None:
                raise LedgerInvalid(f"round {entry.round + 1} of the study is reserved already")
            return
        if entry.reservation is not None:
            reserved = self._open.get(entry.reservation)
            if reserved is None:
                raise LedgerInvalid(f"entry {entry.reservation} is no open reservation")
            for what in ("study", "round", "dataset", "events"):
                if getattr(reserved, what) != getattr(entry, what):
                    raise LedgerInvalid(f"its {what} is not that of the reservation in entry {entry.reservation}")
        if isinstance(entry, Release):
            for source in (s for c in entry.channels for s in c.derived_from if s.startswith("entry:")):
                if source not in self.sources:
                    raise LedgerInvalid(f"it derives from entry {source[6:22]}, which is no paid release before it")
