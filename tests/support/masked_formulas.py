"""The formulas of the masked rounds written down a second time, from the documents and with nothing of the project.

Only json, hashlib and single primitives of ``cryptography``: HKDF and HPKE (RFC 5869, RFC 9180) are put together here,
GF(2^128) is computed with integers. What this file and the project agree on is a format; what only the project says is
an accident.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Place = dict[str, Any]
Secrets = Mapping[str, str]


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- keys --------------------------------------------------------------------------------------------------------------


def hkdf_extract(salt: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), material, "sha256")


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    found, block = b"", b""
    while len(found) < length:
        block = hmac.digest(key, block + info + bytes([len(found) // 32 + 1]), "sha256")
        found += block
    return found[:length]


def derived(secret: bytes, place: Place, what: dict[str, Any]) -> bytes:
    """32 bytes from a secret, for one purpose at one place."""
    info = b"secure-fedhelp/v1/masks\0" + canonical({**place, **what})
    return hkdf_expand(hkdf_extract(b"", secret), info, 32)


def self_mask_key(place: Place, name: str, secrets: Secrets) -> bytes:
    return derived(bytes.fromhex(secrets["self_secret"]), place, {"purpose": "self mask", "hospital": name})


def self_secret_commitment(place: Place, name: str, self_secret: bytes) -> str:
    return sha256(derived(self_secret, place, {"purpose": "self secret commitment", "hospital": name}))


def mask_private(place: Place, name: str, mask_secret: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(derived(mask_secret, place, {"purpose": "mask", "hospital": name}))


def public_of(private: X25519PrivateKey) -> str:
    return private.public_key().public_bytes_raw().hex()


def pair_mask_key(place: Place, name: str, mask_secret: bytes, other: str, other_public: str) -> bytes:
    private = mask_private(place, name, mask_secret)
    shared = private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other_public)))
    return derived(shared, place, {"purpose": "pair mask", "keys": {name: public_of(private), other: other_public}})


def signature_holds(public: bytes, context: str, message: str, signature: str) -> None:
    """Raises InvalidSignature otherwise."""
    signed = b"secure-fedhelp/v1/" + context.encode() + b"\0" + message.encode()
    Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), signed)


# -- shares ------------------------------------------------------------------------------------------------------------


def share_commitment(place: Place, dealer: str, holder: str, kind: str, share: bytes) -> str:
    what = canonical({**place, "dealer": dealer, "holder": holder, "kind": kind})
    return sha256(b"secure-fedhelp/v1/share\0" + what + b"\0" + share)


def unsealed(sealed: bytes, private: X25519PrivateKey, place: Place, dealer: str, holder: str) -> bytes:
    """HPKE, base mode, one message: X25519 with HKDF-SHA256, HKDF-SHA256, AES-256-GCM (RFC 9180, sections 4 to 6)."""
    info = b"secure-fedhelp/v1/shares\0" + canonical({**place, "dealer": dealer, "holder": holder})
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"

    def extract(of: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
        return hkdf_extract(salt, b"HPKE-v1" + of + label + material)

    def expand(of: bytes, key: bytes, label: bytes, context: bytes, length: int) -> bytes:
        return hkdf_expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + of + label + context, length)

    sender, ciphertext = sealed[:32], sealed[32:]
    agreed = private.exchange(X25519PublicKey.from_public_bytes(sender))
    both = sender + private.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", agreed), b"shared_secret", both, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key, nonce = expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


def times(a: int, b: int) -> int:
    """In GF(2^128) = GF(2)[x] / (x^128 + x^7 + x^2 + x + 1); bytes are big-endian polynomials."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = a << 1, b >> 1
        if a >> 128:
            a ^= (1 << 128) | 0x87
    return product


def inverse(a: int) -> int:
    """a^(2^128 - 2)."""
    result, exponent = 1, 2**128 - 2
    while exponent:
        if exponent & 1:
            result = times(result, a)
        a, exponent = times(a, a), exponent >> 1
    return result


def at_zero(shares: Mapping[int, bytes]) -> bytes:
    """The polynomial of lowest degree through (number, share), at 0 (Lagrange)."""
    total = 0
    for j, share in shares.items():
        term = int.from_bytes(share, "big")
        for m in shares:
            if m != j:
                term = times(term, times(m, inverse(m ^ j)))
        total ^= term
    return total.to_bytes(16, "big")


# -- what members have seen --------------------------------------------------------------------------------------------


def members_hash(round_keys: Mapping[str, str]) -> str:
    return sha256(canonical({name: sha256(statement.encode()) for name, statement in round_keys.items()}))


def view_hash(round_keys: Mapping[str, str], dealt: Mapping[str, str]) -> str:
    shares = {name: sha256(statement.encode()) for name, statement in dealt.items()}
    return sha256(canonical({"keys": members_hash(round_keys), "shares": shares}))
