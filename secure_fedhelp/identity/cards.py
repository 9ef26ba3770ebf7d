"""Member cards: the binding of a hospital's keys to its name and to one study, checkable by everybody.

A card says "I, hospital H of consortium C, sign with this key and am sealed to with this HPKE key in the study with
this hash". The certificate's private key signs it, so H accepted this very plan; the signing key signs it too, so
nobody can claim another's key. The coordinator hands cards round and every hospital checks them against its own copy
of ``ca.crt`` and its own plan. So that *this signing key belongs to that hospital, and that it accepted this plan*, is
checked by every other hospital without trusting the coordinator, which can withhold a card but make none.

The signing key must be of the suite that the plan names: whoever verifies a signature takes the suite from this key.
Certificates are ECDSA in either suite (TLS libraries take no other), so ML-DSA protects what a study's members sign
once their cards were checked; it does not protect the check of a card against a forger of ECDSA signatures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError, model_validator

from secure_fedhelp.errors import (
    BadSignature,
    IdentityError,
    InvalidConfiguration,
    NotOnRoster,
    PlanChanged,
    ProtocolError,
    WrongAuthority,
)
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.certificates import Identity, check_certificate
from secure_fedhelp.identity.signing import (
    PUBLIC_PATTERN,
    SIGNATURE_PATTERN,
    SigningKey,
    domain_separated,
    suite_of,
    verify,
)
from secure_fedhelp.identity.tls import load_pair
from secure_fedhelp.identity.unlock import Unlock
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.plan import StudyPlan, explain
from secure_fedhelp.study.sections import Name, Sha256, Strict

#: Far above a card with an ML-KEM-768 + X25519 key and hybrid signatures (about 15 kB), far below what could trouble
#: a parser.
LARGEST_CARD_BYTES: Final = 32_768
_CARD: Final = "member-card"
_POSSESSION: Final = "member-card/possession"
_ECDSA: Final = ec.ECDSA(hashes.SHA256())

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]
#: Hexadecimal in lower case only: two spellings of one key would be two cards.
PublicHex = Annotated[str, Field(pattern=PUBLIC_PATTERN)]


class MemberCard(Strict):
    """A member's card as it travels (canonical JSON). Only :func:`check_card` makes one from bytes of others."""

    #: The plan's hash.
    study: Sha256
    role: Literal["hospital", "coordinator"]
    name: Name
    #: Of the suite that the plan names.
    signing_key: PublicHex
    #: The HPKE public key that secrets are sealed to; empty for the coordinator, which gets none.
    sealing_key: Hex
    certificate: str
    #: By the signing key, over all fields above: its holder made this card.
    possession: Annotated[str, Field(pattern=SIGNATURE_PATTERN)]
    #: By the certificate's key (ECDSA P-256, SHA-256, DER), over all fields above including ``possession``.
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,72}$")]

    @model_validator(mode="after")
    def _sealing_key_fits(self) -> MemberCard:
        if (self.role == "hospital") != bool(self.sealing_key):
            raise ValueError("a hospital has a sealing key, the coordinator has none")
        return self

    def to_bytes(self) -> bytes:
        """The canonical JSON that travels."""
        return canonical_bytes(self.model_dump(mode="json"))


def make_card(
    plan_hash: str,
    role: str,
    name: str,
    signing_public_hex: str,
    sealing_public_hex: str,
    folder: Path,
    signing_key: SigningKey,
    unlock: Unlock,
) -> bytes:
    """A member's own card as it travels, made with ``tls.key`` (under ``unlock``) and ``tls.crt`` in ``folder``.

    ``signing_key`` signs in the plan's suite (:meth:`SigningKey.of`).

    Raises what :func:`secure_fedhelp.identity.tls.load_pair` raises, IdentityError if ``signing_public_hex`` is not
    the public half of ``signing_key``, and InvalidConfiguration for a malformed field. Whether the certificate names
    this member is for :func:`check_card`, which a member runs on its own card before it sends it.
    """
    if signing_public_hex != signing_key.public_hex:
        raise IdentityError("the card would bear another signing key than the member's own")
    key_pem, certificate_pem = load_pair(folder, unlock)
    certificate = pem.read_certificate(certificate_pem)  # and written anew: a file may hold remarks around it
    fields: dict[str, Any] = {
        "study": plan_hash,
        "role": role,
        "name": name,
        "signing_key": signing_public_hex,
        "sealing_key": sealing_public_hex,
        "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
    }
    fields["possession"] = signing_key.sign(_POSSESSION, canonical_bytes(fields)).hex()
    tls_key = pem.read_private_key(key_pem, str(folder / "tls.key"))
    fields["signature"] = tls_key.sign(domain_separated(_CARD, canonical_bytes(fields)), _ECDSA).hex()
    try:
        return MemberCard.model_validate(fields).to_bytes()
    except ValidationError as error:
        raise InvalidConfiguration(f"a member card cannot be made: {explain(error)}") from error


