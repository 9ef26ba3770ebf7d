"""A member's secrets of one attempt, and the keys of its masks.

Two secrets of 16 bytes are drawn afresh for every attempt, and everything follows from them by HKDF-SHA256 (RFC 5869)
under a context that names study, round, attempt and hospital:

* the *self secret* gives the key of the self-mask;
* the *mask secret* gives the X25519 private key (RFC 7748) of the pair masks. The key of the mask of a pair comes from
  the two members' Diffie-Hellman value, with both names and both public keys in its context.

16 bytes, since Shamir's sharing in GF(2^128) is what the kept library offers; 128 bits is also the level of X25519 and
of the CKKS profiles. A third key, that shares are sealed to, is never shared itself and never leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secure_fedhelp.errors import ProtocolError
from secure_fedhelp.secagg.expansion import KEY_BYTES
from secure_fedhelp.secagg.masked.statements import Place, RoundKeyStatement
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex

SECRET_BYTES: Final = 16


@dataclass(frozen=True, repr=False)
class RoundSecrets:
    """One member's secrets of one attempt; 16, 16 and 32 bytes. Never printed."""

    place: Place
    hospital: str
    self_secret: bytes
    mask_secret: bytes
    share_private: bytes

    @classmethod
    def draw(cls, place: Place, hospital: str, random: Callable[[int], bytes]) -> RoundSecrets:
        """Fresh secrets; ``random`` is os.urandom."""
        return cls(place, hospital, random(SECRET_BYTES), random(SECRET_BYTES), random(32))

    def statement(self) -> RoundKeyStatement:
        """The public half, to be signed."""
        return RoundKeyStatement(
            study=self.place.study,
            round=self.place.round,
            attempt=self.place.attempt,
            hospital=self.hospital,
            mask_key=mask_public(self.place, self.hospital, self.mask_secret),
            share_key=X25519PrivateKey.from_private_bytes(self.share_private).public_key().public_bytes_raw().hex(),
        )


def self_key(place: Place, hospital: str, self_secret: bytes) -> bytes:
    """The key of a member's self-mask."""
    return _derive(self_secret, place, {"purpose": "self mask", "hospital": hospital})


def self_secret_commitment(place: Place, hospital: str, self_secret: bytes) -> str:
    """What a dealer's statement says of its self secret: so that a rebuilt one can be told from a wrong one."""
    return sha256_hex(_derive(self_secret, place, {"purpose": "self secret commitment", "hospital": hospital}))


def mask_public(place: Place, hospital: str, mask_secret: bytes) -> str:
    """The X25519 public key (hexadecimal) of a member's pair masks."""
    return _mask_private(place, hospital, mask_secret).public_key().public_bytes_raw().hex()


def pair_key(place: Place, hospital: str, mask_secret: bytes, other: str, other_public: str) -> bytes:
    """The key of the mask of ``hospital`` (whose secret this is) and ``other``: both compute the same.

    ProtocolError for a public key of small order, with which the mask would be known to everybody.
    """
    private = _mask_private(place, hospital, mask_secret)
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other_public)))
    except ValueError as error:
        raise ProtocolError(f"the round key of {other} is no usable X25519 key") from error
    keys = {hospital: private.public_key().public_bytes_raw().hex(), other: other_public}
    return _derive(shared, place, {"purpose": "pair mask", "keys": keys})


def usable(public: str) -> bool:
    """Whether an X25519 public key (hexadecimal) is not of small order. Every private key is a multiple of eight, so
    with such a point each gives zero, which the library refuses (RFC 7748, section 6.1): any one shows it."""
    try:
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(
            X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        )
    except ValueError:
        return False
    return True


def adds(hospital: str, other: str) -> bool:
    """Whether ``hospital`` adds the pair's mask; the other one subtracts it."""
    return hospital < other


def _mask_private(place: Place, hospital: str, mask_secret: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(_derive(mask_secret, place, {"purpose": "mask", "hospital": hospital}))


def _derive(secret: bytes, place: Place, what: dict[str, object]) -> bytes:
    info = canonical_bytes({"study": place.study, "round": place.round, "attempt": place.attempt, **what})
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"secure-fedhelp/v1/masks\0" + info).derive(secret)
