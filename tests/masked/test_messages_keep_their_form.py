"""One attempt of four hospitals from fixed secrets, byte for byte, and checked by formulas that share no code with it.

Bravo has dealt shares and left before its upload. ``golden_attempt.json`` holds every message and the keys of every
mask. A change here is a change of the protocol: two releases that differ in it do not work together. To write the file
anew after such a change, run this test with ``WRITE_GOLDEN=1`` and say so in the changelog.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import masked_formulas as formulas
import pytest
from Crypto.Protocol import SecretSharing
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from secure_fedhelp.secagg.masked import shares
from secure_fedhelp.secagg.masked.member import Delivery, Member, Setting
from secure_fedhelp.secagg.masked.statements import (
    Place,
    Reveal,
    RoundKeyStatement,
    ShareRecord,
    SharesStatement,
    SurvivorsStatement,
    parse,
)
from secure_fedhelp.secagg.masked.unmasking import Unmasking

GOLDEN = Path(__file__).with_name("golden_attempt.json")
NAMES = ("alpha", "bravo", "charlie", "delta")
GONE = "bravo"
PLACE = {"study": "5" * 64, "round": 3, "attempt": 2}
LEFT = tuple(name for name in NAMES if name != GONE)
BODIES = {name: hashlib.sha256(name.encode()).hexdigest() for name in LEFT}


def fixed(*what: object) -> bytes:
    return hashlib.sha256(repr(what).encode()).digest()


class FixedSigner:
    """Signs as identity/signing.py does, with a private key that everybody knows."""

    def __init__(self, name: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(fixed("signing", name))
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, context: str, message: bytes) -> bytes:
        return self._key.sign(b"secure-fedhelp/v1/" + context.encode() + b"\0" + message)


SIGNERS = {name: FixedSigner(name) for name in NAMES}


def fixed_random(name: str) -> Any:
    counter = iter(range(10**6))
    return lambda length: fixed("random", name, next(counter))[:length]


def attempt(sealed: dict[str, str] | None) -> dict[str, Any]:
    """Every message of the attempt. ``sealed`` are the sealed shares by dealer and holder: they are fresh each time."""

    def seal(place: Place, dealer: str, holder: str, public: str, pair: bytes) -> bytes:
        found = (sealed or {}).get(f"{dealer} {holder}")
        return really_seal(place, dealer, holder, public, pair) if found is None else bytes.fromhex(found)

    really_seal = shares._seal
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(shares, "_seal", seal)
        patched.setattr(SecretSharing, "rng", fixed_random("polynomials"))
        return _messages()


def _messages() -> dict[str, Any]:
    setting = Setting(PLACE["study"], "repairing", 3)
    publics = {name: SIGNERS[name].public.hex() for name in NAMES}
    members = {
        name: Member(setting, PLACE["round"], name, SIGNERS[name], publics, random=fixed_random(name))
        for name in NAMES
    }  # fmt: skip
    number = PLACE["attempt"]
    keys = {name: member.key(number) for name, member in members.items()}
    dealt = {name: member.share(number, keys) for name, member in members.items()}
    masks = {}
    for name in LEFT:
        delivered = {dealer: Delivery(d.signed, d.records[name]) for dealer, d in dealt.items()}
        masks[name] = members[name].mask(number, delivered)
    signatures = {name: members[name].agree(number, BODIES, BODIES[name]) for name in LEFT}
    reveals = {name: members[name].reveal(number, signatures) for name in LEFT}
    survivors = SurvivorsStatement(**PLACE, members=NAMES, survivors=BODIES, view=masks["alpha"].view)
    unmasking = Unmasking(Place(**PLACE), keys, dealt, frozenset(LEFT))
    plus, minus = unmasking.masks({name: unmasking.check(name, data) for name, data in reveals.items()})
    return {
        "secrets": {name: _secrets(members[name]) for name in NAMES},
        "round_keys": {n: {"statement": k.statement.decode(), "signature": k.signature.hex()} for n, k in keys.items()},
        "shares": {
            name: {
                "statement": d.signed.statement.decode(),
                "signature": d.signed.signature.hex(),
                "records": {holder: record.decode() for holder, record in d.records.items()},
            }
            for name, d in dealt.items()
        },
        "survivors": {
            "statement": survivors.to_bytes().decode(),
            "signatures": {name: signature.hex() for name, signature in signatures.items()},
        },
        "reveals": {name: data.decode() for name, data in reveals.items()},
        "masks": {
            n: {"plus": [k.hex() for k in m.plus], "minus": [k.hex() for k in m.minus]} for n, m in masks.items()
        },
        "unmasking": {"plus": [key.hex() for key in plus], "minus": [key.hex() for key in minus]},
    }


def _secrets(member: Member) -> dict[str, str]:
    stored = json.loads(member.to_bytes())
    return {what: stored[what] for what in ("self_secret", "mask_secret", "share_private")}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(attempt(None), indent=1, sort_keys=True) + "\n")
    return json.loads(GOLDEN.read_text())


def sealed_of(golden: dict[str, Any]) -> dict[str, str]:
    return {
        f"{dealer} {holder}": json.loads(record)["sealed"]
        for dealer, dealt in golden["shares"].items()
        for holder, record in dealt["records"].items()
    }


# -- the project makes the golden messages -----------------------------------------------------------------------------


def test_every_message_is_the_golden_one_byte_for_byte(golden: dict[str, Any]) -> None:
    made = attempt(sealed_of(golden))
    for kind, messages in golden.items():
        assert made[kind] == messages, kind
    assert made.keys() == golden.keys()


def test_sealing_is_fresh_each_time(golden: dict[str, Any]) -> None:
    one, other = attempt(None), attempt(None)
    assert not set(sealed_of(one).values()) & set(sealed_of(other).values())
    assert one["unmasking"] == other["unmasking"] == golden["unmasking"]


def test_every_golden_message_is_read_and_written_again(golden: dict[str, Any]) -> None:
    messages: list[tuple[type[Any], str]] = [
        (SurvivorsStatement, golden["survivors"]["statement"]),
        *((RoundKeyStatement, golden["round_keys"][name]["statement"]) for name in NAMES),
        *((SharesStatement, golden["shares"][name]["statement"]) for name in NAMES),
        *((ShareRecord, record) for name in NAMES for record in golden["shares"][name]["records"].values()),
        *((Reveal, data) for data in golden["reveals"].values()),
    ]
    for model, text in messages:
        assert parse(model, text.encode()).to_bytes() == text.encode()


# -- formulas of another hand agree ------------------------------------------------------------------------------------


def statement_of(golden: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    return json.loads(golden[kind][name]["statement"])


def secret(golden: dict[str, Any], name: str, which: str) -> bytes:
    return bytes.fromhex(golden["secrets"][name][which])


def statements(golden: dict[str, Any], kind: str) -> dict[str, str]:
    return {name: golden[kind][name]["statement"] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_round_keys_by_formula(golden: dict[str, Any], name: str) -> None:
    share_private = X25519PrivateKey.from_private_bytes(secret(golden, name, "share_private"))
    mask_private = formulas.mask_private(PLACE, name, secret(golden, name, "mask_secret"))
    expected = {
        **PLACE,
        "hospital": name,
        "mask_key": formulas.public_of(mask_private),
        "share_key": formulas.public_of(share_private),
    }
    assert golden["round_keys"][name]["statement"].encode() == formulas.canonical(expected)


@pytest.mark.parametrize("dealer", NAMES)
def test_shares_by_formula(golden: dict[str, Any], dealer: str) -> None:
    dealt, own = golden["shares"][dealer], golden["secrets"][dealer]
    halves: list[dict[int, bytes]] = [{}, {}]
    for number, holder in enumerate(NAMES, start=1):
        record = json.loads(dealt["records"][holder])
        private = X25519PrivateKey.from_private_bytes(secret(golden, holder, "share_private"))
        pair = formulas.unsealed(bytes.fromhex(record["sealed"]), private, PLACE, dealer, holder)
        assert record == {
            **PLACE,
            "dealer": dealer,
            "holder": holder,
            "number": number,
            "self_commitment": formulas.share_commitment(PLACE, dealer, holder, "self", pair[:16]),
            "mask_commitment": formulas.share_commitment(PLACE, dealer, holder, "mask", pair[16:]),
            "sealed": record["sealed"],
        }
        assert dealt["records"][holder].encode() == formulas.canonical(record)
        halves[0][number], halves[1][number] = pair[:16], pair[16:]
    for half, which in zip(halves, ("self_secret", "mask_secret"), strict=True):
        for without in half:  # any three of four, and no two
            assert formulas.at_zero({n: s for n, s in half.items() if n != without}).hex() == own[which]
        assert formulas.at_zero({n: half[n] for n in (1, 2)}).hex() != own[which]
    expected = {
        **PLACE,
        "dealer": dealer,
        "members": formulas.members_hash(statements(golden, "round_keys")),
        "needed": 3,
        "records": {holder: formulas.sha256(record.encode()) for holder, record in dealt["records"].items()},
        "self_secret": formulas.self_secret_commitment(PLACE, dealer, secret(golden, dealer, "self_secret")),
    }
    assert dealt["statement"].encode() == formulas.canonical(expected)


def test_a_share_is_sealed_to_one_holder_at_one_place(golden: dict[str, Any]) -> None:
    record = json.loads(golden["shares"]["alpha"]["records"]["delta"])
    sealed = bytes.fromhex(record["sealed"])
    private = X25519PrivateKey.from_private_bytes(secret(golden, "delta", "share_private"))
    assert formulas.unsealed(sealed, private, PLACE, "alpha", "delta")
    other = X25519PrivateKey.from_private_bytes(secret(golden, "bravo", "share_private"))
    for key, place, dealer, holder in (
        (other, PLACE, "alpha", "delta"),
        (private, {**PLACE, "round": 4}, "alpha", "delta"),
        (private, {**PLACE, "attempt": 0}, "alpha", "delta"),
        (private, {**PLACE, "study": "6" * 64}, "alpha", "delta"),
        (private, PLACE, "bravo", "delta"),
        (private, PLACE, "alpha", "bravo"),
    ):
        with pytest.raises(InvalidTag):
            formulas.unsealed(sealed, key, place, dealer, holder)


def test_survivors_by_formula(golden: dict[str, Any]) -> None:
    view = formulas.view_hash(statements(golden, "round_keys"), statements(golden, "shares"))
    expected = {**PLACE, "members": list(NAMES), "survivors": BODIES, "view": view}
    assert golden["survivors"]["statement"].encode() == formulas.canonical(expected)


def test_reveals_by_formula(golden: dict[str, Any]) -> None:
    """The self shares of those that are left, the mask share of who has gone, and no other."""
    self_shares: dict[str, dict[int, bytes]] = {name: {} for name in LEFT}
    mask_shares: dict[int, bytes] = {}
    for number, holder in enumerate(NAMES, start=1):
        if holder == GONE:
            continue
        revealed = json.loads(golden["reveals"][holder])
        assert golden["reveals"][holder].encode() == formulas.canonical(revealed)
        assert revealed == {
            **PLACE,
            "self_shares": revealed["self_shares"],
            "mask_shares": revealed["mask_shares"],
        }
        assert (set(revealed["self_shares"]), set(revealed["mask_shares"])) == (set(LEFT), {GONE})
        mask_shares[number] = bytes.fromhex(revealed["mask_shares"][GONE])
        for dealer in LEFT:
            self_shares[dealer][number] = bytes.fromhex(revealed["self_shares"][dealer])
    assert formulas.at_zero(mask_shares) == secret(golden, GONE, "mask_secret")
    for dealer, found in self_shares.items():
        assert formulas.at_zero(found) == secret(golden, dealer, "self_secret")


def pair(golden: dict[str, Any], one: str, other: str) -> str:
    """The key of a pair's mask, from either side."""
    keys = [
        formulas.pair_mask_key(
            PLACE, me, secret(golden, me, "mask_secret"), you, statement_of(golden, "round_keys", you)["mask_key"]
        ).hex()
        for me, you in ((one, other), (other, one))
    ]
    assert keys[0] == keys[1]
    return keys[0]


