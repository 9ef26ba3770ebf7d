"""The roster as this hospital checks it: the coordinator only relays the cards, so each is judged under the CA here."""

from __future__ import annotations

from secure_fedhelp.errors import TranscriptInvalid
from secure_fedhelp.hospital.ports import Coordinator
from secure_fedhelp.identity.cards import MemberCard, check_card
from secure_fedhelp.identity.tls import Credentials
from secure_fedhelp.study.plan import StudyPlan


def check_roster(
    coordinator: Coordinator, credentials: Credentials, plan: StudyPlan, now: float, hospital: str, signing_key: str
) -> tuple[MemberCard, dict[str, MemberCard]]:
    """The coordinator's card, and every hospital's by name; ``hospital``'s must be ours, with our public key.

    Raises what :func:`check_card` raises, and TranscriptInvalid for cards that are not those of one whole study.
    """
    ca_pem, revoked = credentials.ca_pem, credentials.revocations
    own = check_card(coordinator.coordinator_card(), ca_pem, plan, now, revoked)
    if own.role != "coordinator":
        raise TranscriptInvalid("the coordinator presented a hospital's card")
    cards: dict[str, MemberCard] = {}
    for name, data in coordinator.roster().items():
        card = check_card(data, ca_pem, plan, now, revoked)
        if card.name != name or card.role != "hospital":
            raise TranscriptInvalid(f"the card given for {name} is another member's")
        cards[name] = card
    mine = cards.get(hospital)
    if mine is None or mine.signing_key != signing_key:
        raise TranscriptInvalid("the coordinator's roster does not hold our own card")
    if len(cards) < plan.aggregation.minimum_cohort:
        raise TranscriptInvalid(f"a roster of {len(cards)}, fewer than the plan's smallest cohort")
    return own, cards
