"""What is asked of every statement of a masked round before it is used: the same questions at members and coordinator.

Nothing here trusts who delivered a statement. A key or a dealing that is not its author's, or of another attempt, is
refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from secure_fedhelp.errors import BadSignature, ForgedShare, NotOnRoster, ProtocolError, SplitView, WrongRound
from secure_fedhelp.identity.signing import verify
from secure_fedhelp.secagg.masked.graph import Graph, graph
from secure_fedhelp.secagg.masked.roundkeys import usable
from secure_fedhelp.secagg.masked.statements import (
    RECORD_BYTES,
    ROUND_KEY_CONTEXT,
    SHARES_CONTEXT,
    SURVIVORS_CONTEXT,
    Place,
    RoundKeyStatement,
    ShareRecord,
    SharesStatement,
    Signed,
    SurvivorsStatement,
    parse,
)
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.threshold import Masks, threshold


def check_key(signed: Signed, place: Place, name: str, public: str) -> RoundKeyStatement:
    """The round key of ``name``, signed under ``public`` for this attempt; WrongRound, BadSignature, ProtocolError.

    Points of small order are refused here, at the door, and not first when a mask is made of one: by then the others
    would be in an attempt that they cannot leave.
    """
    statement = parse(RoundKeyStatement, signed.statement, RECORD_BYTES)
    _require_place(statement.place, place, f"the round key of {name}")
    if statement.hospital != name:
        raise ProtocolError(f"the round key given for {name} is of {statement.hospital}")
    verify(public, ROUND_KEY_CONTEXT, signed.statement, signed.signature)
    if not (usable(statement.mask_key) and usable(statement.share_key)):
        raise ProtocolError(f"the round key of {name} is no usable X25519 key")
    return statement


def check_dealer(
    signed: Signed, place: Place, name: str, public: str, members: Iterable[str], members_hash: str, shape: Graph
) -> SharesStatement:
    """The dealing of ``name``, signed, among holders that fit the graph; SplitView if it saw other round keys."""
    statement = parse(SharesStatement, signed.statement)
    _require_place(statement.place, place, f"the dealing of {name}")
    if statement.dealer != name:
        raise ProtocolError(f"the shares given for {name} are of {statement.dealer}")
    verify(public, SHARES_CONTEXT, signed.statement, signed.signature)
    if statement.members != members_hash:
        raise SplitView(f"{name} was shown another list of round keys", "Nothing was uploaded; tell the others.")
    holders, known = set(statement.records), set(members)
    # In the full graph a member holds its own shares too: with t = n its own word is needed to open anything.
    right = holders == known if shape.full else holders < known and name not in holders
    if not right or len(holders) != shape.neighbours or statement.needed != shape.holders_needed:
        raise ProtocolError(f"{name} shared its secrets among other holders than the graph of this attempt has")
    return statement


def check_record(data: bytes, statement: SharesStatement, holder: str) -> ShareRecord:
    """The record for ``holder`` that the dealer's statement fixes; ForgedShare if it is another."""
    if sha256_hex(data) != statement.records.get(holder):
        raise ForgedShare(f"the shares of {statement.dealer} for {holder} are not those it signed")
    record = parse(ShareRecord, data, RECORD_BYTES)
    if (record.place, record.dealer, record.holder) != (statement.place, statement.dealer, holder):
        raise ForgedShare(f"{statement.dealer} signed the shares of another place for {holder}")
    number = 1 + sorted(statement.records).index(holder)
    if record.number != number:
        raise ForgedShare(f"{statement.dealer} gave {holder} share {record.number}, it is number {number}")
    return record


def check_agreement(
    masks: Masks,
    smallest_cohort: int,
    statement: SurvivorsStatement,
    signatures: Mapping[str, bytes],
    publics: Mapping[str, str],
) -> None:
    """SplitView unless at least t survivors have signed this very list, which must be large enough.

    t counts the members who gave keys, so a list of few members has few to convince; that is why the number of
    survivors has a lower bound of its own.
    """
    needed = threshold(masks, len(statement.members))
    if len(set(statement.members)) != len(statement.members) or not statement.survivors.keys() <= set(
        statement.members
    ):
        raise SplitView("a survivor is no member of the attempt, or a member is listed twice")
    if len(statement.survivors) < max(needed, smallest_cohort):
        raise SplitView(
            f"a list of {len(statement.survivors)} survivors of {len(statement.members)} members, "
            f"at least {max(needed, smallest_cohort)} are needed"
        )
    data = statement.to_bytes()
    agreed = []
    for name, signature in signatures.items():
        if name not in statement.survivors or name not in publics:
            raise NotOnRoster(f"{name} is no survivor and cannot agree to the list")
        try:
            verify(publics[name], SURVIVORS_CONTEXT, data, signature)
        except BadSignature as error:
            raise SplitView(f"{name} has not signed this list of survivors, but perhaps another") from error
        agreed.append(name)
    if len(agreed) < needed:
        raise SplitView(f"{len(agreed)} hospitals have signed this list of survivors, {needed} are needed")


def shape_of(masks: Masks, members: Iterable[str]) -> Graph:
    """The graph of an attempt with these members."""
    return graph(masks, len(set(members)))


def _require_place(found: Place, place: Place, what: str) -> None:
    if found.study != place.study:
        raise WrongRound(f"{what} is for another study, {found.study[:16]}")
    if found != place:
        raise WrongRound(
            f"{what} is for round {found.round}, attempt {found.attempt}; this is round {place.round}, "
            f"attempt {place.attempt}"
        )