def test_masks_by_formula(golden: dict[str, Any]) -> None:
    """The first name of a pair adds its mask, the other subtracts it, and each adds its own."""
    for name in LEFT:
        own = formulas.self_mask_key(PLACE, name, golden["secrets"][name]).hex()
        assert golden["masks"][name] == {
            "plus": [own, *(pair(golden, name, other) for other in NAMES if name < other)],
            "minus": [pair(golden, name, other) for other in NAMES if other < name],
        }
    everything = [key for masks in golden["masks"].values() for keys in masks.values() for key in keys]
    assert len(set(everything)) == 3 + 3 + 3  # three self-masks, three pairs met twice, three pairs with who has gone


def test_unmasking_by_formula(golden: dict[str, Any]) -> None:
    """Off come the self-masks and what was added for who has gone; on comes what was subtracted for it."""
    own = [formulas.self_mask_key(PLACE, name, golden["secrets"][name]).hex() for name in LEFT]
    assert sorted(golden["unmasking"]["plus"]) == sorted(pair(golden, name, GONE) for name in LEFT if name > GONE)
    assert sorted(golden["unmasking"]["minus"]) == sorted(
        [*own, *(pair(golden, name, GONE) for name in LEFT if name < GONE)]
    )


def test_every_signature_holds_for_its_purpose_alone(golden: dict[str, Any]) -> None:
    signed = [
        ("round-key", name, golden["round_keys"][name]["statement"], golden["round_keys"][name]["signature"])
        for name in NAMES
    ]
    signed += [
        ("round-shares", name, golden["shares"][name]["statement"], golden["shares"][name]["signature"])
        for name in NAMES
    ]
    signed += [
        ("survivors", name, golden["survivors"]["statement"], golden["survivors"]["signatures"][name]) for name in LEFT
    ]
    contexts = {"round-key", "round-shares", "survivors", "upload-header", "transcript-entry"}
    for context, name, statement, signature in signed:
        formulas.signature_holds(SIGNERS[name].public, context, statement, signature)
        for other in contexts - {context}:
            with pytest.raises(InvalidSignature):
                formulas.signature_holds(SIGNERS[name].public, other, statement, signature)


def test_nothing_secret_is_in_what_travels(golden: dict[str, Any]) -> None:
    """But for the shares that were revealed at the end."""
    travels = json.dumps([golden["round_keys"], golden["shares"], golden["survivors"]])
    secrets = [value for own in golden["secrets"].values() for value in own.values()]
    secrets += [s for r in golden["reveals"].values() for kind in ("self_shares", "mask_shares")
                for s in json.loads(r)[kind].values()]  # fmt: skip
    secrets += [key for masks in golden["masks"].values() for keys in masks.values() for key in keys]
    assert len(secrets) == 12 + 12 + 12
    assert not any(value in travels for value in secrets)
