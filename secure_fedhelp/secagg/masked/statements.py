"""What members say to each other in a masked round, as signed canonical JSON. Plain values and strict parsers.

Each statement is one line of canonical JSON with one spelling, signed with the member's signing key for a context of
its own. All name study, round and attempt, so that none is worth anything in another.

    round-key     this attempt's two public keys of a member
    round-shares  whom a dealer shared its two secrets with, and the hash of what each of them gets
    survivors     the one list of uploads that a member will help to unmask
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from pydantic import Field, ValidationError

from secure_fedhelp.errors import MessageTooLarge, ProtocolError
from secure_fedhelp.study.canonical import canonical_bytes, digest, sha256_hex
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.sections import Name, Sha256, Strict

ROUND_KEY_CONTEXT: Final = "round-key"
SHARES_CONTEXT: Final = "round-shares"
SURVIVORS_CONTEXT: Final = "survivors"

#: Largest statement: a dealer's, with a hash for each of some thousand holders.
STATEMENT_BYTES: Final = 256 * 1024
#: Largest record of one share.
RECORD_BYTES: Final = 2048

#: More faults than this in one statement are counted and not named.
_NAMED_FAULTS: Final = 16

_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Share = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=1024)]


@dataclass(frozen=True)
class Place:
    """Which attempt of which round of which study; rounds and attempts count from 0."""

    study: str
    round: int
    attempt: int


@dataclass(frozen=True)
class Signed:
    """A statement byte for byte, and its author's signature over it."""

    statement: bytes
    signature: bytes


class _Statement(Strict):
    study: Sha256
    round: _Count
    attempt: _Count

    @property
    def place(self) -> Place:
        return Place(self.study, self.round, self.attempt)

    def to_bytes(self) -> bytes:
        return canonical_bytes(self.model_dump(mode="json"))


class RoundKeyStatement(_Statement):
    """A member's public keys of one attempt, X25519 both: one makes the pair masks, shares are sealed to the other."""

    hospital: Name
    mask_key: _Key
    share_key: _Key


class ShareRecord(_Statement):
    """What one holder gets from one dealer: its two shares, sealed, and a commitment to each.

    The commitments let the coordinator tell a forged share from the dealer's without learning a share before it is
    revealed. ``number`` is the share's place on the dealer's polynomials, from 1.
    """

    dealer: Name
    holder: Name
    number: Annotated[int, Field(ge=1, lt=2**31)]
    self_commitment: Sha256
    mask_commitment: Sha256
    sealed: _Hex


class SharesStatement(_Statement):
    """Whom a dealer shared its secrets with (SHA-256 of each holder's record), and how many shares rebuild one.

    ``members`` is the hash of the attempt's list of round keys as the dealer saw it. ``self_secret`` commits to the
    secret of its self-mask; the pair masks' secret is fixed by its public key.
    """

    dealer: Name
    members: Sha256
    needed: Annotated[int, Field(ge=1, lt=2**31)]
    records: dict[Name, Sha256]
    self_secret: Sha256


class SurvivorsStatement(_Statement):
    """The uploads of one attempt that shall be unmasked together: hospital and SHA-256 of its body.

    ``members`` names who gave keys: their number fixes the threshold. ``view`` is the hash of all keys and all dealers'
    statements the member has seen, so that members who were shown different ones never agree.
    """

    members: tuple[Name, ...]
    survivors: dict[Name, Sha256]
    view: Sha256


class Reveal(Strict):
    """One member's answer when enough have signed its list: by dealer, the share of the self-mask's secret of each
    survivor, and the share of the pair masks' secret of each dealer that did not survive."""

    study: Sha256
    round: _Count
    attempt: _Count
    self_shares: dict[Name, _Share]
    mask_shares: dict[Name, _Share]

    def to_bytes(self) -> bytes:
        return canonical_bytes(self.model_dump(mode="json"))


StatementType = TypeVar("StatementType", RoundKeyStatement, ShareRecord, SharesStatement, SurvivorsStatement, Reveal)


def parse(model: type[StatementType], data: bytes, limit: int = STATEMENT_BYTES) -> StatementType:
    """The statement in ``data``; ProtocolError unless it is exactly its canonical form, MessageTooLarge if longer."""
    name = model.__name__
    if len(data) > limit:
        raise MessageTooLarge(f"a {name} of {len(data)} bytes, at most {limit}")
    try:
        value = model.model_validate_json(data, strict=True)
    except ValidationError as error:
        # A hostile statement can be wrong in a hundred thousand places; naming each would cost more than its size.
        wrong = error.error_count()
        raise ProtocolError(f"{name}: {explain(error) if wrong <= _NAMED_FAULTS else f'{wrong} faults'}") from None
    if value.to_bytes() != data:
        raise ProtocolError(f"the {name} is not in canonical form")
    return value


def members_hash(keys: Mapping[str, Signed]) -> str:
    """What a dealer's statement says of the round keys it has seen."""
    return digest({name: sha256_hex(signed.statement) for name, signed in keys.items()})


def view_hash(keys: Mapping[str, Signed], dealt: Mapping[str, bytes]) -> str:
    """One hash of every round key and every dealer's statement (``dealt``, by name)."""
    statements = {name: sha256_hex(data) for name, data in dealt.items()}
    return digest({"keys": members_hash(keys), "shares": statements})
