"""The roster as this hospital checks it: the coordinator only relays the cards, so each is judged under the CA here.

A card is kept with the time at which it was checked. After a restart the same card is judged at that time: another
member's certificate that ended meanwhile takes that member out of the study (nobody lets it in), and shall not keep us
out too, who need its key to verify what it signed before. A revoked one does: what its keys signed, and when, nobody
can tell any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secure_fedhelp.errors import CertificateExpired, TranscriptInvalid
from secure_fedhelp.hospital.ports import Coordinator
from secure_fedhelp.hospital.vault import AcceptedCard
from secure_fedhelp.identity.cards import MemberCard, check_card
from secure_fedhelp.identity.tls import Credentials
from secure_fedhelp.study.plan import StudyPlan


@dataclass(frozen=True)
class Roster:
    """The coordinator's card, every hospital's by name, and what to keep of the latter for the next start."""

    coordinator: MemberCard
    hospitals: Mapping[str, MemberCard]
    accepted: Mapping[str, AcceptedCard]


def check_roster(
    coordinator: Coordinator,
    credentials: Credentials,
    plan: StudyPlan,
    now: float,
    hospital: str,
    signing_key: str,
    kept: Mapping[str, AcceptedCard],
) -> Roster:
    """The roster that the coordinator relays; ``hospital``'s card must be ours, with our public key.

    ``kept`` are the cards accepted by an earlier run. Raises what :func:`check_card` raises, and TranscriptInvalid for
    cards that are not those of one whole study, or not of the members, with the keys, that it had before: after the
    gathering nobody joins a study or leaves its roster.
    """
    ca_pem, revoked = credentials.ca_pem, credentials.revocations
    own = check_card(coordinator.coordinator_card(), ca_pem, plan, now, revoked)
    if own.role != "coordinator":
        raise TranscriptInvalid("the coordinator presented a hospital's card")
    relayed = coordinator.roster()
    if kept and kept.keys() != relayed.keys():
        others = ", ".join(sorted(kept.keys() ^ relayed.keys()))
        raise TranscriptInvalid(f"the roster has other members than at an earlier start: {others}")
    cards: dict[str, MemberCard] = {}
    accepted: dict[str, AcceptedCard] = {}
    for name, data in relayed.items():
        before = kept.get(name)
        accepted[name] = before if before is not None and before.card == data else AcceptedCard(data, now)
        try:
            card = check_card(data, ca_pem, plan, now, revoked, accepted[name].time)
        except CertificateExpired:
            if before is None:
                raise
            # Its certificate was renewed while we ran, and has ended since: what we checked ourselves is what counts.
            accepted[name] = before
            card = check_card(before.card, ca_pem, plan, now, revoked, before.time)
        if card.name != name or card.role != "hospital":
            raise TranscriptInvalid(f"the card given for {name} is another member's")
        if before is not None:
            _require_same_keys(card, MemberCard.model_validate_json(before.card))
        cards[name] = card
    mine = cards.get(hospital)
    if mine is None or mine.signing_key != signing_key:
        raise TranscriptInvalid("the coordinator's roster does not hold our own card")
    if len(cards) < plan.aggregation.minimum_cohort:
        raise TranscriptInvalid(f"a roster of {len(cards)}, fewer than the plan's smallest cohort")
    return Roster(own, cards, accepted)


def _require_same_keys(card: MemberCard, before: MemberCard) -> None:
    """A renewed certificate makes a new card; the keys of a study stay."""
    if (card.signing_key, card.sealing_key) != (before.signing_key, before.sealing_key):
        raise TranscriptInvalid(
            f"the card given for {card.name} has other keys than the one this hospital checked before"
        )