def check_card(
    card_bytes: bytes,
    ca_pem: bytes,
    plan: StudyPlan,
    now: float,
    revocations: bytes | None = None,
    accepted: float | None = None,
) -> MemberCard:
    """The card in ``card_bytes`` if everything in it holds; ``now`` in unix seconds, ``revocations`` a CRL in PEM.

    ``accepted`` is when this very card was checked before, if it was: its certificate may have ended since.

    Raises ProtocolError for malformed or non-canonical bytes, PlanChanged if the card is of another study, NotOnRoster
    if the plan does not list the hospital, WrongAuthority, CertificateExpired or CertificateRevoked for the
    certificate, IdentityError if that names somebody else or the signing key is not of the plan's suite, BadSignature
    if one of the two signatures does not hold.
    Nothing in it depends on who delivered the card (see the top of this file).
    """
    card = _parse(card_bytes)
    if card.study != plan.hash:
        raise PlanChanged(f"the card of {card.name} is for study {card.study[:12]}, this is study {plan.hash[:12]}")
    if suite_of(card.signing_key) != plan.study.signatures:
        raise IdentityError(
            f"{card.name} signs with {suite_of(card.signing_key)}, the plan says {plan.study.signatures}",
            "Every member signs in the plan's suite. Stop, and ask who made this card.",
        )
    if card.role == "hospital" and card.name not in {h.name for h in plan.hospitals}:
        raise NotOnRoster(f"hospital {card.name} is not in the plan")
    certificate_pem = card.certificate.encode()
    identity = check_certificate(certificate_pem, ca_pem, now, revocations, accepted)
    _require_same_member(card, identity, plan)
    fields = card.model_dump(mode="json", exclude={"signature"})
    key = pem.require_p256(pem.read_certificate(certificate_pem).public_key(), f"certificate of {card.name}")
    try:
        key.verify(bytes.fromhex(card.signature), domain_separated(_CARD, canonical_bytes(fields)), _ECDSA)
    except InvalidSignature as error:
        raise BadSignature(f"the certificate of {card.name} did not sign this card") from error
    del fields["possession"]
    verify(card.signing_key, _POSSESSION, canonical_bytes(fields), bytes.fromhex(card.possession))
    return card


def begins(card_bytes: bytes) -> float:
    """From when on the certificate of a card holds, in unix seconds; nothing of it is checked. Raises ProtocolError for
    malformed bytes, WrongAuthority for a malformed certificate."""
    return pem.read_certificate(_parse(card_bytes).certificate.encode()).not_valid_before_utc.timestamp()


def _parse(card_bytes: bytes) -> MemberCard:
    if len(card_bytes) > LARGEST_CARD_BYTES:
        raise ProtocolError(f"a member card of {len(card_bytes)} bytes, at most {LARGEST_CARD_BYTES} are allowed")
    try:
        card = MemberCard.model_validate_json(card_bytes)
    except ValidationError as error:
        raise ProtocolError(f"malformed member card: {explain(error)}") from error
    # One card, one spelling: what two hospitals compare or hash must not differ in blanks, order or doubled keys.
    if card.to_bytes() != card_bytes:
        raise ProtocolError("the member card is not in canonical form")
    return card


def _require_same_member(card: MemberCard, identity: Identity, plan: StudyPlan) -> None:
    if identity.consortium != plan.consortium:
        raise WrongAuthority(f"the certificate is of consortium {identity.consortium}, the plan of {plan.consortium}")
    if (identity.role, identity.name) != (card.role, card.name):
        raise IdentityError(
            f"the card of {card.role} {card.name} holds the certificate of {identity.role} {identity.name}",
            "Somebody used another member's certificate. Stop, and ask both.",
        )
