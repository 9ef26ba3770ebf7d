"""What can happen to a study, as plain values with a JSON form: the input of rounds.py and the rows of journal.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from secure_fedhelp.study.sections import Strict


class _Event(Strict):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Joined(_Event):
    """A member came, or came back, with a card that was checked (certificate, CA, revocation, study).

    ``expires`` is the end of the card's certificate (unix seconds).
    """

    kind: Literal["joined"] = "joined"
    name: str
    card: bytes
    signing_key: str
    sealing_key: str
    expires: float


class Returned(_Event):
    """A member came back, and its card is the one that is stored or an older one. Said of a Joined by the rules."""

    kind: Literal["returned"] = "returned"
    name: str


class KeyPosted(_Event):
    """The maker posted one sealed study key for each other member. The keys themselves lie beside the journal."""

    kind: Literal["key-posted"] = "key-posted"
    name: str
    epoch: int
    fingerprint: str
    recipients: tuple[str, ...]


class KeyConfirmed(_Event):
    """A member states, signed, which study key it holds."""

    kind: Literal["key-confirmed"] = "key-confirmed"
    name: str
    epoch: int
    fingerprint: str
    signature: bytes


class RoundKeyPosted(_Event):
    """A member's signed keys of an attempt at a round with masks."""

    kind: Literal["round-key-posted"] = "round-key-posted"
    name: str
    round: int
    attempt: int
    statement: bytes
    signature: bytes


class SharesPosted(_Event):
    """A dealer's signed statement; the records it names were checked, and lie beside the journal."""

    kind: Literal["shares-posted"] = "shares-posted"
    name: str
    round: int
    attempt: int
    statement: bytes
    signature: bytes


class Agreed(_Event):
    """A survivor's signature on the list of survivors."""

    kind: Literal["agreed"] = "agreed"
    name: str
    round: int
    attempt: int
    signature: bytes


class Revealed(_Event):
    """A survivor's shares were checked, and lie beside the journal."""

    kind: Literal["revealed"] = "revealed"
    name: str
    round: int
    attempt: int
    reveal_sha256: str


class Uploaded(_Event):
    """A whole body is stored whose hash is the header's; it was checked against the profile."""

    kind: Literal["uploaded"] = "uploaded"
    name: str
    header: bytes
    signature: bytes


class Declined(_Event):
    """A member states, signed, that it leaves out a round (or, for the final reason, all that follow)."""

    kind: Literal["declined"] = "declined"
    name: str
    round: int
    reason: str
    signature: bytes


class Published(_Event):
    """The sum of the closed round is stored, and ``line`` is its signed transcript entry."""

    kind: Literal["published"] = "published"
    round: int
    line: bytes


class SumLost(_Event):
    """The closed round's masks cannot be taken off its sum: a dealer's shares do not fit what it signed."""

    kind: Literal["sum-lost"] = "sum-lost"
    round: int
    message: str


class Left(_Event):
    """A member said goodbye."""

    kind: Literal["left"] = "left"
    name: str


class Withdrew(_Event):
    """A hospital of the plan, which may not have joined, says that it does not take part."""

    kind: Literal["withdrew"] = "withdrew"
    name: str


class Ticked(_Event):
    """Time passed."""

    kind: Literal["ticked"] = "ticked"


class Restarted(_Event):
    """The coordinator's process started again."""

    kind: Literal["restarted"] = "restarted"


Event = (
    Joined
    | Returned
    | KeyPosted
    | KeyConfirmed
    | RoundKeyPosted
    | SharesPosted
    | Agreed
    | Revealed
    | Uploaded
    | Declined
    | Published
    | SumLost
    | Left
    | Withdrew
    | Ticked
    | Restarted
)

_ANY: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def event_json(event: Event) -> str:
    """The event as one line of JSON; bytes as base64."""
    return event.model_dump_json()


def parse_event(text: str) -> Event:
    """The event in ``text``; pydantic's ValidationError (a ValueError) if it is none."""
    return _ANY.validate_json(text)
