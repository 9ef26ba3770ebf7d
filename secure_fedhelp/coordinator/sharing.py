"""Shares where their bytes are: checked before the rules hear of them, handed to holders, put together at the end.

Every record and every revealed share is compared with what its dealer signed. So whoever forges one is named at once,
and what the rules count (who holds a share, who has revealed) is what can really be put together.
"""

from __future__ import annotations

from collections.abc import Mapping

from secure_fedhelp.coordinator.masked_rounds import place_of
from secure_fedhelp.coordinator.state import State
from secure_fedhelp.errors import ForgedShare
from secure_fedhelp.secagg.masked.checks import check_record
from secure_fedhelp.secagg.masked.member import Dealing, Delivery
from secure_fedhelp.secagg.masked.statements import Reveal, SharesStatement, parse
from secure_fedhelp.secagg.masked.unmasking import Unmasking
from secure_fedhelp.study.plan import StudyPlan


def check_records(statement: SharesStatement, records: Mapping[str, bytes]) -> None:
    """Refuse records that are not exactly those the dealer's statement names; ForgedShare, ProtocolError."""
    if records.keys() != statement.records.keys():
        raise ForgedShare(f"{statement.dealer} sent shares for other holders than it signed")
    for holder, record in records.items():
        check_record(record, statement, holder)


def deliveries(state: State, mine: Mapping[str, bytes]) -> dict[str, Delivery]:
    """What a member gets of each dealer, ``mine`` being the records for it."""
    return {name: Delivery(dealt.signed, mine.get(name)) for name, dealt in sorted(state.attempt.dealt.items())}


def check_reveal(plan: StudyPlan, state: State, holder: str, data: bytes, mine: Mapping[str, bytes]) -> None:
    """Refuse what ``holder`` reveals unless it is what is asked of it; as :meth:`Unmasking.check`."""
    dealings = {
        name: Dealing(dealt.signed, {holder: mine[name]} if name in mine else {})
        for name, dealt in state.attempt.dealt.items()
    }
    Unmasking(place_of(plan, state), {}, dealings, frozenset(state.uploads)).check(holder, data)


def mask_keys(
    plan: StudyPlan, state: State, reveals: Mapping[str, bytes]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Keys of the masks to add to the sum of ``state``'s uploads and to subtract from it, from checked ``reveals``.

    UnmaskingFailed if a dealer's shares rebuild something else than it committed to.
    """
    attempt = state.attempt
    keys = {name: attempt.keys[name] for name in attempt.dealt}
    # Of the records only who holds one is needed now.
    dealings = {name: Dealing(d.signed, dict.fromkeys(d.holders, b"")) for name, d in attempt.dealt.items()}
    unmasking = Unmasking(place_of(plan, state), keys, dealings, frozenset(state.uploads))
    return unmasking.masks({name: parse(Reveal, data) for name, data in reveals.items()})
