"""The entry of a privacy ledger: its fields, its line, and the check of a whole file of them. No files here.

A line is canonical JSON, ``{"entry": {...}, "signature": hex}``, and ends with one line feed. Exactly one spelling of
an entry is accepted, so that its hash can be compared; unknown keys and kinds are refused, so that no accountant skips
what it does not understand.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from secure_fedhelp.errors import BadSignature, LedgerInvalid
from secure_fedhelp.identity.signing import SigningKey, verify
from secure_fedhelp.privacy.mechanisms import Mechanism
from secure_fedhelp.privacy.noise import NoiseName
from secure_fedhelp.study.canonical import GENESIS, canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import Name, Sha256, Strict, explain

ENTRY_CONTEXT = "ledger-entry"
#: What the first entry names as the line before it.
#: An entry has some hundred bytes and a few for each channel; longer lines are not ours.
LARGEST_LINE_BYTES = 65_536

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ChannelRelease(Strict):
    """One channel of a release.

    ``mechanism`` is the entry's event for what the mechanism put out itself, or ``post-processing`` for what was
    computed from that and public things; ``derived_from`` then names what it was computed from.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    mechanism: Literal["dp-sgd", "gaussian", "post-processing"]
    derived_from: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    #: Of the released values as little-endian float64, clipped to the channel's bound.
    values_sha256: Sha256

    @model_validator(mode="after")
    def _derived_from_something(self) -> ChannelRelease:
        if (self.mechanism == "post-processing") != (self.derived_from is not None):
            raise ValueError(f"channel {self.name!r}: derived_from belongs to post-processing, and only to it")
        return self


class LedgerEntry(Strict):
    """One release: which mechanism ran, for which study and round, and what left the hospital because of it."""

    format: Literal[1] = 1
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
    event: Mechanism
    channels: tuple[ChannelRelease, ...] = Field(min_length=1)
    noise_source: NoiseName

    @model_validator(mode="after")
    def _channels_fit_the_event(self) -> LedgerEntry:
        names = [c.name for c in self.channels]
        if names != sorted(set(names)):
            raise ValueError("channels must be sorted by name, each once")
        if any(c.mechanism not in (self.event.kind, "post-processing") for c in self.channels):
            raise ValueError(f"a channel names another mechanism than the entry's {self.event.kind}")
        return self

    def values(self) -> dict[str, str]:
        """SHA-256 of the released values by channel."""
        return {c.name: c.values_sha256 for c in self.channels}


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
        entry = LedgerEntry.model_validate(values["entry"])
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
        raise LedgerInvalid(f"it names key {entry.public_key[:16]}, expected is {public_hex[:16]}")
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
    entries: list[LedgerEntry] = []
    head = GENESIS
    for index, line in enumerate(lines):
        try:
            entry = check_line(line, index, head, public_hex)
            if entries and entry.hospital != entries[0].hospital:
                raise LedgerInvalid(f"it is of hospital {entry.hospital}, the ledger of {entries[0].hospital}")
        except LedgerInvalid as error:
            raise LedgerInvalid(f"{source}: entry {index}: {error.message}") from error
        entries.append(entry)
        head = sha256_hex(line)
        public_hex = entry.public_key
    return entries
