"""Shamir shares of a member's two secrets: dealt, sealed, checked and put together (Shamir, CACM 1979; PyCryptodome).

A dealer's shares travel through the coordinator, sealed to each holder's key of the attempt (HPKE, RFC 9180) and fixed
by the dealer's signature. Two commitments go with each: with them the coordinator refuses a share that is not the
dealer's, and a rebuilt secret that does not fit what the dealer committed to convicts the dealer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from secure_fedhelp.errors import ForgedShare, ProtocolError
from secure_fedhelp.secagg.masked.roundkeys import SECRET_BYTES, RoundSecrets, self_secret_commitment
from secure_fedhelp.secagg.masked.statements import Place, ShareRecord, SharesStatement
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex

SELF: Final = "self"
MASK: Final = "mask"

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

#: A holder's two shares of one dealer: of the self secret, and of the mask secret.
Pair = tuple[bytes, bytes]


def deal(
    secrets: RoundSecrets, holders: Sequence[str], needed: int, share_keys: Mapping[str, str], members: str
) -> tuple[SharesStatement, dict[str, bytes]]:
    """The dealer's statement, to be signed, and each holder's record as bytes.

    ``share_keys`` are the holders' public keys of this attempt, ``members`` the hash of the list they come from;
    any ``needed`` shares rebuild a secret and fewer say nothing about it.
    """
    place, dealer, ordered = secrets.place, secrets.hospital, sorted(holders)
    halves = [Shamir.split(needed, len(ordered), s) for s in (secrets.self_secret, secrets.mask_secret)]
    records = {}
    for (number, self_share), (_, mask_share), holder in zip(*halves, ordered, strict=True):
        records[holder] = ShareRecord(
            study=place.study,
            round=place.round,
            attempt=place.attempt,
            dealer=dealer,
            holder=holder,
            number=number,
            self_commitment=commitment(place, dealer, holder, SELF, self_share),
            mask_commitment=commitment(place, dealer, holder, MASK, mask_share),
            sealed=_seal(place, dealer, holder, share_keys[holder], self_share + mask_share).hex(),
        ).to_bytes()
    statement = SharesStatement(
        study=place.study,
        round=place.round,
        attempt=place.attempt,
        dealer=dealer,
        members=members,
        needed=needed,
        records={holder: sha256_hex(record) for holder, record in records.items()},
        self_secret=self_secret_commitment(place, dealer, secrets.self_secret),
    )
    return statement, records


def open_record(secrets: RoundSecrets, record: ShareRecord) -> Pair:
    """The two shares in a record that this member holds; ForgedShare if they are not what the dealer committed to."""
    place, dealer, holder = secrets.place, record.dealer, secrets.hospital
    private = X25519PrivateKey.from_private_bytes(secrets.share_private)
    try:
        both = _SUITE.decrypt(bytes.fromhex(record.sealed), private, info=_context(place, dealer, holder))
    except (InvalidTag, ValueError) as error:
        raise ForgedShare(f"the shares sealed by {dealer} do not open here") from error
    pair = both[:SECRET_BYTES], both[SECRET_BYTES:]
    wanted = record.self_commitment, record.mask_commitment
    found = tuple(commitment(place, dealer, holder, k, s) for k, s in zip((SELF, MASK), pair, strict=True))
    if len(both) != 2 * SECRET_BYTES or found != wanted:
        raise ForgedShare(f"the shares sealed by {dealer} are not those it committed to")
    return pair


def commitment(place: Place, dealer: str, holder: str, kind: str, share: bytes) -> str:
    """SHA-256 of a share and its place. A share is 16 uniform bytes, so the hash tells nothing of it."""
    what = {"study": place.study, "round": place.round, "attempt": place.attempt, "dealer": dealer, "holder": holder}
    return sha256_hex(b"secure-fedhelp/v1/share\0" + canonical_bytes({**what, "kind": kind}) + b"\0" + share)


def rebuild(shares: Mapping[int, bytes], needed: int) -> bytes:
    """The secret from ``needed`` or more shares by number; ProtocolError with fewer."""
    if len(shares) < needed:
        raise ProtocolError(f"{len(shares)} shares, {needed} are needed")
    return Shamir.combine(sorted(shares.items())[:needed])


def _seal(place: Place, dealer: str, holder: str, public: str, shares: bytes) -> bytes:
    try:
        key = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        return _SUITE.encrypt(shares, key, info=_context(place, dealer, holder))
    except ValueError as error:
        raise ProtocolError(f"the round key of {holder} is no usable X25519 key") from error


def _context(place: Place, dealer: str, holder: str) -> bytes:
    what = {"study": place.study, "round": place.round, "attempt": place.attempt, "dealer": dealer, "holder": holder}
    return b"secure-fedhelp/v1/shares\0" + canonical_bytes(what)
